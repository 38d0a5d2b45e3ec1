# SPDX-License-Identifier: Apache-2.0
# Sourced by tests that need etcd: real servers on free ports of the loopback, with their data in
# $dir, which the sourcing script has made and removes.  It also ends the processes in $pids.

etcd_needs() {
	for program in etcd python3 "$@"; do
		command -v "$program" >/dev/null || skip "there is no $program (package $(etcd_package "$program"))"
	done
}

etcd_package() {
	case $1 in
	etcd) echo etcd-server ;;
	*) echo "$1" ;;
	esac
}

# free_ports N: that many ports that nobody has just now.
free_ports() {
	python3 - "$1" <<-'END'
		import socket, sys
		held = [socket.socket() for _ in range(int(sys.argv[1]))]
		for s in held:
		    s.bind(('127.0.0.1', 0))
		print(*(s.getsockname()[1] for s in held))
	END
}

# refusing_port: one that refuses connections, in $port: held, so that no process beside listens there meanwhile.
refusing_port() {
	python3 -c "
import signal, socket
s = socket.socket()
s.bind(('127.0.0.1', 0))
print(s.getsockname()[1], flush=True)
signal.pause()" >"$dir/refusing.port" 2>/dev/null </dev/null &
	pids="$pids $!"
	wait_until "a port that refuses" test -s "$dir/refusing.port"
	read -r port <"$dir/refusing.port"
}

# etcd_certificates: a CA, a server's certificate for the loopback, a client's.
etcd_certificates() {
	(
		cd "$dir" &&
			openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
				-subj /CN=ca -keyout ca.key -out ca.pem &&
			for who in server client; do
				openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$who \
					-keyout $who.key -out $who.csr &&
					printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\n' >$who.ext &&
					openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
						-days 2 -extfile $who.ext -out $who.pem || exit 1
			done
	) >"$dir/openssl.log" 2>&1 || die "openssl made no certificates: $(tail -n 3 "$dir/openssl.log")"
}

# etcd_start NAME [FLAG...]: start a member, or start it again on its ports with its data.  Its pid
# is then in $etcd, its endpoint, host:port, in $endpoint, its log in $dir/NAME.etcd.err.  ETCD_SCHEME
# is https for TLS; ETCD_CLUSTER is the list of members where there are several; ETCD_IN runs before it.
etcd_start() {
	etcd_name=$1
	shift
	for try in 1 2 3 4 5; do
		# Another process may take a port before etcd does; members of a cluster keep theirs.
		[ -f "$dir/$etcd_name.ports" ] || free_ports 2 >"$dir/$etcd_name.ports"
		read -r etcd_client etcd_peer <"$dir/$etcd_name.ports"
		etcd_url=${ETCD_SCHEME:-http}://127.0.0.1:$etcd_client
		etcd_peer_url=http://127.0.0.1:$etcd_peer
		${ETCD_IN:-} etcd --name "$etcd_name" --data-dir "$dir/$etcd_name.data" \
			--listen-client-urls "$etcd_url" --advertise-client-urls "$etcd_url" \
			--listen-peer-urls "$etcd_peer_url" --initial-advertise-peer-urls "$etcd_peer_url" \
			--initial-cluster "${ETCD_CLUSTER:-$etcd_name=$etcd_peer_url}" \
			--logger zap --log-outputs stderr --log-level warn --enable-v2=false "$@" \
			</dev/null >>"$dir/$etcd_name.etcd.err" 2>&1 &
		etcd=$!
		pids="$pids $etcd"
		endpoint=127.0.0.1:$etcd_client
		[ -n "${ETCD_CLUSTER:-}" ] && return 0
		etcd_wait "$endpoint" "$etcd" && return 0
		kill -KILL "$etcd" 2>/dev/null
		[ -d "$dir/$etcd_name.data/member" ] && [ $try -gt 1 ] || rm -f "$dir/$etcd_name.ports"
	done
	die "etcd does not start: $(tail -n 5 "$dir/$etcd_name.etcd.err")"
}

