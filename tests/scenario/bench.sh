#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Two real processes move data by the bench: usage: bench.sh CASE.  A case is one of the functions
# case_*; most write and read with every byte checked at both ends.
. "$(dirname "$0")/lib.sh"

case_tcp() {
	target t --nic_priority_matrix="$tcp_matrix"
	grep -q "^target 't' is ready on port [1-9][0-9]*$" "$dir/t.out" || die "no line that it is ready"
	run_both --nic_priority_matrix="$tcp_matrix"
	grep -q '^rail  *tcp:lo' "$dir/i-read.out" || die "the rail is not named"
	grep -q 's/GB at the target' "$dir/i-read.out" || die "the target's CPU time is missing"
}

# The example of a foreign plugin moves data like our own.
case_example() {
	unix='{"*": [["example:unix0"]]}'
	target t --nic_priority_matrix="$unix"
	run_both --nic_priority_matrix="$unix"
	grep -q '^rail  *example:unix0' "$dir/i-read.out" || die "the rail is not named"
	run_both --nic_priority_matrix="$unix" --threads=2 --block_size=1M
	run_both --nic_priority_matrix="$unix" --block_size=7 --batch_size=2000 --stride=9
}

# The matrix as the path of a file, and locations by name.
case_matrix_file() {
	echo '{ "cpu:0": [["tcp:lo"], []], "*": [["tcp:lo"]] }' >"$dir/matrix.json"
	target t --nic-priority-matrix="$dir/matrix.json"
	run_both --nic_priority_matrix "$dir/matrix.json"
}

case_protocol() {
	target t --protocol=tcp --device_name=lo
	run_both --protocol=tcp --device_name=lo
}

# No matrix at all: discovery finds a device; no segment named: there is only one.
case_discovery() {
	target t
	initiate i --check --operation=write || die "the run ended with $?"
	check_run i
}

case_threads() {
	target t --nic_priority_matrix="$tcp_matrix"
	run_both --nic_priority_matrix="$tcp_matrix" --threads=2
	run_both --nic_priority_matrix="$tcp_matrix" --threads=3 --hot
}

case_large_blocks() {
	target t --nic_priority_matrix="$tcp_matrix" --buffer_size=128M
	run_both --nic_priority_matrix="$tcp_matrix" --block_size=32M --batch_size=2
}

case_odd_sizes() {
	target t --nic_priority_matrix="$tcp_matrix"
	for size in 1 7 63 4095 4097 65537 1048577; do
		run_both --nic_priority_matrix="$tcp_matrix" --block_size=$size --batch_size=5 \
			--duration=0.1
	done
}

# Many small requests, adjacent and with gaps, prepared and not.
case_many_small() {
	target t --nic_priority_matrix="$tcp_matrix"
	run_both --nic_priority_matrix="$tcp_matrix" --block_size=64 --batch_size=4096
	run_both --nic_priority_matrix="$tcp_matrix" --block_size=64 --batch_size=4096 --stride=200 \
		--prepared
}

case_lanes() {
	target t --nic_priority_matrix="$tcp_matrix" --set transports.tcp.lanes=2
	run_both --nic_priority_matrix="$tcp_matrix" --set transports.tcp.lanes=2 --threads=2 \
		--block_size=1M
	run_both --nic_priority_matrix="$tcp_matrix" --transports.tcp.lanes=1 --block_size=1M
}

case_ipv6() {
	[ -e /proc/net/if_inet6 ] && grep -q ' lo$' /proc/net/if_inet6 || skip "no IPv6 on the loopback"
	target t --nic_priority_matrix="$tcp_matrix" --advertise_address='[::1]' --listen_address='[::1]'
	run_both --nic_priority_matrix="$tcp_matrix" --advertise_address='[::1]' --listen_address='[::1]'
}

# null moves nothing, at full speed; --check over it makes no sense.
case_null() {
	target t --protocol=null
	initiate i --segment_id=t --protocol=null --operation=write --block_size=64 || die "ended with $?"
	tail -n 1 "$dir/i.out" | grep -q '^Test completed: ' || die "no last line"
	expect 2 'moves nothing' j --segment_id=t --protocol=null --check
}

