ARG BASE=nginx:1.27
FROM ${BASE}
COPY app /usr/src/app
COPY before.sh /entrypoint.sh
COPY nginx.conf /etc/nginx/nginx.conf
VOLUME /srv/www
SHELL ["/bin/bash", "-c"]
HEALTHCHECK --interval=2s --timeout=2s --retries=3 CMD exec 3<>/dev/tcp/127.0.0.1/80
ENTRYPOINT ["/entrypoint.sh"]
CMD ["nginx"]
