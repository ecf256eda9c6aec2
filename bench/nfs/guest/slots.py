#!/usr/bin/env python3
"""slots.py MODULE: lets this kernel's NFS server grant a session all the slots that its client asks for.

Before Linux 6.14 the server gives a session 64 KiB for replies, which is 30 slots, whatever its memory; the client asks
for 64. The number is one constant in nfsd's code, and there is no knob for it.
"""

import sys

# mov %rdx,%rax; mov $65536,%edi; sub %rcx,%rax: in nfsd4_get_drc_mem(), as Debian's compiler puts it.
STOCK = bytes.fromhex("4889d0 bf00000100 4829c8")
WIDE = bytes.fromhex("4889d0 bf00000400 4829c8")
# After the signature, which would no longer fit, stand its length and this.
SIGNED = b"~Module signature appended~\n"

with open(sys.argv[1], "rb") as file:
    code = file.read()
if code.endswith(SIGNED):
    length = int.from_bytes(code[-len(SIGNED) - 4 : -len(SIGNED)], "big")
    code = code[: -len(SIGNED) - 12 - length]
if code.count(STOCK) != 1:
    sys.exit("error: this kernel's NFS server limits its slots in another way: run with slots=30")
with open(sys.argv[1], "wb") as file:
    file.write(code.replace(STOCK, WIDE))
