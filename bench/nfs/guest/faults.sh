#!/bin/bash
# Sourced after lib.sh. Owns what can go wrong with a server and the way to it, and when; struck.py judges what came of it.
#
#   make_seed               the small tree that is seeded, and a user's files that are on every volume before
#   strike FAULT PHASE      one case: FAULT in PHASE of a run, a run while it lasts, and the next one when it is over
#
# `begin_FAULT` makes a fault, and `end_FAULT` ends one that outlasts the run; CODES are the exit codes that the run may
# have. A phase is a moment on the volume: so many paths match MOMENT's pattern.

SEED=/tmp/seed USERS=/tmp/users CASE=/tmp/case
ANYWHERE=rw,sync,no_subtree_check,insecure
# Longer than any wait that ends: what is killed then hangs.
HANGS=900
declare -A MOMENT=(
    # Half of the files are there.
    [seed]='.volseed/claims/1/stage/tree/** 40'
    # The first directories are in their places.
    [publish]='d* 2'
    # The holder is dead, and the successor has just claimed the volume.
    [claim]='.volseed/claims/2 1'
    # The successor links files out of the stage of the dead holder.
    [gather]='.volseed/claims/2/stage/tree/** 15'
)
declare -A CODES=(
    [none]=0 [restarted]=0 [forgotten]='0 74' [restored]='0 74' [frozen]=0 [soft]='0 74'
    [full]='73' [inodes]='0 73' [quota]='0 73' [read-only]='73'
    [withdrawn]='0 74' [moved]='74' [replaced]='74' [squashed]='75 77' [reowned]='75 77'
)

begin_none() { :; }

begin_restarted() {
    server stop
    sleep 3
    server start
}

