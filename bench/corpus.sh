#!/bin/bash
# The real input of every bench and of the slow checks: four web applications as Debian packs them, plus a
# folder of metadata that those packages do not have, as a directory and as every kind of archive.
# Owns the cache folder it writes. Nothing else writes there; everything else only reads it.
set -euo pipefail

# Raised whenever what is laid out below changes, so that an older cache is made again.
LAYOUT=1
PACKAGES=(dokuwiki wordpress phpmyadmin roundcube-core)

usage() {
    cat <<'HELP'
usage: bench/corpus.sh [CACHE_DIR]

Makes the corpus in CACHE_DIR (default: $VOLSEED_CORPUS, else $XDG_CACHE_HOME/volseed-corpus,
else ~/.cache/volseed-corpus) and prints what is in it. A cache that is already whole is left alone.

  plain/           dokuwiki, wordpress, phpmyadmin and roundcube-core: 10,492 files, 117 MB
  tree/            plain/ and volseed-edge/: modes, owners, times, links, names, a FIFO, xattrs, holes
  corpus.tar       tree/ as a pax archive with extended attributes and holes, root member ./
  corpus.tar.gz  corpus.tar.zst  corpus.tar.xz  corpus.tar.bz2

Needs root (owners and capabilities) and, the first time, Debian's packages: apt-get update.
HELP
}

die() {
    echo "error: $1" >&2
    [ $# -lt 2 ] || echo "help: $2" >&2
    exit 1
}

case "${1:-}" in
-h | --help)
    usage
    exit
    ;;
-*) die "unknown option '$1'" "bench/corpus.sh --help" ;;
esac

cache=${1:-${VOLSEED_CORPUS:-${XDG_CACHE_HOME:-$HOME/.cache}/volseed-corpus}}

