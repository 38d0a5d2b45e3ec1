#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# mooncake_p2p between real processes: usage: p2p.sh CASE.  P2P is the program.
. "$(dirname "$0")/lib.sh"

# p2p NAME ARG...: run it to its end as engine NAME; output in $dir/NAME.out and .err; returns its code.
p2p() {
	name=$1
	shift
	timeout 120 "$P2P" "$@" --metadata_server="$metadata" --local_server_name="$name" --port=0 \
		--nic_priority_matrix="$tcp_matrix" >"$dir/$name.out" 2>"$dir/$name.err" </dev/null
}

# serving NAME ARG...: the same in the background, until it says that it is ready; its pid is in $served.
serving() {
	name=$1
	shift
	rm -f "$dir/$name.ready"
	"$P2P" "$@" --metadata_server="$metadata" --local_server_name="$name" --port=0 --ready_file="$dir/$name.ready" \
		--nic_priority_matrix="$tcp_matrix" >"$dir/$name.out" 2>"$dir/$name.err" </dev/null &
	served=$!
	pids="$pids $served"
	wait_until "'$name' to be ready" ready_or_gone
	[ -f "$dir/$name.ready" ] || die "'$name' has ended"
}

ready_or_gone() {
	[ -f "$dir/$name.ready" ] || gone $served
}

# must CODE TEXT NAME ARG...: it must end so, and say this on stderr in one line.
must() {
	want=$1 text=$2
	shift 2
	p2p "$@" && got=0 || got=$?
	[ "$got" -eq "$want" ] || die "'$*' ended with $got instead of $want"
	grep -q -- "$text" "$dir/$1.err" || die "'$*' did not say '$text'"
}

ok() {
	p2p "$@" || die "'$*' ended with $?"
	[ ! -s "$dir/$1.err" ] || die "'$*' is not quiet in a pipe: $(cat "$dir/$1.err")"
}

# ends PID CODE [SIGNAL]: within a time that a busy machine keeps.
ends() {
	[ -z "${3:-}" ] || kill "-$3" "$1"
	wait_until "process $1 to end" gone "$1"
	wait "$1" && got=0 || got=$?
	[ "$got" -eq "$2" ] || die "process ended with $got instead of $2"
}

# json NAME EXPRESSION: true of the object on its stdout?
json() {
	python3 -c 'import json, sys
d = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else 1)' "$dir/$1.out" "$2" || die "$1: not so: $2: $(cat "$dir/$1.out")"
}

bytes() {
	head -c "$1" /dev/urandom
}

nothing_left() {
	! ls -A "$1" | grep -q 'mc-part$' || die "unfinished work is left in $1: $(ls -A "$1")"
}

# A checkpoint as they are: an index, two shards, small files.
checkpoint() {
	mkdir -p "$1/sub/empty"
	python3 - "$1" <<-'END'
		import json, os, struct, sys
		names = ['model-%05d-of-00002.safetensors' % i for i in (1, 2)]
		for i, name in enumerate(names):
		    n = 3000001 + i
		    head = json.dumps({'w%d' % i: {'dtype': 'U8', 'shape': [n], 'data_offsets': [0, n]}}).encode()
		    with open(os.path.join(sys.argv[1], name), 'wb') as f:
		        f.write(struct.pack('<Q', len(head)) + head + os.urandom(n))
		with open(os.path.join(sys.argv[1], 'model.safetensors.index.json'), 'w') as f:
		    json.dump({'weight_map': {'w0': names[0], 'w1': names[1]}}, f)
	END
	printf '{}' >"$1/config.json"
	: >"$1/sub/none"
	printf 'x' >"$1/sub/ü 日本.txt"
	printf '#!/bin/sh\n' >"$1/sub/run"
	chmod 755 "$1/sub/run"
}

# same A B: the same paths, bytes, and who may execute?
same() {
	diff -r "$1" "$2" >/dev/null || die "'$2' is not '$1': $(diff -r "$1" "$2")"
	[ "$(cd "$1" && find . -perm -100 | sort)" = "$(cd "$2" && find . -perm -100 | sort)" ] || die "modes differ"
	[ "$(cd "$1" && find . | sort)" = "$(cd "$2" && find . | sort)" ] || die "paths differ"
}

