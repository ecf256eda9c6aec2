#!/bin/bash
# Sourced by every scenario. Owns the server, the hosts that mount from it, and what is measured between them.
#
#   lab RTT [SIZE]          an NFSv4.1 server whose volume is a tmpfs of SIZE (2g), and host c1, RTT ms away
#   host NAME NUMBER        one more host, with a network, mounts and a name of its own
#   on HOST COMMAND...      runs it there
#   fresh HOST VOLUME       mounts VOLUME (made if new) on HOST's /mnt/efs, nothing of it in HOST's caches
#   cable HOST up|down      the link between the server and HOST
#   warm PATH...            into the page cache: disk time is not virtual
#   probe COMMAND...        finds out what COMMAND does not keep; the rows that follow say so
#   measure TOOL COMMAND... one row: COMMAND, with $FROM and $TO, on a new volume and a fresh mount, then the tree checked
#   observe TOOL VOLUME COMMAND...  the same on a volume that is mounted already, and leaves it
#   discard HOST VOLUME     unmounts and empties it
#   seed [FLAGS...]         prints the command that seeds FROM; volseed_row NAME [FLAGS...] measures it
#   files VOLUME            how many the server has of it
#   settled HOST            RPCs that HOST has sent for its mount, once those on the wire are answered
#   fact NAME VALUE         one figure that is no row
#
# FROM is the source of what is measured, EXPECTED the tree that must come of it.

MOUNT=vers=4.1,proto=tcp,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport
OWNER=33:33
export FROM=/corpus/plain TO=/mnt/efs
EXPECTED=/corpus/plain
LOST={}
declare -A PID

die() {
    echo "error: $1"
    exit 1
}

at_server() { nsenter --net=/run/netns/server "$@"; }

lab() {
    # Half of it each way.
    DELAY=$(($1 * 500))us
    mount -t tmpfs -o "size=${2:-2g}" volume /export
    mount -t tmpfs state /var/lib/nfs
    mkdir -p /var/lib/nfs/{rpc_pipefs,sm,v4recovery}
    touch /var/lib/nfs/{etab,rmtab}
    echo '/export *(rw,sync,no_root_squash,no_subtree_check,insecure,fsid=0)' >/etc/exports
    # EFS grants no delegations.
    echo 0 >/proc/sys/fs/leases-enable
    ip netns add server
    at_server ip link set lo up
    at_server mount -t nfsd nfsd /proc/fs/nfsd
    # Nobody can have a claim from before.
    echo 10 >/proc/fs/nfsd/nfsv4gracetime
    at_server exportfs -ra
    at_server rpc.nfsd --no-nfs-version 3 16
    at_server rpc.mountd --no-nfs-version 2 --no-nfs-version 3
    host c1 1
    # Returns when the server's grace period is over.
    mkdir /tmp/edge
    tar -xpf /corpus/edge.tar -C /tmp/edge 2>/dev/null
    fresh c1 grace
    on c1 touch "$TO/over"
}

host() {
    local name=$1 address=192.0.2.$((100 + $2))
    ip netns add "$name"
    ip link add eth0 netns "$name" type veth peer name "$name" netns server
    ip -n server link set "$name" up
    ip -n server addr add 192.0.2.1/32 dev "$name"
    ip -n server route add "$address/32" dev "$name"
    ip -n "$name" link set lo up
    ip -n "$name" link set eth0 up
    ip -n "$name" addr add "$address/32" dev eth0
    ip -n "$name" route add 192.0.2.1/32 dev eth0
    tc -n server qdisc add dev "$name" root netem delay "$DELAY" limit 100000
    tc -n "$name" qdisc add dev eth0 root netem delay "$DELAY" limit 100000
    nsenter --net="/run/netns/$name" unshare --mount --uts sh -c "hostname $name; exec sleep infinity" &
    PID[$name]=$!
    until [ "$(nsenter -t "${PID[$name]}" --uts hostname)" = "$name" ]; do sleep 0.1; done
}

on() {
    local name=$1
    shift
    nsenter -t "${PID[$name]}" --mount --uts --net "$@"
}

# A cut cable drops what is sent; neither side is told.
cable() {
    local loss=100%
    [ "$2" = down ] || loss=0%
    tc -n server qdisc change dev "$1" root netem delay "$DELAY" limit 100000 loss "$loss"
    tc -n "$1" qdisc change dev eth0 root netem delay "$DELAY" limit 100000 loss "$loss"
}

fresh() {
    mkdir -p "/export/$2"
    on "$1" mountpoint -q "$TO" && on "$1" umount "$TO"
    on "$1" mount -t nfs4 -o "$MOUNT" "192.0.2.1:/$2" "$TO" || die "mount $2 on $1"
}

warm() { find "$@" -type f -exec cat {} + >/dev/null; }

settled() {
    sleep 1
    on "$1" cat /proc/self/mountstats
}

probe() {
    fresh c1 edge
    FROM=/tmp/edge on c1 "$@" >/tmp/said 2>&1
    LOST=$(account.py lost /tmp/edge /export/edge "$OWNER")
    discard c1 edge
}

# Runs COMMAND on c1, whose mount is VOLUME's, and prints the row.
observe() {
    local tool=$1 volume=$2 started ended code
    shift 2
    settled c1 >/tmp/before
    started=$EPOCHREALTIME
    on c1 "$@" >/tmp/said 2>&1
    code=$?
    ended=$EPOCHREALTIME
    settled c1 >/tmp/after
    account.py row "$tool" "$started" "$ended" "$code" "$EXPECTED" "/export/$volume" "$OWNER" "$LOST"
}

measure() {
    local tool=$1 volume=$((++VOLUMES))
    shift
    fresh c1 "$volume"
    observe "$tool" "$volume" "$@"
    discard c1 "$volume"
}

files() { find "/export/$1" -type f | wc -l; }

discard() {
    on "$1" umount "$TO"
    rm -rf "/export/$2"
}

fact() { printf 'RESULT {"fact": "%s", "value": "%s"}\n' "$1" "${2//\"/}"; }

seed() { echo volseed seed --from "$FROM" --to "$TO" --chown "$OWNER" --log json "$@"; }

# shellcheck disable=SC2046 # none of the words has a space
volseed_row() {
    local name=$1
    shift
    measure "$name" $(seed "$@")
}
