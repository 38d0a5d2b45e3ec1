#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# /metrics and /health of real engines, asked by curl and by clients that misbehave (http-client.c,
# in $CLIENT); the argument is the case.
. "$(dirname "$0")/lib.sh"

command -v curl >/dev/null || skip "there is no curl"

# port_of NAME: of an engine that has said so in its log.
port_of() {
	sed -n "s/.*engine '[^']*': open, port \([0-9]*\),.*/\1/p" "$dir/$1.err" | tail -n 1
}

opened() {
	[ -n "$(port_of "$1")" ]
}

get() {
	curl -sS --noproxy '*' --max-time 20 "http://127.0.0.1:$1$2"
}

# code PORT PATH FLAG...: the status of the answer.
code() {
	at=$1 path=$2
	shift 2
	curl -sS --noproxy '*' --max-time 20 -o /dev/null -w '%{http_code}' "$@" "http://127.0.0.1:$at$path"
}

# value PORT SERIES: its value, or nothing.
value() {
	get "$1" /metrics | awk -v want="$2" '
		{ name = $0; sub(/ [^ ]*$/, "", name) }
		name == want { print $NF }'
}

# sum PORT NAME: of all series of a family.
sum() {
	get "$1" /metrics | awk -v want="$2" '
		{ name = $1; sub(/[{].*/, "", name) }
		name == want { sum += $NF }
		END { printf "%.0f\n", sum }'
}

expect_is() {
	[ "$2" = "$3" ] || die "$1 is '$2' instead of '$3'"
}

state() {
	get "$1" /health | sed -n 's/.*"state": "\([a-z]*\)".*/\1/p'
}

state_is() {
	[ "$(state "$1")" = "$2" ]
}

case ${1:-} in
pages)
	target t --nic_priority_matrix="$tcp_matrix"
	port=$(port_of t)
	get $port /metrics >"$dir/m" || die "no metrics"
	"$CLIENT" lint <"$dir/m" || die "the metrics break a rule"
	expect_is "the type" "$(curl -sS --noproxy '*' -o /dev/null -w '%{content_type}' http://127.0.0.1:$port/metrics)" \
		"text/plain; version=0.0.4; charset=utf-8"
	get $port /health >"$dir/h.out" || die "no health"
	grep -q '"state": "ok"' "$dir/h.out" || die "a healthy engine says: $(cat "$dir/h.out")"
	grep -q '"name": "t"' "$dir/h.out" || die "the name is missing"
	expect_is "GET /health" "$(code $port /health)" 200
	expect_is "GET /health?x=1" "$(code $port '/health?x=1')" 200
	expect_is "HEAD /metrics" "$(code $port /metrics -I)" 200
	expect_is "GET /" "$(code $port /)" 404
	get $port / | grep -q /metrics || die "404 does not name the pages"
	expect_is "POST /metrics" "$(code $port /metrics -d x=1)" 405
	expect_is "DELETE /health" "$(code $port /health -X DELETE)" 405
	expect_is "OPTIONS /" "$(code $port / -X OPTIONS)" 405
	expect_is "GET with a body" "$(code $port /health -X GET -d x=1)" 200
	# One connection for several requests.
	expect_is "connections of each of three requests" "$(curl -sS --noproxy '*' -o /dev/null -o /dev/null -o /dev/null \
		-w '%{num_connects} ' http://127.0.0.1:$port/health http://127.0.0.1:$port/metrics \
		http://127.0.0.1:$port/nothing)" "1 0 0 "
	expect_is "the answers over one connection" "$("$CLIENT" twice $port | tr '\n' ' ')" "404 200 "
	"$CLIENT" split $port >"$dir/s.out" || die "a split request ended with $?"
	grep -q '"state": "ok"' "$dir/s.out" || die "a request byte by byte got no answer"
	stop_and_check $target TERM 0
	;;
