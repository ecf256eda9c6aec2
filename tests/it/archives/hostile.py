"""Hostile archives, each read as root from a file, as another user, and from standard input: the exit code, one clean
line, the volume and a tree beside it untouched, and the next start seeds. Usage: hostile.py VOLSEED DIRECTORY USER."""
import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

from blocks import END, FIELDS, GNU, base256, block, gnu_sparse, long, member, octal, padded, pax, tree

GOOD = member(b'good', b'fine') + member(b'dir/', kind=b'5', mode=0o755) + member(b'dir/file', b'fine')
EVIL = b'\n2026-11-25T00:00:00Z  INFO seeded volume=/fake\x1b[31m\x07\xe2\x80\xae\xff'
REFUSED, ANY = (65,), (0, 65)
# From a pipe a size that is a lie looks like one that the volume has no room for.
TOO_LARGE = (65, 73)


def carried(name, kind, link, data=b''):
    """The same member, its name in each of the places that a name can be in."""
    named = {'kind': kind, 'link': link[:100]}
    if len(name) <= 100:
        yield member(name, data, **named)
    yield pax([(b'path', name), (b'linkpath', link)] if link else [(b'path', name)]) + member(b'harmless', data, **named)
    yield long(b'L', name) + (long(b'K', link) if link else b'') + member(b'harmless', data, magic=GNU, **named)
    if len(name) <= 90 and b'/' in name.strip(b'/'):
        prefix, rest = name.rsplit(b'/', 1)
        yield member(rest, data, prefix=prefix, **named)


def names(outside):
    """Names that lead out, or to what is volseed's."""
    wrong = [b'../evil', b'good/../../evil', b'..', b'dir/..', b'/etc/evil', b'//evil', outside + b'/evil', b'./../evil', b'dir/../../evil',
             b'.volseed/state.json', b'./.volseed/lock', b'.volseed', b'.VOLSEED/x', b'.volse\xe2\x80\x8bed/x', b'.volseed./x',
             b'x' * 256, b'a/' * 300 + b'b', b'good/evil', b'dir']
    for name in wrong:
        for kind, link, data in [(b'0', b'', b'evil'), (b'2', outside, b''), (b'6', b'', b'')]:
            yield from ((GOOD + made, REFUSED) for made in carried(name, kind, link, data))
    for target in [b'/etc/passwd', outside + b'/secret', b'../outside/secret', b'nowhere', b'evil', b'dir', b'.', b'.volseed/lock', b'late', b'good/x', b'']:
        yield from ((GOOD + made + member(b'late', b'x'), REFUSED) for made in carried(b'evil', b'1', target))


def links(outside):
    """Through symbolic links, hard links to them, and names that change their type."""
    for target in [outside, b'.', b'dir', b'../outside', b'link']:
        led = GOOD + member(b'link', kind=b'2', link=target)
        for more in [member(b'link/evil', b'x'), member(b'link/evil/', kind=b'5'), member(b'link/', kind=b'5'), member(b'link', b'x'),
                     member(b'link/evil', kind=b'2', link=b'x'), member(b'evil', kind=b'1', link=b'link/secret'),
                     member(b'link/evil', kind=b'1', link=b'good'), member(b'link/a/b/c', b'x')]:
            yield led + more, REFUSED
        hard = led + member(b'hard', kind=b'1', link=b'link')
        yield hard, ANY
        yield hard + member(b'hard/evil', b'x'), REFUSED
        yield hard + member(b'hard', kind=b'5'), REFUSED
        yield hard + member(b'hard', b'x'), REFUSED


def fields():
    """Every field with what does not belong there."""
    for field in FIELDS:
        width = FIELDS[field][1]
        for value in [b'\xff' * width, b'\x80' + b'\xff' * (width - 1), b'zz\nzz\x1b[1m'[:width], b'-1', b'7' * width, b'9', b' ' * width, EVIL[:width]]:
            codes = (*ANY, *TOO_LARGE) if field == 'size' else ANY
            yield GOOD + block(**{'name': EVIL, field: value}) + member(b'after', b'x'), codes
    for kind in b'34':
        yield GOOD + member(b'null', kind=bytes([kind]), more=[(329, octal(1, 8) + octal(3, 8))]), REFUSED
    for kind in b'89ADMNVX\xff':
        yield GOOD + member(b'odd' + EVIL, b'x', bytes([kind])), REFUSED
    for size in [b'77777777777\0', base256(1 << 62), base256(-1), base256((1 << 64) + 5, 12), b'99999999999\0']:
        yield GOOD + member(b'size', b'x', size=size), TOO_LARGE
        for kind in b'256':
            yield GOOD + member(b'size', b'', bytes([kind]), size=size), TOO_LARGE


