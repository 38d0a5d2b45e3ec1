# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts that run programs of a build folder without installing them.

# use_build DIR: let programs find the plugins and manifests of this build; sets $bench.
use_build() {
	build=$(cd "$1" 2>/dev/null && pwd) || {
		echo "there is no build folder '$1': run bench/quickstart.sh first" >&2
		return 1
	}
	MC_PLUGIN_PATH=
	for d in "$build"/transports/* "$build"/metadata/* "$build"/subprojects/* "$build"/core; do
		[ -d "$d" ] && MC_PLUGIN_PATH=$MC_PLUGIN_PATH${MC_PLUGIN_PATH:+:}$d
	done
	MC_CONFIG_DIR=$build
	export MC_PLUGIN_PATH MC_CONFIG_DIR
	bench=$build/bench/transfer_engine_bench
	[ -x "$bench" ] || {
		echo "there is no $bench: run bench/quickstart.sh first" >&2
		return 1
	}
}

# wait_ready FILE PID: until the target has written the file, at most 30 s.
wait_ready() {
	n=0
	while [ ! -f "$1" ]; do
		kill -0 "$2" 2>/dev/null || { echo "the target did not start" >&2; return 1; }
		n=$((n + 1))
		[ $n -gt 300 ] && { echo "the target was not ready within 30 s" >&2; return 1; }
		sleep 0.1
	done
}
