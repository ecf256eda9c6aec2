#!/bin/sh
# Does what the official image's entry point does, in the same order: compares version.php of the volume with the image's,
# copies and calls occ if they differ, and becomes the command.
set -eu
case "$1" in
apache* | php-fpm)
    (
        flock 9
        cmp -s version.php /usr/src/nextcloud/version.php || {
            echo "the stock entry point copies"
            cp -a /usr/src/nextcloud/. .
        }
    ) 9>nextcloud-init-sync.lock
    echo "before-starting"
    ;;
esac
exec "$@"
