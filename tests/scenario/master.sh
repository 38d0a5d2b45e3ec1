#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# mooncake_master as people meet it: usage: master.sh CASE.  MASTER is the program.
. "$(dirname "$0")/lib.sh"

# master FLAG...: in the background, until it serves; its pid is in $master, its port in $port.
master() {
	rm -f "$dir/ready"
	"$MASTER" --metadata_server="$metadata" --nic_priority_matrix="$tcp_matrix" --port=0 --ready_file="$dir/ready" "$@" \
		>"$dir/master.out" 2>"$dir/master.err" </dev/null &
	master=$!
	pids="$pids $master"
	wait_until "the master to serve" ready_or_gone
	[ -f "$dir/ready" ] || die "the master has ended"
	read -r name port <"$dir/ready"
}

ready_or_gone() {
	[ -f "$dir/ready" ] || gone $master
}

# says CODE TEXT FLAG...: it ends so, with a sentence on stderr that has the text.
says() {
	want=$1 text=$2
	shift 2
	timeout 60 "$MASTER" --nic_priority_matrix="$tcp_matrix" --port=0 "$@" >"$dir/x.out" 2>"$dir/x.err" </dev/null && got=0 || got=$?
	[ "$got" -eq "$want" ] || die "'$*' ended with $got instead of $want"
	grep -q -- "$text" "$dir/x.err" || die "'$*' did not say '$text'"
}

# get CODE TEXT CURL_ARG... PATH: what is answered has the text.
get() {
	want=$1 text=$2
	shift 2
	for path; do :; done
	code=$(curl -s -m 20 -o "$dir/page.out" -w '%{http_code}' "$@")
	[ "$code" = "$want" ] || die "'$*' is answered by $code instead of $want"
	grep -q -- "$text" "$dir/page.out" || die "'$*' does not say '$text'"
}

json() {
	python3 -c 'import json, sys
d = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else 1)' "$dir/page.out" "$1" || die "not so: $1: $(cat "$dir/page.out")"
}

case_usage() {
	"$MASTER" --help >"$dir/help.out" || die "--help fails"
	[ "$(wc -l <"$dir/help.out")" -le 24 ] || die "--help does not fit a screen"
	! grep -q '.\{81\}' "$dir/help.out" || die "--help is too wide"
	for flag in $(grep -o '^  --[a-z_]*' "$dir/help.out"); do
		"$MASTER" --helpfull | grep -q -- "$flag" || die "--helpfull does not know $flag"
	done
	says 2 "did you mean --client_ttl" --client_tll=3
	says 2 "flag --eviction_ratio: '7' is no share" --eviction_ratio=7
	says 2 "'soon' is no time" --default_kv_lease_ttl=soon
	says 2 "no strategy: random, free_ratio_first or local_first" --allocation_strategy=best
	says 2 "No such file" --config_path="$dir/none.json"
	echo '{"client_ttl": 3' >"$dir/a.json"
	says 2 "a.json': " --config_path="$dir/a.json"
	echo '{"client_ttl": [3]}' >"$dir/a.json"
	says 2 "'client_ttl' must be a text, a number" --config_path="$dir/a.json"
	echo '{"clientttl": 3}' >"$dir/a.json"
	says 2 "'clientttl': unknown key (did you mean 'client_ttl'?)" --config_path="$dir/a.json"
	echo '{"shards": 3}' >"$dir/a.json"
	says 2 "mooncake_master --helpfull" --config_path="$dir/a.json"
	echo '{"rpc_thread_num": 0}' >"$dir/a.json"
	says 2 "'0' is not a number from 1 to 256" --config_path="$dir/a.json"
	says 2 "'0.01' is not a time from 100 ms to" --client_ttl=0.01
	echo x >"$dir/file"
	says 1 "$dir/file" --metadata_server="$metadata" --dir="$dir/file"
	says 1 "metadata 'etcd://127.0.0.1:1'" --metadata_server=etcd://127.0.0.1:1
	# What the file says holds, unless the line says otherwise.
	echo "{\"default_kv_lease_ttl\": 1500, \"dir\": \"$dir/kept\", \"local_server_name\": \"m\", \"allow_evict_soft_pinned_objects\": false}" \
		>"$dir/b.json"
	master --config_path="$dir/b.json" --local_server_name=mine
	grep -q "master 'mine' serves on port $port, epoch 1: 0 objects in 0 segments loaded from '$dir/kept'" "$dir/master.out" ||
		die "it says: $(cat "$dir/master.out")"
	[ ! -s "$dir/master.err" ] || die "it is not quiet: $(cat "$dir/master.err")"
	says 1 "process $master has it open" --metadata_server="$metadata" --local_server_name=other --dir="$dir/kept"
	says 1 "master 'mine' is running already" --metadata_server="$metadata" --local_server_name=mine
	stop_and_check $master TERM 0
	master
	grep -q "nothing is kept over a restart (no --dir)" "$dir/master.out" || die "it says: $(cat "$dir/master.out")"
	stop_and_check $master INT 0
}

