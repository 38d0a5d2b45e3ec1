#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Programs over a real etcd that is started, killed, frozen, cut off: usage: etcd.sh CASE.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/../etcd.sh"

etcd_needs
spaces=
leave() {
	for pid in $pids; do
		kill -KILL "$pid" 2>/dev/null
	done
	wait # the folder goes when nobody writes to it any more
	for space in $spaces; do
		ip netns del $space 2>/dev/null
	done
}
trap 'code=$?; leave; (exit $code); finish' EXIT

# space NAME: a network name space, with its loopback up.
space() {
	[ "$(id -u)" -eq 0 ] || skip "network name spaces need root"
	command -v ip >/dev/null || skip "there is no ip (package iproute2)"
	ip netns add "$1" 2>/dev/null || skip "network name spaces are not allowed here"
	spaces="$spaces $1"
	ip -n "$1" link set lo up
}

begin() {
	etcd_start one "$@"
	metadata=etcd://$endpoint
}

# record NAME: does etcd have the engine's record?
record() {
	key=$(printf 'mooncake/default/engine/%s' "$1" | base64 | tr -d '\n')
	etcd_api "$endpoint" kv/range "{\"key\":\"$key\"}" 2>/dev/null | grep -q '"kvs"'
}

no_record() {
	! record "$1"
}

initiator() {
	initiate "$@" --segment_id=t --nic_priority_matrix="$tcp_matrix" || die "$1 ended with $?"
}

# Removing a record takes etcd's disk, too, which others use.
STOP_MS=$((${STOP_MS:-1000} * 3))

# ends PID SIGNAL: it does, in time; what it could not tell etcd may show in its code.
ends() {
	start=$(date +%s%N)
	kill "-$2" "$1"
	wait "$1" && got=0 || got=$?
	took=$((($(date +%s%N) - start) / 1000000))
	[ $got -le 1 ] || die "process ended with $got on SIG$2"
	[ $took -lt "$STOP_MS" ] || die "it took $took ms to end on SIG$2"
}

case_run() {
	begin
	target t --nic_priority_matrix="$tcp_matrix"
	run_both --nic_priority_matrix="$tcp_matrix"
	metadata=$endpoint # without a scheme
	run_both --nic_priority_matrix="$tcp_matrix"
	no_record i-read || die "the initiator's record is still there"
	expect 1 "there are: 't'" j --segment_id=nowhere --nic_priority_matrix="$tcp_matrix"
	stop_and_check "$target" TERM 0
	no_record t || die "the record is still there"
}

# The quick-start guide of Mooncake, word for word, on its three hosts.
case_quickstart_guide() {
	h1=mcq1$$ h2=mcq2$$ h3=mcq3$$ net=mcqn$$
	for name in $net $h1 $h2 $h3; do
		space $name
	done
	ip -n $net link add bridge0 type bridge || skip "no bridges here"
	ip -n $net link set bridge0 up
	# Names and addresses of the guide.
	for host in "$h1 eth0 1" "$h2 erdma_0 2" "$h3 erdma_1 3"; do
		set -- $host
		ip link add "$2" netns "$1" type veth peer name "port$3" netns $net || skip "no veth devices here"
		ip -n $net link set "port$3" master bridge0 up
		ip -n "$1" addr add "10.0.0.$3/24" dev "$2"
		ip -n "$1" link set "$2" up
	done
	ln -s "$BENCH" "$dir/transfer_engine_bench"
	cd "$dir" || exit 1
	export MC_GID_INDEX=n

	# This is 10.0.0.1
	ip netns exec $h1 etcd --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://10.0.0.1:2379 \
		>etcd.err 2>&1 </dev/null &
	pids="$pids $!"
	ETCD_IN="ip netns exec $h1" etcd_wait 10.0.0.1:2379 $! || die "etcd does not start"

	# This is 10.0.0.2
	ip netns exec $h2 ./transfer_engine_bench --mode=target \
		--metadata_server=etcd://10.0.0.1:2379 \
		--local_server_name=10.0.0.2:12345 \
		--device_name=erdma_0 >target.out 2>target.err </dev/null &
	pids="$pids $!"
	wait_until "the target" grep -qs "is ready" target.out

	# This is 10.0.0.3
	ip netns exec $h3 ./transfer_engine_bench --metadata_server=10.0.0.1:2379 \
		--segment_id=10.0.0.2:12345 \
		--local_server_name=10.0.0.3:12346 \
		--device_name=erdma_1 >initiator.out 2>initiator.err </dev/null || die "the initiator ended with $?"
	tail -n 1 initiator.out | grep -Eq '^Test completed: duration 10\.[0-9]{2}, batch count [1-9][0-9]*, throughput [0-9]+\.[0-9]{2} GB/s$' ||
		die "the last line is not the guide's: $(tail -n 1 initiator.out)"
	grep -q 'tcp:erdma_1' initiator.out || die "the bytes went another way"
}

