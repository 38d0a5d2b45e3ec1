#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Two hosts (network name spaces) with two cables: the bytes that are booked on a rail went over its
# cable, both cables carry, when one is cut the other goes on, and when it is healed it carries again.
. "$(dirname "$0")/lib.sh"

two_hosts vb va 78

ip netns exec $far "$BENCH" --mode=target --metadata_server="$metadata" --local_server_name=far --port=0 \
	--nic_priority_matrix='{"*": [["tcp:va0", "tcp:va1"]]}' --ready_file="$dir/far.ready" \
	--buffer_size=64M >"$dir/far.out" 2>"$dir/far.err" </dev/null &
pids="$pids $!"
wait_until "the target" test -f "$dir/far.ready"

near() {
	ip netns exec $near "$BENCH" --metadata_server="$metadata" --local_server_name=near --port=0 \
		--segment_id=far --nic_priority_matrix='{"*": [["tcp:vb0", "tcp:vb1"]]}' --threads=1 \
		--block_size=1M --batch_size=16 --operation=write --json "$@" </dev/null
}

# sent N: bytes that went out of cable N.
sent() {
	ip netns exec $near cat /sys/class/net/vb$1/statistics/tx_bytes
}

before0=$(sent 0) before1=$(sent 1)
near --duration=1 >"$dir/near.out" 2>"$dir/near.err" || { cat "$dir/near.err"; die "the transfer over two cables failed"; }
for i in 0 1; do
	eval "before=\$before$i"
	cable=$(($(sent $i) - before))
	rail=$(sed -n 's/.*"tcp:vb'$i' -> far tcp:va'$i'".*"bytes_written": *\([0-9]*\).*/\1/p' "$dir/near.out")
	[ -n "$rail" ] || die "the result has no rail of vb$i"
	echo "vb$i: $rail bytes booked, $cable went over the cable"
	[ "$rail" -gt 10000000 ] || die "rail vb$i was hardly used"
	[ "$cable" -ge "$rail" ] || die "bytes of rail vb$i went another way"
	[ "$cable" -le $((rail + rail / 5)) ] || die "cable vb$i carried another rail's bytes"
done

# Cut one cable in the middle of a run: it goes on over the other, every byte right.  The cable that
# is healed is used again, by both programs as they are.
before0=$(sent 0)
near --duration=7 --check >"$dir/near.out" 2>"$dir/near.err" &
run=$!
pids="$pids $run"
carries() {
	[ $(($(sent 0) - before0)) -gt 10000000 ]
}
# However busy the machine is: the cable is cut while it is in use, and until that was noticed.
wait_until "the first cable to carry" carries
ip -n $near link set vb0 down
wait_until "the cut to be noticed" grep -q 'rail tcp:vb0.*broke' "$dir/near.err"
sleep 1
cut=$(sent 0)
ip -n $near link set vb0 up
wait $run || { cat "$dir/near.err"; die "the transfer did not survive the cut"; }
grep -q 'rail tcp:vb0.*broke' "$dir/near.err" || { cat "$dir/near.err"; die "nothing was said about the cut"; }
echo "vb0: $(($(sent 0) - cut)) bytes after it was healed"
[ $(($(sent 0) - cut)) -gt 10000000 ] || { cat "$dir/near.err"; die "the healed cable is not used again"; }
exit 0
