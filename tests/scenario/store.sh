#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# mooncake_store between real processes: usage: store.sh CASE.  STORE and MASTER are the programs.
. "$(dirname "$0")/lib.sh"

# usage TEXT ARG...: it must end with 2 and say this in one line.
usage() {
	text=$1
	shift
	"$STORE" "$@" --metadata_server="$metadata" >"$dir/u.out" 2>"$dir/u.err" </dev/null && got=0 || got=$?
	[ $got -eq 2 ] || die "'$*' ended with $got instead of 2"
	grep -qF -- "$text" "$dir/u.err" || die "'$*' did not say '$text'"
	[ "$(wc -l <"$dir/u.err")" -eq 1 ] || die "'$*' said more than one line"
}

# background NAME PROGRAM ARG...: in the background, until it says that it is ready; its pid is in $started.
background() {
	name=$1
	shift
	rm -f "$dir/$name.ready"
	"$@" --metadata_server="$metadata" --local_server_name="$name" --port=0 --advertise_address=127.0.0.1 \
		--nic_priority_matrix="$tcp_matrix" --ready_file="$dir/$name.ready" >>"$dir/$name.out" 2>>"$dir/$name.err" </dev/null &
	started=$!
	pids="$pids $started"
	wait_until "'$name' to be ready" ready_or_gone
	[ -f "$dir/$name.ready" ] || die "'$name' has ended"
}

ready_or_gone() {
	[ -f "$dir/$name.ready" ] || gone $started
}

# master FLAG...: its pid is in $master.
master() {
	background mooncake_master "$MASTER" "$@"
	master=$started
}

# lender NAME FLAG...
lender() {
	lender=$1
	shift
	background "$lender" "$STORE" serve "$@"
	lender=$started
}

# store NAME ARG...: run it to its end; output in $dir/NAME.out and .err; returns its code.
store() {
	name=$1
	shift
	timeout 120 "$STORE" "$@" --metadata_server="$metadata" --local_server_name="$name" --port=0 --advertise_address=127.0.0.1 \
		--nic_priority_matrix="$tcp_matrix" >"$dir/$name.out" 2>"$dir/$name.err"
}

ok() {
	store "$@" </dev/null || die "'$*' ended with $?"
	[ ! -s "$dir/$1.err" ] || die "'$*' is not quiet in a pipe: $(cat "$dir/$1.err")"
}

# must CODE TEXT NAME ARG...: it must end so, and say this on stderr in one line.
must() {
	want=$1 text=$2
	shift 2
	store "$@" </dev/null && got=0 || got=$?
	[ "$got" -eq "$want" ] || die "'$*' ended with $got instead of $want"
	grep -q -- "$text" "$dir/$1.err" || die "'$*' did not say '$text'"
}

# json NAME EXPRESSION: true of the object on its stdout?
json() {
	python3 -c 'import json, sys
d = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else 1)' "$dir/$1.out" "$2" || die "$1: not so: $2: $(cat "$dir/$1.out")"
}

# ends PID CODE [SIGNAL]
ends() {
	[ -z "${3:-}" ] || kill "-$3" "$1"
	wait_until "process $1 to end" gone "$1"
	wait "$1" && got=0 || got=$?
	[ "$got" -eq "$2" ] || die "process ended with $got instead of $2"
}

bytes() {
	head -c "$1" /dev/urandom
}

