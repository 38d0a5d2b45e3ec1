#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check-plugin as its users call it, over a plugin of ours: every level, the manifest that was built with it and
# one that says something else.
#
#   check-own.sh PROGRAM PLUGIN.so MANIFEST.json ARGUMENT...
set -u
program=$1 plugin=$2 manifest=$3
shift 3
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
failed=0

complain() {
	echo "FAIL: $*"
	sed 's/^/    /' "$tmp/out"
	failed=1
}

"$program" "$plugin" --manifest="$manifest" --case=manifest "$@" >"$tmp/out"
[ $? -eq 0 ] && grep -q '^ok   loads: manifest$' "$tmp/out" || complain "the manifest does not agree"
sed 's/"doc": "/"doc": "not /' "$manifest" >"$tmp/other.json"
"$program" "$plugin" --manifest="$tmp/other.json" --case=manifest "$@" >"$tmp/out"
[ $? -eq 1 ] && grep -q ': doc differs between the manifest and the plugin; breaks .* section 1,' "$tmp/out" ||
	complain "another manifest is taken for its own"
"$program" "$plugin" --level=performs --case=bench --json="$tmp/bench.json" "$@" >"$tmp/out"
[ $? -eq 0 ] && grep -q '^write 64 KiB x 16 .*GB/s' "$tmp/out" || complain "there is no bench"
grep -q '"plugin": "null"' "$tmp/bench.json" || complain "null is not in the bench's table"
exit $failed