# A check that cannot fail proves nothing: null moves nothing, and the matrix does not show it to
# the flags.
case_check_fails() {
	target t --protocol=null
	expect 1 'check: ' i --segment_id=t --nic_priority_matrix='{"*": [["null:null0"]]}' --check \
		--operation=write
	expect 1 'check: ' i --segment_id=t --nic_priority_matrix='{"*": [["null:null0"]]}' --check \
		--operation=read
}

# A target is known before it has registered its memory: who comes then waits for it, and not for ever.
case_early_initiator() {
	LD_PRELOAD=$SLOW_MEMORY "$BENCH" --mode=target --metadata_server="$metadata" --local_server_name=t --port=0 \
		--nic_priority_matrix="$tcp_matrix" --buffer_size=1M >"$dir/t.out" 2>"$dir/t.err" </dev/null &
	target=$!
	pids="$pids $target"
	wait_until "the target to ask for memory" grep -q 'memory comes late' "$dir/t.err"
	initiate i --segment_id=t --nic_priority_matrix="$tcp_matrix" || die "ended with $?"
	tail -n 1 "$dir/i.out" | grep -q '^Test completed: ' || die "no last line"
	# An initiator has nothing for others.
	initiate a --segment_id=t --nic_priority_matrix="$tcp_matrix" --duration=60 &
	pids="$pids $!"
	wait_until "an initiator" has_record a
	expect 1 "segment 'a' has no buffers after 5 s; is it a target?" b --segment_id=a \
		--nic_priority_matrix="$tcp_matrix"
}

case_two_targets() {
	target t --nic_priority_matrix="$tcp_matrix"
	target u --nic_priority_matrix="$tcp_matrix"
	run_both --nic_priority_matrix="$tcp_matrix"
	initiate i --segment_id=u --nic_priority_matrix="$tcp_matrix" --check || die "ended with $?"
	check_run i
	expect 1 "several segments are there: '[tu]', '[tu]'" j --nic_priority_matrix="$tcp_matrix"
}

case_two_initiators() {
	target t --nic_priority_matrix="$tcp_matrix"
	initiate a --segment_id=t --nic_priority_matrix="$tcp_matrix" --duration=0.5 &
	first=$!
	initiate b --segment_id=t --nic_priority_matrix="$tcp_matrix" --duration=0.5 || die "b: $?"
	wait $first || die "a: $?"
}

case_json() {
	target t --nic_priority_matrix="$tcp_matrix"
	initiate i --segment_id=t --nic_priority_matrix="$tcp_matrix" --json || die "ended with $?"
	[ "$(head -n 1 "$dir/i.out")" = '{' ] && [ "$(tail -n 1 "$dir/i.out")" = '}' ] ||
		die "stdout holds more than one object"
	grep -q '"schema": 1' "$dir/i.out" || die "no schema number"
	grep -q '^Test completed: ' "$dir/i.err" || die "no line of the run on stderr"
	if command -v jq >/dev/null; then
		jq -e '.results.status == 0 and .results.bytes > 0 and (.results.rails | length) > 0' \
			"$dir/i.out" >/dev/null || die "the object is not as it should be"
	fi
}

# Every point of the range once, in a table that a pipe gets without progress, and as one object.
case_sweep() {
	target t --nic_priority_matrix="$tcp_matrix"
	sweep() {
		name=$1
		shift
		"$BENCH" --metadata_server="$metadata" --local_server_name=$name --port=0 --segment_id=t \
			--nic_priority_matrix="$tcp_matrix" --duration=0.05 --warm_up=0.01 --log_level=warn "$@" \
			>"$dir/$name.out" 2>"$dir/$name.err" </dev/null
	}
	sweep i --sweep=4K:64K --check || die "ended with $?"
	# On a machine that is very busy the target may be late with its answer.
	! grep -qv "^the target's CPU time is unknown" "$dir/i.err" || die "a pipe gets more than the table"
	[ "$(grep -c '^write ' "$dir/i.out")" -eq 5 ] && [ "$(grep -c '^read ' "$dir/i.out")" -eq 5 ] ||
		die "not five sizes each way"
	grep -Eq '^read +64 KiB +128 +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +([0-9.]+|-)$' "$dir/i.out" ||
		die "not the columns that were promised"
	tail -n 1 "$dir/i.out" | grep -q '^Sweep completed: 10 of 10 points' || die "no last line"
	sweep j --sweep=4K:8K --operation=write --json || die "ended with $?"
	python3 -c 'import json, sys
o = json.load(open(sys.argv[1]))
assert [(p["operation"], p["block_size"]) for p in o["sweep"]] == [("write", 4096), ("write", 8192)]
assert all(p["bytes"] > 0 and p["rails"] for p in o["sweep"]) and o["error"] == ""' "$dir/j.out" ||
		die "the object is not as it should be"
	sweep k --sweep=4K:1G && got=0 || got=$?
	[ $got -eq 1 ] || die "a target that is too small: ended with $got"
	grep -q 'buffer_size=1073741824, or lower the end of --sweep' "$dir/k.err" || die "it does not say what to do"
}