# A file, several as objects of their own and as one, a folder; what is there already.
case_files() {
	bytes 5000000 >"$dir/one.bin"
	bytes 1 >"$dir/two"
	checkpoint "$dir/tiny-llama"
	serving a serve "$dir/one.bin" "$dir/two" "$dir/tiny-llama"
	grep -q "serving 'tiny-llama': 5.7 MiB in 7 files, 6 shards of 1 MiB" "$dir/a.out" || die "a says: $(cat "$dir/a.out")"
	serving b serve --name='группа/both files' "$dir/two" "$dir/one.bin" --json
	json b 'd["engine"] == "b" and d["objects"][0]["name"] == "группа/both files" and d["objects"][0]["size"] == 5000001'
	mkdir "$dir/out"
	ok g1 get one.bin -o "$dir/out" --json
	json g1 'd["size"] == 5000000 and d["files"] == 1 and d["resumed"] == 0 and d["path"].endswith("/out/one.bin")'
	cmp "$dir/one.bin" "$dir/out/one.bin" || die "the file differs"
	ok g2 get tiny-llama -o "$dir/out/copy"
	same "$dir/tiny-llama" "$dir/out/copy"
	ok g3 get 'группа/both files' --output="$dir/out/both"
	cmp "$dir/two" "$dir/out/both/two" || die "the file differs"
	must 1 "is there already; --force replaces it" g4 get one.bin -o "$dir/out"
	printf 'old' >"$dir/out/copy/old"
	must 1 "is there already; --force replaces it" g5 get tiny-llama -o "$dir/out/copy"
	ok g6 get tiny-llama -o "$dir/out/copy" --force
	same "$dir/tiny-llama" "$dir/out/copy"
	must 1 "one.bim" g7 get one.bim -o "$dir/out/x"
	nothing_left "$dir/out"
	# Another object under the same name is refused; the same one is offered twice.
	mkdir "$dir/else"
	bytes 5000000 >"$dir/else/one.bin"
	must 1 "'c'" c serve "$dir/else/one.bin"
	grep -q "'a'" "$dir/c.err" || die "the other owner is not named: $(cat "$dir/c.err")"
	serving d serve "$dir/out/one.bin"
	ok s stat one.bin --json
	json s 'sorted(e["engine"] for e in d["sources"]) == ["a", "d"] and d["files"][0]["path"] == "one.bin"'
	ends "$served" 0 TERM
	ok s stat one.bin --json
	json s 'len(d["sources"]) == 1'
	# A checkpoint that is not whole.
	truncate -s -1 "$dir/tiny-llama/model-00002-of-00002.safetensors"
	must 1 "file 'model-00002-of-00002.safetensors': cut short" e serve "$dir/tiny-llama" --name=cut
	serving e serve "$dir/tiny-llama" --name=cut --force
}

# Over a device that is given the memory itself (MATRIX): not every kernel lets it have pages of files.
case_pinned() {
	tcp_matrix=$MATRIX
	bytes 2500000 >"$dir/one.bin"
	mkdir -p "$dir/two/sub"
	bytes 1500000 >"$dir/two/a"
	bytes 5 >"$dir/two/sub/b"
	serving a serve "$dir/one.bin" "$dir/two"
	mkdir "$dir/out"
	p2p g get one.bin -o "$dir/out" || die "get ended with $?"
	cmp "$dir/one.bin" "$dir/out/one.bin" || die "the file differs"
	p2p h get two -o "$dir/out/two" || die "get ended with $?"
	same "$dir/two" "$dir/out/two"
	nothing_left "$dir/out"
	ends "$served" 0 TERM
}

# getting NAME ARG...: in the background; its pid is in $got.
getting() {
	name=$1
	shift
	"$P2P" "$@" --metadata_server="$metadata" --local_server_name="$name" --port=0 \
		--nic_priority_matrix="$tcp_matrix" >"$dir/$name.out" 2>"$dir/$name.err" </dev/null &
	got=$!
	pids="$pids $got"
}

# arrived N: so many bytes have come into the part, which was made of zeros.
arrived() {
	[ "$(cat "$dir"/out/.big.*.mc-part 2>/dev/null | tr -d '\0' | wc -c)" -ge "$1" ]
}

# More than four threads have under way, so that a shard is whole.
arrived_files() {
	[ "$(cat "$dir"/out/.llama.*.mc-part/model-* 2>/dev/null | tr -d '\0' | wc -c)" -ge 4700000 ]
}

