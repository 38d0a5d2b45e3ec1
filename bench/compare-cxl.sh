#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Our speed over a pool that is a file beside memcpy of the same sizes with the same flushes
# (bench/cxl_copy.c), one thread each, the same footprint.
# bench/lib/judge.sh says how many runs there are and what they are worth.
#
# Prints per case "CASE ratio R reach L ok|short|unsure [LO..HI]": more is better for R and L, which are
# ours / memcpy's throughput, and for the one-* cases memcpy's / our median time of one request; LO..HI is R's 90 %
# interval.  With --quick the word is unjudged.
# Exit: 0 all ok, 1 one is short or unsure or a run failed, 2 usage, 77 something is missing.
set -u
cd "$(dirname "$0")/.." || exit 1
. bench/env.sh
. bench/lib/judge.sh
. bench/lib/flags.sh
. bench/lib/processes.sh

throughput_cases="write-1m read-1m write-64k read-64k"
single_cases="one-write-64k one-read-64k"
all_cases="$throughput_cases $single_cases"

usage() {
	usage_flags
	printf '  %s\n' "$throughput_cases" "$single_cases"
}

parse_flags "$@"
use_build "$build" || exit 1
[ -x "$build/bench/cxl_copy" ] && [ -f "$build/transports/cxl/transport-cxl.so" ] || {
	echo "transports/cxl is not built: flushing needs x86-64"
	exit 77
}
make_dir
# Memory, where there is a file system in it.
pools=$dir
[ ! -w /dev/shm ] || {
	pools=$(mktemp -d /dev/shm/mooncake-compare.XXXXXX) || exit 1
	trap 'rm -rf "$pools"; finish' EXIT
}
MC_CXL_POOL_DIR=$pools
export MC_CXL_POOL_DIR
"$build/cli/mooncake" cxl format --size=256MiB "$pools/pool0" >"$dir/format" || exit 1
head -c 67108864 /dev/zero >"$pools/bare" || exit 1
echo '{"*": [["cxl:pool0"]]}' >"$dir/cxl.json"

peer_copy() {
	"$build/bench/cxl_copy" "$pools/bare" $peer_flags "$seconds"
}

ours_cxl() {
	run_ours compare-cxl $our_flags
}

# compare CASE OPERATION BLOCK BYTES BATCH FORMULA REACH
compare() {
	name=$1
	peer_flags="$2 $4 $5"
	our_flags="--nic_priority_matrix=$dir/cxl.json --operation=$2 --block_size=$3 --batch_size=$5"
	start_target compare-cxl --nic_priority_matrix="$dir/cxl.json" --location=cxl:0 --buffer_size=64M
	pairs peer_copy ours_cxl "$name=$6"
	verdict "$name" "$7" "GB/s: ours $(giga ours), memcpy $(giga peer); p50 of a batch, ns: ours $(median \
		"$dir/$name.ours" 5), memcpy $(median "$dir/$name.peer" 2)"
}

giga() {
	median "$dir/$name.$1" | awk '{ printf "%.2f", $1 / 1e9 }'
}

say "machine: $(machine)"
warn_if_busy
for c in $cases; do
	case $c in
	write-1m) compare $c write 1M 1048576 16 'o[1] / p[1]' 0.95 ;;
	read-1m) compare $c read 1M 1048576 16 'o[1] / p[1]' 0.95 ;;
	write-64k) compare $c write 64K 65536 16 'o[1] / p[1]' 0.95 ;;
	read-64k) compare $c read 64K 65536 16 'o[1] / p[1]' 0.95 ;;
	one-write-64k) compare $c write 64K 65536 1 'p[2] / o[5]' 0.833 ;;
	one-read-64k) compare $c read 64K 65536 1 'p[2] / o[5]' 0.833 ;;
	esac
done
finish_report
