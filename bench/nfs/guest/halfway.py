#!/usr/bin/env python3
"""halfway.py VOLUME FILES [SIGNAL [PID]]: returns when the server's VOLUME holds so many files; SIGNAL goes to volseed
first, or only to the one on the host whose process PID is.

Runs ahead of every other process: a shell's loop would come to its turn seconds late beside 64 writers.
"""

import os
import signal
import subprocess
import sys
import time

volume, wanted = sys.argv[1], int(sys.argv[2])


def entries() -> int:
    status = os.statvfs("/export")
    return status.f_files - status.f_ffree


def files() -> int:
    return sum(len(names) for _, _, names in os.walk(os.path.join("/export", volume)))


os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
while entries() < wanted or files() < wanted:
    time.sleep(0.05)
if sys.argv[3:]:
    there = ["--ns", sys.argv[4], "--nslist", "net"] if sys.argv[4:] else []
    subprocess.run(["pkill", f"-{sys.argv[3]}", *there, "-x", "volseed"], check=True)
