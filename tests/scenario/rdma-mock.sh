#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Engines over rdma, on devices of the mock libibverbs: both operations, several rails, small memory
# regions; a rail that is cut in the middle of a run, one whose device says nothing, all cut with tcp
# beside them and without.  Bytes are checked at both ends.  MOCK: folder of the mock library.
. "$(dirname "$0")/lib.sh"

mkdir "$dir/fabric"
export MOCK_VERBS_DIR="$dir/fabric" MOCK_VERBS="mock0 mock1 mock2 mock3"
export LD_LIBRARY_PATH="$MOCK${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
near1='{"*": [["rdma:mock0"]]}' near2='{"*": [["rdma:mock0", "rdma:mock1"]]}'
near_tcp='{"*": [["rdma:mock0", "rdma:mock1"], ["tcp:lo"]]}'

# fault DEVICE NAME VALUE
fault() {
	"$MOCK/mock-verbs" "$@" || die "fault $*"
}

# during NAME FLAG...: an initiator in the background, that runs for $long seconds; its pid is in $run.
during() {
	initiate "$@" --segment_id=t --operation=write --check --block_size=1M --duration="${long:-3}" &
	run=$!
	pids="$pids $run"
	sleep 1
}

# busier: sets $rail to the device that carries more.  Both share one thread of the mock, so the
# other may be found not worth it.
busier() {
	b0=$("$MOCK/mock-verbs" mock0 bytes) b1=$("$MOCK/mock-verbs" mock1 bytes)
	sleep 0.3
	b0=$(($("$MOCK/mock-verbs" mock0 bytes) - b0)) b1=$(($("$MOCK/mock-verbs" mock1 bytes) - b1))
	rail=mock0
	[ $b0 -gt $b1 ] || rail=mock1
}

# ended NAME: it has moved everything, and says that it broke.
ended() {
	wait $run || die "$1 ended with $?"
	check_run "$1"
	grep -q 'broke' "$dir/$1.err" || die "$1 did not say that a rail broke"
}

target t --nic_priority_matrix='{"*": [["rdma:mock2", "rdma:mock3"], ["tcp:lo"]]}'

run_both --nic_priority_matrix="$near1"
run_both --nic_priority_matrix="$near2" --transports.rdma.max_mr_size=65536 --buffer_size=4M --block_size=100000 \
	--transports.rdma.qps_per_peer=4

# A way that is cut, and healed.
during cut --nic_priority_matrix="$near2" --transports.rdma.timeout=10
busier
fault $rail cut 1
sleep 0.7
fault $rail cut 0
ended cut

# Not a word from one device: what it had goes by the other.
during silent --nic_priority_matrix="$near2" --transports.rdma.suspect=300ms
busier
fault $rail silent 1
ended silent
fault $rail silent 0

# A port that goes down and up.
during down --nic_priority_matrix="$near2" --transports.rdma.timeout=10
busier
fault $rail down 1
sleep 0.7
fault $rail down 0
wait $run || die "down ended with $?"
check_run down

# No rdma left: tcp takes over.
during over-tcp --nic_priority_matrix="$near_tcp" --transports.rdma.timeout=10
fault mock0 cut 1
fault mock1 cut 1
ended over-tcp
fault mock0 cut 0
fault mock1 cut 0

# A reload during a checked run: a second device joins and carries, then it leaves and the first goes on.
echo "{ \"nic_priority_matrix\": $near1 }" >"$dir/reload.json"
"$BENCH" --metadata_server="$metadata" --local_server_name=reload --port=0 --segment_id=t --operation=write --check \
	--config="$dir/reload.json" --threads=1 --batch_size=16 --block_size=1M --duration=8 --log_level=info \
	>"$dir/reload.out" 2>"$dir/reload.err" </dev/null &
run=$!
pids="$pids $run"
moved() { # DEVICE: its bytes become more
	bytes=$("$MOCK/mock-verbs" "$1" bytes)
	wait_until "bytes over $1" more_than "$1" "$bytes"
}
reloaded() {
	[ "$(grep -c 'reloaded: ' "$dir/reload.err")" -ge "$1" ]
}
more_than() {
	[ "$("$MOCK/mock-verbs" "$1" bytes)" -gt "$2" ]
}
moved mock0
echo "{ \"nic_priority_matrix\": $near2 }" >"$dir/reload.json"
kill -HUP $run
moved mock1
echo "{ \"nic_priority_matrix\": $near1 }" >"$dir/reload.json"
kill -HUP $run
wait_until "the second reload" reloaded 2
# What was under way there may end; then it stays as it is.
sleep 1
left=$("$MOCK/mock-verbs" mock1 bytes)
moved mock0
more_than mock1 "$left" && die "the device that left goes on"
wait $run || die "the reloaded one ended with $?"
check_run reload

kill -TERM "$target"
wait "$target" || die "the target ended with $?"
for device in mock0 mock1 mock2 mock3; do
	for what in qps mrs cqs; do
		n=$("$MOCK/mock-verbs" $device $what)
		[ "$n" -eq 0 ] || die "$device has $n $what at the end"
	done
done
exit 0
