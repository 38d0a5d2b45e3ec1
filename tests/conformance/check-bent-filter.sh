#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check-plugin over filters that each break the contract in one way (tests/plugins/bent_filter.c).
#
#   check-bent-filter.sh PROGRAM PLUGIN-FOLDER
set -u
. "$(dirname "$0")/found.sh"

# What follows is put over a transport that breaks nothing.
set -- --over="$plugins/transport-bent-base.so" --device=bent-base0

found filter-bent-no-open table 10 'needs open'
found filter-bent-crashes filter-options 1 'with colour=7: it crashes' "$@"
found filter-bent-widens filter-caps 10 'max_slice is larger' "$@"
found filter-bent-keeps open-close-100 4 'close frees what it allocated' "$@"
found filter-bent-inside once 5 'from inside submit' "$@"
found filter-bent-twice once 5 'exactly once' "$@"
found filter-bent-swallows once 5 'complete' "$@"
found filter-bent-refuses sizes 5 'fails: -5' "$@"
found filter-bent-short sizes 5 'wrong bytes' "$@"
found filter-bent-scopeless fence 5 'a failure has a scope' "$@"
found filter-bent-late-fence fence 6 'fence' "$@"

# Nothing of it is found where nothing is wrong.
for name in filter-options filter-caps open-close-100 once sizes fence; do
	sound filter-bent-base $name "$@"
done

# What is needed, and is not there, is one skip.
check filter-bent-base
[ $code -eq 0 ] && grep -q '^skip lives: over: .*--over=' "$tmp/out" || complain "a missing --over is not told"
exit $failed
