#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# In a guest with a cable (tests/lab/rails 1): scenarios of engines that do not ask what carries them, over
# soft-RoCE.
#
#   rdma-promises.sh PROMISES CROWD
export MATRIX='{"*": [["rdma:ra0"]]}'
failed=0

run() {
	begin=$(date +%s)
	"$@" || { echo "FAIL ${1##*/} $2"; failed=1; }
	echo "${1##*/} $2: $(($(date +%s) - begin)) s"
}

for name in P1-alive P2 P5 P6; do
	run "$1" $name
done
for name in initiator-killed unregistered forked; do
	run "$2" $name
done
exit $failed
