#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# For the conformance program: starts etcd, prints its URL and options of the plugin as one line, and
# ends it when stdin closes.  usage: etcd-setup.sh plain|tls|users|cluster
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
	etcd_start one --bcrypt-cost 4
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
cat >/dev/null
