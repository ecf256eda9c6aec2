#!/bin/bash
# Does what the official image's entry point does, in the same order: copies WordPress where index.php and
# wp-includes/version.php are missing, writes wp-config.php where it is missing and WORDPRESS_… is set, and becomes the
# command.
set -eu
name=$(basename "$0")
case "$name ${1-}" in
docker-ensure-installed.sh* | *' apache2'*)
    user=$(id -u)
    [ "$user" != 0 ] || user=www-data
    if [ ! -e index.php ] && [ ! -e wp-includes/version.php ]; then
        echo "WordPress not found in $PWD - copying now..." >&2
        tar -C /usr/src/wordpress --owner "$user" -cf - . | tar -xf -
    fi
    if [ ! -s wp-config.php ] && env | grep -q '^WORDPRESS_'; then
        echo "writing wp-config.php" >&2
        salt=$(head -c 32 /dev/urandom | sha1sum | cut -d' ' -f1)
        sed "s/put your unique phrase here/$salt/" /usr/src/wordpress/wp-config-docker.php >wp-config.php
        [ "$(id -u)" != 0 ] || chown "$user" wp-config.php
    fi
    ;;
esac
exec "$@"
