#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# In a guest with a CXL memory device (tests/lab/guest -C 256): from the bare device to transfers, by doing
# nothing but what the messages say.
#
#   cxl-guest.sh MOONCAKE BENCH [MASTER STORE]
BENCH=$2 mooncake=$1
export MASTER="${3:-}" STORE="${4:-}"
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
matrix='{"*": [["cxl:DEVICE"], ["tcp:lo"]]}'
[ -e /sys/bus/cxl/devices/mem0 ] || skip "this host has no CXL memory device"
command -v cxl >/dev/null && command -v ndctl >/dev/null || skip "there is no cxl or ndctl (package ndctl)"

# topology shows DEVICE with a note that matches PATTERN.
pool_says() {
	"$mooncake" topology >"$dir/topology.out" 2>"$dir/topology.err" || die "topology failed"
	grep "^$1 .*$2" "$dir/topology.out" || die "topology does not say '$2' of $1"
}

# A bench that requires the device is refused with a sentence that matches PATTERN.
refused() {
	"$BENCH" --mode=target --metadata_server="$metadata" --local_server_name=refused --port=0 --location=cxl:0 \
		--buffer_size=2M --nic_priority_matrix="{\"*\": [[{\"device\": \"cxl:$1\", \"require\": true}]]}" \
		>"$dir/refused.out" 2>"$dir/refused.err" </dev/null && die "an engine on $1 opened"
	grep "$2" "$dir/refused.err" || die "the engine on $1 does not say '$2'"
}

# The commands that a note has after "run ": done in turn.
obey() {
	sed -n "s/^$1 .*: run //p" "$dir/topology.out" | sed 's/, then /\n/g' >"$dir/todo"
	[ -s "$dir/todo" ] || die "topology names no command for $1"
	while read -r line; do
		echo "+ $line"
		sh -c "$line" </dev/null >"$dir/obey.out" 2>&1 || die "what topology says does not work: $line"
	done <"$dir/todo"
}

# ---- from the device to a pool ----
pool_says mem0 '256 MiB persistent.*no region maps it: run cxl create-region -m -d decoder0.0 -w 1 -t pmem mem0, then ndctl '
refused mem0 'no region maps it: run cxl create-region'
refused mem7 'no such CXL memory'
obey mem0
wait_until "/dev/dax0.0" test -e /dev/dax0.0
pool_says dax0.0 '250 MiB .*region0 of mem0.*it is not formatted: run mooncake cxl format'
refused dax0.0 'mooncake cxl format'

# ---- as system memory, and back; nothing is put online, or the guest would use it ----
echo offline >/sys/devices/system/memory/auto_online_blocks
daxctl reconfigure-device --mode=system-ram --no-online dax0.0 >"$dir/daxctl.out" 2>&1 || die "daxctl"
pool_says dax0.0 'used as system memory: run daxctl reconfigure-device'
refused dax0.0 'used as system memory'
obey dax0.0
wait_until "/dev/dax0.0" test -e /dev/dax0.0

# ---- whoever may not ----
# Who owns this project, for it may lie where only its owner can read, and without root's rights.
chmod 0 /dev/dax0.0
setpriv --reuid="$(stat -c %u "$mooncake")" --regid="$(stat -c %g "$mooncake")" --clear-groups --inh-caps=-all \
	--bounding-set=-all "$mooncake" topology >"$dir/nobody.out" 2>"$dir/nobody.err" || die "topology of nobody failed"
chmod 600 /dev/dax0.0
grep '^dax0.0 .*let this user read and write it' "$dir/nobody.out" || die "no word of rights"
[ ! -s "$dir/nobody.err" ] || die "topology of nobody is not quiet"

# ---- format, refuse, force ----
"$mooncake" cxl format dax0.0 || die "format"
"$mooncake" cxl format dax0.0 2>"$dir/again.err" && die "a pool was formatted again"
grep -e --force "$dir/again.err" || die "no word of --force"
pool_says dax0.0 '250 MiB .*aligned to 2048 KiB, region0 of mem0'
"$mooncake" topology --json | grep -q '"pools"' || die "no pools in the JSON"
"$mooncake" topology --svg="$dir/host.svg" --nic_priority_matrix='{"cxl:0": [["dax0.0"]]}' || die "--svg"
grep -q '>pool, 250 MiB' "$dir/host.svg" || die "no pool in the picture"

# ---- transfers: the device by each of its names, both directions ----
target t --location=cxl:0 --buffer_size=8M --nic_priority_matrix="$(echo "$matrix" | sed s/DEVICE/dax0.0/)"
for device in dax0.0 region0 mem0; do
	for operation in write read; do
		initiate i --segment_id=t --operation=$operation --check --duration=1 --threads=1 --batch_size=4 \
			--block_size=64K --buffer_size=4M --nic_priority_matrix="$(echo "$matrix" | sed "s/DEVICE/$device/")" ||
			die "$operation over $device failed"
		grep "^rail.*cxl:$device" "$dir/i.out" || die "$operation over $device did not go there"
	done
done
kill -TERM "$target"

# ---- the managed store lends memory of the pool ----
[ -z "$STORE" ] || sh "$(dirname "$0")/store.sh" cxl || die "the store over CXL memory"
