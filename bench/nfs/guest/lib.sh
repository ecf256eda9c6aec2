#!/bin/bash
# Sourced by every scenario. Owns the server, the hosts that mount from it, and what is measured between them.
#
#   lab RTT [SIZE]          an NFSv4.1 server whose volume is a tmpfs of SIZE (2g), and host c1, RTT ms away
#   host NAME NUMBER [AS]   one more host, with a network, mounts, a boot id and a name of its own, or the name AS
#   on HOST COMMAND...      runs it there
#   server start|stop       the server; one that is started again knows its clients, and lets them reclaim
#   fresh HOST VOLUME       mounts VOLUME (made if new) on HOST's /mnt/efs, nothing of it in HOST's caches
#   cable HOST up|down      the link between the server and HOST
#   warm PATH...            into the page cache: disk time is not virtual
#   probe COMMAND...        finds out what COMMAND does not keep; the rows that follow say so
#   measure TOOL COMMAND... one row: COMMAND, with $FROM and $TO, on a new volume and a fresh mount, then the tree checked
#   observe TOOL VOLUME COMMAND...  the same on a volume that is mounted already, and leaves it
#   kept TOOL               whether its row was measured before this guest; measure then does nothing
#   discard HOST VOLUME     unmounts and empties it
#   seed [FLAGS...]         prints the command that seeds FROM; volseed_row NAME [FLAGS...] measures it
#   files VOLUME            how many the server has of it
#   settled HOST            RPCs that HOST has sent for its mount, once those on the wire are answered
#   replicas HOST...        starts `volseed run` on all of them at once, each on its mount; `ended HOST...` waits for them;
#                           the app says who owns the volume's root
#   replica TOOL HOST TREE  the row of one that has ended; the tree is checked at TREE
#   heard HOST MESSAGE      waits until HOST's volseed says so; `who MESSAGE`, `count MESSAGE`: which hosts', how often in all
#   what HOST MESSAGE FIELD the first value that it gave with it; `when HOST MESSAGE`: the second when it first said so
#   since START [END]       seconds between two, or until now
#   fact NAME VALUE         one figure that is no row
#
# FROM is the source of what is measured, EXPECTED the tree that must come of it, LEASE and GRACE are the server's.

MOUNT=vers=$version,$usual_mount${mount:+,$mount}
OWNER=33:33
export FROM=/corpus/plain TO=/mnt/efs
EXPECTED=/corpus/plain
LOST={}
# The kernel's own; and nobody can have a claim from before.
LEASE=90 GRACE=10
declare -A PID JOB

die() {
    echo "error: $1"
    exit 1
}

at_server() { nsenter --net=/run/netns/server "$@"; }

lab() {
    [ "$version" != 3 ] || die "the scenario 'volumes' is the one with NFSv3"
    # Half of it each way.
    DELAY=$(($1 * 500))us
    mount -t tmpfs -o "size=${2:-2g}" volume /export
    mount -t tmpfs state /var/lib/nfs
    mkdir -p /var/lib/nfs/{nfsdcld,rpc_pipefs,sm,v4recovery}
    touch /var/lib/nfs/{etab,rmtab}
    echo "/export *(rw,sync,$export,no_subtree_check,insecure,fsid=0)" >/etc/exports
    # EFS grants no delegations.
    echo 0 >/proc/sys/fs/leases-enable
    ip netns add server
    at_server ip link set lo up
    at_server mount -t nfsd nfsd /proc/fs/nfsd
    at_server mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
    # Writes down who its clients are.
    at_server nfsdcld --pipefsdir /var/lib/nfs/rpc_pipefs
    at_server exportfs -ra
    server start
    at_server rpc.mountd --no-nfs-version 2 --no-nfs-version 3
    host c1 1
    # Returns when the server's grace period is over.
    mkdir /tmp/edge
    tar -xpf /corpus/edge.tar -C /tmp/edge 2>/dev/null
    fresh c1 grace
    on c1 touch "$TO/over"
}

server() {
    case $1 in
    stop) at_server rpc.nfsd 0 ;;
    start)
        echo "$LEASE" >/proc/fs/nfsd/nfsv4leasetime
        echo "$GRACE" >/proc/fs/nfsd/nfsv4gracetime
        # As EFS; with the guest's memory the kernel would choose half of it.
        echo 1048576 >/proc/fs/nfsd/max_block_size
        at_server rpc.nfsd --no-nfs-version 3 16
        ;;
    esac
}