# Every verb, and the warm cache of a master that was killed.
case_values() {
	bytes 3000001 >"$dir/file"
	: >"$dir/empty"
	master --dir="$dir/log"
	lender l1 --size=24M,8M --json
	json l1 'd["lent"] == 32 << 20 and len(d["pieces"]) == 2'
	ok p put a/one "$dir/file" --json
	json p 'd["key"] == "a/one" and d["size"] == 3000001'
	must 1 "it is there already; --replace" p put a/one "$dir/file"
	must 1 'at least one byte' p put a/none "$dir/empty"
	ok p put a/one "$dir/file" --replace
	printf 'from a pipe' | store p put b/two - --hard_pin || die "a pipe was not put"
	ok g get a/one -o "$dir/copy"
	cmp "$dir/file" "$dir/copy" || die "the bytes differ"
	must 1 'it is there already; --force' g get a/one -o "$dir/copy"
	ok g get a/one -o "$dir/copy" --force --json
	json g 'd["size"] == d["whole"] == 3000001'
	ok g get b/two -o -
	[ "$(cat "$dir/g.out")" = 'from a pipe' ] || die "stdout has something else"
	ok g get a/one -o - --offset=1999999 --len=7
	tail -c +2000000 "$dir/file" | head -c 7 | cmp - "$dir/g.out" || die "a part differs"
	must 1 'behind the end' g get a/one -o - --offset=3000002
	must 1 "no such value" g get nosuch -o -
	ls -A "$dir" | grep -q mc-part && die "unfinished work is left"
	ok l ls a/ --json
	json l '[(o["key"], o["size"], o["complete"]) for o in d["objects"]] == [("a/one", 3000001, True)]'
	ok s stat b/two --json
	json s 'd["object"]["hard_pinned"] and [(p["engine"], p["size"]) for p in d["places"]] == [("l1", 11)]'
	ok p put "$(printf 'no\377text')" "$dir/file" --json
	json p 'd["key_hex"] == "6e6fff74657874" and "key" not in d'
	ok l ls no --json
	json l '[o.get("key_hex") for o in d["objects"]] == ["6e6fff74657874"]'
	ok r rm "$(printf 'no\377text')"
	ok s stat --json
	json s 'd["objects"] == 2 and d["segments"] == 2 and d["lent"] == 32 << 20 and d["epoch"] == 1'
	# It is killed in the middle of gets, and puts of others, which go on when it is back.
	store b bench --op=get --size=64K --batch=4 --duration=3 --check --json </dev/null &
	bench=$!
	wait_until "values to be there" stored 6
	ends $master 137 KILL
	master --dir="$dir/log"
	wait $bench || die "the bench ended with $?"
	json b 'd["verified"] > 0'
	must 1 'was started anew' p put late "$dir/file" --timeout=1
	ok g get a/one -o "$dir/copy" --force
	cmp "$dir/file" "$dir/copy" || die "after a restart the bytes differ"
	ok s stat --json
	json s 'd["objects"] == 2 and d["epoch"] == 2'
	must 1 'leased or pinned; --force' r rm b/two
	must 1 'no such value' r rm nosuch
	ok r rm --prefix=b/ --force --json
	json r 'd["removed"] == 1'
	must 2 "expression 'a('" r rm '--regex=a('
	ok r rm '--regex=^a/o' --force --json
	json r 'd["removed"] == 1'
	ok r rm --all
	ok l ls
	[ ! -s "$dir/l.out" ] || die "something is left: $(cat "$dir/l.out")"
	ends $lender 0 TERM
	ok s stat --json
	json s 'd["segments"] == 0'
	ends $master 0 TERM
}

# They are started in the wrong order: who puts waits for the master and for who lends, who lends for the master.
case_order() {
	bytes 100000 >"$dir/file"
	store early put a/one "$dir/file" </dev/null &
	put=$!
	sleep 0.3
	master
	sleep 0.3
	lender l1 --size=16M
	wait $put || die "the put ended with $?: $(cat "$dir/early.err")"
	ok g get a/one -o "$dir/copy"
	cmp "$dir/file" "$dir/copy" || die "the bytes differ"
	ends $lender 0 TERM
	ends $master 0 TERM
	(sleep 6 && exec "$MASTER" --metadata_server="$metadata" --port=0 --advertise_address=127.0.0.1 \
		--nic_priority_matrix="$tcp_matrix" >"$dir/late.out" 2>"$dir/late.err" </dev/null) &
	late=$!
	pids="$pids $late"
	lender l2 --size=16M
	grep -q "no master 'mooncake_master' yet" "$dir/l2.err" || die "who lends is silent about the master: $(cat "$dir/l2.err")"
	must 1 "start mooncake_master with" n ls --master=nobody --timeout=0.5
}

# A full pool says who has the space; evicted values make room; tenants do not see each other.
case_full() {
	bytes 1000000 >"$dir/file"
	master --default_kv_lease_ttl=500ms
	must 1 'more than the' s serve --size=10000T
	must 1 'at least 256 bytes' s serve --size=100
	must 1 'nobody lends memory' p put early "$dir/file" --timeout=1
	lender l1 --size=4M
	must 1 'no room for all 2 replicas' b bench --op=put --size=64K --batch=1 --replicas=2 --duration=0.2 --timeout=0.5
	for i in 1 2 3 4; do
		ok p put "pin/$i" "$dir/file" --hard_pin
	done
	must 1 'pinned' p put one-more "$dir/file" --timeout=1
	grep -q 'MiB\|bytes\|of ' "$dir/p.err" || die "nobody is said to have the space"
	ok r rm --all --force
	for i in 1 2 3 4 5 6 7 8; do
		ok p put "plain/$i" "$dir/file"
	done
	ok g get plain/8 -o "$dir/copy"
	cmp "$dir/file" "$dir/copy" || die "the bytes differ"
	must 1 'no such value' g get plain/1 -o -
	ok l ls --tenant=other
	[ ! -s "$dir/l.out" ] || die "another tenant's values are told"
	must 1 'no such value' g get plain/8 -o - --tenant=other
	# More than there is at all.
	bytes 5000000 >"$dir/large"
	must 1 "'large'" p put large "$dir/large" --timeout=5
}

