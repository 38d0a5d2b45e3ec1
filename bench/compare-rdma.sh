#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Our speed over rdma beside perftest, and that of two rails beside one of them: a guest with
# soft-RoCE (tests/lab/guest) is booted once, and all runs are in it, over cables (tests/lab/rails).
#
# perftest has as many requests in flight per queue pair (-t) as our batch has, and as many queue pairs
# (-q) as we have by default.  It posts the next request when one has ended; a batch of ours begins when
# the last one has ended.  Both use one block again and again (--hot); the cold figure stands beside it.
# The rails of the rails-* cases are limited by tbf, else two of them are no faster on two processors.
# The instructions of our own work are counted on this machine, over a mock of libibverbs.
# The guest is emulated: its figures mean something beside each other only.
# bench/lib/judge.sh says how many runs there are and what they are worth.
#
# Prints per case "CASE ratio R reach L ok|short|unsure [LO..HI]": more is better for R and L, which are
# ours / perftest's, or two rails' / one's; LO..HI is R's 90 % interval.  With --quick the word is unjudged.
# Exit: 0 all ok, 1 one is short or unsure or a run failed, 2 usage, 77 something is missing.
set -u
cd "$(dirname "$0")/.." || exit 1
. bench/env.sh
. bench/lib/judge.sh
. bench/lib/flags.sh
. bench/lib/processes.sh

perftest_cases="write-64k read-64k write-1m read-1m write-4k read-4k write-64b"
rails_cases="rails-equal-write rails-equal-read rails-unequal-write rails-unequal-read"
guest_cases="$perftest_cases $rails_cases"
all_cases="$guest_cases instructions"
seconds=1

usage() {
	usage_flags
	printf '  %s\n' "$perftest_cases" "$rails_cases" "instructions (-write, -read: bench/rdma-cost.sh)"
}

# ---- in the guest: against perftest --------------------------------------------------------------

peer_perftest() {
	run_perftest $peer_flags
}

ours_hot() {
	run_ours near $our_flags --hot
}

# perftest CASE OPERATION BLOCK BYTES BATCH REACH: by bytes, or by messages for those of 4 KiB and less.
perftest() {
	name=$1 reach=$6 unit="MB/s" scale=1e6 formula="o[1] / p[1]" column=1
	peer_flags="ib_$2_bw --output=bandwidth --size=$4 --tx-depth=$5 --qp=$qps"
	[ "$4" -gt 4096 ] || {
		unit="messages/s" scale=1 formula="o[4] / p[1]" column=4
		peer_flags="ib_$2_bw --output=message_rate --size=$4 --tx-depth=$5 --qp=$qps"
	}
	our_flags="--nic_priority_matrix=$dir/ra0.json --operation=$2 --block_size=$3 --batch_size=$5"
	start_rdma near rb0
	pairs peer_perftest ours_hot "$name=$formula"
	cold=$(run_ours near $our_flags) || exit 1
	verdict "$name" "$reach" "$unit: ours $(scaled ours $column), cold $(echo "$cold" | awk -v c=$column -v s=$scale \
		'{ printf "%.4g", $c / s }'), perftest $(scaled peer 1); our CPU s/GB here + there: $(median \
		"$dir/$name.ours" 2) + $(median "$dir/$name.ours" 3)${more:-}"
}

# scaled ours|peer COLUMN
scaled() {
	median "$dir/$name.$1" "$2" | awk -v s=$scale '{ printf "%.4g", $1 / s }'
}

# One small write at a time; how long one takes when both ends wait for the other's stands beside it.
single_write() {
	start_rdma near rb0
	more=$(run_perftest ib_write_lat --output=latency --size=64) || exit 1
	more="; ib_write_lat in us: $more"
	perftest "$1" write 64 64 1 0.7
	more=
}

# ---- in the guest: rails -------------------------------------------------------------------------

# limit CABLE MBIT: both directions.  A smaller limit drops packets, which soft-RoCE takes badly.
limit() {
	for end in "ea$1" "eb$1"; do
		tc qdisc replace dev "$end" root tbf rate "$2mbit" burst 256kb limit 16mb || exit 1
	done
}

unlimited() {
	for end in ea0 eb0 ea1 eb1; do
		tc qdisc del dev "$end" root
	done
}

ours_first() { run_ours near $our_flags --nic_priority_matrix="$dir/ra0.json"; }
ours_both() { run_ours both $our_flags --nic_priority_matrix="$dir/ra0-ra1.json"; }
# The one, and then the other: bytes per second of each.
ours_each() {
	one=$(ours_first) && other=$(run_ours far $our_flags --nic_priority_matrix="$dir/ra1.json") || exit 1
	echo "${one%% *} ${other%% *}"
}

