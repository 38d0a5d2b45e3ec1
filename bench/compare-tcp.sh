#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Our speed and size over tcp on the loopback, beside iperf3, UCX, a bare ping-pong and fixed limits:
# two processes, one stream, one submitting thread, unless the case says otherwise.
#
# The peers write and read one buffer again and again, so ours does too (--hot); the cold figure,
# over all blocks of a batch, stands beside it.  A write is compared with iperf3 as it comes (the
# client sends), a read with iperf3 -R (the client receives): the same direction of the bytes, with
# the process that measures at the same end.  CPU time comes from the runs of the throughput.
# bench/lib/judge.sh says how many runs there are and what they are worth.
#
# Prints per case "CASE ratio R reach L ok|short|unsure [LO..HI]": more is better for R and L, which are
# ours / peer's for throughput and peer's / ours for times; LO..HI is R's 90 % interval.  With --quick
# the word is unjudged.
# Exit: 0 all ok, 1 one is short or unsure or a run failed, 2 usage, 77 a peer is missing.
set -u
cd "$(dirname "$0")/.." || exit 1
. bench/env.sh
. bench/lib/judge.sh
. bench/lib/flags.sh
. bench/lib/processes.sh

throughput_cases="write-1m read-1m write-4m read-4m write-64k read-64k write-4k read-4k"
latency_cases="latency-write-64b latency-read-64b"
threads_cases="threads-2-write threads-2-read threads-4-write threads-4-read"
engine_cases="idle open first-file first-etcd records-file records-etcd"
own_cases="null-64b null-64b-scattered"
all_cases="$throughput_cases $latency_cases $threads_cases $engine_cases ucx-4k $own_cases"

usage() {
	usage_flags
	printf '  %s\n' "$throughput_cases (the 1m ones also say cpu-write-1m, cpu-read-1m)" \
		"$latency_cases" "$threads_cases" "$engine_cases" "ucx-4k" "$own_cases"
}

parse_flags "$@"
idle_seconds=10
[ $quick = no ] || idle_seconds=1
needs iperf3 iperf3 $throughput_cases
needs ucx_perftest ucx-utils ucx-4k
use_build "$build" || exit 1
make_dir

# ---- against iperf3 ------------------------------------------------------------------------------

peer_iperf3() {
	run_iperf3 -l 1M $peer_flags
}

ours_hot() {
	run_ours compare-tcp $our_flags --hot
}

# throughput CASE OPERATION BLOCK BATCH REACH [CPU_REACH]
throughput() {
	name=$1 reach=$5 cpu_reach=${6:-}
	our_flags="--nic_priority_matrix=$dir/matrix.json --operation=$2 --block_size=$3 --batch_size=$4"
	peer_flags=$([ "$2" = read ] && echo -R)
	start_iperf3
	start_target compare-tcp
	pairs peer_iperf3 ours_hot "$name=o[1] / p[1]" \
		${cpu_reach:+"cpu-$name=(p[2] + p[3]) / (o[2] + o[3])"}
	cold=$(run_ours compare-tcp $our_flags) || exit 1
	verdict "$name" "$reach" "GB/s: ours $(giga ours), cold $(echo "$cold" |
		awk '{ printf "%.2f", $1 / 1e9 }'), iperf3 $(giga peer); CPU s/GB here + there: ours $(cpu ours), iperf3 $(cpu peer)"
	[ -z "$cpu_reach" ] ||
		verdict "cpu-$name" "$cpu_reach" "CPU s/GB here + there: ours $(cpu ours), iperf3 $(cpu peer)"
}

giga() {
	median "$dir/$name.$1" | awk '{ printf "%.2f", $1 / 1e9 }'
}

cpu() {
	echo "$(median "$dir/$name.$1" 2) + $(median "$dir/$name.$1" 3)"
}

# ---- latency -------------------------------------------------------------------------------------

peer_pingpong() {
	"$build/bench/pingpong" 64 "$seconds" | awk '{ print $2 }'
}

# latency CASE OPERATION
latency() {
	our_flags="--nic_priority_matrix=$dir/matrix.json --operation=$2 --block_size=64 --batch_size=1"
	start_target compare-tcp
	pairs peer_pingpong ours_hot "$1=p[1] / o[5]"
	verdict "$1" 0.667 "ping-pong / ours, p50 in ns: ours $(median "$dir/$1.ours" 5), ping-pong $(median "$dir/$1.peer")"
}

# ---- several threads -----------------------------------------------------------------------------

ours_alone() {
	run_ours compare-tcp $our_flags --threads=1
}

