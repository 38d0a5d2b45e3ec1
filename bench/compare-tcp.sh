#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Our speed beside iperf3's over the loopback: two processes, one stream, one submitting thread.
#
# Per case, runs alternate peer/ours/ours/peer, so that a drifting machine hits both; a pair gives
# one ratio (ours / peer).  Pairs are added, 7 to 21, until the 90 % interval of the median is
# within 5 % of it.  The peer writes and reads one buffer again and again, so ours does too
# (--hot); the cold figure, over 16 buffers, stands beside it.  A write is compared with iperf3 as
# it comes (the client sends), a read with iperf3 -R (the client receives): the same direction of
# the bytes, with the process that measures at the same end.
#
# Prints per case "CASE ratio R reach L ok|short [LO..HI]"; CPU seconds per GB from the same runs.
# Exit: 0 all ok, 1 one is short or a run failed, 2 usage, 77 no iperf3.
set -u
cd "$(dirname "$0")/.." || exit 1
. bench/env.sh

usage() {
	cat <<-END
	usage: bench/compare-tcp.sh [--quick] [--build=DIR] [--seconds=S] [CASE...]
	  --quick      2 pairs of 0.5 s: a smoke run, judges nothing
	  --build=DIR  the build to measure (default build)
	  --seconds=S  length of a run (default 2)
	cases: write-1m read-1m null-64b null-64b-scattered
	END
}

quick=no build=build seconds=2 min_pairs=7 max_pairs=21 cases=
for arg in "$@"; do
	case $arg in
	--quick) quick=yes seconds=0.5 min_pairs=2 max_pairs=2 ;;
	--build=*) build=${arg#*=} ;;
	--seconds=*) seconds=${arg#*=} ;;
	-h | --help) usage; exit 0 ;;
	write-1m | read-1m | null-64b | null-64b-scattered) cases="$cases $arg" ;;
	*) usage >&2; exit 2 ;;
	esac
done
: "${cases:=write-1m read-1m null-64b null-64b-scattered}"
command -v iperf3 >/dev/null || { echo "there is no iperf3 (package iperf3)"; exit 77; }
use_build "$build" || exit 1

