# SPDX-License-Identifier: Apache-2.0
# Sourced by scenarios: real processes, each scenario in a folder of its own, on ports that the
# system chooses, so that they run side by side.  BENCH is the program; the environment of the
# build tree says where plugins and manifests are.
set -u

dir=$(mktemp -d "${TMPDIR:-/tmp}/mc-scenario.XXXXXX") || exit 1
metadata=file://$dir/metadata
mkdir "$dir/metadata"
tcp_matrix='{"*": [["tcp:lo"]]}'
pids=

finish() {
	code=$?
	for pid in $pids; do
		kill -KILL "$pid" 2>/dev/null
	done
	if [ $code -ne 0 ] && [ $code -ne 77 ]; then
		for f in "$dir"/*.out "$dir"/*.err; do
			[ -s "$f" ] && echo "--- ${f##*/}" && tail -n 60 "$f"
		done
	fi
	rm -rf "$dir"
	exit $code
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

die() {
	echo "$*"
	exit 1
}

# A skip is loud: exit 77 with the reason as the last line.
skip() {
	echo "$*"
	exit 77
}

# target NAME FLAG...: start one and wait until it says that it is ready; its pid is in $target.
target() {
	name=$1
	shift
	"$BENCH" --mode=target --metadata_server="$metadata" --local_server_name="$name" --port=0 \
		--ready_file="$dir/$name.ready" --buffer_size=64M --block_size=4096 --log_level=info \
		"$@" >"$dir/$name.out" 2>"$dir/$name.err" </dev/null &
	target=$!
	pids="$pids $target"
	wait_until "target '$name' to be ready" test -f "$dir/$name.ready"
}

# wait_until WHAT COMMAND...: at most 60 s, for sanitizers on a busy machine.
wait_until() {
	what=$1
	shift
	n=0
	until "$@"; do
		n=$((n + 1))
		[ $n -gt 1200 ] && die "waited in vain for $what"
		sleep 0.05
	done
}

gone() {
	! kill -0 "$1" 2>/dev/null
}

# initiate NAME FLAG...: run one to its end; output in $dir/NAME.out and .err; returns its code.
initiate() {
	name=$1
	shift
	timeout 120 "$BENCH" --metadata_server="$metadata" --local_server_name="$name" --port=0 \
		--duration=0.3 --threads=1 --block_size=4096 --batch_size=16 --log_level=info "$@" \
		>"$dir/$name.out" 2>"$dir/$name.err" </dev/null
}

# Both must have succeeded: the last line, and all bytes verified at both ends.
check_run() {
	tail -n 1 "$dir/$1.out" |
		grep -Eq '^Test completed: duration [0-9]+\.[0-9]{2}, batch count [0-9]+, throughput [0-9]+\.[0-9]{2} GB/s$' ||
		die "$1: the last line is not the one promised"
	grep -q 'all bytes are right' "$dir/$1.out" || die "$1: the bytes were not checked"
}

# run_both FLAG...: read and write, checked, against segment 't'.
run_both() {
	for op in write read; do
		initiate "i-$op" --segment_id=t --operation=$op --check "$@" ||
			die "$op with '$*' ended with $?"
		check_run "i-$op"
	done
}

# expect CODE TEXT NAME FLAG...: an initiator that must fail so, in one line on stderr.
expect() {
	want=$1 text=$2
	shift 2
	initiate "$@" && got=0 || got=$?
	[ "$got" -eq "$want" ] || die "'$*' ended with $got instead of $want"
	grep -q -- "$text" "$dir/$1.err" || die "'$*' did not say '$text'"
}

# stop PID SIGNAL CODE: it must end so within a second (of a machine that is not busy: 3 s here).
stop_and_check() {
	begin=$(date +%s%N)
	kill "-$2" "$1"
	wait "$1" && got=0 || got=$?
	took=$((($(date +%s%N) - begin) / 1000000))
	[ "$got" -eq "$3" ] || die "process ended with $got instead of $3 on SIG$2"
	[ $took -lt "${STOP_MS:-1000}" ] || die "it took $took ms to end on SIG$2"
}

# has_record NAME: is the engine's record in the directory?
has_record() {
	ls "$dir/metadata" | grep -q "^k\\..*engine%2F$1\$"
}

# two_hosts NEAR FAR NET: name spaces $near and $far with two cables: device NEAR0 at 10.NET.0.1 to FAR0 at
# 10.NET.0.2, NEAR1 and FAR1 likewise.  They go when the script ends.
two_hosts() {
	[ "$(id -u)" -eq 0 ] || skip "network name spaces need root"
	command -v ip >/dev/null || skip "there is no ip (package iproute2)"
	near=mc$1$$ far=mc$2$$
	ip netns add $near 2>/dev/null || skip "network name spaces are not allowed here"
	trap 'code=$?; ip netns del $near; ip netns del $far; (exit $code); finish' EXIT
	ip netns add $far || skip "network name spaces are not allowed here"
	for i in 0 1; do
		ip link add $1$i netns $near type veth peer name $2$i netns $far || skip "no veth devices here"
		ip -n $near addr add 10.$3.$i.1/24 dev $1$i
		ip -n $far addr add 10.$3.$i.2/24 dev $2$i
		ip -n $near link set $1$i up
		ip -n $far link set $2$i up
	done
	ip -n $near link set lo up
	ip -n $far link set lo up
	for i in 0 1; do
		wait_until "cable $i" ip netns exec $near grep -q up /sys/class/net/$1$i/operstate
		wait_until "cable $i" ip netns exec $far grep -q up /sys/class/net/$2$i/operstate
	done
}