# A picture of what was measured: XML, a line per file and direction in each panel.
case_picture() {
	target t --nic_priority_matrix="$tcp_matrix"
	for name in 'a <&b' c; do
		"$BENCH" --metadata_server="$metadata" --local_server_name=i --port=0 --segment_id=t \
			--nic_priority_matrix="$tcp_matrix" --duration=0.02 --warm_up=0 --sweep=4K:16K --json \
			>"$dir/$name.json" 2>"$dir/i.err" </dev/null || die "sweep: $?"
	done
	"$PLOT" "$dir/a <&b.json" "$dir/c.json" >"$dir/out.svg" || die "ended with $?"
	python3 - "$dir/out.svg" <<-'END' || die "the picture is not as it should be"
		import sys, xml.etree.ElementTree as tree
		svg = '{http://www.w3.org/2000/svg}'
		root = tree.parse(sys.argv[1]).getroot()
		panels = [g for g in root.iter(svg + 'g') if g.get('class') == 'panel']
		assert root.tag == svg + 'svg' and len(panels) == 3
		for panel in panels:
		    lines = [g for g in panel if g.get('class', '').startswith('series')]
		    assert sorted(g.find(svg + 'title').text for g in lines) == sorted(
		        'tcp (%s) %s' % (f, op) for f in ('a <&b', 'c') for op in ('read', 'write'))
		    assert all(len(g.findall('.//' + svg + 'title')) == 4 for g in lines) # its own, 3 points
		assert not root.findall('.//' + svg + 'script')
	END
	"$PLOT" --title='mine <1>' --output="$dir/named.svg" "$dir/c.json" || die "--output ended with $?"
	grep -q 'mine &lt;1&gt;' "$dir/named.svg" || die "no title"
	echo '{"schema": 1, "sweep": [{"block_size": "x"}]}' >"$dir/bad.json"
	"$PLOT" "$dir/bad.json" "$dir/absent.json" >"$dir/bad.svg" 2>"$dir/bad.err" && got=0 || got=$?
	[ $got -eq 1 ] && [ ! -s "$dir/bad.svg" ] || die "bad files: ended with $got"
	grep -q 'bad.json: $.sweep\[0\].block_size: a text' "$dir/bad.err" || die "it does not say where"
	grep -q 'absent.json: No such file' "$dir/bad.err" || die "it does not name the absent file"
	"$PLOT" 2>"$dir/usage.err" && got=0 || got=$?
	[ $got -eq 2 ] || die "without files: ended with $got"
	"$PLOT" --version | grep -q '^mooncake_plot [0-9]' || die "--version"
}

case_duration_zero() {
	target t --nic_priority_matrix="$tcp_matrix"
	initiate i --segment_id=t --nic_priority_matrix="$tcp_matrix" --duration=0 || die "ended with $?"
	grep -q 'batch count 1,' "$dir/i.out" || die "not one batch"
	"$BENCH" --mode=target --metadata_server="$metadata" --local_server_name=u --port=0 \
		--duration=0.2 >"$dir/u.out" 2>"$dir/u.err" </dev/null || die "the target ended with $?"
}

# As where somebody limits threads' memory by it; sanitizers need more.
case_small_stack() {
	ulimit -s 64 || die "no smaller stack"
	target t --nic_priority_matrix="$tcp_matrix"
	initiate i --segment_id=t --nic_priority_matrix="$tcp_matrix" --duration=0 --check || die "ended with $?"
	stop_and_check "$target" TERM 0
}

case_stop_target() {
	for sig in TERM INT; do
		target "t$sig" --nic_priority_matrix="$tcp_matrix"
		has_record "t$sig" || die "there is no record while the target runs"
		stop_and_check "$target" $sig 0
		! has_record "t$sig" || die "the record is still there"
	done
}

