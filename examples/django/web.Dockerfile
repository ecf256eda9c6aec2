# The web server beside it: it waits until the volume is complete, and at this version.
ARG NGINX=nginx:1.27
ARG VOLSEED=volseed
FROM ${VOLSEED} AS volseed
FROM ${NGINX}
ARG TAG
COPY --from=volseed /volseed /usr/local/bin/volseed
COPY nginx.conf /etc/nginx/nginx.conf
ENV VOLSEED_TO=/srv/site VOLSEED_SEED_VERSION=${TAG} VOLSEED_UPGRADE=* \
    VOLSEED_LISTEN=:80 VOLSEED_PASS_SOCKET=nginx VOLSEED_APP_CHECK=tcp:80
HEALTHCHECK --interval=5s --timeout=5s CMD ["volseed", "health"]
ENTRYPOINT ["volseed", "wait", "--"]
CMD ["nginx"]
