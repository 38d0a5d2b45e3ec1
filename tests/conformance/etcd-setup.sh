#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# For tests of the plugin: starts etcd, prints its URL and options of the plugin as one line, and ends
# it when stdin closes.  Until then it takes commands there, and answers each with a line: kill, start,
# stop, cont, compact REVISION, kill_member N, forget (tokens).  usage: etcd-setup.sh plain|tls|users|cluster
set -u
. "$(dirname "$0")/../etcd.sh"

dir=$(mktemp -d "${TMPDIR:-/tmp}/mc-etcd.XXXXXX") || exit 1
pids=

finish() {
	code=$?
	for pid in $pids; do
		kill -KILL "$pid" 2>/dev/null
	done
	wait
	rm -rf "$dir"
	exit $code
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

die() {
	echo "$*" >&2
	exit 1
}

skip() {
	echo "$*" >&2
	exit 77
}

etcd_needs
case $1 in
plain)
	flags=
	etcd_start one
	echo "etcd://$endpoint"
	;;
tls)
	etcd_needs openssl
	etcd_certificates
	ETCD_SCHEME=https ETCD_TLS=$dir/client
	etcd_start one --cert-file="$dir/server.pem" --key-file="$dir/server.key" \
		--client-cert-auth --trusted-ca-file="$dir/ca.pem"
	echo "etcds://$endpoint ca=$dir/ca.pem cert=$dir/client.pem key=$dir/client.key"
	;;
users)
	flags='--bcrypt-cost 4'
	etcd_start one $flags
	etcd_users "$endpoint"
	echo "etcd://$endpoint user=engine password_file=$dir/password"
	;;
cluster)
	etcd_cluster 3
	echo "etcd://$endpoints"
	;;
*)
	die "usage: etcd-setup.sh plain|tls|users|cluster"
	;;
esac
while read -r command argument; do
	case $command in
	kill) kill -KILL "$etcd" && wait "$etcd" 2>/dev/null ;;
	start) etcd_start one $flags ;;
	wipe)
		kill -KILL "$etcd" && wait "$etcd" 2>/dev/null
		rm -rf "$dir/one.data"
		etcd_start one $flags
		;;
	stop)
		kill -STOP "$etcd"
		# Its threads stop one by one.
		until ! cat /proc/"$etcd"/task/*/stat 2>/dev/null | grep -qv ') T '; do sleep 0.01; done
		;;
	cont) kill -CONT "$etcd" ;;
	compact) etcd_api "$endpoint" kv/compaction "{\"revision\":\"$argument\",\"physical\":true}" >/dev/null ;;
	forget) etcd_forget "$endpoint" ;;
	kill_member) eval "kill -KILL \$member_$argument" ;;
	*) die "command '$command' is not known" ;;
	esac
	echo done
done
