#!/usr/bin/env python3
"""quota.py DEVICE UID [BYTES]: limits what UID may use of DEVICE's ext4 to BYTES, or to what it uses already.

With BYTES of 0 there is no limit.
"""

import ctypes
import os
import struct
import sys

# linux/quota.h: QCMD(cmd, USRQUOTA), and struct if_dqblk with the limits that are valid in it.
GET, SET = 0x800007 << 8, 0x800008 << 8
LIMITS = struct.Struct("=8QI4x")
VALID_BLOCK_LIMITS = 1
BLOCK = 1024

libc = ctypes.CDLL(None, use_errno=True)


def quotactl(command: int, device: str, user: int, limits: ctypes.Array) -> None:
    # The command is an unsigned int in a C int.
    command = ctypes.c_int(command)
    if libc.quotactl(command, device.encode(), ctypes.c_int(user), limits):
        error = ctypes.get_errno()
        sys.exit(f"error: quotactl {device}: {os.strerror(error)}")


device, user = sys.argv[1], int(sys.argv[2])
limits = ctypes.create_string_buffer(LIMITS.size)
quotactl(GET, device, user, limits)
_, _, used, *_ = LIMITS.unpack(limits.raw)
wanted = int(sys.argv[3]) if sys.argv[3:] else used
blocks = -(-wanted // BLOCK)
quotactl(SET, device, user, ctypes.create_string_buffer(LIMITS.pack(blocks, blocks, 0, 0, 0, 0, 0, 0, VALID_BLOCK_LIMITS), LIMITS.size))
