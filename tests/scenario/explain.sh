#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# mooncake explain and mooncake topology, each verdict over the situation itself: usage: explain.sh CASE.
# MOONCAKE: the program.  MOCK: folder of the mock libibverbs.
. "$(dirname "$0")/lib.sh"

explain() {
	timeout 120 "$MOONCAKE" explain --metadata_server="$metadata" --local_server_name=e --from=cpu:0 --timeout=60 \
		"$@" </dev/null
}

# explained CODE WANT FLAG...: the rails must be WANT, "TIER LOCAL>REMOTE VERDICT" with commas between.
explained() {
	want_code=$1 want=$2
	shift 2
	explain --json "$@" >"$dir/e.out" 2>"$dir/e.err" && got=0 || got=$?
	[ "$got" -eq "$want_code" ] || die "'$*' ended with $got instead of $want_code"
	got=$(python3 -c 'import json, sys
j = json.load(open(sys.argv[1]))
print(", ".join("%d %s>%s %s" % (r["tier"], r["local"], r["remote"], r["verdict"]) for r in j["rails"]))
assert j["carry"] == sum(r["carries"] for r in j["rails"])
assert all((r["score"] is None) == (r["verdict"] in ("wire", "local_kind", "remote_kind", "local_absent",
	"remote_absent")) for r in j["rails"])' "$dir/e.out") || die "'$*' gives no JSON as it should be"
	[ "$got" = "$want" ] || die "'$*' gives '$got' instead of '$want'"
}

says() {
	grep -q -- "$1" "$dir/e.out" || die "it does not say '$1'"
}

case_text() {
	target t --nic_priority_matrix="$tcp_matrix"
	explain --to=t --nic_priority_matrix="$tcp_matrix" --size=64K >"$dir/e.out" 2>"$dir/e.err" || die "explain failed"
	says '^write of 64.0 KiB: cpu:0 here -> cpu:0 of .t.$'
	says '^TIER  LOCAL   REMOTE  FINISH'
	says '^1 .*carries it$'
	says '^1 rail would carry it$'
	[ -s "$dir/e.err" ] && die "something was said on stderr"
	explain --to=t:cpu:0 --operation=read --nic_priority_matrix="$tcp_matrix" >"$dir/e.out" 2>"$dir/e.err" || die "read"
	says '^read of 1.0 MiB: cpu:0 here <- cpu:0 of .t.$'
	explained 0 '1 tcp:lo>tcp:lo carries' --to='t:*' --connect=false --nic_priority_matrix="$tcp_matrix"
	if [ ! -e /sys/devices/system/node/node63 ]; then
		explain --from=cpu:63 --to=t --nic_priority_matrix="$tcp_matrix" >"$dir/e.out" 2>"$dir/e.err" || die "no such node"
		says '^note: this host has no NUMA node 63: judged as if it had memory at cpu:63$'
	fi
	# Of the target's own config: it is asked beside it, under another name.
	printf '{"local_server_name": "t", "nic_priority_matrix": %s}' "$tcp_matrix" >"$dir/t.json"
	"$MOONCAKE" explain --metadata_server="$metadata" --config="$dir/t.json" --from=cpu:0 --to=t >"$dir/e.out" \
		2>"$dir/e.err" </dev/null || die "beside the target"
	says "note: an engine with this config runs already: asked as 't-explain-"
	kill -TERM "$target"
	wait "$target" || die "the target ended with $?"
	ls "$dir/metadata" | grep -q 'engine%2F' && die "a record was left"
	return 0
}

case_usage() {
	for flags in '' '--to=t --from=cpux:0' '--to=t --operation=move' '--to=t --size=much' '--to=t --nonsense'; do
		explain $flags --nic_priority_matrix="$tcp_matrix" >"$dir/e.out" 2>"$dir/e.err" && got=0 || got=$?
		[ "$got" -eq 2 ] || die "'$flags' ended with $got"
		[ "$(wc -l <"$dir/e.err")" -eq 1 ] || die "'$flags' did not give one line"
	done
	explain --to=nobody --nic_priority_matrix="$tcp_matrix" >"$dir/e.out" 2>"$dir/e.err" && got=0 || got=$?
	[ "$got" -eq 1 ] || die "a segment that is not there: $got"
	grep -q "segment 'nobody'" "$dir/e.err" || die "it is not named"
	"$MOONCAKE" explain --help | grep -q 'mooncake explain --from=cpu:0 --to=node1' || die "no example in the help"
}

case_tiers() {
	target t --nic_priority_matrix='{"*": [["keys:keys0"], ["tcp:lo"]]}'
	explained 0 "1 keys:keys0>keys:keys0 carries, 2 tcp:lo>tcp:lo lower_tier, 2 keys:keys0>tcp:lo wire, 2 tcp:lo>keys:keys0 wire" \
		--to=t --nic_priority_matrix='{"*": [["keys:keys0"], ["tcp:lo"]]}'
	says 'other wire: keys [0-9.]* here, tcp [0-9.]* there'
	says 'lower tier: used when every rail above it is down'
	explained 1 '2 altkeys:altkeys0>keys:keys0 wire, 2 altkeys:altkeys0>tcp:lo wire' --to=t \
		--nic_priority_matrix='{"*": [[], ["altkeys:altkeys0"]]}'
}

case_later() {
	target t --nic_priority_matrix='{"*": [["keys:keys0", "keys:keys1"]]}'
	set -- --to=t --nic_priority_matrix='{"*": [["keys:keys0", {"device": "keys:keys1", "weight": 2}]]}'
	failover='1 keys:keys0>keys:keys1 failover, 1 keys:keys1>keys:keys0 failover'
	explained 0 "1 keys:keys0>keys:keys0 later, 1 keys:keys1>keys:keys1 carries, $failover" --size=64K "$@"
	explained 0 "1 keys:keys0>keys:keys0 shares, 1 keys:keys1>keys:keys1 carries, $failover" --size=1M "$@"
	says '"weight": 2'
}

case_kinds() {
	target t --nic_priority_matrix='{"*": [["keys:keys0"]]}'
	set -- --to=t --nic_priority_matrix='{"*": [["keys:keys0"]]}' --from=fake:0
	explained 0 '1 keys:keys0>keys:keys0 carries' "$@"
	says '"staged_here": false'
	explained 0 '1 keys:keys0>keys:keys0 carries' --transports.keys.kinds=cpu "$@"
	says '"staged_here": true'
	explained 1 '1 keys:keys0>keys:keys0 local_kind' --transports.keys.kinds=cpu --staging_pool=0 "$@"
	says "memory of kind 'fake' here"
	explained 1 '1 keys:keys0>keys:keys0 remote_kind' --transports.keys.kinds=cpu --to=t:fake:0 --staging_pool=0 \
		--nic_priority_matrix='{"*": [["keys:keys0"]]}'
	says "'t' shows no buffer at fake:0"
}

case_alignment() {
	target t --nic_priority_matrix='{"*": [["keys:keys0"]]}'
	set -- --to=t --nic_priority_matrix='{"*": [["keys:keys0"]]}' --transports.keys.alignment=4096
	explained 0 '1 keys:keys0>keys:keys0 carries' --size=4096 "$@"
	explained 1 '1 keys:keys0>keys:keys0 alignment' --size=100 "$@"
	says 'multiples of 4096'
}

case_absent() {
	target t --nic_priority_matrix='{"*": [["tcp:lo"], ["keys:keysdown"]]}'
	explained 0 '1 tcp:lo>tcp:lo carries, 2 tcp:lo>keys:keysdown remote_absent, 2 keys:keysdown>None local_absent' --to=t \
		--nic_priority_matrix='{"*": [["tcp:lo"], ["keys:keysdown"]]}'
	says 'this device is always down: use keys0'
	explained 1 '' --to=t --nic_priority_matrix='{"cuda:0": [["tcp:lo"]]}'
	says 'no row of our nic_priority_matrix covers .cpu:0.'
}

case_access() {
	target t --nic_priority_matrix="$tcp_matrix" --access='{"e": "read"}'
	set -- --to=t --nic_priority_matrix="$tcp_matrix"
	explained 1 '1 tcp:lo>tcp:lo access' "$@"
	says "its access list leaves 'e' only 'read'"
	explained 0 '1 tcp:lo>tcp:lo carries' --operation=read "$@"
	# More than a buffer holds.
	explained 1 '1 tcp:lo>tcp:lo access' --operation=read --size=1G "$@"
	says 'outside of every buffer'
}

# A region that the device of the target cannot register has no keys.
case_barred() {
	target t --nic_priority_matrix='{"*": [["altkeys:altkeys0", "tcp:lo"]]}' --transports.altkeys.max_reg=1M
	explained 0 "1 altkeys:altkeys0>altkeys:altkeys0 barred, 2 tcp:lo>tcp:lo carries, 1 altkeys:altkeys0>tcp:lo wire, \
2 tcp:lo>altkeys:altkeys0 wire" --to=t --nic_priority_matrix='{"*": [["altkeys:altkeys0"], ["tcp:lo"]]}'
	says 'it cannot reach the buffer there'
}

down_there() {
	grep -q "device 'keys:keys0': is down" "$dir/t.err"
}

# The device at the other end goes down after the engines have seen it.
case_down() {
	target t --nic_priority_matrix='{"*": [["keys:keys0", "tcp:lo"]]}' --transports.keys.trigger="$dir/state"
	echo down >"$dir/state"
	wait_until "the device to go down" down_there
	explained 0 "1 keys:keys0>keys:keys0 failed, 2 tcp:lo>tcp:lo carries, 1 keys:keys0>tcp:lo wire, 2 tcp:lo>keys:keys0 wire" \
		--to=t --nic_priority_matrix='{"*": [["keys:keys0"], ["tcp:lo"]]}'
	says 'path failed: the device at the other end is down'
	explained 1 '1 keys:keys0>keys:keys0 failed, 1 keys:keys0>tcp:lo wire' --to=t \
		--nic_priority_matrix='{"*": [["keys:keys0"]]}'
	says 'a transfer would wait for it'
}

# Two hosts and two cables, of which one leads nowhere.
case_cables() {
	two_hosts eb ea 83
	ip netns exec $far "$BENCH" --mode=target --metadata_server="$metadata" --local_server_name=far --port=0 \
		--nic_priority_matrix='{"*": [["tcp:ea0", "tcp:ea1"]]}' --ready_file="$dir/far.ready" \
		--buffer_size=1M --block_size=4096 --threads=1 >"$dir/far.out" 2>"$dir/far.err" </dev/null &
	pids="$pids $!"
	wait_until "the target" test -f "$dir/far.ready"
	MOONCAKE_HERE=$MOONCAKE
	printf '#!/bin/sh\nexec ip netns exec %s "%s" "$@"\n' "$near" "$MOONCAKE_HERE" >"$dir/near"
	chmod +x "$dir/near"
	MOONCAKE=$dir/near
	set -- --to=far --size=1M --nic_priority_matrix='{"*": [["tcp:eb0", "tcp:eb1"]]}'
	failover='1 tcp:eb0>tcp:ea1 failover, 1 tcp:eb1>tcp:ea0 failover'
	explained 0 "1 tcp:eb0>tcp:ea0 carries, 1 tcp:eb1>tcp:ea1 shares, $failover" "$@"
	says 'other subnet (10.83.0.0/24 here, 10.83.1.0/24 there)'
	# Both devices are up, and there is no way from one to the other.
	ip -n $near rule add from 10.83.0.1 unreachable || die "no rule"
	explained 0 "1 tcp:eb0>tcp:ea0 failed, 1 tcp:eb1>tcp:ea1 carries, $failover" "$@"
	says 'path failed: '
	ip -n $near rule del from 10.83.0.1 unreachable
	# No other device of its subnet is there.
	ip -n $near addr add 10.83.7.1/32 dev eb0
	ip -n $near addr del 10.83.0.1/24 dev eb0
	explained 0 '1 tcp:eb1>tcp:ea1 carries, 1 tcp:eb0>tcp:ea0 failover, 1 tcp:eb0>tcp:ea1 failover, 1 tcp:eb1>tcp:ea0 failover' "$@"
	says 'other subnet (10.83.7.1/32 here, 10.83.0.0/24 there)'
}

# rdma, on devices of the mock libibverbs.
case_rdma() {
	mkdir "$dir/fabric"
	export MOCK_VERBS_DIR="$dir/fabric" MOCK_VERBS="mock0 mock1 mock2"
	export LD_LIBRARY_PATH="$MOCK${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
	target t --nic_priority_matrix='{"*": [["rdma:mock2"], ["tcp:lo"]]}'
	set -- --to=t --nic_priority_matrix='{"*": [["rdma:mock0"], ["tcp:lo"]]}' --transports.rdma.lanes=1
	wires='2 rdma:mock0>tcp:lo wire, 2 tcp:lo>rdma:mock2 wire'
	explained 0 "1 rdma:mock0>rdma:mock2 carries, 2 tcp:lo>tcp:lo lower_tier, $wires" "$@"
	"$MOCK/mock-verbs" mock0 cut 1 || die "the fault"
	explained 0 "1 rdma:mock0>rdma:mock2 failed, 2 tcp:lo>tcp:lo carries, $wires" --transports.rdma.timeout=10 "$@"
	says 'path failed: '
}

# ---- topology ----------------------------------------------------------------------------------

topology() {
	timeout 60 "$MOONCAKE" topology --metadata_server="$metadata" "$@" >"$dir/e.out" 2>"$dir/e.err" </dev/null
}

case_topology() {
	topology || die "topology failed"
	says 'NUMA node'
	says '^cpu:0 '
	says '^matrix, written by discovery:$'
	topology --json || die "--json failed"
	python3 -c 'import json, sys
j = json.load(open(sys.argv[1]))
assert j["nodes"] and j["nodes"][0]["location"] == "cpu:0" and j["nodes"][0]["cpus"] > 0, j["nodes"]
assert all(len(n["distances"]) in (0, len(j["nodes"])) for n in j["nodes"])
assert j["matrix_from"] == "discovery" and j["error"] is None
assert j["nic_priority_matrix"]["*"][0], j' "$dir/e.out" || die "the JSON is not as it should be"
	# What it prints is taken as it is.
	topology --matrix || die "--matrix failed"
	cp "$dir/e.out" "$dir/matrix.json"
	topology --matrix --nic_priority_matrix="$dir/matrix.json" || die "its own matrix is refused"
	cmp "$dir/e.out" "$dir/matrix.json" || die "the matrix has changed"
	target t --nic_priority_matrix="$dir/matrix.json"
	topology --nic_priority_matrix='{"cpu:0": [[{"device": "keys:keys0", "require": true}], ["tcp:lo"]]}' || die "a matrix"
	says '^matrix, from the config:$'
	says 'tier 1: keys:keys0 (required)'
	topology --svg="$dir/host.svg" --nic_priority_matrix='{"*": [["keys:keys0"], ["tcp:lo"]]}' || die "--svg failed"
	[ -s "$dir/e.out" ] && die "text beside the picture"
	python3 -c 'import sys, xml.dom.minidom as m
d = m.parse(sys.argv[1])
lines = [p for p in d.getElementsByTagName("path") if p.getElementsByTagName("title")]
assert len(lines) == 2, lines' "$dir/host.svg" || die "the picture is not as it should be"
	topology --svg=- --nic_priority_matrix='{"*": [["keys:keys0"], ["tcp:lo"]]}' || die "--svg=- failed"
	cmp "$dir/e.out" "$dir/host.svg" || die "stdout has not the picture"
	topology --svg=- --json && got=0 || got=$?
	[ "$got" -eq 2 ] || die "a picture and JSON on stdout: $got"
	topology --nic_priority_matrix='{"*": [["nobody:x"]]}' && die "a matrix that names nothing"
	grep -q "nobody" "$dir/e.err" || die "it does not say why"
	topology --svg="$dir/none/x.svg" && die "a folder that is not there"
	topology --json --matrix && got=0 || got=$?
	[ "$got" -eq 2 ] || die "two answers at once: $got"
	"$MOONCAKE" topology --help | grep -q 'mooncake topology --svg=host.svg' || die "no example in the help"
}

"case_$1"
exit 0
