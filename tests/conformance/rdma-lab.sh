#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# In a guest with a cable (tests/lab/rails 1): the conformance suite over real soft-RoCE, as it is and with what
# cuts requests into many, shares little room, and uses small packets.
#
#   rdma-lab.sh CONFORMANCE-TRANSPORT TRANSPORT-RDMA.so
program=$1 plugin=$2 failed=0

run() {
	echo "== $*"
	"$program" "$plugin" --level behaves --device ra0 "$@" || failed=1
}

run
for case in register sizes largest once fence two-peers; do
	run --case $case --option max_mr_size=64KiB --option qps_per_peer=4 --option max_wr=16 --option mtu=1024 \
		--option max_inline=0
done
for case in sizes threads stop reconnect; do
	run --case $case --option qps_per_peer=1 --option max_wr=4 --option max_cqe=64 --option max_endpoints=1
done
exit $failed
