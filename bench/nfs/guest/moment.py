#!/usr/bin/env python3
"""moment.py VOLUME PATTERN COUNT: returns when COUNT paths on the server match PATTERN below VOLUME; fails after a minute.

Runs ahead of every other process: a shell's loop would come to its turn seconds late beside 64 writers.
"""

import glob
import itertools
import os
import sys
import time

volume, pattern, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
LIMIT_SECONDS = 60


def reached() -> bool:
    found = glob.iglob(pattern, root_dir=volume, recursive=True)
    return len(list(itertools.islice(found, count))) == count


os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
began = time.monotonic()
while not reached():
    if time.monotonic() - began > LIMIT_SECONDS:
        sys.exit(f"error: after {LIMIT_SECONDS} s there are no {count} of '{pattern}'")
    time.sleep(0.004)
