#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Jobs of the bench against real targets: usage: jobs.sh CASE.  A case is one of the functions case_*.
# JOBS is the folder of the jobs that come with the bench, made small by flags.
. "$(dirname "$0")/lib.sh"

# job NAME FILE FLAG...: run it to its end; returns its code.
job() {
	name=$1 file=$2
	shift 2
	timeout 120 "$BENCH" --job="$file" --metadata_server="$metadata" --local_server_name="$name" --port=0 \
		--nic_priority_matrix="$tcp_matrix" --log_level=info "$@" \
		>"$dir/$name.out" 2>"$dir/$name.err" </dev/null
}

# passed NAME: every byte was right.
passed() {
	tail -n 1 "$dir/$1.out" | grep -q '^Test completed: ' || die "$1: no last line"
	grep -q 'all bytes are right' "$dir/$1.out" || die "$1: the bytes were not checked"
}

# holds NAME EXPRESSION: what the JSON of a run says, as python sees it in o.
holds() {
	python3 -c 'import json, sys
o = json.load(open(sys.argv[1]))
assert eval(sys.argv[2]), {k: o.get(k) for k in ("job", "requests", "trace", "results")}' "$dir/$1.out" "$2" ||
		die "$1: not so: $2"
}

refuses() {
	want=$1 text=$2
	shift 2
	job r "$@" && got=0 || got=$?
	[ "$got" -eq "$want" ] || die "'$*' ended with $got instead of $want"
	grep -q -- "$text" "$dir/r.err" || die "'$*' did not say '$text'"
}

# Layers to two targets in turn, each with a message; then several batches in flight.
case_kv_cache() {
	target t --nic_priority_matrix="$tcp_matrix"
	target u --nic_priority_matrix="$tcp_matrix"
	job i "$JOBS/kv-cache-write.json" --footprint=8M --batch_size=8 --duration=0.5 --warm_up=0.1 --check ||
		die "ended with $?"
	passed i
	grep -q "^job  *'kv-cache-write': 64 KiB x 3 + 16 KiB x 1, 2 threads, depth 1, 2 targets, seed [0-9]" "$dir/i.out" ||
		die "the job is not named"
	grep -Eq '^rail .*-> t ' "$dir/i.out" && grep -Eq '^rail .*-> u ' "$dir/i.out" || die "one target got nothing"
	job j "$JOBS/kv-cache-write.json" --footprint=8M --batch_size=8 --duration=0.5 --segment_id=u,t --json \
		--seed=5 || die "several in flight: ended with $?"
	holds j 'o["job"]["depth"] == 4 and o["job"]["seed"] == 5 and o["job"]["name"] == "kv-cache-write"'
	holds j 'o["requests"]["targets"] == 2 and o["requests"]["nr"] >= 2'
	holds j 'o["requests"]["messages"] == o["results"]["batches"] == 32 * o["requests"]["nr"]'
	holds j 'o["requests"]["blocks_written"] == o["results"]["transfers"] == 8 * o["results"]["batches"]'
	holds j 'o["requests"]["blocks_read"] == 0 and 0 < o["requests"]["p50_ns"] <= o["requests"]["max_ns"]'
	holds j '16384 * o["results"]["transfers"] < o["results"]["bytes"] < 65536 * o["results"]["transfers"]'
	# What it prints is a job again, and every key of it is in the description.
	python3 -c 'import json, sys
job = json.load(open(sys.argv[1]))["job"]
json.dump(job, open(sys.argv[2], "w"))
text = open(sys.argv[3]).read()
missing = [k for k in job if "`%s`" % k not in text]
assert not missing, missing' "$dir/j.out" "$dir/again.json" "$JOBS/README.md" || die "a key is not described"
	job k "$dir/again.json" --json || die "again: ended with $?"
	holds k 'o["job"] == json.load(open(sys.argv[1].replace("k.out", "again.json")))'
}

