#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check-plugin over plugins that each break the contract in one way (tests/plugins/bent.c, good.c): the check
# that is there for it must fail, for its reason, and name the section; over the one that breaks nothing the
# same checks must pass.  Then the reports, and the command line.
#
#   check-plugin.sh PROGRAM PLUGIN-FOLDER
set -u
. "$(dirname "$0")/found.sh"

found bent-prints quiet 1 "prints: 'bent 1.0 is here'"
found bent-starts quiet 1 'starts threads: 1 became 2'
found bent-opens quiet 1 'opens descriptor [0-9]* (/dev/null)'
found bent-signal quiet 1 'changes what happens at signal 10'
found bent-env quiet 1 'changes the environment: BENT=1'
if grep -q '^wchar' /proc/self/io 2>/dev/null; then
	found bent-writes quiet 1 'writes 4 bytes'
fi
found bent-exports exports 1 "exports 'bent_version'"
found bent-links links 1 'links libmooncake.so'
found undefined load 1 'undefined symbol: mc_gone'
found gone load 1 'libibverbs.so.99'
found major-old head 1 'ABI 0.9'
found no-submit head 1 'submit'
found magic head 1 'magic'
found name descriptor 1 "the plugin in it is found as 'transport-somebody-else.so'"
found bent-undocumented option-table 1 "'colour' has no doc"
found bent-leaks-fd open-close-100 4 'descriptors became'
found bent-keeps open-close-100 4 'close frees what it allocated'
found bent-inherits fork 3 'inherited'
found bent-hangs open 4 'does not end within 2 s' --timeout=2
found bent-exits once 5 'ends inside the plugin'
found bent-inside once 5 'from inside submit'
found bent-twice once 5 'exactly once'
found bent-thread once 2 'from another thread'
found bent-helper once 2 'timer_set .* called it from mem_reg'
found bent-waits silent-peer 4 'peer_ready does not come within'
found bent-beside sizes 5 'changes others'
found bent-wrong sizes 5 'wrong bytes'
found bent-ghost fence 6 'bytes move after the fence'
# A sanitizer sees these first, the leak when it is opened for the first time, and says so in its own way.
check bent-leaks-memory --case=open-close-100
grep -q '^FAIL lives: open\(-close-100\)\?: ' "$tmp/out" || complain "bent-leaks-memory is not found"
check bent-crashes --case=once
grep -q '^FAIL moves: once: .*\(crashes\|ends inside the plugin\)' "$tmp/out" || complain "bent-crashes is not found"

# Nothing of it is found where nothing is wrong.
for name in load quiet exports links head descriptor table option-table open-close-100 fork once sizes fence; do
	sound bent-base $name
done

# A crash of one check is not the end of the others, and each is told in every report.
check bent-crashes --level=moves --timeout=60 --json="$tmp/report.json" --junit="$tmp/report.xml"
[ $code -eq 1 ] || complain "bent-crashes: exit code $code, not 1"
grep -q '^ok   moves: register' "$tmp/out" || complain "bent-crashes: the checks after a crash are not run"
python3 - "$tmp" <<'END' || complain "the reports of bent-crashes are wrong"
import json
import sys
import xml.etree.ElementTree

with open(sys.argv[1] + '/report.json', encoding='utf-8') as f:
    report = json.load(f)
suite = xml.etree.ElementTree.parse(sys.argv[1] + '/report.xml').getroot()
with open(sys.argv[1] + '/out', encoding='utf-8') as f:
    last = f.read().splitlines()[-1]
counts = (report['passed'], report['failed'], report['skipped'])
assert last == '%d passed, %d failed, %d skipped' % counts, last
assert len(report['checks']) == sum(counts) == int(suite.get('tests')) == len(suite), counts
assert int(suite.get('failures')) == counts[1] > 0 and int(suite.get('skipped')) == counts[2]
assert report['name'] == 'bent-crashes' and report['device'] == 'bent-crashes0', report
assert {c['level'] for c in report['checks']} == {'loads', 'lives', 'moves'}
once = [c for c in report['checks'] if c['check'] == 'once'][0]
assert once['result'] == 'failed' and once['section'] == 5 and once['breaks'].endswith('section 5, A slice'), once
END

# What cannot be opened is one finding, and so is a transport that moves nothing.
found open-fails open 4 'cannot be opened'
check memory-bent-no-device
grep -q '^[0-9]* passed, 1 failed, ' "$tmp/out" && grep -q '^FAIL lives: open: .*plug one in.* section 9' "$tmp/out" ||
	complain "memory-bent-no-device: not one failure"
check bent-idle --level=moves
grep -q '^[0-9]* passed, 1 failed, ' "$tmp/out" && grep -q '^FAIL lives: data: .*--no-data' "$tmp/out" ||
	complain "bent-idle: not one failure, which names --no-data"
check bent-idle --level=moves --no-data
grep -q '^[0-9]* passed, 0 failed, ' "$tmp/out" || complain "bent-idle fails with --no-data"

# What cannot be loaded is one finding, and the rest is not run.
check undefined
grep -q '^FAIL loads: load: ' "$tmp/out" && ! grep -q 'lives:' "$tmp/out" || complain "undefined: more than loads is run"

# The command line.
usage() {
	words=$1
	shift
	"$program" "$@" >"$tmp/out" 2>"$tmp/err"
	[ $? -eq 2 ] && grep -q "$words" "$tmp/err" || complain "'$*' is not refused with '$words'"
}
usage 'FILE.so is missing'
usage "'$tmp/none.so': No such file" "$tmp/none.so"
usage "no check has the name 'fork2'" x.so --case=fork2
usage "there is no 'best'" x.so --level=best
usage "flag --jsn is not known (did you mean --json?)" x.so --jsn
usage "a value is missing after '--device'" x.so --device
usage "not '0'" x.so --timeout=0
"$program" --list | grep -q '^behaves  *frozen  *section 6  transport$' || complain "--list does not name 'frozen'"
"$program" --help | grep -q '^Example:' || complain "--help has no example"
exit $failed
