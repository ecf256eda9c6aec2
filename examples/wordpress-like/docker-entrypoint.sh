#!/bin/sh
# An entry point of the image's own, as WordPress' has one: it writes the configuration from the environment, on every
# start, and needs the files to be there.
set -eu
cd /var/www/html
[ -e index.html ] || { echo "error: no site in $PWD" >&2; exit 1; }
printf '{"database":"%s"}\n' "${SHOP_DATABASE:-none}" >config.json
exec "$@"
