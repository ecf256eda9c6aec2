# The next patch release, made of the image before it.
ARG BEFORE
FROM ${BEFORE}
COPY next.py /
RUN python3 /next.py /usr/src/wordpress && rm /next.py && chown -R www-data:www-data /usr/src/wordpress