# Stopped while it still fills its memory, which is more than it can fill in that time: the record
# goes with it, as for a target that is ready.
case_stop_preparing() {
	"$BENCH" --mode=target --metadata_server="$metadata" --local_server_name=t --port=0 \
		--nic_priority_matrix="$tcp_matrix" --buffer_size=3G --ready_file="$dir/t.ready" \
		>"$dir/t.out" 2>"$dir/t.err" </dev/null &
	target=$!
	pids="$pids $target"
	wait_until "the target's record" has_record t
	stop_and_check "$target" TERM 0
	! has_record t || die "the record is still there"
}

case_stop_initiator() {
	target t --nic_priority_matrix="$tcp_matrix"
	"$BENCH" --metadata_server="$metadata" --local_server_name=i --port=0 --segment_id=t \
		--nic_priority_matrix="$tcp_matrix" --threads=2 --duration=100 --block_size=4096 \
		--batch_size=16 >"$dir/i.out" 2>"$dir/i.err" </dev/null &
	initiator=$!
	pids="$pids $initiator"
	wait_until "the initiator's record" has_record i
	sleep 1
	kill -INT $initiator # a second one at once, as timeout(1) sends it, takes nothing away
	stop_and_check $initiator INT 1
	grep -q interrupted "$dir/i.err" || die "it does not say that it was interrupted"
	tail -n 1 "$dir/i.out" | grep -q '^Test completed: ' || die "no results so far"
	! has_record i || die "its record is still there"
	run_both --nic_priority_matrix="$tcp_matrix"
}

# The target dies: the initiator says so, with its exit code, in time.
case_target_killed() {
	target t --nic_priority_matrix="$tcp_matrix"
	"$BENCH" --metadata_server="$metadata" --local_server_name=i --port=0 --segment_id=t \
		--nic_priority_matrix="$tcp_matrix" --threads=1 --duration=100 --block_size=4096 \
		--batch_size=16 >"$dir/i.out" 2>"$dir/i.err" </dev/null &
	initiator=$!
	pids="$pids $initiator"
	sleep 1
	kill -KILL "$target"
	wait $initiator && got=0 || got=$?
	[ $got -eq 1 ] || die "the initiator ended with $got"
	grep -q "segment 't'" "$dir/i.err" || die "it does not name the segment"
	! grep 'broke: \(.*\): \1;' "$dir/i.err" || die "it gives the reason twice"
}

# A frozen target is given up at peer_timeout, also while an answer of it is waited for, and the target
# does not call who has left meanwhile an error.
case_target_frozen() {
	target t --nic_priority_matrix="$tcp_matrix" --set peer_timeout=1s
	initiate i --segment_id=t --nic_priority_matrix="$tcp_matrix" --set peer_timeout=1s --duration=100 \
		--log_level=warn &
	initiator=$!
	pids="$pids $initiator"
	wait_until "the initiator to find the target" has_record i
	sleep 1
	kill -STOP "$target"
	begin=$(date +%s%N)
	wait $initiator && got=0 || got=$?
	took=$((($(date +%s%N) - begin) / 1000000))
	kill -CONT "$target"
	[ $got -eq 1 ] || die "the initiator ended with $got"
	[ $took -lt 8000 ] || die "it took $took ms"
	! grep -q 'no answer within' "$dir/i.err" || die "it waited for the answer's own time"
}

# hang_up NAME PID: SIGHUP with a good config, and with bad ones, which change nothing.
hang_up() {
	echo '{ "deadline": "20s", "nic_priority_matrix": { "cpu:0": [["tcp:lo"], []], "*": [["tcp:lo"]] } }' >"$dir/$1.json"
	kill -HUP "$2"
	wait_until "$1 to take it" grep -q "reloaded: deadline '30s' -> '20s', nic_priority_matrix" "$dir/$1.err"
	echo '{ "nic_priority_matrix": { "*": [["tcp:nosuch0"]] } }' >"$dir/$1.json"
	kill -HUP "$2"
	wait_until "$1 to refuse a device" grep -q 'not reloaded, the old one stays: .*nosuch0' "$dir/$1.err"
	echo '{ "deadline": ' >"$dir/$1.json"
	kill -HUP "$2"
	wait_until "$1 to refuse a file" grep -q "not reloaded, the old one stays: .*$1.json:" "$dir/$1.err"
}

