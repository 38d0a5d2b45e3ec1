#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# How fast the P2P store gets 1 GiB from one source on this host, hashing and verifying included, beside the bench
# reading blocks of 1 MiB from as much memory over the same transport.
#
# Both ends are processes of this host, and the memory of both is as large (1 GiB each) and allocated by the
# engine.  The store's figure is bytes per second of whole calls of mc_p2p_get_replica: the record is read, the
# source found and opened, our own offer written, every byte hashed.
#
# What a store can reach at the very best, bench/p2p_bare shows: every processor copies and hashes, nothing else.  The
# case bare-1g holds that against the bench, which hashes nothing: where it is short, for memory is the bound, no store can
# have shm-1g ok.  The case shm-bare holds the get against it.
#
# Prints per case "CASE ratio R reach L ok|short|unsure [LO..HI]": R is the store's throughput / the bench's; LO..HI
# is R's 90 % interval.  With --quick the word is unjudged.
# Exit: 0 all ok, 1 one is short or unsure or a run failed, 2 usage.
set -u
cd "$(dirname "$0")/.." || exit 1
. bench/env.sh
. bench/lib/judge.sh
. bench/lib/flags.sh
. bench/lib/processes.sh

all_cases="tcp-1g shm-1g shm-bare bare-1g"
size=1073741824

usage() {
	usage_flags
	printf '  %s\n' "$all_cases"
	echo "  --size=NM    megabytes instead of 1 GiB, for a smoke run"
}

# A smoke run may take less memory.
for arg in "$@"; do
	shift
	case $arg in
	--size=[1-9]*M) size=${arg#*=} size=$((${size%M} * 1048576)) ;;
	*) set -- "$@" "$arg" ;;
	esac
done
parse_flags "$@"
use_build "$build" || exit 1
make_dir
[ -x "$build/bench/p2p_get" ] || die "$build/bench/p2p_get is not built: -Dp2p_store=enabled says why"

# start_source NAME MATRIX: who offers the object; it ends when the script closes its input.
start_source() {
	mkdir -p "$dir/source-$1.metadata"
	mkfifo "$dir/source-$1.input"
	"$build/bench/p2p_get" serve "file://$dir/source-$1.metadata" "$2" $size <"$dir/source-$1.input" >"$dir/source-$1.out" 2>&1 &
	children="$children $!"
	exec 9>"$dir/source-$1.input"
	n=0
	until grep -q ready "$dir/source-$1.out"; do
		n=$((n + 1))
		[ $n -lt 600 ] && kill -0 "${children##* }" 2>/dev/null || die "the source did not start: $(cat "$dir/source-$1.out")"
		sleep 0.1
	done
}

ours_bare() {
	"$build/bench/p2p_bare" $size "$seconds" || die "p2p_bare failed"
}

ours_store() {
	"$build/bench/p2p_get" get "file://$dir/source-$case.metadata" "$matrix" $size "$seconds" 2>"$dir/get.err" ||
		die "getting failed: $(cat "$dir/get.err")"
}

peer_bench() {
	run_ours "$case" "--nic_priority_matrix=$matrix" --buffer_size=$size --operation=read --block_size=1M --batch_size=16
}

peer_bare() {
	ours_bare
}

giga() {
	awk -v x="$1" 'BEGIN { printf "%.2f", x / 1e9 }'
}

# speed CASE DEVICE REACH OURS PEER
speed() {
	case=$1 matrix="{\"*\":[[\"$2\"]]}"
	[ $5 = bare ] || start_target "$case" "--nic_priority_matrix=$matrix" --buffer_size=$size
	[ $4 = bare ] || start_source "$case" "$matrix"
	pairs peer_$5 ours_$4 "$case=o[1] / p[1]"
	verdict "$case" "$3" "GB/s: $4 $(giga "$(median "$dir/$case.ours")"), $5 $(giga "$(median "$dir/$case.peer")"); CPU s/GB:\
 $4 $(median "$dir/$case.ours" 2), $5 $(median "$dir/$case.peer" 2)"
	[ $4 = bare ] || exec 9>&-
}

say "machine: $(machine)"
warn_if_busy
for c in $cases; do
	case $c in
	tcp-1g) speed tcp-1g tcp:lo 0.8 store bench ;;
	shm-1g) speed shm-1g shm:shm0 0.8 store bench ;;
	shm-bare) speed shm-bare shm:shm0 0.8 store bare ;;
	bare-1g) speed bare-1g shm:shm0 0.8 bare bench ;;
	esac
done
finish_report
