#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# GPUDirect RDMA over a fake CUDA driver and the mock libibverbs, each way to register GPU memory and what
# comes after the last: usage: cuda.sh CASE.  CUDA, VERBS: folders of the two libraries; MOVE: scenario-cuda;
# BENCH, MOONCAKE: the programs.
. "$(dirname "$0")/lib.sh"

mkdir "$dir/fabric"
export MOCK_VERBS_DIR="$dir/fabric" MOCK_VERBS="mock0 mock1" MC_LOG_LEVEL=info
export LD_LIBRARY_PATH="$CUDA:$VERBS${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
gdr='{"cuda:0": [["cuda-gdr:mock0"]], "*": [["rdma:mock0"]]}'
ladder='{"cuda:0": [["cuda-gdr:mock0"], ["rdma:mock0"]], "*": [["rdma:mock0"]]}'
to_tcp='{"cuda:0": [["cuda-gdr:mock0"], ["tcp:lo"]], "*": [["tcp:lo"]]}'

# moves NAME ARGUMENT...: both processes end well.
moves() {
	name=$1
	shift
	timeout 110 "$MOVE" "$@" >"$dir/$name.out" 2>"$dir/$name.err" || die "$name ended with $?"
}

# says NAME TIMES WORDS: so many lines of NAME's log have them.
says() {
	n=$(grep -c -- "$3" "$dir/$1.err")
	[ "$n" -eq "$2" ] || die "$1 says '$3' $n times, not $2"
}

case_dmabuf() {
	export MOCK_VERBS="mock0:dmabuf=1 mock1"
	moves both cuda:0 "$gdr" cuda:0 "$gdr"
	says both 2 'cuda-gdr:mock0: device memory is registered by dma-buf'
	says both 1 'rail cuda-gdr:mock0 -> cuda-gdr:mock0 is up'
	moves here cuda:0 "$gdr" cpu:0 "$gdr"
	says here 1 'rail cuda-gdr:mock0 -> rdma:mock0 is up'
	moves there cpu:0 "$gdr" cuda:0 "$gdr"
	says there 1 'rail rdma:mock0 -> cuda-gdr:mock0 is up'
	moves handles --handles cuda:0 "$gdr"
	moves chunks transports.cuda-gdr.max_mr_size=64KiB transports.cuda-gdr.registration=dmabuf cuda:0 "$gdr" cpu:0 "$gdr"
}

case_peermem() {
	export MOCK_VERBS="mock0:peermem=1 mock1"
	moves both cuda:0 "$gdr" cuda:0 "$gdr"
	says both 2 'registered by peermem: ibv_reg_dmabuf_mr: Operation not supported'
	FAKE_CUDA_DMABUF=0 moves old cuda:0 "$gdr" cpu:0 "$gdr"
	says old 1 "registered by peermem: the driver exports no dma-buf of 'cuda:0'"
	FAKE_CUDA_FAIL=cuMemGetHandleForAddressRange=801 moves fails cpu:0 "$gdr" cuda:0 "$gdr"
	says fails 1 'registered by peermem: cuMemGetHandleForAddressRange at .cuda:0.: CUDA_ERROR_NOT_SUPPORTED'
	MOCK_VERBS="mock2:dmabuf=1,peermem=1" moves asked transports.cuda-gdr.registration=peermem cuda:0 \
		'{"cuda:0": [["cuda-gdr:mock2"]], "*": [["rdma:mock2"]]}' cpu:0 '{"*": [["rdma:mock2"]]}'
	says asked 1 "registered by peermem: option 'registration' asks for it"
	moves handles memory.cuda.join_handles=false --handles-apart cuda:0 "$gdr"
	FAKE_CUDA_WHOLE=0 moves handle --handles-apart cuda:0 "$gdr"
}

case_staged() {
	moves rdma cuda:0 "$ladder" cuda:0 "$ladder"
	says rdma 2 'by a dma-buf: .*: by peermem: ibv_reg_mr: Bad address: .*; it is transferred without this device'
	says rdma 1 'rail rdma:mock0 -> rdma:mock0 is up'
	moves tcp cuda:0 "$to_tcp" cuda:0 "$to_tcp"
	says tcp 1 'rail tcp:lo -> tcp:lo is up'
	# What no device registers is one buffer, whatever it is mapped from.
	FAKE_CUDA_WHOLE=0 moves handles --handles cuda:0 '{"cuda:0": [["tcp:lo"]], "*": [["tcp:lo"]]}'
}

case_refused() {
	moves none --refused alloc "$gdr" 'modprobe nvidia_peermem, or leave it to staging by a further tier'
	moves strict transports.cuda-gdr.registration=dmabuf --refused alloc "$ladder" "option 'registration' allows no other way"
	moves required --refused alloc '{"cuda:0": [[{"device": "cuda-gdr:mock0", "require": true}], ["tcp:lo"]], "*": [["tcp:lo"]]}' \
		'modprobe nvidia_peermem'
	# Without a GPU the device is left out, in one sentence, and the rest runs.
	FAKE_CUDA_DEVICES=0 moves no-gpu --refused alloc "$to_tcp" 'finds no GPU'
	says no-gpu 1 'cuda-gdr:mock0.*finds no GPU'
}

