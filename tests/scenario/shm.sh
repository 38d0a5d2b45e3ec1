#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Engines of one host over shm, as real processes: usage: shm.sh CASE.  BENCH: the program.
# Memory of the bench is mc_memory_alloc's, so it is mapped unless the case says attach.
. "$(dirname "$0")/lib.sh"

matrix='{"*": [["shm:shm0"], ["tcp:lo"]]}'
sockets=$dir/sockets-of-the-engines-of-this-host-whoever-runs-them

# carried NAME SHM TCP: which rails of the run have moved bytes (yes or no).
carried() {
	for rail in shm:shm0=$2 tcp:lo=$3; do
		got=$(grep "^rail  *${rail%=*} " "$dir/$1.out" | grep -vq ' 0 B\| 0\.0* ' && echo yes || echo no)
		[ "$got" = "${rail#*=}" ] || die "$1: rail ${rail%=*}: $got instead of ${rail#*=}"
	done
}

case_modes() {
	target t --nic_priority_matrix="$matrix"
	for mode in auto map attach; do
		for op in write read; do
			initiate i --segment_id=t --operation=$op --check --nic_priority_matrix="$matrix" \
				--transports.shm.mode=$mode || die "$op with $mode ended with $?"
			check_run i
			carried i yes no
		done
		# Larger than a slice, and out of step with every page.
		initiate i --segment_id=t --check --nic_priority_matrix="$matrix" --transports.shm.mode=$mode \
			--block_size=3000001 --batch_size=3 --transports.shm.max_slice=1000000 || die "odd sizes with $mode"
		check_run i
	done
	# What is not shared cannot be mapped, and takes the next tier.
	target u --nic_priority_matrix="$matrix" --transports.shm.mode=attach
	initiate i --segment_id=u --check --nic_priority_matrix="$matrix" --transports.shm.mode=map || die "not shared: $?"
	check_run i
	carried i no yes
	# A lane of its own for each thread.
	initiate i --segment_id=t --check --nic_priority_matrix="$matrix" --threads=3 || die "three threads"
	check_run i
}

# busy_initiator FLAG...: one that goes on; its pid is in $initiator.
busy_initiator() {
	initiate i --segment_id=t --nic_priority_matrix="$matrix" --duration=100 --block_size=1M "$@" &
	initiator=$!
	pids="$pids $initiator"
	wait_until "its rail" grep -q 'rail shm:shm0.* is up' "$dir/i.err"
}

case_killed() {
	for mode in map attach; do
		rm -f "$dir/t.ready"
		target t --nic_priority_matrix="$matrix"
		busy_initiator --transports.shm.mode=$mode
		sleep 0.3
		kill -KILL "$target"
		wait $initiator && got=0 || got=$?
		[ $got -eq 1 ] || die "$mode: the initiator ended with $got"
		grep -q "segment 't'" "$dir/i.err" || die "$mode: it does not name the segment"
		rm -f "$dir/i.err"
	done
	# Its name is free for the next one, and so is everything else.
	rm -f "$dir/t.ready"
	target t --nic_priority_matrix="$matrix"
	initiate i --segment_id=t --check --nic_priority_matrix="$matrix" || die "after a restart: $?"
	check_run i
	carried i yes no
}

# An initiator that is killed holds up nobody, nor does one that stands still in the middle.
case_initiator() {
	target t --nic_priority_matrix="$matrix" --set peer_timeout=1s
	busy_initiator --set peer_timeout=1s
	child=$(pgrep -P $initiator)
	kill -STOP "$child"
	sleep 2
	kill -CONT "$child"
	sleep 0.2
	kill -KILL "$child"
	wait $initiator
	initiate j --segment_id=t --check --nic_priority_matrix="$matrix" --set peer_timeout=1s || die "the next one ended with $?"
	check_run j
	stop_and_check "$target" TERM 0
}

# as UID COMMAND...: as that user, without root's rights.
as() {
	who=$1
	shift
	setpriv --reuid="$who" --regid="$who" --clear-groups --inh-caps=-all --bounding-set=-all "$@"
}

# The bench as another user; it needs no folder of its own.  $around: what it runs in.
around=
foreign() {
	who=$1 name=$2
	shift 2
	$around setpriv --reuid="$who" --regid="$who" --clear-groups --inh-caps=-all --bounding-set=-all timeout 120 "$BENCH" --metadata_server="$metadata" --local_server_name="$name" --port=0 --duration=0.3 \
		--threads=1 --block_size=4096 --batch_size=16 --log_level=info --segment_id=t --check \
		--nic_priority_matrix="$matrix" "$@" >"$dir/$name.out" 2>"$dir/$name.err" </dev/null
}

case_other_user() {
	[ "$(id -u)" -eq 0 ] || skip "other users' processes need root"
	mkdir "$sockets"
	chmod 755 "$dir"
	chmod -R 777 "$dir/metadata" "$sockets"
	as 65534 test -x "$BENCH" || skip "other users may not run $BENCH"
	umask 0
	target t --nic_priority_matrix="$matrix" --local_socket="$sockets"
	chmod -R 777 "$dir/metadata" "$sockets"
	# May dial, may not attach: what is mapped goes by shm, and one sentence says what else would not.
	foreign 65534 i --local_socket="$sockets" || die "mapped: $?"
	check_run i
	carried i yes no
	grep -q "cross-memory attach is refused: it belongs to user 0 and we to user 65534: run both as one user, or give us CAP_SYS_PTRACE" \
		"$dir/i.err" || die "it does not say why and what to do"
	# Without a mapping there is no way: tcp takes over.
	foreign 65534 j --local_socket="$sockets" --transports.shm.mode=attach || die "attach: $?"
	check_run j
	carried j no yes
	grep -q "cross-memory attach is refused" "$dir/j.err" || die "the rail's end is not explained"
	# Where /proc hides others' processes they live nevertheless.
	if unshare --mount mount -t proc -o hidepid=2 proc /proc 2>/dev/null; then
		printf '%s\n' 'mount -t proc -o hidepid=2 proc /proc && exec "$@"' >"$dir/hidden"
		around="unshare --mount sh $dir/hidden"
		foreign 65534 h --local_socket="$sockets" || die "hidden: $?"
		check_run h
		carried h yes no
		around=
	fi
	# May not dial.
	chmod 700 "$sockets"
	foreign 65534 k --local_socket=off || die "no socket: $?"
	check_run k
	carried k no yes
	grep -q "Unix socket $sockets/.*: it is another user's: name a folder that both may enter by local_socket:" "$dir/k.err" ||
		die "it does not say why the socket cannot be dialled"
}

case_pid_namespace() {
	[ "$(id -u)" -eq 0 ] || skip "PID name spaces need root"
	unshare --pid --fork --mount-proc true 2>/dev/null || skip "PID name spaces are not allowed here"
	target t --nic_priority_matrix="$matrix"
	initiate i --segment_id=t --nic_priority_matrix="$matrix" || die "without: $?"
	timeout 120 unshare --pid --fork --mount-proc "$BENCH" --metadata_server="$metadata" --local_server_name=i --port=0 \
		--duration=0.3 --threads=1 --block_size=4096 --batch_size=16 --log_level=info --segment_id=t --check \
		--nic_priority_matrix="$matrix" >"$dir/i.out" 2>"$dir/i.err" </dev/null || die "in a name space: $?"
	check_run i
	carried i yes no
	grep -q "cross-memory attach is refused: its process cannot be seen from our PID namespace" "$dir/i.err" ||
		die "it does not say that it cannot see it"
}

"case_$1"