transfer)
	# What moves is seen at both ends while it moves.
	target t --nic_priority_matrix="$tcp_matrix"
	tport=$(port_of t)
	before=$(sum $tport mooncake_plugin_tcp_bytes_received_total)
	"$BENCH" --metadata_server="$metadata" --local_server_name=i --port=0 --segment_id=t \
		--nic_priority_matrix="$tcp_matrix" --operation=write --duration=120 --threads=1 \
		--block_size=64K --batch_size=16 --log_level=info >"$dir/i.out" 2>"$dir/i.err" </dev/null &
	run=$!
	pids="$pids $run"
	wait_until "the initiator" opened i
	port=$(port_of i)
	moving() {
		[ "$(sum $port mooncake_rail_written_bytes_total)" -gt 10000000 ]
	}
	wait_until "bytes on the rail" moving
	get $port /metrics >"$dir/m.out"
	"$CLIENT" lint <"$dir/m.out" || die "the metrics break a rule"
	rail='peer="t",device="tcp:lo",remote_device="tcp:lo",wire="tcp"'
	grep -qF "mooncake_rail_state{$rail} 2" "$dir/m.out" || die "the rail is not up"
	for family in requests slices; do
		grep -qE "^mooncake_rail_${family}_total.* [1-9]" "$dir/m.out" || die "no $family"
	done
	grep -qE '^mooncake_rail_rate_bytes_per_second.* [1-9]' "$dir/m.out" || die "no rate"
	grep -q '^mooncake_sessions{role="active"} 1$' "$dir/m.out" || die "no active session"
	grep -qE '^mooncake_batches [1-9]' "$dir/m.out" || die "no batches"
	expect_is "sessions at the target" "$(value $tport 'mooncake_sessions{role="passive"}')" 1
	after=$(sum $tport mooncake_plugin_tcp_bytes_received_total)
	[ $((after - before)) -gt 10000000 ] || die "the target received $((after - before)) bytes"
	first=$(sum $port mooncake_rail_written_bytes_total)
	more() {
		[ "$(sum $port mooncake_rail_written_bytes_total)" -gt $((first + 1000000)) ]
	}
	wait_until "more bytes" more
	# A peer that does not answer any more.
	kill -STOP $target
	wait_until "a degraded initiator" state_is $port degraded
	get $port /health | grep -q "peer 't' does not answer" || die "health: $(get $port /health)"
	expect_is "the status" "$(code $port /health)" 200
	kill -CONT $target
	kill -INT $run
	wait $run
	stop_and_check $target TERM 0
	;;
metadata)
	target t --nic_priority_matrix="$tcp_matrix" --lease_ttl=1s
	port=$(port_of t)
	expect_is "the state" "$(state $port)" ok
	mv "$dir/metadata" "$dir/away"
	: >"$dir/metadata"
	wait_until "a degraded engine" state_is $port degraded
	get $port /health | grep -q '"part": "metadata"' || die "health: $(get $port /health)"
	expect_is "the status" "$(code $port /health)" 200
	expect_is "mooncake_metadata_up" "$(value $port mooncake_metadata_up)" 0
	expect_is "mooncake_health_state" "$(value $port mooncake_health_state)" 1
	rm "$dir/metadata"
	mv "$dir/away" "$dir/metadata"
	wait_until "a healthy engine" state_is $port ok
	expect_is "mooncake_metadata_up" "$(value $port mooncake_metadata_up)" 1
	stop_and_check $target TERM 0
	;;
