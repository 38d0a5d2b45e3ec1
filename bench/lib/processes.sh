# SPDX-License-Identifier: Apache-2.0
# Sourced by compare-*.sh: the processes that take part, ours and the peers'.  Each function that
# measures prints one line of figures.  All of them end with the script; their files are in $dir.

children=

make_dir() {
	dir=$(mktemp -d "${TMPDIR:-/tmp}/mooncake-compare.XXXXXX") || exit 1
	mkdir "$dir/metadata"
	echo '{"*": [["tcp:lo"]]}' >"$dir/matrix.json"
	trap finish EXIT
	trap 'exit 1' INT TERM
}

finish() {
	code=$?
	for pid in $children; do
		kill "$pid" 2>/dev/null
	done
	wait
	rm -rf "$dir"
	exit $code
}

# free_port: sets $port; nobody listens there now.
free_port() {
	for try in 1 2 3 4 5 6 7 8 9; do
		port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
		grep -q "$(printf ':%04X 00000000:0000 0A' "$port")" /proc/net/tcp || return 0
	done
	die "no free port was found"
}

# started PID FILE: it lives a moment after its start; else say what FILE holds.
started() {
	sleep 0.3
	kill -0 "$1" 2>/dev/null || die "a peer did not start: $(cat "$2")"
	children="$children $1"
}

# listening PID FILE: it lives and listens on $port; else say what FILE holds.
listening() {
	children="$children $1"
	n=0
	until grep -q "$(printf ':%04X [0:]* 0A' "$port")" /proc/net/tcp /proc/net/tcp6; do
		n=$((n + 1))
		[ $n -lt 600 ] && kill -0 "$1" 2>/dev/null || die "a peer did not start: $(tail -n 3 "$2")"
		sleep 0.05
	done
}

ceil() {
	awk -v x="$1" 'BEGIN { print (x == int(x)) ? x : int(x) + 1 }'
}

# ---- iperf3 --------------------------------------------------------------------------------------

start_iperf3() {
	[ -z "${iperf3_port:-}" ] || return 0
	free_port
	iperf3_port=$port
	iperf3 -s -B 127.0.0.1 -p "$iperf3_port" >"$dir/iperf3.log" 2>&1 &
	listening $! "$dir/iperf3.log"
}

# run_iperf3 ARGUMENT...: bytes per second, CPU seconds per GB here and there.
run_iperf3() {
	iperf3 -c 127.0.0.1 -p "$iperf3_port" -t "$(ceil "$seconds")" -J "$@" >"$dir/iperf3.json" ||
		die "iperf3 failed: $(grep error "$dir/iperf3.json")"
	awk '
		/"sum_received"/ { inside = 1 }
		inside && /"bits_per_second"/ { rate = number($0) / 8; inside = 0 }
		/"host_total"/ { host = number($0) }
		/"remote_total"/ { remote = number($0) }
		function number(s) { sub(/.*: */, "", s); return s + 0 }
		END { printf "%.0f %.4f %.4f\n", rate, host / 100 / (rate / 1e9), remote / 100 / (rate / 1e9) }
	' "$dir/iperf3.json"
}

# ---- UCX -----------------------------------------------------------------------------------------

# run_ucx ITERATIONS ARGUMENT...: messages per second, over the transports of $ucx_tls (default tcp).
run_ucx() {
	free_port
	UCX_TLS=${ucx_tls:-tcp} ucx_perftest -p "$port" >"$dir/ucx-server.log" 2>&1 &
	ucx=$!
	listening $ucx "$dir/ucx-server.log"
	UCX_TLS=${ucx_tls:-tcp} ucx_perftest -f -p "$port" -n "$@" 127.0.0.1 >"$dir/ucx.log" 2>&1 || {
		kill $ucx
		die "ucx_perftest failed: $(tail -n 3 "$dir/ucx.log")"
	}
	wait $ucx
	# The last line is of figures alone; the last of them is the rate.
	tail -n 1 "$dir/ucx.log" | awk '$NF ~ /^[0-9]+$/ { print $NF; found = 1 } END { exit !found }' ||
		die "ucx_perftest said no rate: $(tail -n 3 "$dir/ucx.log")"
}

# ---- perftest ------------------------------------------------------------------------------------

# gid_index DEVICE: the place of its IPv4 address.
gid_index() {
	for gid in "/sys/class/infiniband/$1/ports/1/gids"/*; do
		case $(cat "$gid") in
		0000:0000:0000:0000:0000:ffff:*)
			echo "${gid##*/}"
			return 0
			;;
		esac
	done
	die "device '$1' has no IPv4 address"
}

# run_perftest PROGRAM FLAG...: from ra0 to rb0; bytes or messages per second, or a time in us, as
# --output says.  It says 0 where it could not tell how fast the processor's clock goes: once more, then.
run_perftest() {
	for try in 1 2 3 4 5; do
		x=$(perftest_once "$@") || exit 1
		[ -z "$x" ] || break
	done
	[ -n "$x" ] || die "$1 said no figure: $(tail -n 3 "$dir/perftest.log")"
	echo "$x"
}