# Transfers go on while etcd is down; new engines find each other when it is back (P10).
case_outage() {
	begin
	target t --nic_priority_matrix="$tcp_matrix" --lease_ttl=2s
	initiate i --segment_id=t --nic_priority_matrix="$tcp_matrix" --duration=5 --check --lease_ttl=2s &
	run=$!
	wait_until "the initiator's record" record i
	sleep 1
	kill -KILL "$etcd"
	wait "$etcd" 2>/dev/null
	expect 1 "$endpoint" j --segment_id=t --nic_priority_matrix="$tcp_matrix"
	wait $run || die "the transfer did not survive"
	check_run i
	grep -q "transfers go on" "$dir/t.err" || die "the target said nothing"
	etcd_start one
	wait_until "the record" record t
	initiator k --check
	check_run k
	# Now it has lost everything.
	kill -KILL "$etcd"
	wait "$etcd" 2>/dev/null
	rm -rf "$dir/one.data"
	etcd_start one
	wait_until "the record to be published again" record t
	initiator l --check
	check_run l
	grep -q "is published again" "$dir/t.err" || die "the target does not say that it is published again"
}

case_frozen() {
	begin
	target t --nic_priority_matrix="$tcp_matrix" --lease_ttl=2s
	initiate i --segment_id=t --nic_priority_matrix="$tcp_matrix" --duration=4 --check &
	run=$!
	wait_until "the initiator's record" record i
	sleep 1
	kill -STOP "$etcd"
	expect 1 "$endpoint" j --segment_id=t --nic_priority_matrix="$tcp_matrix"
	wait $run || die "the transfer did not survive"
	check_run i
	kill -CONT "$etcd"
	wait_until "the record" record t
	initiator k --check
	check_run k
}

# Whoever is told to end does so in time, whatever etcd does.
case_stop() {
	begin
	target t --nic_priority_matrix="$tcp_matrix"
	first=$target
	target u --nic_priority_matrix="$tcp_matrix"
	stop_and_check "$first" INT 0
	no_record t || die "the record is still there"
	kill -STOP "$etcd"
	ends "$target" TERM
	kill -CONT "$etcd"
	target v --nic_priority_matrix="$tcp_matrix"
	kill -KILL "$etcd"
	wait "$etcd" 2>/dev/null
	ends "$target" TERM
}