application)
	# Its stdin is a pipe that we hold open.
	mkfifo "$dir/stdin"
	"$PAGES" <"$dir/stdin" >"$dir/p.out" 2>"$dir/p.err" &
	app=$!
	pids="$pids $app"
	exec 9>"$dir/stdin"
	ported() {
		grep -q '^[0-9]*$' "$dir/p.out"
	}
	wait_until "the application" ported
	port=$(head -n 1 "$dir/p.out")
	expect_is "GET" "$(get $port '/echo?word=a%20b&x=1')" "GET /echo word=a b body=0:"
	expect_is "no word" "$(get $port /echo)" "GET /echo word=(none) body=0:"
	expect_is "POST" "$(curl -sS --noproxy '*' -d hello "http://127.0.0.1:$port/echo")" "POST /echo word=(none) body=5:hello"
	expect_is "PUT" "$(code $port /echo -X PUT -d x)" 201
	expect_is "HEAD" "$(code $port /echo -I)" 200
	expect_is "OPTIONS" "$(code $port /echo -X OPTIONS)" 405
	expect_is "below a page that is no folder" "$(code $port /echo/x)" 404
	head -c 65536 /dev/zero | tr '\0' x >"$dir/body"
	expect_is "the largest body" "$(code $port /echo --data-binary "@$dir/body")" 200
	echo x >>"$dir/body"
	expect_is "a larger body" "$(code $port /echo --data-binary "@$dir/body")" 413
	expect_is "a page without an answer" "$(code $port /nothing)" 500
	expect_is "a page below a folder" "$(get $port /tree/a/b | cksum)" "$(seq -s, 0 19999 | sed 's/^/[/; s/$/]/' | cksum)"
	expect_is "the longest path wins" "$(get $port /tree/echo)" "GET /tree/echo word=(none) body=0:"
	get $port / | grep -q '^/tree/  *a page of the test$' || die "404 does not name the pages"
	get $port /metrics >"$dir/m.out"
	"$CLIENT" lint <"$dir/m.out" || die "the metrics break a rule"
	expect_is "a metric of the application" "$(value $port page_words_total)" 7
	# One that takes its time holds up nobody, one that takes too much is given up.
	get $port '/slow?s=12' >"$dir/late.out" 2>&1 &
	late=$!
	expect_is "health beside a slow page" "$(state $port)" ok
	wait $late
	grep -q 'took too long' "$dir/late.out" || die "after 10 s: $(cat "$dir/late.out")"
	# Who leaves before his answer, and an application that ends while it is asked.
	curl -sS --noproxy '*' --max-time 0.3 "http://127.0.0.1:$port/slow?s=1" >"$dir/left.out" 2>&1
	get $port '/slow?s=1' >"$dir/last.out" 2>&1 &
	last=$!
	sleep 0.2
	exec 9>&-
	wait $app || die "the application ended with $?: $(cat "$dir/p.out")"
	wait $last
	;;
off)
	target t --nic_priority_matrix="$tcp_matrix" --http=off
	port=$(port_of t)
	get $port /health >"$dir/h.out" 2>&1 && die "it answered: $(cat "$dir/h.out")"
	grep -q 'it speaks HTTP, which http=off forbids' "$dir/t.err" || die "nothing was said"
	# Nothing of HTTP was opened for it.
	grep -q microhttpd /proc/$target/maps && die "the library was loaded"
	stop_and_check $target TERM 0
	;;
hostile)
	target t --nic_priority_matrix="$tcp_matrix"
	port=$(port_of t)
	case $("$CLIENT" big $port) in
	*' 4'[0-9][0-9]' '*) ;;
	'') ;; # reset before the answer was read
	*) die "1 MiB of headers was taken" ;;
	esac
	"$CLIENT" garbage $port 200 || die "garbage"
	# Pages asked for without an end: peers are served all the same.
	"$CLIENT" pipe $port 30 90 >"$dir/pipe.out" &
	pipe=$!
	pids="$pids $pipe"
	run_both --nic_priority_matrix="$tcp_matrix" --duration=1
	kill $pipe || die "the pipeline ended early"
	wait $pipe
	[ "$(cat "$dir/pipe.out")" -gt 100000 ] || die "a pipeline was answered with $(cat "$dir/pipe.out") bytes"
	# Five hundred who are slow, while bytes move: others still get their answers.
	"$CLIENT" slow $port 500 6 >"$dir/slow.out" 2>&1 &
	slow=$!
	pids="$pids $slow"
	run_both --nic_priority_matrix="$tcp_matrix" --duration=1
	for i in 1 2 3 4 5; do
		expect_is "GET /health" "$(code $port /health --retry 5 --retry-all-errors)" 200
	done
	[ "$(value $port mooncake_http_connections)" -le 32 ] || die "more than 32 connections by HTTP"
	wait $slow || die "the slow ones: $(cat "$dir/slow.out")"
	[ "$(cat "$dir/slow.out")" -ge 400 ] || die "only $(cat "$dir/slow.out") of 500 slow ones were ended"
	idle() {
		[ "$(value $port mooncake_http_connections)" = 1 ]
	}
	wait_until "all of them to be gone" idle
	expect_is "the state" "$(state $port)" ok
	stop_and_check $target TERM 0
	;;
