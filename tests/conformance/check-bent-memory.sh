#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check-plugin over memory plugins that each break the contract in one way (tests/plugins/bent_memory.c).
#
#   check-bent-memory.sh PROGRAM PLUGIN-FOLDER
set -u
. "$(dirname "$0")/found.sh"

found memory-bent-no-free table 9 'alloc needs free'
found memory-bent-leaks-fd open-close-100 9 'descriptors became'
found memory-bent-leaks-pages open-close-100 9 'pages of memory became'
found memory-bent-keeps open-close-100 9 'gives everything back'
found memory-bent-beside open-close-100 3 'the instance area was'
found memory-bent-wordless open-fails 9 'without a sentence when alloc 1 fails'
found memory-bent-counts-none alloc 9 'count says 0'
found memory-bent-any-ordinal alloc 9 'alloc on ordinal 2 of 2 answers 0'
found memory-bent-takes-all identify 9 'answers 0 for an address of the stack'
found memory-bent-takes-parts identify 9 'goes far beyond'
found memory-bent-ordinal identify 9 'says ordinal 0 of memory on ordinal 1'
found memory-bent-inherits dmabuf 3 'would be inherited'
found memory-bent-offset dmabuf 9 'offset of 64 KiB behind the start is 0'
found memory-bent-flushes-all flush 9 'not -ENODEV'
found memory-bent-overruns copy 9 "changes bytes beside the host's range"
found memory-bent-forgets copy 9 'a copy of 1 bytes.* brings wrong bytes'
found memory-bent-twice full 9 'answered once'
found memory-bent-loses full 9 'copied never comes' --option=depth=65536
found memory-bent-eager full 9 'is answered again by copied'
found memory-bent-stuck full 9 'nothing is in flight' --option=depth=65536
found memory-bent-touches not-ours 9 'answers 0, not -EFAULT'

# Nothing of it is found where nothing is wrong; what memory-fake itself is checked for is in meson.build.
check memory-bent-base
[ $code -eq 0 ] && grep -q '^[0-9]* passed, 0 failed, 2 skipped$' "$tmp/out" || complain "memory-bent-base fails"
exit $failed