# The host of one endpoint is cut off, without a word; the other endpoint is used.
case_partition() {
	far=mcp$$
	space $far
	for i in 0 1; do
		ip link add mcp$i$$ type veth peer name far$i netns $far || skip "no veth devices here"
		ip addr add 10.79.$i.1/24 dev mcp$i$$
		ip link set mcp$i$$ up
		ip -n $far addr add 10.79.$i.2/24 dev far$i
		ip -n $far link set far$i up
	done
	ip netns exec $far etcd --data-dir "$dir/far.data" --listen-client-urls http://0.0.0.0:2379 \
		--advertise-client-urls http://10.79.0.2:2379 --listen-peer-urls http://127.0.0.1:2380 \
		>"$dir/far.etcd.err" 2>&1 </dev/null &
	pids="$pids $!"
	endpoint=10.79.1.2:2379
	etcd_wait $endpoint $! || die "etcd does not start"
	metadata=etcd://10.79.0.2:2379,$endpoint
	target t --nic_priority_matrix="$tcp_matrix" --lease_ttl=2s
	initiator i --check
	ip -n $far link set far0 down
	# Longer than its lease.
	sleep 5
	record t || die "the target has lost its lease"
	initiator k --check
	check_run k
}

# key NAME: does etcd have the application's key?
key() {
	key=$(printf 'mooncake/default/app/%s' "$1" | base64 | tr -d '\n')
	etcd_api "$endpoint" kv/range "{\"key\":\"$key\"}" 2>/dev/null | grep -q '"kvs"'
}

no_key() {
	! key "$1"
}

# asks CODE: the keeper's three calls end so, in time, and name the service; ok: well.
asks() {
	nr=$(($(grep -c asked "$dir/keeper.out") + 1))
	kill -USR1 "$keeper"
	wait_until "the keeper's calls" sh -c "[ \$(grep -c asked '$dir/keeper.out') -ge $nr ]"
	tail -n 4 "$dir/keeper.out" | head -n 3 >"$dir/asked"
	while read -r what code took sentence; do
		case $1 in
		ok) [ "$code" -ge 0 ] || die "$what: $code $sentence" ;;
		*)
			[ "$code" -eq "$1" ] || die "$what: $code instead of $1: $sentence"
			case $sentence in *"$endpoint"*) ;; *) die "$what does not name the service: $sentence" ;; esac
			[ "$took" -lt $((2000 * ${SLOW:-1})) ] || die "$what with a second to do it took $took ms"
			;;
		esac
	done <"$dir/asked"
}

# Keys of applications (mooncake/kv.h): a leased one comes back when its lease was lost, or when etcd has
# lost everything, and goes with its engine; nobody waits longer than he said.
case_keys() {
	begin
	"$KEEPER" "etcd://$endpoint" t "$tcp_matrix" >"$dir/keeper.out" 2>"$dir/keeper.err" </dev/null &
	keeper=$!
	pids="$pids $keeper"
	wait_until "the keeper" grep -qs ready "$dir/keeper.out"
	asks ok

	kill -STOP "$keeper"
	wait_until "the lease to end" no_key t/leased
	key t/plain || die "the key without a lease went with it"
	kill -CONT "$keeper"
	wait_until "the key to come back" key t/leased

	kill -STOP "$etcd"
	asks -110
	kill -CONT "$etcd"
	wait_until "etcd" key t/plain
	kill -KILL "$etcd"
	wait "$etcd" 2>/dev/null
	asks -111
	rm -rf "$dir/one.data"
	etcd_start one
	wait_until "the key in the new etcd" key t/leased
	key t/plain && die "a key without a lease came back"
	kill -TERM "$keeper"
	wait "$keeper" || die "the keeper ended with $?"
	key t/leased && die "the key did not go with its engine"
	return 0
}

case_proxies() {
	begin
	export http_proxy=http://127.0.0.1:1 https_proxy=http://127.0.0.1:1 all_proxy=http://127.0.0.1:1
	target t --nic_priority_matrix="$tcp_matrix"
	initiator i
	expect 1 'ECONNREFUSED' j --segment_id=t --nic_priority_matrix="$tcp_matrix" --metadata_proxy=true
	grep -q 'http_proxy' "$dir/j.err" || die "it does not say that there is a proxy"
	kill -KILL "$etcd"
	wait "$etcd" 2>/dev/null
	expect 1 'http_proxy is set but not used for metadata (metadata_proxy is false)' j \
		--segment_id=t --nic_priority_matrix="$tcp_matrix"
}

