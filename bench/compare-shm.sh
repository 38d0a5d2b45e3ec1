#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Our speed over shm, beside bare copies, UCX and fixed limits: two processes of this host, one
# submitting thread.
#
# The bare copies (bench/bare_copy.c) move the same blocks between as much memory of the same kind:
# memcpy between two mappings of memfds, or one process_vm_writev (readv) per block.  UCX writes one
# buffer again and again, so ours does too there (--hot).  What counts requests counts them per second
# of CPU time, that is, per core.
#
# Prints per case "CASE ratio R reach L ok|short|unsure [LO..HI]": more is better for R and L, which are
# ours / peer's for throughput and limit / ours for times; LO..HI is R's 90 % interval.  With --quick
# the word is unjudged.
# Exit: 0 all ok, 1 one is short or unsure or a run failed, 2 usage, 77 a peer is missing, or this
# system does not let a process reach another's memory.
set -u
cd "$(dirname "$0")/.." || exit 1
. bench/env.sh
. bench/lib/judge.sh
. bench/lib/flags.sh
. bench/lib/processes.sh

attach_cases="attach-write-1m attach-read-1m"
map_cases="map-write-1m map-read-1m"
own_cases="map-write-4k map-read-4k map-write-64b map-read-64b"
scattered_cases="map-write-4k-scattered map-write-64b-scattered"
all_cases="$attach_cases $map_cases ucx-1m $own_cases $scattered_cases"

usage() {
	usage_flags
	printf '  %s\n' "$attach_cases" "$map_cases" "ucx-1m" "$own_cases" "$scattered_cases"
}

parse_flags "$@"
ucx_tls=posix,cma,self,sm
needs ucx_perftest ucx-utils ucx-1m
use_build "$build" || exit 1
make_dir
if wanted $attach_cases && ! "$build/bench/bare_copy" attach-write 4096 1 0.1 >/dev/null 2>"$dir/attach.err"; then
	echo "$(cat "$dir/attach.err"): see transports/shm/README.md"
	exit 77
fi

matrix='--nic_priority_matrix={"*":[["shm:shm0"]]}'

ours() {
	run_ours compare-shm "$matrix" $our_flags
}

# Both ends are new each time, as those of the bare copy are: where the pages of so little memory happen to lie is
# worth a third of the speed, and would be the same for all runs against one target.
ours_anew() {
	start_target compare-shm-anew "$matrix" --buffer_size=16M
	new=${children##* }
	trap 'kill "$new" && wait "$new"; rm -f "$dir/compare-shm-anew.ready"' EXIT
	run_ours compare-shm-anew "$matrix" $our_flags
}

bare() {
	"$build/bench/bare_copy" $bare_flags "$seconds"
}

peer_ucx() {
	run_ucx "$ucx_nr" -t ucp_put_bw -s 1048576
}

giga() {
	awk -v x="$1" 'BEGIN { printf "%.2f", x / 1e9 }'
}

# copies CASE MODE OPERATION REACH: 1 MiB x 16 beside the bare copy.
copies() {
	our_flags="--transports.shm.mode=$2 --operation=$3 --block_size=1M --batch_size=16"
	bare_flags="$([ "$2" = map ] && echo memcpy || echo attach)-$3 1048576 16"
	pairs bare ours_anew "$1=o[1] / p[1]"
	verdict "$1" "$4" "GB/s: ours $(giga "$(median "$dir/$1.ours")"), bare $(giga "$(median "$dir/$1.peer")"); CPU s/GB: ours $(
		median "$dir/$1.ours" 2) + $(median "$dir/$1.ours" 3), bare $(median "$dir/$1.peer" 2)"
}

ucx() {
	# A short run says how many messages fill the time.
	ucx_nr=$(run_ucx 2000 -t ucp_put_bw -s 1048576) || exit 1
	ucx_nr=$(awk -v n="$ucx_nr" -v s="$seconds" 'BEGIN { print int(n * s) + 100 }')
	our_flags="--operation=write --block_size=1M --batch_size=16 --hot"
	start_target compare-shm "$matrix"
	pairs peer_ucx ours "ucx-1m=o[1] / (p[1] * 1048576)"
	verdict ucx-1m 1.0 "1 MiB messages/s: ours $(median "$dir/ucx-1m.ours" 4), ucp_put_bw $(median "$dir/ucx-1m.peer")"
}

# rate CASE OPERATION BLOCK PER_SECOND FLAG...: 128 at a time, over mappings; per second of CPU time at both
# ends.  Adjacent blocks coalesce; scattered ones are a slice each.
rate() {
	our_flags="--transports.shm.mode=map --operation=$2 --block_size=$3 --batch_size=128 ${5:-}"
	start_target compare-shm "$matrix"
	single ours "$1=1e9 / $3 / (o[2] + o[3]) / $4"
	verdict "$1" 1 "ns of CPU time per request: $(awk -v s="$(median "$dir/$1.ours" 2)" -v b="$3" \
		'BEGIN { printf "%.1f", s * b }'), limit $(awk -v x="$4" 'BEGIN { printf "%.0f", 1e9 / x }'); one thread does $(
		median "$dir/$1.ours" 4)/s"
}

say "machine: $(machine)"
warn_if_busy
for c in $cases; do
	case $c in
	attach-write-1m) copies $c attach write 0.9 ;;
	attach-read-1m) copies $c attach read 0.9 ;;
	map-write-1m) copies $c map write 0.95 ;;
	map-read-1m) copies $c map read 0.95 ;;
	ucx-1m) ucx ;;
	map-write-4k) rate $c write 4096 2000000 ;;
	map-read-4k) rate $c read 4096 2000000 ;;
	map-write-64b) rate $c write 64 3333333 ;;
	map-read-64b) rate $c read 64 3333333 ;;
	map-write-4k-scattered) rate $c write 4096 2000000 --stride=8192 ;;
	map-write-64b-scattered) rate $c write 64 3333333 --stride=192 ;;
	esac
done
finish_report
