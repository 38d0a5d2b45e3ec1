#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The managed store beside the bench's own transfers and beside Redis, on this host.
#
# Per transport there is one master, one process that lends memory, and mooncake_store bench, which puts and gets
# values of registered memory; Redis serves values without persistence, to a client that copies nothing it need
# not.  All over the loopback; every run of ours is bracketed by runs of the peer.  Redis has the congestion control that the
# host is set to: BBR paces it, and ours is not paced within a host; with cubic Redis is at its best.
#
# Prints per case "CASE ratio R reach L ok|short|unsure [LO..HI]".  R is
#   alloc                 100 ns / a pair of release and alloc, at 95 % use and mixed sizes
#   master-get, -put      lookups, and puts (start and end), per second in batches of 128, 4 outstanding / 1,000,000
#                         and 300,000
#   master-single         single lookups per second, 16 outstanding / 40,000
#   master-alone          2 x the bench's p50 of 64 B / the p50 of a lookup alone
#   memory                300 / bytes of the master's memory per object with a 40-byte key
#   tcp-{put,get}-1m-16   bytes per second of values of 1 MiB in batches of 16 / the bench's with as large batches
#   tcp-put-1m, -get-1m   those of single values, one after the other / the bench's of single blocks, one after the other,
#                         of as much memory: its batch of one would move one block again and again, out of and into the
#                         processors' caches
#   tcp-{put,get}-1m-bare  the same / store_bare's: a third process is asked as often as a put or a get asks the master,
#                         and 1 MiB moved, nothing else.  How much the questions cost, the text says
#   redis-{set,get}-1m    values of 1 MiB in batches of 16 / Redis, the better of pipelines of 1 and 16
#   redis-{set,get}-64k   values of 64 KiB in batches of 32 / Redis, pipeline of 16
#   shm-{set,get}-1m      as redis-*-1m, ours over shm
#   tcp-get-4k            3 x the bench's p50 of 4 KiB / the p50 of getting one value of 4 KiB
# and LO..HI its 90 % interval.  With --quick the word is unjudged.
# Exit: 0 all ok, 1 one is short or unsure or a run failed, 2 usage, 77 what a case needs is not there.
set -u
cd "$(dirname "$0")/.." || exit 1
. bench/env.sh
. bench/lib/judge.sh
. bench/lib/flags.sh
. bench/lib/processes.sh

redis_cases="redis-set-1m redis-get-1m redis-set-64k redis-get-64k shm-set-1m shm-get-1m"
master_cases="master-get master-put master-single master-alone memory"
tcp_cases="tcp-put-1m-16 tcp-put-1m tcp-put-1m-bare tcp-get-1m-16 tcp-get-1m tcp-get-1m-bare tcp-get-4k"
all_cases="alloc $master_cases $tcp_cases $redis_cases"

usage() {
	usage_flags
	printf '  %s\n' "alloc $master_cases" "$tcp_cases" "$redis_cases"
}

parse_flags "$@"
needs redis-server redis-server $redis_cases
use_build "$build" || exit 1
make_dir
store=$build/stores/managed/cli/mooncake_store master=$build/stores/managed/master/mooncake_master
for program in "$store" "$master" "$build/bench/store_master" "$build/bench/store_bare" "$build/bench/store_alloc"; do
	[ -x "$program" ] || die "$program is not built: -Dmanaged_store=enabled -Dallocator=enabled says why"
done
tcp='{"*":[["tcp:lo"]]}' shm='{"*":[["shm:shm0"],["tcp:lo"]]}'
objects=1000000
[ $quick = no ] || objects=100000

giga() {
	awk -v x="$1" 'BEGIN { printf "%.2f", x / 1e9 }'
}

# median_best FILE: of the better of its one or two columns.
median_best() {
	awk '{ print ($1 > $2) ? $1 : $2 }' "$1" | sort -n | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'
}

# ---- processes -----------------------------------------------------------------------------------

# start_master NAME MATRIX: with metadata of its own, $dir/NAME; its pid is in $master_pid.
start_master() {
	mkdir -p "$dir/$1"
	rm -f "$dir/$1.ready"
	"$master" --metadata_server="file://$dir/$1" --port=0 --nic_priority_matrix="$2" --ready_file="$dir/$1.ready" \
		>"$dir/$1.said" 2>&1 </dev/null &
	master_pid=$!
	children="$children $master_pid"
	wait_ready "$dir/$1.ready" $master_pid || die "the master did not start: $(cat "$dir/$1.said")"
}

stop_master() {
	kill "$master_pid"
	wait "$master_pid" 2>/dev/null
	children=$(echo " $children " | sed "s/ $master_pid / /")
	rm -rf "${dir:?}/$1"
}

