"""Archives that GNU tar, Python's tarfile and volseed read: where the first two agree on what is in one, volseed agrees,
or refuses it (65). Usage: differential.py VOLSEED DIRECTORY COUNT SEED."""
import io
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

from blocks import END, FIELDS, GNU, OLD, USTAR, base256, block, checked, content_of, gnu_sparse, long, member, octal, padded, pax, tree

NAMES = [b'a', b'b', b'./c', b'd/e', b'd/f', b'g//h', b'd/i/j', b'k' * 100, b'm' * 130, b'd/' + b'n' * 120, b'z.']


def any_number(rng, number, width):
    """A number as some writer, or none, writes it."""
    plain = b'%o' % number
    return rng.choice([
        octal(number, width), octal(number, width), octal(number, width), base256(number, width), plain.rjust(width),
        plain.rjust(width - 1) + b'\0', plain.ljust(width), b'%0*o' % (width, number), plain + b'\0junk'[:width - len(plain)],
        b' ' * width, bytes(width), b'+' + plain, b'-1', plain + b' 1', b'0o' + plain, b'9' + plain, b'\t' + plain,
        base256(number + (1 << 64), 12)[:width], base256(-1, width), b'\x81' + base256(number, width)[1:],
    ]) if rng.random() < 0.12 else octal(number, width)


def extension(rng, name, link, size):
    """Extension headers in any number and order."""
    def records():
        pairs = [(b'path', name), (b'linkpath', link), (b'size', b'%d' % size), (b'mtime', b'1.5'), (b'uid', b'7'),
                 (b'comment', b'x=y\nz'), (b'path', rng.choice(NAMES)), (b'size', b'%d' % rng.choice([0, 512, 513, 1024])),
                 (b'hdrcharset', b'BINARY'), (b'SCHILY.xattr.user.a', b'b'), (b'GNU.sparse.name', b'spurious')]
        weights = [6, 2, 4, 3, 2, 3, 1, 1, 1, 2, 0.3]
        return [pair for pair, weight in zip(pairs, weights) if rng.random() < weight / 12]
    made = b''
    while rng.random() < 0.35:
        kind = rng.choice(b'xxxgLLK')
        kind = bytes([kind])
        if kind == b'L':
            made += long(b'L', rng.choice([name, name, rng.choice(NAMES), name + b'/']))
        elif kind == b'K':
            made += long(b'K', rng.choice([link or b'a', rng.choice(NAMES)]))
        else:
            made += pax([(b'comment', b'c')] if kind == b'g' and rng.random() < 0.8 else records(), kind)
    return made


def sparse(rng, name):
    """A sparse member in one of the four formats; now and then a little wrong."""
    pairs, offset, count = [], 0, rng.choice([0, 1, 2, 4, 5, 26, 60])
    for at in range(count):
        offset += rng.choice([0, 512, 4096])
        length = rng.choice([1, 512, 700]) if at == count - 1 or rng.random() < 0.005 else rng.choice([512, 1024])
        pairs.append((offset, length))
        offset += length
    size = offset + rng.choice([0, 0, 4096])
    data = b''.join(bytes([65 + at % 26]) * length for at, (_, length) in enumerate(pairs))
    if rng.random() < 0.9:
        pairs.append((size, 0))
    data = data if rng.random() < 0.93 else data[:-1] + b'xx'[:rng.randrange(3)]
    size += rng.random() < 0.04
    kind = rng.randrange(4)
    if kind == 0:
        return gnu_sparse(name, pairs, size, data)
    numbers = [(b'%d' % number) for pair in pairs for number in pair]
    if kind == 1:
        version = [(b'GNU.sparse.major', b'1'), (b'GNU.sparse.minor', b'0')]
        text = b'\n'.join([b'%d' % len(pairs)] + numbers) + b'\n'
        return pax(version + [(b'GNU.sparse.name', name), (b'GNU.sparse.realsize', b'%d' % size)]) + member(b'x', padded(text) + data)
    common = [(b'GNU.sparse.size', b'%d' % size), (b'GNU.sparse.numblocks', b'%d' % len(pairs))]
    if kind == 2:
        keys = [b'GNU.sparse.offset', b'GNU.sparse.numbytes'] * len(pairs)
        return pax(common + list(zip(keys, numbers))) + member(name[:100], data)
    return pax(common + [(b'GNU.sparse.name', name), (b'GNU.sparse.map', b','.join(numbers))]) + member(b'x', data)


def one(rng):
    """A member with its extension headers."""
    name, link = rng.choice(NAMES), rng.choice(NAMES)
    if rng.random() < 0.15:
        return sparse(rng, name)
    kind = rng.choice([b'0'] * 8 + [b'\0', b'7', b'5', b'5', b'5', b'2', b'2', b'1', b'1', b'6'])
    data = rng.choice([b'', b'x', b'data' * 200, member(b'hidden', b'evil')]) if kind in b'0\x007' else b''
    if kind == b'5' or rng.random() < 0.02:
        name += b'/' * (rng.random() < 0.7)
    size = len(data)
    if rng.random() < 0.04:
        size = rng.choice([0, 1, 512, 1024, 1 << 40])
        data = data or bytes(rng.choice([0, 512]))
    fields = {field: any_number(rng, number, FIELDS[field][1]) for field, number in
              [('size', size), ('mode', 0o755), ('uid', 0), ('mtime', 1500000000)]}
    magic = rng.choice([USTAR, USTAR, GNU, OLD, b'ustar\x00xx'])
    head = b''
    if len(name) > 100:
        head = rng.choice([pax([(b'path', name)]), long(b'L', name)])
    elif magic != OLD and rng.random() < 0.08:
        fields['prefix'] = b'p'
    linked = link if kind in b'12' else b''
    return head + extension(rng, name, linked, len(data)) + block(kind, magic, name=name, link=linked, **fields) + padded(data)


