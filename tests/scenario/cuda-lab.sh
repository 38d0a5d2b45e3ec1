#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# In a guest with a cable (tests/lab/rails 1): GPU memory over real soft-RoCE by the peermem rung.  The CUDA
# driver and nvidia_peermem are the tests' own (tests/cuda); the NIC's driver registers the driver's alias of
# the device memory under the device pointer.
#
#   cuda-lab.sh FOLDER-OF-FAKE-CUDA SCENARIO-CUDA CONFORMANCE-KIT TRANSPORT-CUDA-GDR.so MEMORY-CUDA.so
export LD_LIBRARY_PATH="$1${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" LD_PRELOAD="$1/peermem.so" MC_LOG_LEVEL=info
move=$2 kit=$3 failed=0
a='{"cuda:0": [["cuda-gdr:ra0"]], "*": [["rdma:ra0"]]}' b='{"cuda:0": [["cuda-gdr:rb0"]], "*": [["rdma:rb0"]]}'

moves() {
	echo "== $1 -> $3"
	"$move" "$@" 2>/tmp/said || failed=1
	cat /tmp/said
}

moves cuda:0 "$a" cuda:0 "$b"
[ "$(grep -c 'device memory is registered by peermem' /tmp/said)" -eq 2 ] || failed=1
moves cpu:0 "$a" cuda:0 "$b"
grep -q 'rail rdma:ra0 -> cuda-gdr:rb0 is up' /tmp/said || failed=1
# Staged when the rung is not there.
export LD_PRELOAD=
moves cuda:0 '{"cuda:0": [["cuda-gdr:ra0"], ["rdma:ra0"]], "*": [["rdma:ra0"]]}' cpu:0 "$b"
grep -q 'it is transferred without this device' /tmp/said || failed=1
export LD_PRELOAD="$1/peermem.so"
for case in register kinds sizes; do
	"$kit" "$4" --level behaves --device ra0 --memory "$5" --case $case || failed=1
done
exit $failed
