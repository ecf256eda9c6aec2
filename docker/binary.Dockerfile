# The same image around a binary that is built already: docker build -f docker/binary.Dockerfile DIRECTORY-WITH-volseed
FROM scratch
COPY volseed /volseed
LABEL org.opencontainers.image.title="volseed" \
      org.opencontainers.image.description="Seeds a container's persistent volume before its app starts" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
ENTRYPOINT ["/volseed"]