# A getter is killed, or told to end: what has arrived is kept, and not seen as the file; the same command goes on.
case_resume() {
	bytes 24000000 >"$dir/big"
	mkdir "$dir/out"
	serving a serve "$dir/big" --shard_size=1M
	for signal in KILL INT; do
		getting g get big -o "$dir/out/big" --max_rate=6M
		# Four shards may be in parts from either time.
		wait_until "the first bytes" arrived $([ $signal = INT ] && echo 12000000 || echo 3000000)
		kill -$signal $got
		wait $got && code=0 || code=$?
		[ $code -eq $([ $signal = INT ] && echo 1 || echo 137) ] || die "it ended with $code on $signal"
		[ "$(ls "$dir/out")" = "" ] || die "a part of it is visible: $(ls "$dir/out")"
	done
	grep -q "interrupted; .*: kept in .*, and the same command goes on from there" "$dir/g.err" ||
		die "it said: $(cat "$dir/g.err")"
	ok g get big -o "$dir/out/big" --json
	json g '3 << 20 <= d["resumed"] < d["size"] and 0 < d["moved"] < d["size"]'
	cmp "$dir/big" "$dir/out/big" || die "the file differs"
	nothing_left "$dir/out"
	# A folder likewise, over one that nobody may tell from its start.
	checkpoint "$dir/llama"
	serving b serve "$dir/llama"
	getting h get llama -o "$dir/out/llama" --max_rate=1M
	wait_until "the first files" arrived_files
	kill -KILL $got
	wait $got
	[ ! -e "$dir/out/llama" ] || die "a part of it is visible"
	ok h get llama -o "$dir/out/llama" --json
	json h 'd["resumed"] > 0'
	same "$dir/llama" "$dir/out/llama"
}

# ls, stat, rm, for people and for programs; who serves what was removed, ends.
case_look() {
	bytes 3000000 >"$dir/model-a"
	bytes 10 >"$dir/model-b"
	ok l ls
	[ ! -s "$dir/l.out" ] || die "ls shows: $(cat "$dir/l.out")"
	ok l ls --json
	json l 'd == {"objects": []}'
	serving a serve "$dir/model-a" "$dir/model-b" --rack=r1
	a=$served
	serving b get model-a -o "$dir/copy" --serve
	ok l ls
	[ "$(wc -l <"$dir/l.out")" -eq 3 ] && grep -q '^model-a  .*2.9 MiB' "$dir/l.out" || die "ls shows: $(cat "$dir/l.out")"
	ok l ls model-b --json
	json l 'len(d["objects"]) == 1 and d["objects"][0]["name"] == "model-b" and d["objects"][0]["size"] == 10'
	ok s stat model-a
	for want in '^name       model-a$' '^size       2.9 MiB (3000000 bytes)$' '^shards     3 of 1 MiB$' '^root       [0-9a-f]\{32\}$' \
		'a  seed  3 of 3 shards  this host  rack r1$' 'b  replica  3 of 3 shards  this host$' '^files      model-a  2.9 MiB$'; do
		grep -q "$want" "$dir/s.out" || die "stat lacks '$want': $(cat "$dir/s.out")"
	done
	ok s stat model-a --json
	json s '[(e["engine"], e["role"], e["rack"]) for e in sorted(d["sources"], key=lambda e: e["engine"])] == \
		[("a", "seed", "r1"), ("b", "replica", "")]'
	must 1 "model-c" s stat model-c
	must 1 "model-c" r rm model-c --json
	json r '"model-c" in d["error"]'
	ok r rm model-a --json
	json r 'd["removed"] == "model-a" and d["told"] == 2'
	must 1 "model-a" s stat model-a
	ends "$served" 0 # nothing is left to serve
	grep -q "'model-a' was removed by 'r'" "$dir/b.err" || die "b said: $(cat "$dir/b.err")"
	cmp "$dir/model-a" "$dir/copy" || die "what had been got is gone"
	ok l ls
	grep -q '^model-b' "$dir/l.out" || die "the other object has gone, too"
	ok r rm model-b
	grep -q "^removed 'model-b'; 1 engine serves it no more$" "$dir/r.out" || die "rm said: $(cat "$dir/r.out")"
	ends $a 0
}

unoffered() {
	p2p u ls "$1" --json && python3 -c 'import json, sys
sys.exit(json.load(open(sys.argv[1]))["objects"][0]["sources"])' "$dir/u.out"
}

