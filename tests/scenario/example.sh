#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The example of the README does what it says, and is as short as promised: usage: example.sh SOURCE.
. "$(dirname "$0")/lib.sh"

[ "$(wc -l <"$1")" -le 70 ] || die "the example has grown past 70 lines"
XDG_RUNTIME_DIR=$dir timeout 60 "$EXAMPLE" >"$dir/example.out" 2>"$dir/example.err" ||
	die "the example ended with $?"
[ "$(cat "$dir/example.out")" = 'hello, segment' ] || die "the example did not print its text"
