"""Archives put together block by block, right or wrong, and what a directory holds."""
import os
import stat
import zlib

USTAR, GNU, OLD = b'ustar\0' b'00', b'ustar  \0', bytes(8)
END = bytes(1024)
# Field: offset and length.
FIELDS = {
    'name': (0, 100), 'mode': (100, 8), 'uid': (108, 8), 'gid': (116, 8), 'size': (124, 12), 'mtime': (136, 12),
    'sum': (148, 8), 'type': (156, 1), 'link': (157, 100), 'magic': (257, 8), 'prefix': (345, 155),
}


def octal(number, width):
    return b'%0*o\0' % (width - 1, number)


def base256(number, width=12):
    return bytes([0x80 if number >= 0 else 0xff]) + (number % 256 ** (width - 1)).to_bytes(width - 1, 'big')


def checked(header):
    """With a right checksum."""
    header = bytearray(header)
    header[148:156] = b' ' * 8
    header[148:156] = b'%06o\0 ' % sum(header)
    return bytes(header)


def block(kind=b'0', magic=USTAR, **fields):
    """A header; what is no field of it is a pair of offset and bytes in `more`."""
    values = {'mode': 0o644, 'uid': 0, 'gid': 0, 'size': 0, 'mtime': 1500000000, 'type': kind, 'magic': magic}
    values |= fields
    more = values.pop('more', [])
    header = bytearray(512)
    for field, value in values.items():
        offset, width = FIELDS[field]
        value = octal(value, width) if isinstance(value, int) else value
        header[offset:offset + width] = value[:width].ljust(width, b'\0')
    for offset, value in more:
        header[offset:offset + len(value)] = value
    return checked(header)


def padded(data):
    return data + bytes(-len(data) % 512)


def member(name, data=b'', kind=b'0', **fields):
    return block(kind, name=name, **({'size': len(data)} | fields)) + padded(data)


def record(key, value):
    rest = b' ' + key + b'=' + value + b'\n'
    length = len(rest) + 1
    while len(b'%d' % length) + len(rest) != length:
        length += 1
    return b'%d' % length + rest


def pax(records, kind=b'x', **fields):
    return member(b'pax', b''.join(record(*pair) for pair in records), kind, **fields)


def long(kind, value, **fields):
    return member(b'././@LongLink', value + b'\0', kind, magic=GNU, **fields)


def gnu_sparse(name, pairs, size, data, real=None, **fields):
    """An old GNU sparse member: four pairs in the header, 21 in each block after it."""
    def entry(pair):
        return b''.join(value if isinstance(value, bytes) else octal(value, 12) for value in pair)
    rest = pairs[4:]
    more = [(386 + 24 * at, entry(pair)) for at, pair in enumerate(pairs[:4])]
    more += [(482, bytes([bool(rest)])), (483, real or octal(size, 12))]
    blocks = b''
    while rest:
        rest, now = rest[21:], rest[:21]
        blocks += b''.join(map(entry, now)).ljust(504, b'\0') + bytes([bool(rest)]) + bytes(7)
    header = block(b'S', GNU, name=name, size=len(data), more=more, **fields)
    return header + blocks + padded(data)


def content_of(size, file):
    """Length and beginning of a file, short enough to be shown."""
    data = file.read(1 << 16)
    return size, data[:8], zlib.crc32(data)


def tree(root):
    """What is below a directory, but for volseed's own: path to type and content."""
    found = {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        if directory == os.fsencode(root) and b'.volseed' in directories:
            directories.remove(b'.volseed')
        for name in directories + files:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            kind, content = stat.S_IFMT(mode), None
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            elif stat.S_ISREG(mode):
                with open(path, 'rb') as file:
                    content = content_of(os.fstat(file.fileno()).st_size, file)
            found[os.path.relpath(path, os.fsencode(root))] = (kind, content)
    return found