# rails CASE OPERATION MBIT MBIT REACH: the second to be compared with the first, or their sum.
rails() {
	# A batch alone can take 2 s.
	our_flags="--operation=$2 --block_size=1M --batch_size=16 --hot --duration=$((2 * $(ceil "$seconds")))"
	start_rdma near rb0
	start_rdma both rb0 rb1
	limit 0 "$3"
	limit 1 "$4"
	if [ "$3" = "$4" ]; then
		pairs ours_first ours_both "$1=o[1] / p[1]"
		alone="one $(median "$dir/$1.peer" 1 | mega)"
	else
		start_rdma far rb1
		pairs ours_each ours_both "$1=o[1] / (p[1] + p[2])"
		alone="alone $(median "$dir/$1.peer" 1 | mega) and $(median "$dir/$1.peer" 2 | mega)"
	fi
	unlimited
	verdict "$1" "$5" "1 MiB x 16, MB/s, rails of $3 and $4 mbit/s: both $(median "$dir/$1.ours" | mega), $alone"
}

mega() {
	awk '{ printf "%.1f", $1 / 1e6 }'
}

# ---- in the guest --------------------------------------------------------------------------------

# matrix FILE DEVICE...
matrix() {
	file=$1
	shift
	printf '{"*": [[%s]]}\n' "$(printf '"rdma:%s"\n' "$@" | paste -s -d ,)" >"$file"
}

# start_rdma NAME DEVICE...
start_rdma() {
	own=$1
	shift
	matrix "$dir/matrix.json" "$@"
	start_target "$own" --buffer_size=32M
}

# inside DIR: the rest of the script there; lines, errors and entries go to this folder of the host.
inside() {
	exec >"$1/lines" 2>"$1/errors"
	machine >"$1/guest"
	qps=${MC_NUM_QP_PER_EP:-$("$bench" --helpfull | sed -n "s/.*transports.rdma.qps_per_peer .*default '\([0-9]*\)'.*/\1/p")}
	make_dir
	matrix "$dir/ra0.json" ra0
	matrix "$dir/ra1.json" ra1
	matrix "$dir/ra0-ra1.json" ra0 ra1
	for c in $cases; do
		case $c in
		write-64k) perftest $c write 64K 65536 16 0.95 ;;
		read-64k) perftest $c read 64K 65536 16 0.95 ;;
		write-1m) perftest $c write 1M 1048576 16 0.95 ;;
		read-1m) perftest $c read 1M 1048576 16 0.95 ;;
		write-4k) perftest $c write 4K 4096 128 0.9 ;;
		read-4k) perftest $c read 4K 4096 128 0.9 ;;
		write-64b) single_write $c ;;
		rails-equal-*) rails $c ${c##*-} 160 160 1.9 ;;
		rails-unequal-*) rails $c ${c##*-} 256 64 0.9 ;;
		esac
	done
	[ ! -f "$dir/entries" ] || cp "$dir/entries" "$1/entries"
	echo $short >"$1/short"
	exit 0
}

# ---- on this machine -----------------------------------------------------------------------------

run_guest() {
	: >"$dir/lines"
	: >"$dir/errors"
	tests/lab/guest -t 7200 -r -w "$dir" tests/lab/rails 2 bench/compare-rdma.sh --inside="$dir" $progress \
		"$@" >"$dir/guest.out" 2>&1 &
	guest_pid=$!
	children="$children $guest_pid"
	tail -s 0.2 -n +1 -f --pid=$guest_pid "$dir/errors" >&2 &
	children="$children $!"
	tail -s 0.2 -n +1 -f --pid=$guest_pid "$dir/lines"
	wait $guest_pid
	code=$?
	[ $code -ne 77 ] || { tail -n 1 "$dir/guest.out"; exit 77; }
	[ $code -eq 0 ] || { cat "$dir/guest.out" >&2; die "the guest ended with $code"; }
	short=$(cat "$dir/short")
	guest=$(cat "$dir/guest")
}

instructions() {
	said=$(bench/rdma-cost.sh --build="$build" 2>&1)
	code=$?
	[ $code -ne 77 ] || {
		skipped instructions "$(echo "$said" | tail -n 1)"
		return 0
	}
	for op in write read; do
		nr=$(echo "$said" | sed -n "s/^$op instructions per slice \([0-9]*\) .*/\1/p")
		[ -n "$nr" ] || die "bench/rdma-cost.sh failed: $said"
		awk -v n="$nr" 'BEGIN { printf "%.3f\n", 1500 / n }' >"$dir/instructions-$op.ratio"
		verdict "instructions-$op" 1 "of ours per slice of 64 KiB: $nr, limit 1500"
	done
}

case ${1-} in
--inside=*)
	at=${1#*=} progress=$2
	shift 2
	parse_flags "$@"
	use_build "$build" || exit 1
	inside "$at"
	;;
esac
parse_flags "$@"
needs ib_write_bw perftest $perftest_cases
use_build "$build" || exit 1
[ -f "$build/transports/rdma/transport-rdma.so" ] || {
	echo "transports/rdma is not built (package libibverbs-dev)"
	exit 77
}
make_dir
say "machine: $(machine)"
warn_if_busy
! wanted $guest_cases || run_guest "$@"
! wanted instructions || instructions
finish_report