check_tools() {
    [ "$(id -u)" = 0 ] || die "the corpus has owners and capabilities: only root can make it" "run it with sudo"
    local missing=()
    for tool in tar:tar gzip:gzip bzip2:bzip2 xz:xz-utils zstd:zstd python3:python3 dpkg-deb:dpkg apt-get:apt flock:util-linux; do
        command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    [ ${#missing[@]} = 0 ] || die "missing on this machine: ${missing[*]}" "apt-get install ${missing[*]}"
}

fetch() {
    local package
    for package in "${PACKAGES[@]}"; do
        apt-cache show "$package" >/dev/null 2>&1 ||
            die "apt knows no package '$package'" "run apt-get update first, on Debian 12 or later"
    done
    mkdir -p debs
    # The sandbox user could not write here, and says so on every run.
    (cd debs && apt-get -q -o APT::Sandbox::User=root download "${PACKAGES[@]}") >fetch.log 2>&1 ||
        die "fetch ${PACKAGES[*]}: $(tail -n 1 fetch.log)" "run apt-get update first"
}

unpack() {
    mkdir -m 0755 plain
    local deb
    for deb in debs/*.deb; do
        dpkg-deb -x "$deb" plain
    done
    chown 0:0 plain
    chmod 0755 plain
    cp -a plain tree
    make_edge tree/volseed-edge
    touch -d '2024-01-02 03:04:05.060708090 UTC' plain tree
}

# What no package ships and a seed must keep all the same.
make_edge() {
    python3 -B - "$1" <<'PYTHON'
import os, struct, sys

root = os.fsencode(sys.argv[1])
NS = 1_700_000_000_123_456_789
times = {}

def at(name):
    return os.path.join(root, name if isinstance(name, bytes) else name.encode())

def folder(name, mode=0o755, owner=(0, 0), mtime=NS):
    os.makedirs(at(name), exist_ok=True)
    finish(name, mode, owner, mtime)

def file(name, data=b"edge\n", mode=0o644, owner=(0, 0), mtime=NS, xattrs=()):
    with open(at(name), "wb") as out:
        out.write(data)
    finish(name, mode, owner, mtime, xattrs)

def finish(name, mode, owner, mtime, xattrs=()):
    # In this order: a change of owner takes away setuid and capabilities.
    os.chown(at(name), *owner)
    os.chmod(at(name), mode)
    for key, value in xattrs:
        os.setxattr(at(name), key, value)
    times[at(name)] = mtime

def link(name, target, mtime=NS):
    os.symlink(target, at(name))
    times[at(name)] = mtime

# cap_net_bind_service=ep, as setcap writes it (struct vfs_cap_data, revision 2, effective).
CAPABILITY = ("security.capability", struct.pack("<5I", 0x0200_0001, 1 << 10, 0, 0, 0))

folder("")
folder("modes")
file("modes/setuid", mode=0o4755)
file("modes/setgid", mode=0o2755)
file("modes/setuid-of-www-data", mode=0o4750, owner=(33, 33))
file("modes/none", mode=0o000)
file("modes/all", mode=0o777)
folder("modes/sticky", mode=0o1777)
folder("modes/setgid-dir", mode=0o2775, owner=(0, 33))
file("modes/setgid-dir/inside", owner=(0, 0))
folder("modes/narrow", mode=0o555)
file("modes/narrow/inside", mode=0o444)
folder("modes/closed", mode=0o000)
file("modes/closed/inside", mode=0o600)

folder("owners", owner=(33, 33))
file("owners/www-data", owner=(33, 33))
file("owners/first-user", owner=(1000, 1000))
file("owners/mixed", owner=(33, 1000))
file("owners/beyond-octal", owner=(3_000_000, 3_000_001))
folder("owners/dir", owner=(1000, 33), mode=0o750)
file("owners/dir/inside", owner=(1000, 33), mode=0o640)
link("owners/link", "first-user")
os.chown(at("owners/link"), 1000, 1000, follow_symlinks=False)

folder("times", mtime=1_600_000_000_987_654_321)
file("times/nanosecond", mtime=1_600_000_000_000_000_001)
file("times/second", mtime=1_600_000_000_000_000_000)
file("times/epoch", mtime=0)
file("times/before-1970", mtime=-86_400_250_000_000)
file("times/after-2038", mtime=2_400_000_000_500_000_000)
link("times/link", "second", mtime=1_500_000_000_111_222_333)

folder("links")
file("links/first", b"one file, four names\n", owner=(33, 33))
folder("links/deeper")
for name in ("links/second", "links/third", "links/deeper/fourth"):
    os.link(at("links/first"), at(name))
link("links/relative", "first")
link("links/absolute", "/etc/hostname")
link("links/up", "../modes/setuid")
link("links/dangling", "nowhere/at-all")
link("links/itself", "itself")
link("links/long", "n" * 200 + "/" + "m" * 200)
os.link(at("links/dangling"), at("links/dangling-twice"), follow_symlinks=False)

folder("empty")
folder("empty/dir")
folder("empty/dir/in/dir")
folder("empty/dir/in")
file("empty/file", b"")

folder("names")
for name in (b"caf\xe9", b"two\nlines", b"-rf", b" space ", b"tab\there", b"back\\slash", b"star*?[x]", "snow\u2603man".encode(), b"x" * 255):
    file(b"names/" + name)
link(b"names/link-\xff", b"caf\xe9")
deep = b"names"
for step in range(12):
    deep += b"/" + b"d" * 30 + b"%02d" % step
    folder(deep)
file(deep + b"/bottom")

folder("special")
os.mkfifo(at("special/fifo"))
finish("special/fifo", 0o620, (33, 33), NS)

folder("xattrs")
file("xattrs/text", xattrs=[("user.mime_type", b"text/plain"), ("user.second", b"2")])
file("xattrs/binary", xattrs=[("user.bytes", bytes(range(256)))])
file("xattrs/empty", xattrs=[("user.nothing", b"")])
file("xattrs/capability", mode=0o755, xattrs=[CAPABILITY])
file("xattrs/capability-of-www-data", mode=0o755, owner=(33, 33), xattrs=[CAPABILITY])
file("xattrs/read-only", mode=0o400, owner=(1000, 1000), xattrs=[("user.kept", b"yes")])
folder("xattrs/dir")
os.setxattr(at("xattrs/dir"), "user.on-a-dir", b"yes")

folder("sparse")
with open(at("sparse/islands"), "wb") as out:
    for offset in (0, 1 << 20, 9 << 20):
        out.seek(offset)
        out.write(b"island %9d\n" % offset * 400)
    out.truncate(16 << 20)
finish("sparse/islands", 0o644, (0, 0), NS)
with open(at("sparse/hole"), "wb") as out:
    out.truncate(4 << 20)
finish("sparse/hole", 0o644, (0, 0), NS)
with open(at("sparse/tail"), "wb") as out:
    out.seek(3 << 20)
    out.write(b"the end")
finish("sparse/tail", 0o644, (33, 33), NS)

for path in sorted(times, key=len, reverse=True):
    os.utime(path, ns=(times[path], times[path]), follow_symlinks=False)
PYTHON
}

pack() {
    # Change and access times would differ with every cache that is made.
    tar --create --file=corpus.tar --directory=tree --format=posix --pax-option=delete=atime,delete=ctime \
        --sort=name --numeric-owner --xattrs --xattrs-include='user.*' --xattrs-include=security.capability --sparse .
    gzip --keep --no-name corpus.tar
    zstd --quiet --keep -T0 corpus.tar
    xz --keep --threads=0 corpus.tar
    bzip2 --keep corpus.tar
}

count() {
    echo "files       $(find tree -type f | wc -l)"
    echo "directories $(find tree -type d | wc -l)"
    echo "symlinks    $(find tree -type l | wc -l)"
    echo "bytes       $(find tree -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')"
    (cd debs && printf 'package     %s\n' *.deb)
}

check_tools
mkdir -p "$cache"
cd "$cache"
exec 9>lock
flock 9

if [ "$(cat layout 2>/dev/null)" != "$LAYOUT" ]; then
    echo "making the corpus in $cache" >&2
    rm -rf layout debs plain tree corpus.tar* counts
    fetch
    unpack
    pack
    count >counts
    echo "$LAYOUT" >layout
fi

echo "corpus      $cache"
cat counts
for archive in corpus.tar*; do
    printf '%-11s %s bytes\n' "${archive#corpus.}" "$(stat -c %s "$archive")"
done