# refused TEXT URL: it must end with 1 within 5 s and say this.
refused() {
	metadata=$2
	start=$(date +%s%N)
	expect 1 "$1" j --segment_id=t --nic_priority_matrix="$tcp_matrix"
	took=$((($(date +%s%N) - start) / 1000000))
	[ $took -lt $((5000 * ${SLOW:-1})) ] || die "'$2' took $took ms"
}

case_bad_server() {
	begin
	refusing_port
	refused "http://127.0.0.1:$port/v3/kv/range: Connection refused (ECONNREFUSED); start etcd there" "127.0.0.1:$port"
	refused "TLS: .*[^ ]; if it does not speak TLS, write etcd:// or http://" "etcds://$endpoint"
	read -r client peer <"$dir/one.ports"
	refused "http://127.0.0.1:$peer/v3/kv/range: HTTP 404: it is not the client port of etcd" "127.0.0.1:$peer"
	# Too long a name for any name server to be asked about.
	refused "cannot be resolved; check its spelling in metadata_server" "etcd://$(printf 'x%.0s' $(seq 64)).invalid:2379"
	refused "no scheme\|scheme 'htp'" "htp://$endpoint"
	kill -STOP "$etcd"
	refused "http://$endpoint/v3/kv/range: no answer within [0-9]* ms; is etcd overloaded" "$endpoint"
	space mcu$$
	# A host that nobody is.
	ip link add mcu0$$ type veth peer name u0 netns mcu$$ || skip "no veth devices here"
	ip addr add 10.80.0.1/24 dev mcu0$$
	ip link set mcu0$$ up
	ip -n mcu$$ link set u0 up
	refused "http://10.80.0.2:2379/v3/kv/range: no connection within 1000 ms; check the address" "10.80.0.2:2379"
	# A name server that nobody is, for this one process.
	echo nameserver 10.80.0.2 >"$dir/resolv.conf"
	real=$BENCH
	cat >"$dir/bench" <<-END
		#!/bin/sh
		exec unshare -m sh -c 'mount --bind "$dir/resolv.conf" /etc/resolv.conf && exec "\$@"' sh "$real" "\$@"
	END
	chmod +x "$dir/bench"
	BENCH=$dir/bench
	refused "the name of the host was not resolved within 1000 ms; check its spelling" "no-such-host.invalid:2379"
}

# A pool's grants: beyond the leases nothing is touched; they are there again with etcd, and when it has lost all.
case_cxl() {
	begin
	"$CLI" cxl format --size=32MiB "$dir/pool0" >"$dir/format.out" || die "no pool"
	export MC_CXL_POOL_DIR="$dir"
	pool='{"*": [["cxl:pool0"]]}'
	over_pool() {
		initiate "$1" --segment_id=t --nic_priority_matrix="$pool" --check --duration=1 --threads=1 --batch_size=4 \
			--buffer_size=4M --lease_ttl=2s || die "$1 ended with $?"
		grep -q '^rail.*cxl:pool0' "$dir/$1.out" || die "$1 did not go over the pool"
	}
	target t --nic_priority_matrix="$pool" --location=cxl:0 --buffer_size=8M --lease_ttl=2s
	over_pool i
	kill -KILL "$etcd"
	wait "$etcd" 2>/dev/null
	sleep 3
	etcd_start one
	wait_until "the record" record t
	over_pool j
	kill -KILL "$etcd"
	wait "$etcd" 2>/dev/null
	rm -rf "$dir/one.data"
	etcd_start one
	wait_until "the record to be published again" record t
	over_pool k
	"$CLI" cxl info "$dir/pool0" | grep -q '^0 *t ' || die "the target has lost its slot"
	stop_and_check "$target" TERM 0
	"$CLI" cxl info "$dir/pool0" | grep -q 'no engine uses it' || die "somebody is left in the pool"
}

"case_$1"