# etcd_wait ENDPOINT PID: until it answers; 1: the process has ended, or it took a minute.
etcd_wait() {
	${ETCD_IN:-} python3 - "${ETCD_SCHEME:-http}://$1" "$2" "${ETCD_TLS:-}" <<-'END'
		import os, ssl, sys, time, urllib.error, urllib.request
		url, pid, cert = sys.argv[1], int(sys.argv[2]), sys.argv[3]
		ctx = ssl.create_default_context()
		ctx.check_hostname = False
		ctx.verify_mode = ssl.CERT_NONE
		if cert:
		    ctx.load_cert_chain(cert + '.pem', cert + '.key')
		opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
		                                     urllib.request.HTTPSHandler(context=ctx))
		end = time.monotonic() + 60
		while time.monotonic() < end:
		    try:
		        opener.open(urllib.request.Request(url + '/v3/kv/range', b'{"key":"YQ=="}'), timeout=5)
		        sys.exit(0)
		    except urllib.error.HTTPError as e:
		        if e.code < 500:  # it wants a user, perhaps
		            sys.exit(0)
		    except OSError:
		        pass
		    try:
		        os.kill(pid, 0)
		        if open('/proc/%d/stat' % pid).read().rsplit(')')[1].split()[0] == 'Z':
		            sys.exit(1)
		    except OSError:
		        sys.exit(1)
		    time.sleep(0.05)
		sys.exit(1)
	END
}

# etcd_api ENDPOINT PATH BODY [TOKEN]: one call of the JSON gateway; the answer on stdout.
etcd_api() {
	${ETCD_IN:-} python3 - "http://$1/v3/$2" "$3" "${4:-}" <<-'END'
		import sys, urllib.request
		opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
		headers = {'Authorization': sys.argv[3]} if sys.argv[3] else {}
		print(opener.open(urllib.request.Request(sys.argv[1], sys.argv[2].encode(), headers), timeout=20).read().decode())
	END
}

# etcd_users ENDPOINT: root, and a user 'engine' who may use the keys below mooncake/ only.
etcd_users() {
	etcd_api "$1" auth/user/add '{"name":"root","password":"root secret"}' &&
		etcd_api "$1" auth/user/grant '{"user":"root","role":"root"}' &&
		etcd_api "$1" auth/role/add '{"name":"engines"}' &&
		etcd_api "$1" auth/role/grant \
			'{"name":"engines","perm":{"permType":"READWRITE","key":"bW9vbmNha2Uv","range_end":"bW9vbmNha2Uw"}}' &&
		etcd_api "$1" auth/user/add '{"name":"engine","password":"pass \"word\" \\ 1"}' &&
		etcd_api "$1" auth/user/grant '{"user":"engine","role":"engines"}' &&
		etcd_api "$1" auth/enable '{}'
	[ $? -eq 0 ] || die "etcd takes no users"
	printf '%s\n' 'pass "word" \ 1' >"$dir/password"
} >>"$dir/users.log" 2>&1

# etcd_forget ENDPOINT: every token of the user 'engine'; its password stays the same.
etcd_forget() {
	root=$(etcd_api "$1" auth/authenticate '{"name":"root","password":"root secret"}' |
		sed 's/.*"token":"\([^"]*\)".*/\1/')
	etcd_api "$1" auth/user/changepw '{"name":"engine","password":"pass \"word\" \\ 1"}' "$root" >/dev/null
}

# etcd_cluster N: as many members; their endpoints are in $endpoints, pids in $member_1, ...
etcd_cluster() {
	ETCD_CLUSTER= endpoints=
	for i in $(seq "$1"); do
		free_ports 2 >"$dir/m$i.ports"
		read -r etcd_client etcd_peer <"$dir/m$i.ports"
		ETCD_CLUSTER="$ETCD_CLUSTER${ETCD_CLUSTER:+,}m$i=http://127.0.0.1:$etcd_peer"
		endpoints="$endpoints${endpoints:+,}127.0.0.1:$etcd_client"
	done
	for i in $(seq "$1"); do
		etcd_start m$i
		eval "member_$i=$etcd"
	done
	for i in $(seq "$1"); do
		read -r etcd_client etcd_peer <"$dir/m$i.ports"
		eval "etcd_wait 127.0.0.1:$etcd_client \$member_$i" || die "member $i does not answer"
	done
}