case_explain() {
	target t --nic_priority_matrix='{"*": [["rdma:mock0"], ["tcp:lo"]]}'
	ask() {
		"$MOONCAKE" explain --metadata_server="$metadata" --local_server_name=e --from=cuda:0 --to=t --timeout=30 \
			--nic_priority_matrix='{"cuda:0": [["cuda-gdr:mock0"], ["tcp:lo"]], "*": [["tcp:lo"]]}' \
			>"$dir/e.out" 2>"$dir/e.err" </dev/null || die "explain ended with $?"
		grep -q -- "$1" "$dir/e.out" || die "explain does not say '$1'"
	}
	# The linter asks the driver too.
	"$MOONCAKE" lint --nic_priority_matrix='{"cuda:1": [["tcp:lo"]], "cuda:2": [["tcp:lo"]], "*": [["tcp:lo"]]}' \
		>"$dir/lint.out" 2>&1 || die "lint ended with $?"
	grep -q 'cuda:2: the row is not used here: this host has 2 GPUs' "$dir/lint.out" || die "lint does not count GPUs"
	grep -q 'cuda:1' "$dir/lint.out" && die "lint finds fault with cuda:1"
	FAKE_CUDA_DEVICES=0 "$MOONCAKE" lint --nic_priority_matrix='{"cuda:1": [["tcp:lo"]], "*": [["tcp:lo"]]}' >"$dir/lint.out" 2>&1
	grep -q "rows of kind 'cuda' are not used here: .* finds no GPU" "$dir/lint.out" || die "lint does not say that there is no GPU"
	ask 'the device could not register the memory here: .*by peermem: ibv_reg_mr: Bad address'
	kill -TERM "$target"
	wait "$target"
	rm -rf "$dir/fabric"/* "$dir/t.ready"
	export MOCK_VERBS="mock0:dmabuf=1"
	target t --nic_priority_matrix='{"*": [["rdma:mock0"], ["tcp:lo"]]}'
	ask 'carries.*memory here by dma-buf'
	"$MOONCAKE" explain --metadata_server="$metadata" --local_server_name=e --from=cuda:1 --to=t --timeout=30 \
		--nic_priority_matrix='{"*": [["rdma:mock0"]]}' >"$dir/e.out" 2>"$dir/e.err" </dev/null || die "explain of cuda:1"
	grep -q 'carries it; memory here staged through host memory' "$dir/e.out" || die "explain does not say that it is staged"
	"$MOONCAKE" explain --metadata_server="$metadata" --local_server_name=e --from=cuda:7 --to=t --timeout=30 \
		--nic_priority_matrix='{"*": [["rdma:mock0"]]}' >"$dir/e.out" 2>"$dir/e.err" </dev/null && got=0 || got=$?
	[ "$got" -eq 1 ] || die "explain of a GPU that does not exist ended with $got"
	grep -q "location 'cuda:7' does not exist: this host has 2 GPUs" "$dir/e.err" || die "explain does not say that there is no cuda:7"
}

# As users measure it; which bytes, scenario-cuda looks at.
case_bench() {
	export MOCK_VERBS="mock0:dmabuf=1"
	target t --use_vram --gpu_id=0 --nic_priority_matrix="$gdr"
	for op in read write; do
		initiate $op --segment_id=t --operation=$op --use_vram --gpu_id=0 --nic_priority_matrix="$gdr" ||
			die "$op ended with $?"
		grep -q 'rail cuda-gdr:mock0 -> cuda-gdr:mock0 is up' "$dir/$op.err" || die "$op went another way"
		tail -n 1 "$dir/$op.out" | grep -q '^Test completed: ' || die "$op did not complete"
	done
	# Patterns are the CPU's: neither end touches GPU memory for them, whoever asks.
	initiate check --segment_id=t --operation=write --check --nic_priority_matrix="$gdr" && die "--check against a GPU"
	grep -q "its memory at 'cuda:0' is not the CPU's to fill" "$dir/check.err" || die "it is not said why --check cannot be"
	# Every GPU, by location too.
	initiate all --segment_id=t --operation=read --gpu_id=-1 --nic_priority_matrix="$ladder" || die "all GPUs ended with $?"
	initiate place --segment_id=t --operation=write --location=gpu:1 --nic_priority_matrix="$ladder" || die "gpu:1 ended with $?"
	initiate bad --segment_id=t --operation=read --use_vram --gpu_id=9 --nic_priority_matrix="$gdr" && die "GPU 9"
	grep -q "location 'cuda:9' does not exist: this host has 2 GPUs" "$dir/bad.err" || die "it is not said that there is no GPU 9"
}

case_$1