dir=$(mktemp -d "${TMPDIR:-/tmp}/mooncake-compare.XXXXXX") || exit 1
mkdir "$dir/metadata"
echo '{"*": [["tcp:lo"]]}' >"$dir/matrix.json"
children=
finish() {
	for pid in $children; do
		kill "$pid" 2>/dev/null
	done
	wait
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM

die() {
	echo "$*" >&2
	exit 1
}

# ---- the peer ------------------------------------------------------------------------------------

start_iperf3() {
	for try in 1 2 3 4 5 6 7 8; do
		port=$(awk -v seed="$$$try" 'BEGIN { srand(seed); print 20000 + int(rand() * 30000) }')
		iperf3 -s -B 127.0.0.1 -p "$port" >"$dir/iperf3.log" 2>&1 &
		server=$!
		sleep 0.3
		if kill -0 $server 2>/dev/null; then
			children="$children $server"
			return 0
		fi
	done
	die "iperf3 -s finds no port: $(cat "$dir/iperf3.log")"
}

# peer ARGUMENT...: prints bytes per second and CPU seconds per GB of both ends.
peer() {
	iperf3 -c 127.0.0.1 -p "$port" -l 1M -t "$(ceil "$seconds")" -J "$@" >"$dir/peer.json" ||
		die "iperf3 failed: $(grep error "$dir/peer.json")"
	awk '
		/"sum_received"/ { inside = 1 }
		inside && /"bits_per_second"/ { rate = number($0) / 8; inside = 0 }
		/"host_total"/ { host = number($0) }
		/"remote_total"/ { remote = number($0) }
		function number(s) { sub(/.*: */, "", s); return s + 0 }
		END { printf "%.0f %.4f %.4f\n", rate, host / 100 / (rate / 1e9), remote / 100 / (rate / 1e9) }
	' "$dir/peer.json"
}

ceil() {
	awk -v x="$1" 'BEGIN { print (x == int(x)) ? x : int(x) + 1 }'
}

# ---- ours ------------------------------------------------------------------------------------------

# start_target NAME FLAG...
start_target() {
	name=$1
	shift
	"$bench" --mode=target --metadata_server="file://$dir/metadata" --local_server_name="$name" \
		--port=0 --log_level=warn --buffer_size=128M --ready_file="$dir/$name.ready" "$@" >/dev/null </dev/null &
	children="$children $!"
	wait_ready "$dir/$name.ready" $! || exit 1
}

# ours TARGET FLAG...: prints bytes per second, CPU seconds per GB here and there, transfers per
# second.
ours() {
	to=$1
	shift
	"$bench" --metadata_server="file://$dir/metadata" --local_server_name=compare --port=0 \
		--log_level=warn --segment_id="$to" --threads=1 --duration="$seconds" --json "$@" \
		>"$dir/ours.json" 2>"$dir/ours.err" </dev/null || die "our run failed: $(cat "$dir/ours.err")"
	awk '
		function number(s) { sub(/.*: */, "", s); return s + 0 }
		/"throughput_bytes_per_s"/ { rate = number($0) }
		/"transfers_per_s"/ { transfers = number($0) }
		/"cpu_s_per_gb"/ && !/target/ { here = number($0) }
		/"target_cpu_s_per_gb"/ { there = number($0) }
		END { printf "%.0f %.4f %.4f %.0f\n", rate, here, there, transfers }
	' "$dir/ours.json"
}

# ---- judging -----------------------------------------------------------------------------------------

# judge FILE: of the ratios in it, one per line: median, ends of its 90 % interval, "yes" if that is
# within 5 %.  The interval is between the k-th and the (n+1-k)-th, for the largest k with
# P(fewer than k of n below the median) <= 5 %.
judge() {
	sort -n "$1" | awk '
		{ x[NR] = $1 }
		END {
			n = NR
			median = n % 2 ? x[(n + 1) / 2] : (x[n / 2] + x[n / 2 + 1]) / 2
			term = 0.5 ^ n
			sum = term
			for (k = 1; k <= n / 2; k++) {
				term *= (n - k + 1) / k
				if (sum + term > 0.05)
					break
				sum += term
			}
			lo = x[k]
			hi = x[n + 1 - k]
			tight = (lo >= median * 0.95 && hi <= median * 1.05) ? "yes" : "no"
			printf "%.3f %.3f %.3f %s\n", median, lo, hi, tight
		}'
}

short=no

# verdict CASE REACH FILE
verdict() {
	set -- "$1" "$2" $(judge "$3")
	word=$(awk -v r="$3" -v l="$2" -v hi="$5" \
		'BEGIN { print (r >= l || (r >= 0.95 * l && hi >= l)) ? "ok" : "short" }')
	[ "$word" = ok ] || short=yes
	echo "$1 ratio $3 reach $2 $word [$4..$5]"
}

# enough FILE COUNT: no more pairs are needed.
enough() {
	[ "$2" -ge "$max_pairs" ] && return 0
	[ "$2" -ge "$min_pairs" ] && [ "$(judge "$1" | cut -d ' ' -f 4)" = yes ]
}

# mean FILE COLUMN
mean() {
	awk -v c="$2" '{ s += $c } END { printf "%.3f", NR ? s / NR : 0 }' "$1"
}

# pair CASE: one peer run and one of ours, in the order that is due.
pair() {
	if [ $((pairs % 2)) -eq 0 ]; then
		p=$(peer $peer_flags) || exit 1
		o=$(ours compare-tcp $our_flags --hot) || exit 1
	else
		o=$(ours compare-tcp $our_flags --hot) || exit 1
		p=$(peer $peer_flags) || exit 1
	fi
	echo "$p" >>"$dir/$1.peer"
	echo "$o" >>"$dir/$1.ours"
	echo "$p $o" | awk '{ printf "%.5f\n", $4 / $1 }' >>"$dir/$1.ratio"
}

# compare CASE REACH: with $peer_flags and $our_flags.
compare() {
	pairs=0
	until enough "$dir/$1.ratio" $pairs; do
		pair "$1"
		pairs=$((pairs + 1))
	done
	cold=$(ours compare-tcp $our_flags) || exit 1
	verdict "$1" "$2" "$dir/$1.ratio"
	echo "  $pairs pairs; GB/s: ours $(giga "$dir/$1.ours"), cold $(echo "$cold" |
		awk '{ printf "%.2f", $1 / 1e9 }'), iperf3 $(giga "$dir/$1.peer")"
	echo "  CPU s/GB, here + there: ours $(mean "$dir/$1.ours" 2) + $(mean "$dir/$1.ours" 3)," \
		"iperf3 $(mean "$dir/$1.peer" 2) + $(mean "$dir/$1.peer" 3)"
}

giga() {
	awk '{ s += $1 } END { printf "%.2f", s / NR / 1e9 }' "$1"
}

# own_cost CASE LIMIT_NS FLAG...: the core's cost per request, on null; the ratio is limit / cost.
own_cost() {
	case=$1 limit=$2
	shift 2
	pairs=0
	until enough "$dir/$case.ratio" $pairs; do
		o=$(ours compare-null --protocol=null --operation=write --block_size=64 --batch_size=128 \
			"$@") || exit 1
		echo "$o" | awk -v l="$limit" '{ printf "%.5f\n", l * $4 / 1e9 }' >>"$dir/$case.ratio"
		echo "$o" | awk '{ printf "%.2f\n", 1e9 / $4 }' >>"$dir/$case.ns"
		pairs=$((pairs + 1))
	done
	verdict "$case" 1.0 "$dir/$case.ratio"
	echo "  $pairs runs; ns per request: $(sort -n "$dir/$case.ns" |
		awk '{ x[NR] = $1 } END { printf "median %.1f, best %.1f", x[int((NR + 1) / 2)], x[1] }'), limit $limit"
}

echo "machine: $(uname -srm), $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo |
	head -n 1)"
case $cases in *-1m*)
	start_iperf3
	start_target compare-tcp --nic_priority_matrix="$dir/matrix.json"
	;;
esac
case $cases in *null*) start_target compare-null --protocol=null ;; esac
for case in $cases; do
	tcp="--nic_priority_matrix=$dir/matrix.json --block_size=1M --batch_size=16"
	case $case in
	write-1m)
		peer_flags="" our_flags="$tcp --operation=write"
		compare write-1m 0.8
		;;
	read-1m)
		peer_flags="-R" our_flags="$tcp --operation=read"
		compare read-1m 0.8
		;;
	null-64b) own_cost null-64b 150 ;;
	null-64b-scattered) own_cost null-64b-scattered 150 --stride=192 ;;
	esac
done
[ $quick = yes ] && exit 0
[ $short = no ]