# start_store NAME MATRIX: once; a master, and 1 GiB that is lent.
start_store() {
	[ ! -f "$dir/$1-serve.ready" ] || return 0
	start_master "$1" "$2"
	"$store" serve --size=1G --metadata_server="file://$dir/$1" --local_server_name="$1-serve" --port=0 \
		--nic_priority_matrix="$2" --ready_file="$dir/$1-serve.ready" >"$dir/$1-serve.said" 2>&1 </dev/null &
	children="$children $!"
	wait_ready "$dir/$1-serve.ready" $! || die "lending failed: $(cat "$dir/$1-serve.said")"
}

start_redis() {
	[ -z "${redis_port:-}" ] || return 0
	free_port
	redis_port=$port
	redis-server --port "$redis_port" --bind 127.0.0.1 --save "" --appendonly no --dir "$dir" >"$dir/redis.log" 2>&1 &
	listening $! "$dir/redis.log"
}

# ---- figures -------------------------------------------------------------------------------------

# run_store STORE MATRIX FLAG...: bytes per second, p50 of a call in ns.
run_store() {
	name=$1 matrix=$2
	shift 2
	"$store" bench --json --metadata_server="file://$dir/$name" --nic_priority_matrix="$matrix" --duration="$seconds" "$@" \
		>"$dir/store.json" 2>"$dir/store.err" </dev/null || die "mooncake_store bench failed: $(cat "$dir/store.err")"
	sed -n 's/.*"bytes_per_second": \([0-9.]*\), "p50_us": \([0-9.]*\).*/\1 \2/p' "$dir/store.json" |
		awk '{ printf "%.0f %.0f\n", $1, $2 * 1000 }'
}

redis_once() {
	"$build/bench/store_redis" "$redis_port" "$@" "$seconds" 2>"$dir/redis.err" || die "Redis: $(cat "$dir/redis.err")"
}

ours_alloc() {
	"$build/bench/store_alloc" --seconds="$seconds" --json | sed -n 's/.*"ns_per_pair": \([0-9.]*\).*/\1/p'
}

# One master per run, which begins empty.
ours_master() {
	start_master m "$tcp"
	"$build/bench/store_master" "file://$dir/m" "$tcp" $objects "$seconds" "$master_pid" 2>"$dir/master.err" ||
		die "store_master failed: $(cat "$dir/master.err")"
	stop_master m
}

peer_64b() {
	run_ours target --nic_priority_matrix="$tcp" --operation=read --block_size=64 --batch_size=1 | awk '{ print $5 }'
}

# start_bare: once; who is asked, and a target that spins as those who lend memory do.
start_bare() {
	start_target bare --nic_priority_matrix="$tcp" --spin=200us
	[ ! -f "$dir/answer.ready" ] || return 0
	"$build/bench/store_bare" answer "file://$dir/metadata" "$tcp" "$dir/answer.ready" >"$dir/answer.said" 2>&1 </dev/null &
	children="$children $!"
	wait_ready "$dir/answer.ready" $! || die "store_bare did not start: $(cat "$dir/answer.said")"
}

peer_bare() {
	"$build/bench/store_bare" "$1" "file://$dir/metadata" "$tcp" bare 1048576 "$seconds" 2>"$dir/bare.err" ||
		die "store_bare failed: $(cat "$dir/bare.err")"
}

# peer_block OPERATION SIZE BATCH: bytes per second, p50 in ns.
peer_block() {
	run_ours target --nic_priority_matrix="$tcp" --operation="$1" --block_size="$2" --batch_size="$3" | awk '{ print $1, $5 }'
}

# One block of 1 MiB after the other, of as much memory as the store's values take.
peer_walk() {
	echo '{"blocks": "1M", "batch": 1, "depth": 1, "locality": "sequential", "footprint": "64M"}' >"$dir/walk.json"
	run_ours target --nic_priority_matrix="$tcp" --job="$dir/walk.json" --operation="$1" | awk '{ print $1, $5 }'
}

peer_put_1m() { peer_walk write; }
peer_get_1m() { peer_walk read; }
peer_put_1m_16() { peer_block write 1M 16; }
peer_get_1m_16() { peer_block read 1M 16; }
peer_put_bare() { peer_bare put; }
peer_get_bare() { peer_bare get; }
peer_get_4k() { peer_block read 4K 1; }
ours_put_1m_16() { run_store tcp "$tcp" --op=put --size=1M --batch=16 --keys=64; }
ours_get_1m_16() { run_store tcp "$tcp" --op=get --size=1M --batch=16 --keys=64; }
ours_put_1m() { run_store tcp "$tcp" --op=put --size=1M --batch=1 --keys=64; }
ours_get_1m() { run_store tcp "$tcp" --op=get --size=1M --batch=1 --keys=64; }
ours_get_4k() { run_store tcp "$tcp" --op=get --size=4K --batch=1 --keys=64; }