host() {
    local name=$1 address=192.0.2.$((100 + $2)) boot=/run/boot-$1
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
    # Hosts are different machines to whoever asks, though one kernel runs them all.
    printf '%08d-0000-4000-8000-000000000000\n' "$2" >"$boot"
    nsenter --net="/run/netns/$name" unshare --mount --uts sh -c "
        mount --bind $boot /proc/sys/kernel/random/boot_id && hostname ${3:-$name} && exec sleep infinity" &
    PID[$name]=$!
    until on "$name" cmp -s "$boot" /proc/sys/kernel/random/boot_id && [ "$(on "$name" hostname)" = "${3:-$name}" ]; do sleep 0.1; done
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
    account.py row /tmp "$tool" "$started" "$ended" "$code" "$EXPECTED" "/export/$volume" "$OWNER" "$LOST"
}

measure() {
    local tool=$1 volume=$((++VOLUMES))
    ! kept "$tool" || return 0
    shift
    fresh c1 "$volume"
    observe "$tool" "$volume" "$@"
    discard c1 "$volume"
}

kept() { grep -qxF -- "$1" /lab/kept; }

files() { find "/export/$1" -type f | wc -l; }

discard() {
    on "$1" umount "$TO"
    rm -rf "/export/$2"
}

fact() { printf 'RESULT {"fact": "%s", "value": "%s"}\n' "$1" "${2//\"/}"; }

# What COMMAND costs on VOLUME, with a cold cache.
cost() {
    local name=$1 volume=$2 started code asked
    shift 2
    fresh c1 "$volume"
    settled c1 >/tmp/before
    started=$EPOCHREALTIME
    on c1 "$@" >/tmp/said 2>&1
    code=$?
    fact "$name, s" "$(since "$started")"
    settled c1 >/tmp/after
    asked=$(account.py ops /tmp/before /tmp/after)
    fact "$name, RPCs" "${asked%% *}"
    fact "$name, by operation" "${asked#*: }"
    [ "$code" = 0 ] || die "$name: exit code $code: $(tail -n 2 /tmp/said)"
}

seed() { echo volseed seed --from "$FROM" --to "$TO" --chown "$OWNER" --log json "$@"; }

# shellcheck disable=SC2046 # none of the words has a space
volseed_row() {
    local name=$1
    shift
    measure "$name" $(seed "$@")
}

replicas() {
    local host
    for host; do
        mkdir -p "/tmp/$host"
        settled "$host" >"/tmp/$host/before"
    done
    for host; do
        (
            echo "$EPOCHREALTIME" >"/tmp/$host/times"
            on "$host" volseed run --from "$FROM" --to "$TO" --chown "$OWNER" --log json -- \
                stat -c 'owner of the root %u:%g' "$TO" >"/tmp/$host/said" 2>&1
            echo "$EPOCHREALTIME $?" >>"/tmp/$host/times"
        ) &
        JOB[$host]=$!
    done
}

ended() {
    local host
    for host; do
        wait "${JOB[$host]}"
        settled "$host" >"/tmp/$host/after"
    done
}

replica() {
    local times
    mapfile -t times < <(tr ' ' '\n' <"/tmp/$2/times")
    on "$2" account.py row "/tmp/$2" "$1" "${times[@]}" "$EXPECTED" "$3" "$OWNER" "$LOST"
}

said() { grep -sF "\"message\":\"$2" "/tmp/$1/said"; }

heard() { until said "$@" >/dev/null; do sleep 0.1; done; }

who() { grep -slF "\"message\":\"$1" /tmp/c?/said | grep -o 'c[0-9]'; }

count() { cat /tmp/c?/said | grep -cF "\"message\":\"$1"; }

what() { said "$1" "$2" | grep -om1 "\"$3\":[^,}]*" | cut -d: -f2- | tr -d '"'; }

when() { date -d "$(what "$1" "$2" timestamp)" +%s.%N; }

since() { awk "BEGIN { printf \"%.3f\", ${2:-$EPOCHREALTIME} - $1 }"; }