ours_threads() {
	run_ours compare-tcp $our_flags --threads="$threads"
}

# threads CASE THREADS OPERATION
threads() {
	name=$1 threads=$2
	our_flags="--nic_priority_matrix=$dir/matrix.json --operation=$3 --block_size=64K --batch_size=16 --hot"
	start_target compare-tcp
	pairs ours_alone ours_threads "$1=o[1] / p[1]"
	verdict "$1" 0.95 "64 KiB x 16, GB/s: $2 threads $(giga ours), one $(giga peer)"
}

# ---- engines -------------------------------------------------------------------------------------

ours_idle() {
	run_cost "file://$dir/metadata" default idle compare-tcp "$idle_seconds" |
		figures idle_cpu_ns idle_rss_bytes idle_threads
}

# An engine that has transferred over a segment that stays open.  One look: it takes its time.
idle() {
	start_target compare-tcp
	keep=$min_pairs,$max_pairs min_pairs=1 max_pairs=1
	single ours_idle "idle-cpu=0.005 * $idle_seconds * 1e9 / (o[1] + 1)" \
		"idle-rss=16 * 1048576 / o[2]" "idle-threads=4 / o[3]"
	min_pairs=${keep%,*} max_pairs=${keep#*,}
	set -- $(cat "$dir/idle-cpu.ours")
	verdict idle-cpu 1 "$(awk -v x="$1" -v s="$idle_seconds" 'BEGIN { printf "%.4f", x / s / 1e7 }') % of a core"
	verdict idle-rss 1 "$(awk -v x="$2" 'BEGIN { printf "%.1f", x / 1048576 }') MiB"
	verdict idle-threads 1 "$3 threads, a second later: helpers end after 10 s without work"
}

ours_open() {
	run_cost "file://$dir/metadata" default open | figures open_ns
}

open_engine() {
	single ours_open "open=10e6 / o[1]"
	verdict open 1 "$(median "$dir/open.ours") ns, limit 10 ms"
}

ours_first() {
	run_cost "$url" default first "$target" | figures segment_ns
}

# first CASE URL TARGET LIMIT_MS
first() {
	url=$2 target=$3
	single ours_first "$1=$4e6 / o[1]"
	verdict "$1" 1 "$(median "$dir/$1.ours") ns, limit $4 ms"
}

# etcd_or_skip CASE: is there an etcd?
etcd_or_skip() {
	why=$(why_no_etcd)
	[ -z "$why" ] || {
		skipped "$1" "$why"
		return 1
	}
	start_etcd
}

first_etcd() {
	etcd_or_skip first-etcd || return 0
	start_target compare-etcd --metadata_server="$etcd"
	first first-etcd "$etcd" compare-etcd 15
}

# ---- many engines --------------------------------------------------------------------------------

# records WHERE URL_FEW CLUSTER_FEW URL_MANY CLUSTER_MANY: 100 and 10,000 records beside a living one.
records() {
	where=$1 few="$2 $3" many="$4 $5"
	start_target "few-$1" --metadata_server="$2" --cluster="$3" --buffer_size=1M
	start_target "many-$1" --metadata_server="$4" --cluster="$5" --buffer_size=1M
	pairs few_first many_first "records-open-$1=p[1] / o[1]" "records-segment-$1=p[2] / o[2]"
	verdict "records-open-$1" 0.833 "engine, ns: 100 records $(median "$dir/records-open-$1.peer"), 10000 $(median "$dir/records-open-$1.ours")"
	verdict "records-segment-$1" 0.833 "segment and first transfer, ns: 100 records $(median "$dir/records-open-$1.peer" 2), 10000 $(median "$dir/records-open-$1.ours" 2)"
	pairs few_list many_list "records-list-$1=p[1] / p[2] / (o[1] / o[2])"
	verdict "records-list-$1" 0.5 "ns per record: $(per_record peer) of 100, $(per_record ours) of 10000"
	records_names
}

# Milliseconds, which anything disturbs: each figure is the median of some runs.
few_first() { median_of 5 one_first "$few" "few-$where"; }
many_first() { median_of 5 one_first "$many" "many-$where"; }
few_list() { median_of 5 one_list "$few"; }
many_list() { median_of 3 one_list "$many"; }
one_first() { run_cost $1 first "$2" | figures open_ns segment_ns; }
one_list() { run_cost $1 list | figures list_ns list_nr; }

per_record() {
	awk '{ print $1 / $2 }' "$dir/records-list-$where.$1" | sort -n |
		awk '{ x[NR] = $1 } END { printf "%.0f", x[int((NR + 1) / 2)] }'
}

# A name with a letter too much: the one that is meant comes first, the other nine differ from it by
# one digit; the ratio is the share of right ones among ten.
records_names() {
	run_cost $many unknown node01234x >"$dir/unknown" || exit 1
	tr "'" '\n' <"$dir/unknown" | sed -n '/closest are/,$p' | grep '^node' | awk '
		function distance(a, b,   i, d) {
			for (i = 1; i <= 9; i++)
				d += substr(a, i, 1) != substr(b, i, 1)
			return d
		}
		{ right += NR == 1 ? $0 == "node01234" : distance($0, "node01234") == 1 }
		END { printf "%.2f\n", NR == 10 ? right / 10 : 0 }' >"$dir/records-names-$where.ratio"
	verdict "records-names-$where" 1 "told in $(figures unknown_ns <"$dir/unknown") ns"
}

records_file() {
	[ -x "$build/bench/file_records" ] || {
		skipped records-file "file_records is not built (xxhash.h)"
		return 0
	}
	"$build/bench/file_records" "$dir/few" 100 && "$build/bench/file_records" "$dir/many" 10000 || exit 1
	records file "file://$dir/few" default "file://$dir/many" default
}

records_etcd() {
	etcd_or_skip records-etcd || return 0
	etcd_records few 100
	etcd_records many 10000
	records etcd "$etcd" few "$etcd" many
}

# ---- against UCX ---------------------------------------------------------------------------------

peer_ucx() {
	run_ucx "$ucx_nr" -t ucp_put_bw -s 4096
}

ucx() {
	# A short run says how many messages fill the time.
	ucx_nr=$(run_ucx 20000 -t ucp_put_bw -s 4096) || exit 1
	ucx_nr=$(awk -v n="$ucx_nr" -v s="$seconds" 'BEGIN { print int(n * s) + 1000 }')
	our_flags="--nic_priority_matrix=$dir/matrix.json --operation=write --block_size=4K --batch_size=128"
	start_target compare-tcp
	pairs peer_ucx ours_hot "ucx-4k=o[4] / p[1]"
	verdict ucx-4k 3 "4 KiB messages/s: ours $(median "$dir/ucx-4k.ours" 4), ucp_put_bw $(median "$dir/ucx-4k.peer")"
}

# ---- what the core costs by itself ---------------------------------------------------------------

ours_null() {
	run_ours compare-null --nic_priority_matrix='{"*":[["null:null0"]]}' --operation=write --block_size=64 \
		--batch_size=128 $our_flags
}

# own_cost CASE LIMIT_NS FLAG...: per request, on null.
own_cost() {
	name=$1 limit=$2
	shift 2
	our_flags=$*
	start_target compare-null --nic_priority_matrix='{"*":[["null:null0"]]}'
	single ours_null "$name=$limit * o[4] / 1e9"
	verdict "$name" 1 "ns per request: median $(median "$dir/$name.ours" 4 | awk '{ printf "%.1f", 1e9 / $1 }'), limit $limit"
}

# ---- all of them ---------------------------------------------------------------------------------

say "machine: $(machine)"
warn_if_busy
for c in $cases; do
	case $c in
	write-1m) throughput $c write 1M 16 0.95 0.833 ;;
	read-1m) throughput $c read 1M 16 0.90 0.741 ;;
	write-4m) throughput $c write 4M 16 0.95 ;;
	read-4m) throughput $c read 4M 16 0.90 ;;
	write-64k) throughput $c write 64K 16 1.0 ;;
	read-64k) throughput $c read 64K 16 0.85 ;;
	write-4k) throughput $c write 4K 128 0.7 ;;
	read-4k) throughput $c read 4K 128 0.7 ;;
	latency-write-64b) latency $c write ;;
	latency-read-64b) latency $c read ;;
	threads-2-write) threads $c 2 write ;;
	threads-2-read) threads $c 2 read ;;
	threads-4-write) threads $c 4 write ;;
	threads-4-read) threads $c 4 read ;;
	idle) idle ;;
	open) open_engine ;;
	first-file)
		start_target compare-tcp
		first $c "file://$dir/metadata" compare-tcp 5
		;;
	first-etcd) first_etcd ;;
	records-file) records_file ;;
	records-etcd) records_etcd ;;
	ucx-4k) ucx ;;
	null-64b) own_cost $c 150 ;;
	null-64b-scattered) own_cost $c 150 --stride=192 ;;
	esac
done
finish_report