# redis OP SIZE PIPELINE...: a column each.
redis_peer() {
	for p in $redis_pipelines; do
		printf '%s ' "$(redis_once "$redis_op" "$redis_size" "$p")" || exit 1
	done
	echo
}

ours_redis() {
	run_store "$redis_ours" "$redis_matrix" --op="$(echo "$redis_op" | sed s/set/put/)" --size="$redis_size" --batch="$redis_batch"
}

# ---- cases ---------------------------------------------------------------------------------------

# redis_case CASE REACH OP SIZE BATCH PIPELINES STORE MATRIX
redis_case() {
	wanted "$1" || return 0
	redis_op=$3 redis_size=$4 redis_batch=$5 redis_pipelines=$6 redis_ours=$7 redis_matrix=$8
	start_redis
	start_store "$7" "$8"
	pairs redis_peer ours_redis "$1=o[1] / (p[1] > p[2] ? p[1] : p[2])"
	verdict "$1" "$2" "GB/s: store $(giga "$(median "$dir/$1.ours")"), Redis $(giga "$(median_best "$dir/$1.peer")")"
}

# bytes_case CASE REACH PEER OURS
bytes_case() {
	wanted "$1" || return 0
	start_store tcp "$tcp"
	start_target target "--nic_priority_matrix=$tcp"
	pairs "$3" "$4" "$1=o[1] / p[1]"
	verdict "$1" "$2" "GB/s: store $(giga "$(median "$dir/$1.ours")"), bench $(giga "$(median "$dir/$1.peer")")"
}

# bare_case CASE REACH PEER OURS
bare_case() {
	wanted "$1" || return 0
	start_store tcp "$tcp"
	start_bare
	pairs "$3" "$4" "$1=o[1] / p[1]"
	verdict "$1" "$2" "GB/s: store $(giga "$(median "$dir/$1.ours")"), bare $(giga "$(median "$dir/$1.peer")"), its transfers alone $(
		giga "$(median "$dir/$1.peer" 2)")"
}

master_case() {
	wanted $master_cases || return 0
	start_target target "--nic_priority_matrix=$tcp"
	pairs peer_64b ours_master "master-put=o[1] / 300000" "master-get=o[2] / 1000000" "master-single=o[3] / 40000" \
		"master-alone=2 * p[1] / o[4]" "memory=300 / o[5]"
	at=$dir/master-put
	! wanted master-put || verdict master-put 1 "per second: $(median "$at.ours" 1)"
	! wanted master-get || verdict master-get 1 "per second: $(median "$at.ours" 2)"
	! wanted master-single || verdict master-single 1 "per second: $(median "$at.ours" 3)"
	! wanted master-alone || verdict master-alone 1 "ns: lookup $(median "$at.ours" 4), transfer of 64 B $(median "$at.peer" 1)"
	! wanted memory || verdict memory 1 "bytes per object: $(median "$at.ours" 5), of resident memory $(median "$at.ours" 6)"
}

say "machine: $(machine)"
warn_if_busy
if wanted alloc; then
	single ours_alloc "alloc=100 / o[1]"
	verdict alloc 1 "ns per pair: $(median "$dir/alloc.ours")"
fi
master_case
# Puts first: for a while after a get its value is leased, and not replaced.
bytes_case tcp-put-1m-16 0.8 peer_put_1m_16 ours_put_1m_16
bytes_case tcp-put-1m 0.8 peer_put_1m ours_put_1m
bare_case tcp-put-1m-bare 0.85 peer_put_bare ours_put_1m
bytes_case tcp-get-1m-16 0.8 peer_get_1m_16 ours_get_1m_16
bytes_case tcp-get-1m 0.8 peer_get_1m ours_get_1m
bare_case tcp-get-1m-bare 0.85 peer_get_bare ours_get_1m
if wanted tcp-get-4k; then
	start_store tcp "$tcp"
	start_target target "--nic_priority_matrix=$tcp"
	pairs peer_get_4k ours_get_4k "tcp-get-4k=3 * p[2] / o[2]"
	verdict tcp-get-4k 1 "us: get $(awk -v x="$(median "$dir/tcp-get-4k.ours" 2)" 'BEGIN { print x / 1000 }'), transfer $(
		awk -v x="$(median "$dir/tcp-get-4k.peer" 2)" 'BEGIN { print x / 1000 }')"
fi
redis_case redis-set-1m 1.2 set 1048576 16 "1 16" tcp "$tcp"
redis_case redis-get-1m 1.0 get 1048576 16 "1 16" tcp "$tcp"
redis_case redis-set-64k 1.2 set 65536 32 16 tcp "$tcp"
redis_case redis-get-64k 1.2 get 65536 32 16 tcp "$tcp"
redis_case shm-set-1m 3 set 1048576 16 "1 16" shm "$shm"
redis_case shm-get-1m 3 get 1048576 16 "1 16" shm "$shm"
finish_report
