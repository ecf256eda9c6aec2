#!/bin/sh
# Stands in for the app of an image: shows what was on the volume when it was started, and leaves something there.
set -eu

date '+%Y-%m-%d %H:%M:%S' >>"$VOLSEED_TO/visits.txt"
visits=$(wc -l <"$VOLSEED_TO/visits.txt" | tr -d ' ')

echo
echo "This is the app, process $$. volseed was process $$ too, until the volume was ready."
echo
echo "It found on $VOLSEED_TO:"
(cd "$VOLSEED_TO" && find . -name .volseed -prune -o \( -type f -o -type l \) -print | sed 's/^\.\//    /' | sort)
echo
echo "\$ volseed status"
volseed status
echo
if [ "$visits" = 1 ]; then
    echo "visits.txt is the app's own. Run this again: nothing is copied, and visits.txt is still there."
else
    echo "Start $visits: nothing was copied, and the app's visits.txt has kept a line for each."
    echo "To start over: rm -r $(dirname "$VOLSEED_TO")"
fi