# The lender is killed under gets and puts: they fail with a sentence, and bytes are right or not there.
case_lender() {
	bytes 3000000 >"$dir/file"
	master --client_ttl=2
	lender l1 --size=16M
	first=$lender
	lender l2 --size=16M
	ok p put two "$dir/file" --replicas=2
	ok s stat two --json
	json s 'sorted(p["engine"] for p in d["places"]) == ["l1", "l2"]'
	store b bench --op=get --size=64K --batch=8 --replicas=2 --duration=3 --check --json </dev/null &
	bench=$!
	wait_until "values to be there" stored 6
	kill -KILL $first
	wait $bench || die "values with two replicas were not got while a lender was killed"
	json b 'd["verified"] > 0'
	ok g get two -o "$dir/copy"
	cmp "$dir/file" "$dir/copy" || die "the bytes differ"
	wait_until "the master to give l1 up" one_lender
	lender l3 --size=16M
	ok p put again "$dir/file" --replicas=2
	ok s stat again --json
	json s 'len(d["places"]) == 2'
}

# Memory of a CXL pool is lent (cxl-guest.sh has made the pool), and no other wire is there for values.
case_cxl() {
	tcp_matrix='{"*": [["cxl:dax0.0"]]}'
	bytes 3000001 >"$dir/file"
	master
	lender l1 --size=32M --location=cxl:0 --json
	json l1 'd["lent"] == 32 << 20 and d["pieces"][0]["location"] == "cxl:0"'
	lender l2 --size=32M --location=cxl:0
	ok p put a/one "$dir/file" --replicas=2
	ok s stat a/one --json
	json s 'sorted(p["engine"] for p in d["places"]) == ["l1", "l2"]'
	ok g get a/one -o "$dir/copy"
	cmp "$dir/file" "$dir/copy" || die "the bytes differ"
	ok g get a/one -o - --offset=1999999 --len=7
	tail -c +2000000 "$dir/file" | head -c 7 | cmp - "$dir/g.out" || die "a part differs"
	for op in put get; do
		ok b bench --op=$op --size=10001 --batch=4 --duration=1 --check --json
		json b 'd["verified"] > 0'
	done
	# A writer's process is gone, and so is a lender's: the other one's replica is read.
	kill -KILL $lender
	ok g get a/one -o "$dir/copy" --force
	cmp "$dir/file" "$dir/copy" || die "after a lender's end the bytes differ"
}

# stored N: are there more than N values?
stored() {
	store s stat --json </dev/null && python3 -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["objects"] <= int(sys.argv[2]))' "$dir/s.out" "$1"
}

one_lender() {
	store s stat --json </dev/null && python3 -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["segments"] != 1)' "$dir/s.out"
}

# What bench says, and its traces against a pool that may be full to the last byte.
case_bench() {
	master
	lender l1 --size=16M
	for op in put get exist; do
		ok b bench --op=$op --size=10000 --batch=3 --jobs=2 --keys=7 --duration=0.3 --check --json
		json b 'd["op"] == "'$op'" and d["values"] > 0 and d["p50_us"] > 0 and (d["op"] == "exist" or d["verified"] > 0)'
	done
	ok s stat --json
	json s 'd["objects"] == 0'
	python3 - >"$dir/trace" <<-'END'
		import json, random
		random.seed(4)
		for i in range(400):
		    who = random.randrange(30)
		    print(json.dumps({'hash_ids': [0, 1] + [100 * who + b for b in range(2, 2 + random.randrange(1, 9))] + [90000 + i]}))
	END
	ok t bench --trace="$dir/trace" --capacities=40,400 --master_program="$MASTER" --svg="$dir/t.svg" --json
	json t 'all(p["ours"] >= p["usable"] > 0 and p["ours"] <= p["Belady"] + 1e-9 for p in d["points"])'
	json t 'd["points"][1]["ours"] >= d["points"][1]["LRU"] - 0.01'
	grep -q '</svg>' "$dir/t.svg" || die "nothing was drawn"
	echo '{"no": 1}' >"$dir/bad"
	must 1 'no list "hash_ids"' t bench --trace="$dir/bad" --master_program="$MASTER"
	must 1 "program '/nosuch'" t bench --trace="$dir/trace" --master_program=/nosuch
}