case_http() {
	master --dir="$dir/kept"
	at=http://127.0.0.1:$port
	get 200 '"state": "ok"' $at/health
	get 200 '^mooncake_master_epoch 1$' $at/metrics
	get 200 '^mooncake_master_log_kept 1$' $at/metrics
	get 200 'mooncake_master_rpc_seconds_bucket{method="get",le="+Inf"} 0' $at/metrics
	get 200 '"segments":' $at/segments
	json 'd == {"segments": []}'
	get 200 '"objects":' "$at/objects?prefix=a&limit=5"
	json 'd == {"objects": [], "cursor": 0}'
	get 200 'cursor' "$at/objects?regex=a.*b"
	get 400 'error' "$at/objects?regex=%28"
	get 400 'limit=1' "$at/objects?limit=0"
	get 400 'not a tenant' "$at/objects?tenant=$(printf 'x%.0s' $(seq 70))"
	get 405 'POST' "$at/segments/drain?segment=1"
	get 400 'give segment=ID' -X POST "$at/segments/drain"
	get 404 'there is no such segment' -X POST "$at/segments/drain?segment=77"
	get 404 'no segment is of that engine' -X POST "$at/segments/drain?engine=e"
	get 400 'true or false' -X POST "$at/segments/drain?segment=77&drain=perhaps"
	get 400 'quota=BYTES' -X POST "$at/tenants?tenant=t"
	get 400 'zero byte' -X POST "$at/tenants?tenant=%00x&quota=1"
	get 400 'zero byte' "$at/objects?prefix=%00"
	get 200 'tenants' -X POST "$at/tenants?tenant=t%C3%BC&quota=4G"
	json '{"tenant": "t\u00fc", "quota": 4 << 30, "used": 0, "objects": 0} in d["tenants"]'
	get 200 'epoch 1' $at/summary
	get 404 '/segments' $at/none
	# A quota is kept over kill -9.
	kill -KILL $master
	wait_until "the master to end" gone $master
	master --dir="$dir/kept"
	get 200 '^mooncake_master_epoch 2$' "http://127.0.0.1:$port/metrics"
	get 200 'tenants' "http://127.0.0.1:$port/tenants"
	json '[t["quota"] for t in d["tenants"] if t["tenant"] == "t\u00fc"] == [4 << 30]'
	stop_and_check $master TERM 0
}

# The disk is full: said once, and again when there is room.
case_disk() {
	unshare -m true 2>/dev/null && space="unshare -m" || space="unshare -rm"
	$space true 2>/dev/null || skip "mount name spaces are not allowed here"
	mkdir "$dir/small"
	cat >"$dir/inside" <<-END
	#!/bin/sh
	exec $space sh -c 'mount -t tmpfs -o size=80m none "\$0" && exec "\$@"' "$dir/small" "$MASTER" "\$@"
	END
	chmod +x "$dir/inside"
	"$dir/inside" --version >"$dir/version.out" || skip "tmpfs cannot be mounted here"
	MASTER=$dir/inside
	master --dir="$dir/small/kept"
	at=http://127.0.0.1:$port small=/proc/$master/root$dir/small
	head -c 90000000 /dev/zero >"$small/filler" 2>"$dir/filler.err"
	n=0
	until grep -q "warning: folder '$dir/small/kept': .*No space left on device.*make room" "$dir/master.err"; do
		n=$((n + 1))
		[ $n -le 300 ] || die "the full disk was not told: $(cat "$dir/master.err")"
		get 200 tenants -X POST "$at/tenants?tenant=t$n&quota=4G"
		sleep 0.1
	done
	rm "$small/filler"
	wait_until "the disk to be written again" grep -q 'what changes is written there again' "$dir/master.err"
	[ "$(wc -l <"$dir/master.err")" -eq 2 ] || die "it was told again and again: $(cat "$dir/master.err")"
}

"case_$1"
echo "ok"