# The config file is read again while bytes move.
case_reload() {
	for name in t i; do
		echo '{ "nic_priority_matrix": { "*": [["tcp:lo"]] } }' >"$dir/$name.json"
	done
	target t --config="$dir/t.json"
	initiate c --nic_priority_matrix="$tcp_matrix" --segment_id=t --operation=write --check --duration=3 &
	checked=$!
	pids="$pids $checked"
	wait_until "the initiator" has_record c
	hang_up t "$target"
	wait $checked || die "the initiator ended with $?"
	check_run c
	"$BENCH" --metadata_server="$metadata" --local_server_name=i --port=0 --segment_id=t --config="$dir/i.json" \
		--threads=2 --duration=100 --block_size=4096 --batch_size=16 >"$dir/i.out" 2>"$dir/i.err" </dev/null &
	initiator=$!
	pids="$pids $initiator"
	wait_until "its rail" grep -q 'is up' "$dir/i.err"
	hang_up i $initiator
	stop_and_check $initiator TERM 1
	grep -q '^Test completed: .*batch count [1-9]' "$dir/i.out" || die "nothing was moved"
	stop_and_check "$target" TERM 0
}

case_unknown_segment() {
	target t --nic_priority_matrix="$tcp_matrix"
	expect 1 "nowhere" i --segment_id=nowhere --nic_priority_matrix="$tcp_matrix"
	grep -q "'t'" "$dir/i.err" || die "it does not say which segments exist"
	! grep -q "there are:.*'i'" "$dir/i.err" || die "it names the one that asks"
}

case_no_segment() {
	expect 1 'no other segment is known' i --nic_priority_matrix="$tcp_matrix"
}

# A port that the user named is his or nobody's.
case_port_in_use() {
	target t --nic_priority_matrix="$tcp_matrix"
	port=$(cut -d ' ' -f 2 "$dir/t.ready")
	expect 1 "$port" i --port="$port" --segment_id=t --nic_priority_matrix="$tcp_matrix"
}

case_name_in_use() {
	target t --nic_priority_matrix="$tcp_matrix"
	expect 1 "'t'" t --segment_id=t --nic_priority_matrix="$tcp_matrix"
}

case_unknown_device() {
	expect 2 'nosuchdev' i --segment_id=t --nic_priority_matrix='{"*": [["tcp:nosuchdev"]]}'
	expect 2 "no transport 'tpc'" i --segment_id=t --nic_priority_matrix='{"*": [["tpc:lo"]]}'
}

case_small_target() {
	target t --nic_priority_matrix="$tcp_matrix" --buffer_size=64K --batch_size=1 --threads=1
	expect 1 'start the target with --buffer_size=' i --segment_id=t \
		--nic_priority_matrix="$tcp_matrix" --block_size=64K --batch_size=2
}

# What was named is kept by a target, whatever its other flags describe, or refused.
case_named_buffer() {
	target t --nic_priority_matrix="$tcp_matrix" --buffer_size=1M --block_size=1M
	! grep -q 'buffer size' "$dir/t.err" || die "the target does not keep its size"
	expect 1 "segment 't': buffer 0 holds 1048576 bytes" i --segment_id=t \
		--nic_priority_matrix="$tcp_matrix" --block_size=1M --batch_size=2
	initiate i --segment_id=t --nic_priority_matrix="$tcp_matrix" || die "ended with $?"
	expect 2 'write --buffer_size=2097152' i --segment_id=t --nic_priority_matrix="$tcp_matrix" \
		--block_size=1M --batch_size=2 --buffer_size=1M
}

case_usage() {
	expect 2 'did you mean --block_size' i --blok_size=1
	expect 2 'from 1 to' i --block_size=0
	expect 2 'from 1 to' i --threads=-1
	expect 2 'from 1 to' i --block_size=1099511627776
	expect 2 'lanes' i --set transports.tcp.lane=2
	expect 2 'matrix' i --segment_id=t --nic_priority_matrix='{"*": [["tcp:lo"'
	"$BENCH" --json --threads=0 >"$dir/bad.out" 2>/dev/null && die "--threads=0 is taken"
	grep -q '"error": "flag --threads' "$dir/bad.out" || die "--json: no object about the failure"
	"$BENCH" --help >"$dir/help.out" || die "--help ended with $?"
	"$BENCH" --helpfull | grep -q metadata_server || die "--helpfull lacks the config keys"
	"$BENCH" --version | grep -q '^transfer_engine_bench ' || die "--version"
}

"case_$1"
