#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Our own work per slice of rdma: user-space instructions at the initiator for each 64 KiB of batches of
# 16 times 1 MiB, counted by valgrind's callgrind.  The mock libibverbs of the tests stands for the device, with
# requests that end as they are posted, so that nobody waits; what is spent inside of it does not count, all
# else of the process does.  The difference of a long and a short run leaves out what comes once.
#
# Prints "write instructions per slice N reach 1500 ok|short", and so for read.
# Exit: 0 all ok, 1 one is short or a run failed, 2 usage, 77 something is missing.
set -u
cd "$(dirname "$0")/.." || exit 1

build=build reach=1500 few=100 many=300
for arg in "$@"; do
	case $arg in
	--build=*) build=${arg#*=} ;;
	-h | --help) sed -n '3,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
	*) echo "usage: bench/rdma-cost.sh [--build=DIR]" >&2; exit 2 ;;
	esac
done
. bench/env.sh
use_build "$build" || exit 1
mock=$build/tests/verbs
command -v valgrind >/dev/null || { echo "there is no valgrind (package valgrind)"; exit 77; }
[ -e "$mock/libibverbs.so.1" ] && [ -e "$build/transports/rdma/transport-rdma.so" ] ||
	{ echo "$build has no rdma transport, or no tests: build it with libibverbs-dev"; exit 77; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/mc-rdma-cost.XXXXXX") || exit 1
target=
trap '[ -z "$target" ] || { kill "$target" && wait "$target"; } 2>/dev/null; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP
mkdir "$dir/metadata" "$dir/fabric"
export LD_LIBRARY_PATH=$mock LD_BIND_NOW=1 MOCK_VERBS_DIR=$dir/fabric MOCK_VERBS="mock0:sync=1 mock1"

"$bench" --mode=target --metadata_server="file://$dir/metadata" --local_server_name=t --port=0 \
	--ready_file="$dir/ready" --buffer_size=64M --nic_priority_matrix='{"*": [["rdma:mock1"]]}' \
	>"$dir/target" 2>&1 </dev/null &
target=$!
wait_ready "$dir/ready" $target || { cat "$dir/target"; exit 1; }

# count OPERATION BATCHES: instructions of the whole process, without those of calls into the mock.
count() {
	valgrind --tool=callgrind --callgrind-out-file="$dir/out" "$build/bench/engine_cost" "$1" t "$2" \
		--metadata_server="file://$dir/metadata" --local_server_name=i --port=0 --log_level=error \
		--nic_priority_matrix='{"*": [["rdma:mock0"]]}' >"$dir/run" 2>&1 || { cat "$dir/run" >&2; return 1; }
	awk '
		# "ob=(3) /path" names object 3, "ob=(3)" means it again; "cob=" is that of the next call.
		function object(text) {
			id = text
			sub(/\).*/, ")", id)
			if (text ~ / /)
				mock[id] = text ~ /\/libibverbs\.so/
			return mock[id]
		}
		/^ob=/ { here = object(substr($0, 4)) }
		/^cob=/ { there = object(substr($0, 5)); named = 1 }
		/^calls=/ {
			getline
			if (named && there && !here)
				away += $2
			named = 0
		}
		/^(summary|totals):/ { all = $2 }
		END { printf "%.0f\n", all - away }' "$dir/out"
}

code=0
for op in write read; do
	low=$(count $op $few) && high=$(count $op $many) || exit 1
	per=$(((high - low) / ((many - few) * 256)))
	word=ok
	[ $per -gt 0 ] && [ $per -le $reach ] || word=short code=1
	echo "$op instructions per slice $per reach $reach $word"
done
exit $code
