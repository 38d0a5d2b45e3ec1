#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Our speed from and to GPU memory beside CUDA's own and perftest's, on a machine that has a GPU.
#
# copy-* are the copies that staging is made of, between GPU 0 and pinned host memory, many under way,
# beside the driver's synchronous copy (cudaMemcpy).  write-* and read-* are transfers between GPU memory of
# two processes over one RDMA device and cuda-gdr, beside perftest with --use_cuda, with as many requests in
# flight and as many queue pairs; the rung that registered the memory stands with them.  The device is the
# first of /sys/class/infiniband, or DEVICE.  bench/lib/judge.sh says how many runs there are and what they
# are worth.
#
# Prints per case "CASE ratio R reach L ok|short|unsure [LO..HI]", R and L being ours / theirs, or
# "CASE skipped: WHY".  With --quick the word is unjudged.
# Exit: 0 all ok, 1 one is short or unsure or a run failed, 2 usage, 77 something is missing.
set -u
cd "$(dirname "$0")/.." || exit 1
. bench/env.sh
. bench/lib/judge.sh
. bench/lib/flags.sh
. bench/lib/processes.sh

copy_cases="copy-to-host-64k copy-to-host-1m copy-to-gpu-64k copy-to-gpu-1m"
gdr_cases="write-64k read-64k write-1m read-1m"
all_cases="$copy_cases $gdr_cases"

usage() {
	usage_flags
	printf '  %s\n' "$copy_cases" "$gdr_cases"
}

bytes_of() {
	case $1 in *-64k) echo 65536 ;; *) echo 1048576 ;; esac
}

# ---- copies --------------------------------------------------------------------------------------

copy() {
	"$build/bench/cuda_copy" "$plugin" "$1" "$way" "$size" "$seconds" || exit 1
}
copy_driver() { copy driver; }
copy_ours() { copy ours; }

copies() {
	way=${1#copy-} way=${way%-*} size=$(bytes_of "$1")
	pairs copy_driver copy_ours "$1=o[1] / p[1]"
	verdict "$1" 0.95 "GB/s: ours $(giga "$1.ours"), cudaMemcpy $(giga "$1.peer")"
}

giga() {
	median "$dir/$1" | awk '{ printf "%.2f", $1 / 1e9 }'
}

# ---- transfers -----------------------------------------------------------------------------------

# why_no_gdr: why these cases cannot run; nothing if they can.
why_no_gdr() {
	[ -f "$build/transports/cuda-gdr/transport-cuda-gdr.so" ] || { echo "transports/cuda-gdr is not built (package libibverbs-dev)"; return; }
	[ -n "$device" ] || { echo "there is no RDMA device"; return; }
	command -v ib_write_bw >/dev/null || { echo "there is no ib_write_bw (package perftest)"; return; }
	ib_write_bw --help 2>&1 | grep -q use_cuda || echo "this perftest was built without --use_cuda"
}

peer_perftest() {
	free_port
	set -- "ib_${op}_bw" --ib-dev="$device" --use_cuda=0 --report_gbits --size="$size" --tx-depth=16 --qp=2 --port="$port" \
		--duration="$(ceil "$seconds")"
	timeout 120 "$@" >"$dir/perftest-server.log" 2>&1 &
	started $! "$dir/perftest-server.log"
	timeout 120 "$@" 127.0.0.1 >"$dir/perftest.log" 2>&1 || die "$1 failed: $(tail -n 3 "$dir/perftest.log")"
	awk '$1 ~ /^[0-9]+$/ && NF >= 4 { x = $4 * 1e9 / 8 } END { if (x > 0) printf "%.0f\n", x; else exit 1 }' \
		"$dir/perftest.log" || die "$1 said no figure: $(tail -n 3 "$dir/perftest.log")"
}

ours_gdr() {
	run_ours gpu --use_vram --gpu_id=0 --nic_priority_matrix="$dir/matrix.json" --operation="$op" --block_size="$size" \
		--batch_size=16 --buffer_size=128M --hot
}

transfers() {
	op=${1%-*} size=$(bytes_of "$1")
	printf '{"cuda:0": [["cuda-gdr:%s"]], "*": [["rdma:%s"]]}\n' "$device" "$device" >"$dir/matrix.json"
	start_target gpu --use_vram --gpu_id=0
	pairs peer_perftest ours_gdr "$1=o[1] / p[1]"
	rung=$("$build/cli/mooncake" explain --metadata_server="file://$dir/metadata" --from=cuda:0 --to=gpu \
		--nic_priority_matrix="$dir/matrix.json" 2>/dev/null | sed -n 's/.*memory here \(by [a-z-]*\).*/\1/p' | head -n 1)
	verdict "$1" 0.95 "GB/s: ours $(giga "$1.ours"), perftest $(giga "$1.peer"); registered ${rung:-in a way that is not told}"
}

# ---- all of it -----------------------------------------------------------------------------------

parse_flags "$@"
use_build "$build" || exit 1
plugin=$build/transports/cuda-gdr/memory-cuda.so
[ -f "$plugin" ] && [ -x "$build/bench/cuda_copy" ] || {
	echo "the memory kind cuda is not built (-Dcuda=disabled)"
	exit 77
}
"$build/bench/cuda_copy" "$plugin" probe || exit 77
device=${DEVICE:-$(ls /sys/class/infiniband 2>/dev/null | head -n 1)}
make_dir
say "machine: $(machine)"
warn_if_busy
why=$(why_no_gdr)
for c in $cases; do
	case $c in
	copy-*) copies $c ;;
	*) if [ -n "$why" ]; then skipped $c "$why"; else transfers $c; fi ;;
	esac
done
finish_report