# Every target gets every byte, once.
case_checkpoint() {
	for name in t u v; do
		target $name --nic_priority_matrix="$tcp_matrix"
	done
	job i "$JOBS/checkpoint-broadcast.json" --footprint=8M --block_size=256K --check || die "ended with $?"
	passed i
	job j "$JOBS/checkpoint-broadcast.json" --footprint=8M --block_size=256K --json || die "ended with $?"
	holds j 'o["results"]["bytes"] == 3 * (8 << 20) and o["requests"]["targets"] == 3'
	holds j 'sorted(r["bytes_written"] for r in o["results"]["rails"] if r["bytes_written"]) == [8 << 20] * 3'
}

# trace_line MS HASHES
trace_line() {
	echo "{\"timestamp\": $1, \"input_length\": 2048, \"output_length\": 7, \"hash_ids\": [$2]}" >>"$dir/trace.jsonl"
}

# First sight is a write, later ones are reads; with a small store blocks go and are missed.
case_trace() {
	target t --nic_priority_matrix="$tcp_matrix"
	target u --nic_priority_matrix="$tcp_matrix"
	trace_line 0 "1, 2, 3, 4"
	trace_line 10 "1, 2, 5"
	trace_line 10 "1, 1, 6"
	trace_line 300 "3, 4, 7, 8"
	trace_line 600 "1, 2, 3, 9"
	set -- "$JOBS/trace-replay.json" --trace="$dir/trace.jsonl" --block_size=32K --json --segment_id=t,u
	job i "$@" --footprint=1M || die "ended with $?"
	holds i 'o["trace"] == {"requests": 5, "places": 64, "reads": 8, "first_writes": 9, "misses": 0,
		"repeats": 1, "without_room": 0}'
	holds i 'o["requests"]["nr"] == 5 and o["requests"]["blocks_read"] == 8 and o["requests"]["blocks_written"] == 9'
	holds i 'o["results"]["bytes"] == 17 * 32768 and o["results"]["duration_s"] >= 0.6'
	holds i 'abs(o["requests"]["asked_per_s"] - 5 / 0.6) < 0.01'
	# Of a trace that is cut short only what was due.
	job l "$@" --footprint=1M --duration=0.2 || die "cut short: ended with $?"
	holds l 'o["requests"]["nr"] == 3 and abs(o["requests"]["asked_per_s"] - 3 / 0.2) < 0.01'
	job j "$@" --footprint=64K --check --speed=0 || die "checked: ended with $?"
	holds j 'o["trace"]["places"] == 4 and o["trace"]["misses"] > 0 and o["job"]["threads"] == 1'
	holds j 'o["results"]["checked_batches"] == 5 and o["results"]["target_checked_bytes"] > 0'
	job k "$@" --footprint=1M --speed=100 --check || die "faster: ended with $?"
	holds k 'abs(o["requests"]["asked_per_s"] - 500 / 0.6) < 1 and o["requests"]["asked_bytes_per_s"] is None'
}

# Sizes by their shares, reads and writes, most of them at few places.
case_mixed() {
	target t --nic_priority_matrix="$tcp_matrix"
	job i "$JOBS/mixed.json" --footprint=32M --threads=2 --duration=0.5 --check || die "ended with $?"
	passed i
	job j "$JOBS/mixed.json" --footprint=32M --batch_size=4 --duration=1 --seed=1 --json || die "several in flight: ended with $?"
	holds j 'o["requests"]["blocks_read"] > 0 and o["requests"]["blocks_written"] > 0'
	job k "$JOBS/mixed.json" --footprint=32M --duration=0.3 --operation=read --hot --json || die "ended with $?"
	holds k 'o["requests"]["blocks_written"] == 0 and o["job"]["locality"] == "hot"'
}