def extensions():
    """Extension headers: malformed, absurd, in the wrong order, without end."""
    for text in [b'5 a\n', b'99 path=x\n', b'9 path=x', b'x path=y\n', b'-9 path=a\n', b'0 path=a\n', b'\n', b'18446744073709551616 a=b\n',
                 b'11 path=\0x\n', b'12 size=-10\n', b'20 mtime=1e9999999\n', b'8 path=\n', EVIL]:
        yield GOOD + member(b'pax', text, b'x') + member(b'after', b'x'), REFUSED
    for key in [b'path', b'linkpath', b'size', b'uid', b'gid', b'mtime', b'GNU.sparse.map', b'GNU.sparse.size', b'GNU.sparse.realsize',
                b'GNU.sparse.offset', b'GNU.sparse.major', b'SCHILY.xattr.user.x', b'SCHILY.xattr.security.capability', EVIL]:
        for value in [EVIL, b'', b'9' * 30, b'18446744073709551615', b'-1', b'x' * 70000]:
            yield GOOD + pax([(key, value)]) + member(b'after', b'x'), ANY
    for key in [b'path', b'size', b'uid', b'linkpath', b'GNU.sparse.size']:
        yield GOOD + pax([(key, b'1')], b'g') + member(b'after', b'x'), REFUSED
    hidden = member(b'smuggled', b'evil')
    for order in [pax([(b'size', b'%d' % len(hidden))]) + pax([(b'comment', b'c')], b'g'), pax([(b'size', b'%d' % len(hidden))]) + long(b'L', b'carrier')]:
        yield GOOD + order + block(name=b'carrier') + hidden, ANY
    yield GOOD + pax([(b'comment', b'x' * (2 << 20))]) + member(b'after', b'x'), REFUSED
    yield GOOD + pax([(b'comment', b'c')], b'g') * 3000 + member(b'after', b'x'), REFUSED
    yield GOOD + long(b'L', b'a') * 3000 + member(b'after', b'x'), REFUSED
    yield GOOD + long(b'L', b'a'), REFUSED


def holes():
    """Sparse members."""
    for pairs, size, real in [([(base256(1 << 62), octal(0, 12))], 1, base256(1 << 62)), ([(0, 512)], 512, base256((1 << 63) - 1)),
                              ([(512, 1), (0, 1)], 513, None), ([(0, 600)], 600, octal(1, 12)), ([(0, 1)] * 200, 1, None),
                              ([(base256(-512), 512)], 512, None), ([(0, 512)] * 2, 512, None), ([], 0, b'x' * 12)]:
        yield GOOD + gnu_sparse(b'sparse', pairs, size, b'x' * 512, real), ANY
    for text in [b'', b'\n', b'-1\n', b'99999999999\n', b'1\n0\n', b'x\n', b'1\n0\n99999\n', b'2\n0\n512\n0\n512\n', b'1' * 600]:
        records = [(b'GNU.sparse.major', b'1'), (b'GNU.sparse.minor', b'0'), (b'GNU.sparse.name', b'sp'), (b'GNU.sparse.realsize', b'4611686018427387904')]
        yield GOOD + pax(records) + member(b'x', padded(text)), ANY