# What goes wrong around files: cut or changed while served, no room, a second signal not needed.
case_trouble() {
	bytes 4000000 >"$dir/cut"
	bytes 1000 >"$dir/other"
	serving a serve "$dir/cut" "$dir/other"
	a=$served
	truncate -s 100000 "$dir/cut"
	wait_until "it to be noticed" grep -q "cut' has been cut to 100000 of its 4000000 bytes while 'cut' was served" "$dir/a.err"
	must 1 "'cut'" g get cut -o "$dir/x"
	[ ! -e "$dir/x" ] || die "it is visible"
	ok g get other -o "$dir/y"
	printf 'more' >>"$dir/other"
	ends $a 1 # nothing is left
	grep -q "other' has been changed" "$dir/a.err" || die "a said: $(cat "$dir/a.err")"
	# No room on the disk: one sentence, nothing is left.
	bytes 4000000 >"$dir/big"
	serving b serve "$dir/big"
	mkdir "$dir/full"
	(ulimit -f 2000; must 1 "no room on the disk for 3.8 MiB (4000000 bytes)" f get big -o "$dir/full/big") || exit 1
	[ "$(wc -l <"$dir/f.err")" -eq 1 ] || die "more than a sentence: $(cat "$dir/f.err")"
	[ "$(ls -A "$dir/full")" = "" ] || die "something is left: $(ls -A "$dir/full")"
	# A part that is cut while it is filled: our own fault, and not the source's.
	mkdir "$dir/out"
	getting t get big -o "$dir/out/big" --max_rate=1M
	wait_until "the first bytes" arrived 65536
	truncate -s 50000 "$dir"/out/.big.*.mc-part
	ends $got 1
	grep -q "big.*mc-part' has been cut to 50000 of its 4000000 bytes meanwhile" "$dir/t.err" || die "of a cut part is said: $(cat "$dir/t.err")"
	! grep -q 'is dropped' "$dir/t.err" || die "the source is blamed: $(cat "$dir/t.err")"
	# One that comes later is waited for; who waits can be told to end.
	getting w get late -o "$dir/late" --wait=60s
	bytes 100 >"$dir/src"
	MC_RACK=r9 serving c serve "$dir/src" --name=late
	ends $got 0
	cmp "$dir/src" "$dir/late" || die "the file differs"
	ok s stat late --json
	json s 'd["sources"][0]["rack"] == "r9"'
	# Nobody offers it any more: ls says so.
	ok l ls late --json
	json l 'd["objects"][0]["sources"] == 1'
	kill -KILL $served
	wait_until "its key to go" unoffered late
	ok l ls late
	grep -q '^late .* none  20' "$dir/l.out" || die "ls shows: $(cat "$dir/l.out")"
	ok s stat late --json # that it is a file is in the manifest, which has gone with its source
	json s 'd["sources"] == [] and d["kind"] is None and d["files"] == []'
	must 1 "'late': nobody offers it now; --patience=S waits longer" g get late -o "$dir/late" --force --patience=1
	# A folder with a broken link cannot be offered as it is; files of one name cannot be one object.
	mkdir -p "$dir/f1" "$dir/f2"
	printf 'x' >"$dir/f1/f"
	printf 'y' >"$dir/f2/f"
	must 1 "f1/f' and '.*/f2/f' would both be 'f' in the object" x serve --name=two "$dir/f1/f" "$dir/f2/f"
	ln -s nowhere "$dir/f1/l"
	must 1 "link '.*/f1/l': it leads nowhere" x serve "$dir/f1"
	getting w get never -o "$dir/never" --wait=60s
	sleep 0.5
	ends $got 1 INT
}

# The sample of the public project.
case_sample() {
	serving t --cmd=trainer --file_size_mb=100
	ok i -cmd=inferencer -file_size_mb 100
	for want in '^GetReplica done, duration (ms): [0-9]*$' \
		'^Object retrieval done: duration (ms) [0-9]* throughput (GB/s) [0-9]*\.[0-9][0-9]$'; do
		grep -q "$want" "$dir/i.out" || die "no '$want': $(cat "$dir/i.out")"
	done
	[ "$(tail -n 1 "$dir/i.out")" = "ALL DONE" ] || die "the last line is not ALL DONE"
	must 1 "104857600" j --cmd=inferencer --file_size_mb=99
	ends $served 0 TERM
	grep -q '^Register done, duration (ms): [0-9]*$' "$dir/t.out" || die "the trainer says: $(cat "$dir/t.out")"
	[ "$(tail -n 1 "$dir/t.out")" = "ALL DONE" ] || die "the trainer's last line is not ALL DONE"
	serving t --cmd=trainer --file_size_mb=1 --duration=1
	ends $served 0
	ok l ls
	[ ! -s "$dir/l.out" ] || die "left: $(cat "$dir/l.out")"
}

