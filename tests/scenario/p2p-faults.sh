#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The P2P store where the world around it fails: usage: p2p-faults.sh CASE.
# P2P: the program; FAULTS: p2p-faults.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/../etcd.sh"

# A file system with space for half of an object, full in truth and not by a limit: the error says so and where, and
# nothing is there under the name asked for, nor beside it.
case_disk_full() {
	head -c 4M /dev/urandom >"$dir/object"
	"$P2P" serve "$dir/object" --name=o --ready_file="$dir/s.ready" --metadata_server="$metadata" --local_server_name=s \
		--port=0 --nic_priority_matrix="$tcp_matrix" >"$dir/s.out" 2>"$dir/s.err" </dev/null &
	pids="$pids $!"
	wait_until "the source to be ready" test -f "$dir/s.ready"
	mkdir "$dir/small"
	# A mount of its own, gone with its shell.
	unshare -m true 2>/dev/null && space="unshare -m" || space="unshare -rm"
	$space true 2>/dev/null || skip "no mount name spaces here"
	$space sh -c 'mount -t tmpfs -o size=2m none "$1/small" || exit 77
		"$2" get o -o "$1/small/got" --metadata_server="$3" --local_server_name=g --port=0 \
			--nic_priority_matrix="$4" >"$1/g.out" 2>"$1/g.err" </dev/null
		echo $? >"$1/g.code"
		ls -A "$1/small" >"$1/g.ls"' sh "$dir" "$P2P" "$metadata" "$tcp_matrix" && code=0 || code=$?
	[ $code -eq 77 ] && skip "no tmpfs can be mounted here"
	[ "$(cat "$dir/g.code")" -eq 1 ] || die "it ended with $(cat "$dir/g.code")"
	grep -q "small.*no room on the disk for 4.*MiB" "$dir/g.err" || die "it does not say that there is no room, and where"
	[ -s "$dir/g.ls" ] && die "something was left: $(cat "$dir/g.ls")"
	return 0
}

# A wire so slow that a shard does not come within the time of one READ: it comes all the same, in smaller ones.
case_slow_wire() {
	head -c 900000 /dev/urandom >"$dir/object"
	unshare -n true 2>/dev/null && space="unshare -n" || space="unshare -rn"
	$space true 2>/dev/null || skip "no network name spaces here"
	$space sh -c 'ip link set lo mtu 1500 up && tc qdisc add dev lo root tbf rate 300kbit burst 20000 latency 400ms || exit 77
		"$2" serve "$1/object" --name=o --ready_file="$1/s.ready" --metadata_server="$3" --local_server_name=s --port=0 \
			--nic_priority_matrix="$4" >"$1/s.out" 2>"$1/s.err" </dev/null &
		"$2" get o -o "$1/got" --wait=20 --timeout=110 --metadata_server="$3" --local_server_name=g --port=0 \
			--nic_priority_matrix="$4" >"$1/g.out" 2>"$1/g.err" </dev/null
		echo $? >"$1/g.code"
		kill $!
		wait' sh "$dir" "$P2P" "$metadata" "$tcp_matrix" && code=0 || code=$?
	[ $code -eq 77 ] && skip "no tbf here"
	[ "$(cat "$dir/g.code")" -eq 0 ] || die "it ended with $(cat "$dir/g.code")"
	cmp "$dir/object" "$dir/got" || die "the file differs"
	grep -q "reading shard 0 failed" "$dir/g.err" || die "the wire was not slow enough"
}

case_etcd() {
	etcd_needs
	etcd_start one
	METADATA=etcd://$endpoint ETCD_PID=$etcd "$FAULTS" metadata_writes etcd_stopped || die "p2p-faults ended with $?"
}

"case_$1"