def archive(rng):
    """A few members; half of the archives with something changed in a header, or at their end."""
    made = bytearray(b''.join(one(rng) for _ in range(rng.randrange(1, 6))))
    headers = [at for at in range(0, len(made), 512) if made[at + 257:at + 262] == b'ustar']
    if headers and rng.random() < 0.4:
        at = rng.choice(headers)
        field = rng.choice(list(FIELDS))
        offset, width = FIELDS[field]
        place = at + offset + rng.randrange(width)
        made[place] = rng.choice([0, 0x20, 0x2f, 0x30, 0x31, 0x37, 0x80, 0xff, made[place] ^ 1 << rng.randrange(8), rng.choice(b'xgLKS0125')])
        if rng.random() < 0.85:
            made[at:at + 512] = checked(made[at:at + 512])
    end = rng.random()
    if end < 0.9:
        return bytes(made) + END
    return rng.choice([bytes(made), bytes(made) + END[:512], bytes(made)[:-rng.randrange(1, 600)], bytes(made) + b'\xaa' * 512 + END])


def of_python(data):
    """What tarfile makes of it, as a tree."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode='r:') as tar:
            for it in tar:
                path = os.path.normpath(os.fsencode(it.name))
                for at in range(1, path.count(b'/') + 1):
                    found.setdefault(b'/'.join(path.split(b'/')[:at]), (stat.S_IFDIR, None))
                if it.isdir():
                    found[path] = (stat.S_IFDIR, None)
                elif it.issym():
                    found[path] = (stat.S_IFLNK, os.fsencode(it.linkname))
                elif it.isfifo():
                    found[path] = (stat.S_IFIFO, None)
                elif it.islnk():
                    found[path] = found.get(os.path.normpath(os.fsencode(it.linkname)), 'nothing to link to')
                elif it.isfile() or it.type == b'S':
                    found[path] = (stat.S_IFREG, content_of(it.size, tar.extractfile(it)))
                else:
                    found[path] = 'of another type'
    except Exception:
        pass
    found.pop(b'.', None)
    return found


def compare(volseed, directory, number, seed):
    """The verdict on one archive, and what is wrong with it."""
    rng = random.Random(f'{seed}-{number}')
    data = archive(rng)
    sandbox = os.path.join(directory, str(number))
    volume, gnu = os.path.join(sandbox, 'volume'), os.path.join(sandbox, 'gnu')
    os.makedirs(volume)
    os.mkdir(gnu)
    path = os.path.join(sandbox, 'a.tar')
    with open(path, 'wb') as file:
        file.write(data)
    quiet = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL, 'timeout': 60}
    subprocess.run(['tar', '-xf', path, '-C', gnu, '--no-same-owner'], **quiet)
    stream = rng.random() < 0.5
    ours = [volseed, 'seed', '--from', '-' if stream else path, '--to', volume, '--workers', '2']
    with open(path, 'rb') as file:
        code = subprocess.run(ours, **(quiet | ({'stdin': file} if stream else {}))).returncode
    by_gnu, by_python = tree(gnu), of_python(data)
    verdict, wrong = ('agreed' if by_gnu == by_python else 'disagreed') + f' {code}', None
    found = tree(volume)
    if code not in (0, 65):
        wrong = f'exit code {code}'
    elif code == 65 and found:
        wrong = f'published {found}'
    elif code == 0 and by_gnu == by_python != found:
        wrong = 'another tree'
    elif any(of not in (by_gnu.get(name), by_python.get(name)) for name, of in found.items()):
        wrong = 'what neither has'
    if wrong:
        differ = [(name[-20:], *(of.get(name) for of in (found, by_gnu, by_python))) for name in {**found, **by_gnu, **by_python}
                  if not found.get(name) == by_gnu.get(name) == by_python.get(name)]
        return verdict, f'{path}: {wrong}; name, volseed, GNU tar, tarfile: {differ}'
    shutil.rmtree(sandbox)
    return verdict, None


def main(volseed, directory, count, seed):
    verdicts, wrongs = {}, []
    with ThreadPoolExecutor(2) as pool:
        for verdict, wrong in pool.map(lambda number: compare(volseed, directory, number, seed), range(int(count))):
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
            wrongs += [wrong] if wrong else []
    print(verdicts)
    print(*[wrong[:2000] for wrong in wrongs[:10]], sep='\n')
    # Neither side may be all there is.
    few = min(verdicts.get('agreed 0', 0), verdicts.get('agreed 65', 0)) * 20 < int(count)
    sys.exit(f'{len(wrongs)} wrong, or hardly any of one kind: {verdicts}' if wrongs or few else 0)


main(*sys.argv[1:])