def ends():
    """Cut short, continued, and not what their compression says."""
    whole = GOOD + END
    for length in [1, 100, 511, 512, 700, 1024, 1100, 2048, len(GOOD), len(GOOD) - 1]:
        yield whole[:length], REFUSED
    for packed in [gzip.compress(whole), bz2.compress(whole), lzma.compress(whole)]:
        for length in [len(packed) // 2, len(packed) - 1, 8]:
            yield packed[:length], REFUSED
        broken = bytearray(packed)
        broken[len(broken) // 2] ^= 1
        yield bytes(broken), REFUSED
    yield gzip.compress(b'hello\nworld\x1b[31m\n' * 100), REFUSED
    yield gzip.compress(GOOD + END + bytes(80 << 20)), REFUSED
    yield b'', REFUSED
    yield EVIL * 100, REFUSED
    yield b'\x28\xb5\x2f\xfd' + bytes(100), REFUSED
    yield b'BZh9' + bytes(100), REFUSED
    yield b'\xfd7zXZ\0' + bytes(100), REFUSED


def everything(outside):
    """All of them; what is not packed and has no end gets one."""
    for make in [lambda: names(outside), lambda: links(outside), fields, extensions, holes]:
        yield from ((data + END, codes) for data, codes in make())
    yield from ends()


def start(volseed, source, volume, user, stream):
    """Starts volseed on a volume; its exit code and what it said."""
    who = {'user': user, 'group': user, 'extra_groups': []} if user else {}
    command = [volseed, 'seed', '--from', '-' if stream else source, '--to', volume, '--workers', '2']
    with open(source, 'rb') if stream else open(os.devnull, 'rb') as stdin:
        done = subprocess.run(command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, **who)
    return done.returncode, done.stderr


def check(volseed, sandbox, good, user, data, codes):
    """What is wrong with one archive, read in each of the three ways."""
    wrong = []
    for way, (who, stream) in {'root': (0, False), 'user': (user, False), 'stream': (0, True)}.items():
        here = os.path.join(sandbox, way)
        volume, source = os.path.join(here, 'volume'), os.path.join(here, 'a')
        os.makedirs(volume)
        os.chown(volume, who, who)
        with open(source, 'wb') as file:
            file.write(data)
        code, said = start(volseed, source, volume, who, stream)
        errors = [line for line in said.split(b'\n') if line.startswith(b'error: ')]
        text = said.decode(errors='surrogateescape')
        unclean = [c for c in text if c != '\n' and (not c.isprintable())]
        if code not in codes:
            wrong.append(f'{way}: exit code {code}')
        if unclean or b'panicked' in said or len(errors) != (code != 0) or any(line.startswith('2026-11-25') for line in text.split('\n')):
            wrong.append(f'{way}: said {said[-400:]}')
        if code and tree(volume):
            wrong.append(f'{way}: refused, and there is {tree(volume)}')
        if code and start(volseed, good, volume, who, False)[0] != 0:
            wrong.append(f'{way}: the next start does not seed')
        elif code and set(tree(volume)) != {b'good', b'dir', b'dir/file'}:
            wrong.append(f'{way}: the next start makes {tree(volume)}')
        # Not to be opened by us, either: a name may be anything.
        subprocess.run(['rm', '-rf', here], check=True)
    return wrong


def main(volseed, directory, user):
    outside = os.path.join(directory, 'outside')
    os.mkdir(outside)
    os.chmod(outside, 0o777)
    with open(os.path.join(outside, 'secret'), 'w') as file:
        file.write('secret')
    os.chmod(file.name, 0o600)
    good = os.path.join(directory, 'good.tar')
    with open(good, 'wb') as file:
        file.write(GOOD + END)
    look = lambda: [(it.name, it.stat(follow_symlinks=False)) for it in os.scandir(outside)] + [os.stat(outside)]
    before = [(name, it.st_mode, it.st_uid, it.st_size, it.st_mtime_ns, it.st_ctime_ns, it.st_nlink) for name, it in look()[:-1]] + [look()[-1].st_mtime_ns]
    archives = list(everything(os.fsencode(outside)))
    run = lambda at: check(volseed, os.path.join(directory, str(at)), good, int(user), *archives[at])
    with ThreadPoolExecutor(2) as pool:
        wrong = [f'{at}: {line}; archive {archives[at][0][-2048:-1900]}' for at, lines in enumerate(pool.map(run, range(len(archives)))) for line in lines]
    after = [(name, it.st_mode, it.st_uid, it.st_size, it.st_mtime_ns, it.st_ctime_ns, it.st_nlink) for name, it in look()[:-1]] + [look()[-1].st_mtime_ns]
    if before != after:
        wrong.append(f'outside was {before} and is {after}')
    print(len(archives), 'archives', *wrong[:12], sep='\n')
    sys.exit(f'{len(wrong)} wrong' if wrong or len(archives) < 250 else 0)


main(*sys.argv[1:])