# usage TEXT ARG...
usage() {
	want=$1
	shift
	"$P2P" "$@" >"$dir/u.out" 2>"$dir/u.err" </dev/null && code=0 || code=$?
	[ $code -eq 2 ] || die "'$*' ended with $code"
	[ "$(wc -l <"$dir/u.err")" -eq 1 ] && grep -q -- "$want" "$dir/u.err" || die "'$*' said: $(cat "$dir/u.err")"
}

case_usage() {
	"$P2P" --help >"$dir/h.out" || die "--help failed"
	[ "$(wc -l <"$dir/h.out")" -le 24 ] || die "--help has $(wc -l <"$dir/h.out") lines"
	awk 'length > 80 { exit 1 }' "$dir/h.out" || die "--help is wider than 80 columns"
	grep -q 'mooncake_p2p serve' "$dir/h.out" || die "--help has no example"
	"$P2P" --helpfull | grep -q -- '--metadata_server=' || die "--helpfull lacks the config's keys"
	"$P2P" --version | grep -q '^mooncake_p2p [0-9]' || die "--version says nothing"
	"$P2P" serve "$P2P" --name=full --json --duration=0.1 --metadata_server="$metadata" --port=0 \
		>/dev/full 2>"$dir/h.err" && die "a full stdout is not noticed"
	grep -q 'stdout: .*written' "$dir/h.err" || die "of a full stdout is said: $(cat "$dir/h.err")"
	usage 'what to do is missing'
	usage "'gte' is no verb (did you mean get?)" gte x
	usage 'serve: FILE... | DIR is missing' serve
	usage "get: 'b' is one too many" get a b
	usage 'flag --max_rat is not known (did you mean --max_rate?)' get a --max-rat=5
	usage 'flag --metadata_serve is not known (did you mean --metadata_server?)' ls --metadata_serve=x
	usage "flag --max_rate: 'fast' is no rate" get a --max_rate fast
	usage "flag --shard_size: '1' is not a number from 4096" serve a --shard_size=1
	usage 'flag --shard_size is not for get' get a --shard_size=1M
	usage 'flag --duration: it says how long --serve lasts' get a --duration=5
	usage "flag --wait: 'long' is no time" get a --wait=long
	usage 'flag --name: the value is missing' serve a --name
	usage 'flag --name: it is empty' serve a --name=
	usage "neither 'trainer' nor 'inferencer'" --cmd=trained
	usage 'stands instead of a verb' --cmd=trainer serve a
	usage 'flag --json is not for trainer' --cmd=trainer --json
	usage 'flag --json is not for inferencer' --cmd=inferencer --json
	usage "port" ls --port=99999
	usage "'/nosuch'" ls --config=/nosuch --json
	grep -q '"error": ' "$dir/u.out" || die "no JSON: $(cat "$dir/u.out")"
	# Progress on a terminal, which the program finds itself.
	bytes 3000000 >"$dir/file"
	serving a serve "$dir/file"
	P2P="$P2P" OUT="$dir/copy" METADATA="$metadata" MATRIX="$tcp_matrix" python3 - >"$dir/pty.out" <<-'END' || die "no get on a terminal"
		import os, pty
		e = os.environ
		pty.spawn([e['P2P'], 'get', 'file', '-o', e['OUT'], '--max_rate=2M', '--port=0', '--local_server_name=p',
		           '--metadata_server=' + e['METADATA'], '--nic_priority_matrix=' + e['MATRIX']], stdin_read=lambda fd: b'')
	END
	cmp "$dir/file" "$dir/copy" || die "the file differs"
	grep -q 'file \[[#-]*\] [^[]*%  [^[]* of 2.9 MiB  [^[]*/s  [^[]* left  1 source' "$dir/pty.out" || die "no progress: $(cat "$dir/pty.out")"
}