# As a server that failed over without its records: no client may reclaim what it held.
begin_forgotten() {
    server stop
    pkill -x nfsdcld
    rm -rf /var/lib/nfs/nfsdcld/*
    at_server nfsdcld --pipefsdir /var/lib/nfs/rpc_pipefs
    server start
}

# From a copy: below the volume's root, what clients know is no more.
begin_restored() {
    server stop
    mkdir "$DISK/copy"
    cp -a "$VOLUME/." "$DISK/copy"
    find "$VOLUME" -mindepth 1 -delete
    find "$DISK/copy" -mindepth 1 -maxdepth 1 -exec mv -t "$VOLUME" {} +
    rmdir "$DISK/copy"
    server start
}

begin_frozen() {
    cable "$HOST" down
    sleep 30
    cable "$HOST" up
}

begin_soft() { begin_frozen; }

begin_full() {
    fallocate -l "$(df --output=avail -B1 "$DISK" | tail -n 1)" "$DISK/filler"
    dd if=/dev/zero of="$DISK/filler2" bs=4k status=none 2>/dev/null
}
end_full() { rm "$DISK"/filler*; }

begin_inodes() {
    mkdir "$DISK/fillers"
    seq 4096 | (cd "$DISK/fillers" && xargs touch) 2>/dev/null
}
end_inodes() { rm -r "$DISK/fillers"; }

begin_quota() { quota.py "$(device)" "${OWNER%:*}"; }
end_quota() { quota.py "$(device)" "${OWNER%:*}" 0; }

begin_read-only() { share "ro,no_root_squash"; }
end_read-only() { share no_root_squash; }

begin_withdrawn() { at_server exportfs -u "*:$DISK" && at_server exportfs -f; }
end_withdrawn() { share no_root_squash; }

# The same files under another number of the file system: no handle of a client is valid.
begin_moved() {
    begin_withdrawn
    FSID=$((FSID + 1000))
    share no_root_squash
}
end_moved() { fresh_at "$HOST"; }

# Another file system in the same place.
begin_replaced() {
    make_disk "$DISK" other
    at_server exportfs -f
}
end_replaced() {
    # It is a volume like any other to who mounts it.
    fresh_at "$HOST"
    run "$HOST" other 0
    leave_mount "$HOST"
    umount -l "$DISK"
    at_server exportfs -f
    fresh_at "$HOST"
}

begin_squashed() { share all_squash,anonuid=1000,anongid=1000; }
end_squashed() {
    share no_root_squash
    # A client keeps the answer that it may not enter a directory, until the directory changes or is mounted again.
    run "$HOST" remembered
    fresh_at "$HOST"
}

begin_reowned() { share all_squash,anonuid=1001,anongid=1001; }
end_reowned() { share all_squash,anonuid=1000,anongid=1000; }

make_seed() {
    local directory number
    mkdir -p "$SEED"/{shared,empty} "$USERS/shared"
    for directory in {1..6}; do
        mkdir "$SEED/d$directory"
        for number in {1..10}; do seq "$number" 300 >"$SEED/d$directory/$number"; done
    done
    for number in {1..8}; do echo "$number" >"$SEED/shared/$number"; done
    head -c 1500K /dev/urandom >"$SEED/large"
    ln "$SEED/d1/1" "$SEED/d2/hard"
    ln -s d1/1 "$SEED/link"
    echo index >"$SEED/index.php"
    find "$SEED" -exec touch -hd @1700000000 {} +
    # Or the first of them would wait for this machine's disk, and the clock leap meanwhile.
    warm /usr/bin/{cp,dd,fallocate,find,findmnt,mkdir,mv,pkill,rm,rmdir,seq,sleep,touch,truncate,xargs} \
        /usr/sbin/{exportfs,mkfs.ext4,nfsdcld,rpc.nfsd,tc,mount.nfs4,umount.nfs4} /usr/bin/{mount,umount}
    echo mine >"$USERS/mine"
    echo theirs >"$USERS/shared/1"
    chown -R 1000:1000 "$USERS"
}

# An ext4 with the user's files, as a server has them.
make_disk() {
    local image=/tmp/disk-$CASES$2
    truncate -s 24M "$image"
    mkfs.ext4 -q -m 0 -N 1024 -O ^has_journal,quota -E quotatype=usrquota "$image"
    mkdir -p "$1"
    mount -o loop,usrquota "$image" "$1" || die "mount $image"
    cp -a "$USERS" "$VOLUME"
    # As the seed has them, so that the volume is whole in the end.
    chown "$SEED_OWNER" "$VOLUME" "$VOLUME/shared"
}

device() { findmnt -no SOURCE "$DISK"; }

share() { at_server exportfs -o "$ANYWHERE,$1,fsid=$FSID" "*:$DISK" && at_server exportfs -f; }

leave_mount() {
    local again
    for again in 1 2 3; do
        on "$1" grep -q " $TO " /proc/self/mounts || return 0
        on "$1" umount -lf "$TO" || sleep "$again"
    done
    die "unmount on $1"
}

fresh_at() {
    leave_mount "$1"
    on "$1" mount -t nfs4 -o "$MOUNT$EXTRA" "192.0.2.1:${VOLUME#/export}" "$TO" || die "mount $VOLUME on $1"
}

# One run, and its judgement: its exit code has to be one of CODES, or any that is documented.
run() {
    local host=$1 name=$2 began=$EPOCHREALTIME
    on "$host" timeout -s KILL "$HANGS" volseed run --from "$SEED" --to "$TO" --chown 33:33 --sentinel index.php --wait-timeout 60s -- \
        touch "$CASE/$name.app" >"$CASE/$name.said" 2>&1
    echo "$? $EPOCHREALTIME $(since "$began")" >"$CASE/$name.ended"
    struck.py judge "$CASE" "$name" "$SEED" "$USERS" "$VOLUME" "$SEED_OWNER" "${3:-any}"
}

# Waits for a phase on the volume.
reach() { moment.py "$VOLUME" "${MOMENT[$1]% *}" "${MOMENT[$1]##* }"; }

# `volseed status` has to say what the server has.
check_status() {
    local said is=other
    said=$(on "$HOST" volseed status --json --to "$TO" 2>&1) || echo "exit code $?: $said" >>"$CASE/status"
    [ ! -e "$VOLUME/.volseed/state.json" ] || is=complete
    [[ $said == *'"state": "complete"'* && $is = complete || $said != *'"state": "complete"'* && $is = other ]] ||
        echo "$said, but the volume is $is" >>"$CASE/status"
}

# Kills a holder that has staged half of the seed.
kill_holder() {
    run c1 killed &
    reach seed || die 'nothing is staged'
    pkill -KILL --ns "${PID[c1]}" --nslist net -x volseed
    wait $!
    rm "$CASE"/*
}

strike() {
    local fault=$1 phase=$2 struck job
    echo "--- $fault, $phase"
    CASES=$((CASES + 1)) FSID=$((CASES + 1)) DISK=/export/$CASES VOLUME=/export/$CASES/volume HOST=c1 EXTRA= SEED_OWNER=$OWNER
    rm -rf "$CASE" && mkdir "$CASE"
    case $fault in
    soft) EXTRA=,soft,timeo=50,retrans=1 ;;
    # The server's one user has all of it.
    reowned) SEED_OWNER=1000:1000 ;;
    esac
    make_disk "$DISK" ''
    share no_root_squash
    [ "$fault" != reowned ] || end_reowned
    fresh_at c1
    fresh_at c2
    case $phase in claim | gather)
        HOST=c2
        kill_holder
        ;;
    esac
    run "$HOST" struck "${CODES[$fault]}" &
    job=$!
    reach "$phase" || echo 'the phase is not reached' >"$CASE/missed"
    struck=$EPOCHREALTIME
    "begin_$fault"
    wait "$job"
    if declare -F "end_$fault" >/dev/null; then
        run "$HOST" lasting
        "end_$fault"
    fi
    check_status
    run "$HOST" next 0
    check_status
    on "$HOST" volseed verify --digest --to "$TO" >"$CASE/verify" 2>&1 || cp "$CASE/verify" "$CASE/differs"
    struck.py row "$CASE" "$fault" "$phase" "$struck"
    leave_mount c1
    leave_mount c2
    at_server exportfs -u "*:$DISK"
    umount -l "$DISK"
    rm -f /tmp/disk-*
}
