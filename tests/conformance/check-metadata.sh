#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The conformance kit over a metadata plugin of ours: "file" in a fresh folder, else over the servers that
# etcd-setup.sh starts.
#
#   check-metadata.sh PROGRAM PLUGIN.so file|plain|tls|users|cluster ARGUMENT...
set -u
program=$1 plugin=$2 kind=$3
shift 3
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

if [ "$kind" = file ]; then
	"$program" "$plugin" --device="file://$tmp/new" "$@"
	exit $?
fi
mkfifo "$tmp/in" "$tmp/out" || exit 1
"$(dirname "$0")/etcd-setup.sh" "$kind" <"$tmp/in" >"$tmp/out" &
setup=$!
exec 3>"$tmp/in"
read -r url options <"$tmp/out" || {
	exec 3>&-
	wait $setup
	exit $?
}
for option in $options; do
	set -- "$@" --option="$option"
done
"$program" "$plugin" --device="$url" "$@" 3>&-
code=$?
exec 3>&- # which ends the servers
wait $setup
exit $code