# Who goes in the middle: getters with the slots of a source that is capped, the object itself, the metadata.
case_gone() {
	bytes 8000000 >"$dir/mid"
	serving a serve "$dir/mid" --max_rate=1M --shard_size=1M
	# Two slots at half of the rate each: who was killed must not keep them for as long as a capped shard may take.
	getting g get mid -o "$dir/x"
	wait_until "the first bytes" part_arrived x
	kill -KILL $got
	wait $got
	getting g get mid -o "$dir/y" --timeout=60
	wait_until "bytes again" part_arrived y
	ok r rm mid --json
	json r 'd["told"] == 2'
	ends $got 1
	grep -q "object 'mid': 'r' has removed it while it was copied" "$dir/g.err" || die "g said: $(cat "$dir/g.err")"
	ends "$served" 0
	# Who could not be told finds out, and has nothing left to serve then.
	serving c serve "$dir/mid"
	kill -STOP "$served"
	ok r rm mid --json
	json r 'd["told"] == 0'
	ends "$served" 0 CONT
	grep -q "object 'mid': somebody has removed its record; it is not offered any more" "$dir/c.err" ||
		die "c said: $(cat "$dir/c.err")"
	# Another has its name by then: that is a failure.
	serving d serve "$dir/mid"
	d=$served
	kill -STOP $d
	rm "$dir"/metadata/k.*app*p2p*
	bytes 1000 >"$dir/else"
	serving e serve "$dir/else" --name=mid
	ends $d 1 CONT
	grep -q "object 'mid': another object has its name now; it is not offered any more" "$dir/d.err" ||
		die "d said: $(cat "$dir/d.err")"
	ends "$served" 0 TERM
	# Metadata that was lost as a whole comes back: keys by the engine, records by those who offer.
	serving b serve "$dir/mid"
	mv "$dir/metadata" "$dir/away"
	ok g get mid -o "$dir/z" --wait=120
	cmp "$dir/mid" "$dir/z" || die "the file differs"
	grep -q "object 'mid': the metadata service had lost its record; it is written again" "$dir/b.err" ||
		die "b said: $(cat "$dir/b.err")"
	# Who is silent for longer than it takes to ask is waited for, as long as a get has patience.
	kill -STOP "$served"
	must 1 "'mid': nobody who offers it answers; --patience=S waits longer" g get mid -o "$dir/v" --patience=1
	getting g get mid -o "$dir/v"
	sleep 4
	kill -CONT "$served"
	ends $got 0
	cmp "$dir/mid" "$dir/v" || die "the file differs"
	ends "$served" 0 TERM
}

# part_arrived NAME: something has come into the part of this name.
part_arrived() {
	[ "$(cat "$dir"/."$1".*.mc-part 2>/dev/null | tr -d '\0' | wc -c)" -gt 0 ]
}

# One bit of what comes from one of two sources is wrong: what is said of it, its control block, is spared.
case_flipped() {
	bytes 16000000 >"$dir/obj"
	serving liar serve "$dir/obj" --shard_size=1M
	serving honest serve "$dir/obj" --shard_size=1M --max_rate=10M
	p2p g get obj -o "$dir/copy" --json --transports.tcp.filters=fault --transports.tcp.lanes=1 --filters.fault.flip=1 \
		--filters.fault.ops=read --filters.fault.peer=liar --filters.fault.after=10 || die "get ended with $?"
	cmp "$dir/obj" "$dir/copy" || die "the file differs"
	nothing_left "$dir"
	grep -q "object 'obj': source 'liar' is dropped and quarantined: its shard [0-9]* does not verify" "$dir/g.err" ||
		die "the liar is not named: $(cat "$dir/g.err")"
	! grep -q honest "$dir/g.err" || die "the honest one is blamed: $(cat "$dir/g.err")"
	json g 'd["corrupt"] >= 2 and d["dropped"] == 1 and d["moved"] > d["size"]'
}

# Over a real etcd.
case_etcd() {
	. "$(dirname "$0")/../etcd.sh"
	etcd_needs
	etcd_start one
	metadata=etcd://$endpoint
	bytes 5000000 >"$dir/file"
	serving a serve "$dir/file"
	serving b get file -o "$dir/b.copy" --serve
	metadata=$endpoint # without a scheme
	ok g get file -o "$dir/g.copy"
	cmp "$dir/file" "$dir/g.copy" || die "the file differs"
	ok s stat file --json
	json s 'len(d["sources"]) == 2'
	ends "$served" 0 TERM
	serving t --cmd=trainer --file_size_mb=10
	ok i --cmd=inferencer --file_size_mb=10
	[ "$(tail -n 1 "$dir/i.out")" = "ALL DONE" ] || die "the last line is not ALL DONE"
	ends "$served" 0 TERM
	ok l ls --json
	json l '[o["name"] for o in d["objects"]] == ["file"]'
	ok r rm file
}

"case_$1"
