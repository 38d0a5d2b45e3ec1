#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check-plugin over metadata plugins that each break the contract in one way (tests/plugins/bent_metadata.c).
#
#   check-bent-metadata.sh PROGRAM PLUGIN-FOLDER
set -u
. "$(dirname "$0")/found.sh"

# What follows is found in a folder of its own.
set -- --device="file://$tmp/keys" --ttl=0.3

found metadata-bent-no-revoke table 8 'need one another'
found metadata-bent-scheme schemes 8 'fits' "$@"
found metadata-bent-any-url bad-url 8 "URL '' is opened" "$@"
found metadata-bent-leaks-fd open-close-100 8 'descriptors became' "$@"
found metadata-bent-beside open 3 'only inside its private areas' "$@"
found metadata-bent-inherits fork 3 'inherited' "$@"
found metadata-bent-blocks open 2 'held the control loop' "$@"
found metadata-bent-elsewhere put 7 'timer_set is called on the control loop' "$@"
found metadata-bent-wordless put 8 'without a sentence' "$@"
found metadata-bent-deletes delete 8 'del of another revision answers 0' "$@"
found metadata-bent-blind cas 8 'cas of a key that is gone answers 0' "$@"
found metadata-bent-blind contention 8 'writes were lost' "$@"
found metadata-bent-blind one-winner 8 '4 are told that they did' "$@"
found metadata-bent-same-revision revisions 8 'revision 7 came twice' "$@"
found metadata-bent-cuts values 8 'get does not emit the 65537 bytes' "$@"
found metadata-bent-folds keys 8 "key 'UPPER' is not found, or holds another's value" "$@"
found metadata-bent-goes-on list 8 'non-zero at the third key' "$@"
found metadata-bent-deaf watch 8 'a put is not reported' "$@"
found metadata-bent-hears-on watch 8 'an event arrives after unwatch' "$@"
found metadata-bent-immortal lease-end 8 'does not end within its ttl' "$@"
found metadata-bent-mortal lease-keep 8 'ends while it is kept alive' "$@"
found metadata-bent-tears writer-killed 8 'values are damaged' "$@"
found metadata-bent-late deadlines 8 'whose deadline has passed take' "$@"

# Nothing of it is found where nothing is wrong; the other checks pass over metadata/file itself.
for name in exports put watch lease-end; do
	sound metadata-bent-base $name "$@"
done

# Without a service there is one skip, which says what is missing.
check metadata-bent-base
[ $code -eq 0 ] && grep -q '^skip lives: device: .*--device=URL' "$tmp/out" || complain "a missing URL is not told"
exit $failed