# An open loop does what it is asked for, no more.
case_steady() {
	target t --nic_priority_matrix="$tcp_matrix"
	echo '{"blocks": "4K", "batch": 2, "requests_per_s": 200, "read_share": 1, "depth": 4, "footprint": "1M"}' \
		>"$dir/r.json"
	job i "$dir/r.json" --duration=1 --warm_up=0.1 --json || die "ended with $?"
	holds i 'o["requests"]["asked_per_s"] == 200 and 1 <= o["requests"]["nr"] <= 201'
	holds i 'o["results"]["transfers"] == 2 * o["requests"]["nr"]'
	echo '{"blocks": "4K", "batch": 4, "bytes_per_s": "4MB", "footprint": "1M", "threads": 2}' >"$dir/b.json"
	job j "$dir/b.json" --duration=1 --warm_up=0 --check || die "ended with $?"
	passed j
	grep -q 'requests .*; 0.00 GB/s asked' "$dir/j.out" || die "the rate is not named"
	job k "$JOBS/steady-read.json" --footprint=8M --duration=0.3 --check || die "ended with $?"
	passed k
}

# Who thinks does not ask meanwhile.
case_think() {
	target t --nic_priority_matrix="$tcp_matrix"
	job i "$JOBS/chat-read.json" --footprint=32M --threads=2 --duration=1 --warm_up=0 --json || die "ended with $?"
	holds i '1 <= o["requests"]["nr"] <= 2 * 51'
	job j "$JOBS/chat-read.json" --footprint=32M --threads=2 --duration=0.3 --check || die "ended with $?"
	passed j
}

case_refused() {
	target t --nic_priority_matrix="$tcp_matrix"
	target u --nic_priority_matrix="$tcp_matrix"
	printf '{\n"bach": 1\n}\n' >"$dir/bad.json"
	refuses 2 "bad.json:2: key 'bach' is not known (did you mean 'batch'?)" "$dir/bad.json"
	refuses 2 'absent.json' "$dir/absent.json"
	refuses 2 'name one by --trace=FILE' "$JOBS/trace-replay.json"
	refuses 2 'leave one out' "$JOBS/mixed.json" --sweep
	refuses 1 'lower --footprint' "$JOBS/mixed.json" --footprint=1G --segment_id=t
	refuses 1 'use a larger --footprint' "$JOBS/mixed.json" --footprint=1M --segment_id=t
	refuses 1 "is for 1 targets, and --segment_id names 2" "$JOBS/mixed.json" --footprint=32M --segment_id=t,u
	refuses 1 "'t' is there twice" "$JOBS/kv-cache-write.json" --footprint=8M --segment_id=t,t
	refuses 1 'a name is empty' "$JOBS/kv-cache-write.json" --footprint=8M --segment_id=t,
	refuses 1 "is for 1 targets, and these segments are there: [tu],[tu]; choose by" "$JOBS/mixed.json" \
		--footprint=32M
	echo '{"timestamp": 1, "hash_ids": 3}' >"$dir/trace.jsonl"
	refuses 1 "trace.jsonl:1: 'hash_ids' is not a list" "$JOBS/trace-replay.json" --trace="$dir/trace.jsonl" \
		--footprint=8M
	if "$BENCH" --threads=1 --seed=3 2>"$dir/r.err"; then die "--seed without a job is taken"; fi
	grep -q 'it belongs to a job' "$dir/r.err" || die "--seed without a job: not said"
	"$BENCH" --helpfull | grep -q '^  zipf_exponent' || die "--helpfull lacks the keys of jobs"
}

# SIGINT ends it within a second, and it says what it has.
case_stopped() {
	target t --nic_priority_matrix="$tcp_matrix"
	"$BENCH" --job="$JOBS/steady-read.json" --footprint=8M --duration=100 --metadata_server="$metadata" \
		--local_server_name=i --port=0 --nic_priority_matrix="$tcp_matrix" --log_level=info >"$dir/i.out" 2>"$dir/i.err" </dev/null &
	initiator=$!
	pids="$pids $initiator"
	wait_until "the rail of the initiator" grep -q 'is up' "$dir/i.err"
	sleep 1
	stop_and_check $initiator INT 1
	grep -q interrupted "$dir/i.err" || die "it does not say that it was interrupted"
	! has_record i || die "its record is still there"
	job j "$JOBS/steady-read.json" --footprint=8M --duration=0.2 --check || die "the target is not as before: $?"
}

"case_$1"