# The open traces, which lie beside the repository, through the real master.
case_traces() {
	for trace in conversation synthetic; do
		[ -f "$TRACES/$trace.jsonl" ] || skip "there is no $TRACES/$trace.jsonl"
		ok t bench --trace="$TRACES/$trace.jsonl" --capacities=1000 --master_program="$MASTER" --json
		json t 'all(p["ours"] >= p["LRU"] and p["usable"] >= 0.9 * p["ours"] for p in d["points"])'
	done
}

# etcd stops: who is at it goes on, and who comes later may come.
case_etcd() {
	. "$(dirname "$0")/../etcd.sh"
	etcd_needs
	etcd_start one
	metadata=etcd://$endpoint
	bytes 100000 >"$dir/file"
	master
	lender l1 --size=16M
	ok p put before "$dir/file"
	store b bench --op=put --size=64K --batch=4 --duration=4 --check --json </dev/null &
	bench=$!
	wait_until "values to be put" stored 4
	kill "$etcd"
	wait_until "etcd to end" gone "$etcd"
	wait $bench || die "the bench did not outlive etcd"
	json b 'd["verified"] > 0 and d["seconds"] < 30'
	store g get before -o - --timeout=3 </dev/null && die "a new client came without etcd"
	grep -q . "$dir/g.err" || die "nothing was said"
	etcd_start one
	wait_until "a new client to come" fetched
	cmp "$dir/file" "$dir/copy" || die "the bytes differ"
}

fetched() {
	store g get before -o "$dir/copy" --force </dev/null
}

case_usage() {
	"$STORE" --help >"$dir/h.out" || die "--help failed"
	[ "$(wc -l <"$dir/h.out")" -le 24 ] || die "--help has $(wc -l <"$dir/h.out") lines"
	awk 'length > 80 { exit 1 }' "$dir/h.out" || die "--help is wider than 80 columns"
	grep -q 'mooncake_store serve --size=4G' "$dir/h.out" || die "--help has no example"
	"$STORE" --helpfull >"$dir/hf.out" || die "--helpfull failed"
	grep -q -- '--metadata_server=' "$dir/hf.out" || die "--helpfull lacks the config's keys"
	"$STORE" --version | grep -q '^mooncake_store [0-9]' || die "--version says nothing"
	usage 'what to do is missing'
	usage "'ptu' is no verb (did you mean put?)" ptu a b
	usage 'put: it takes KEY FILE' put a
	usage "get: 'b' is one too many" get a b
	usage 'serve: --size is missing' serve
	usage "flag --size: '4X' is no size" serve --size=4X
	usage 'flag --location: 2 of them for 3 sizes' serve --size=1M,2M,3M --location=cpu:0,cpu:1
	usage 'rm: what to remove is missing' rm
	usage 'rm: one of KEY' rm a --all
	usage 'flag --offset is not for put' put a b --offset=5
	usage 'both write to stdout' get a -o - --json
	usage 'one of them' put a b --soft_pin --hard_pin
	usage "flag --op: 'del' is none of" bench --op=del
	usage 'flag --keys: 3 are less than a batch of 16' bench --keys=3
	usage 'flag --svg: it is for --trace' bench --svg=x
	usage 'flag --jobs: it is not for --trace' bench --trace=x --jobs=2
	usage "flag --capacities: '5,x' is no list" bench --trace=x --capacities=5,x
	usage 'flag --maste is not known (did you mean --master?)' ls --maste=x
	usage "flag --timeout: 'long' is no time" ls --timeout=long
	usage "'/nosuch'" ls --config=/nosuch --json
	grep -q '"error": ' "$dir/u.out" || die "no JSON: $(cat "$dir/u.out")"
	# Without a master the sentence says what to do.
	"$STORE" ls --timeout=0.5 --metadata_server="$metadata" --nic_priority_matrix="$tcp_matrix" >"$dir/n.out" 2>"$dir/n.err" && got=0 || got=$?
	[ $got -eq 1 ] || die "without a master it ended with $got"
	grep -q "mooncake_master" "$dir/n.err" || die "no word of the master"
	"$STORE" put k "$dir" --metadata_server="$metadata" 2>"$dir/f.err" && die "a folder was put"
	grep -q 'it is a folder' "$dir/f.err" || die "of a folder is said: $(cat "$dir/f.err")"
}

"case_$1"