# It tries for ever when nothing arrives, and its unit MB is 2^20.
perftest_once() {
	program=$1
	shift
	free_port
	bound=$((30 + $(ceil "$seconds")))
	set -- "$@" --CPU-freq --duration="$(ceil "$seconds")" --margin=0 --port="$port"
	timeout $bound "$program" --ib-dev=rb0 --gid-index="$(gid_index rb0)" "$@" >"$dir/perftest-server.log" 2>&1 &
	server=$!
	listening $server "$dir/perftest-server.log"
	timeout $bound "$program" --ib-dev=ra0 --gid-index="$(gid_index ra0)" "$@" 127.0.0.1 \
		>"$dir/perftest.log" 2>&1 || {
		kill $server 2>/dev/null
		die "$program failed: $(tail -n 3 "$dir/perftest.log"; tail -n 3 "$dir/perftest-server.log")"
	}
	wait $server
	# Warnings may stand before the figure, which is a line of its own.
	awk -v how="$*" '
		/^ *[0-9]+[.][0-9]+ *$/ { x = $1 }
		END {
			if (how ~ /--output=bandwidth/)
				x *= 1048576
			else if (how ~ /--output=message_rate/)
				x *= 1e6
			if (x > 0)
				printf "%.6g\n", x
		}' "$dir/perftest.log"
}

# ---- etcd ----------------------------------------------------------------------------------------

# why_no_etcd: why the cases on etcd cannot run; nothing if they can.
why_no_etcd() {
	[ -f "$build/metadata/etcd/metadata-etcd.so" ] || { echo "metadata/etcd is not built"; return; }
	command -v etcd >/dev/null || echo "there is no etcd (package etcd-server)"
}

# start_etcd: sets $etcd, its URL for us, and $etcd_http.
start_etcd() {
	[ -z "${etcd:-}" ] || return 0
	free_port
	etcd_port=$port
	free_port
	etcd=etcd://127.0.0.1:$etcd_port etcd_http=http://127.0.0.1:$etcd_port
	etcd --data-dir "$dir/etcd" --log-level error --listen-client-urls "$etcd_http" \
		--advertise-client-urls "$etcd_http" --listen-peer-urls "http://127.0.0.1:$port" \
		--initial-advertise-peer-urls "http://127.0.0.1:$port" \
		--initial-cluster "default=http://127.0.0.1:$port" >"$dir/etcd.log" 2>&1 &
	started $! "$dir/etcd.log"
	n=0
	until env ETCDCTL_API=3 no_proxy=127.0.0.1 etcdctl --endpoints="$etcd_http" get x >/dev/null 2>&1; do
		n=$((n + 1))
		[ $n -lt 100 ] || die "etcd does not answer: $(tail -n 3 "$dir/etcd.log")"
		sleep 0.1
	done
}

# etcd_records CLUSTER NUMBER: keys as those of engines, 100 in a transaction.
etcd_records() {
	awk -v cluster="$1" -v nr="$2" 'BEGIN {
		for (i = 0; i < nr; i++) {
			if (i % 100 == 0)
				printf "%s\n", i ? "\n\n" : ""
			printf "put mooncake/%s/engine/node%05d {}\n", cluster, i
		}
		printf "\n\n"
	}' | awk -v out="$dir/txn" '
		/^put/ { if (!open) { open = 1; nr++ } print > (out "." nr); next }
		{ open = 0 }'
	for f in "$dir"/txn.*; do
		{ echo; cat "$f"; echo; echo; } | env ETCDCTL_API=3 no_proxy=127.0.0.1 \
			etcdctl --endpoints="$etcd_http" txn >/dev/null || die "etcd takes no records"
		rm -f "$f"
	done
}

# ---- ours ----------------------------------------------------------------------------------------

# start_target NAME FLAG...: once per name; later flags win.
start_target() {
	own=$1
	shift
	[ ! -f "$dir/$own.ready" ] || return 0
	"$bench" --mode=target --metadata_server="file://$dir/metadata" --local_server_name="$own" \
		--port=0 --log_level=warn --buffer_size=128M --nic_priority_matrix="$dir/matrix.json" \
		--threads=1 --batch_size=1 --ready_file="$dir/$own.ready" "$@" >/dev/null </dev/null &
	children="$children $!"
	wait_ready "$dir/$own.ready" $! || exit 1
}

# run_ours TARGET FLAG...: bytes per second, CPU seconds per GB here and there, transfers per
# second, median latency of a batch in ns.
run_ours() {
	to=$1
	shift
	"$bench" --metadata_server="file://$dir/metadata" --local_server_name=compare --port=0 \
		--log_level=warn --segment_id="$to" --threads=1 --duration="$seconds" --json "$@" \
		>"$dir/ours.json" 2>"$dir/ours.err" </dev/null || die "our run failed: $(cat "$dir/ours.err")"
	awk '
		function number(s) { sub(/.*: */, "", s); return s + 0 }
		/"throughput_bytes_per_s"/ { rate = number($0) }
		/"transfers_per_s"/ { transfers = number($0) }
		/"cpu_s_per_gb"/ && !/target/ { here = number($0) }
		/"target_cpu_s_per_gb"/ { there = number($0) }
		/"batch_p50_ns"/ { p50 = number($0) }
		END { printf "%.0f %.4f %.4f %.0f %d\n", rate, here, there, transfers, p50 }
	' "$dir/ours.json"
}

# run_cost METADATA_URL CLUSTER WHAT...: what engine_cost says, one "name value" per line.
run_cost() {
	url=$1 cluster=$2
	shift 2
	"$build/bench/engine_cost" "$@" --metadata_server="$url" --cluster="$cluster" \
		--local_server_name=compare --port=0 --nic_priority_matrix="$dir/matrix.json" \
		--log_level=warn 2>"$dir/cost.err" || die "engine_cost $1 failed: $(cat "$dir/cost.err")"
}

# figures NAME...: of what run_cost prints, the values in this order on one line.
figures() {
	awk -v names="$*" '
		{ v[$1] = $2 }
		END { n = split(names, x, " "); for (i = 1; i <= n; i++) printf "%s%s", v[x[i]], i < n ? " " : "\n" }'
}