hosts)
	two_hosts near far 79
	# in SPACE NAME FLAG...: an engine there, in the background.
	engine() {
		space=$1 name=$2
		shift 2
		ip netns exec $space "$BENCH" --metadata_server="$metadata" --local_server_name=$name --port=0 \
			--log_level=info "$@" >"$dir/$name.out" 2>"$dir/$name.err" </dev/null &
		pids="$pids $!"
		wait_until "engine '$name'" opened $name
	}
	ask() {
		ip netns exec $1 curl -sS --noproxy '*' --max-time 20 -w '\n%{http_code}\n' "http://$2/health"
	}
	engine $far shy --mode=target --nic_priority_matrix='{"*": [["tcp:far0", "tcp:far1"]]}' --buffer_size=64M \
		--ready_file="$dir/shy.ready"
	engine $far open --mode=target --http=on --nic_priority_matrix='{"*": [["tcp:far0"]]}' --buffer_size=64M
	# Only then its memory is its peers'.
	wait_until "target 'shy'" test -f "$dir/shy.ready"
	port=$(port_of shy)
	expect_is "on its own host" "$(ask $far 127.0.0.1:$port | tail -n 1)" 200
	expect_is "by ::1" "$(ask $far "[::1]:$port" | tail -n 1)" 200
	ask $near 10.79.0.2:$port >"$dir/a.out"
	expect_is "from another host" "$(tail -n 1 "$dir/a.out")" 403
	grep -q 'http=on would change that' "$dir/a.out" || die "the refusal does not say what to set"
	grep -q 'asks by HTTP from another host' "$dir/shy.err" || die "the log does not say it"
	expect_is "http=on, from another host" "$(ask $near 10.79.0.2:$(port_of open) | tail -n 1)" 200

	# A cable is cut: the rail over it is down, and health says which.
	engine $near i --segment_id=shy --nic_priority_matrix='{"*": [["tcp:near0", "tcp:near1"]]}' \
		--threads=1 --block_size=1M --batch_size=16 --operation=write --duration=60
	run=${pids##* }
	iport=$(port_of i)
	istate() {
		ask $near 127.0.0.1:$iport | grep -q "\"state\": \"$1\""
	}
	carry() {
		ip netns exec $near curl -sS --noproxy '*' http://127.0.0.1:$iport/metrics |
			grep -c '^mooncake_rail_written_bytes_total.* [1-9]' | grep -qx 2
	}
	wait_until "both rails to carry" carry
	istate ok || die "health before the cut: $(ask $near 127.0.0.1:$iport)"
	ip -n $near link set near0 down
	wait_until "a degraded initiator" istate degraded
	broken() {
		ask $near 127.0.0.1:$iport | grep -Eq "tcp:near0 (is down|-> )"
	}
	wait_until "the cut to be named" broken
	expect_is "the status" "$(ask $near 127.0.0.1:$iport | tail -n 1)" 200
	ip -n $near link set near0 up
	wait_until "a healthy initiator" istate ok
	kill -INT $run
	wait $run
	;;
*)
	echo "no case '${1:-}'"
	exit 1
	;;
esac
exit 0
