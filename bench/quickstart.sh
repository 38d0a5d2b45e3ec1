#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# From a fresh clone to verified data: installs what is missing, builds, starts a target and an
# initiator as two processes that find each other through a directory, writes and reads with every
# byte checked at both ends, and ends with the line of the run.  No matrix: the engines find that they are on
# one host, and copy from memory to memory.
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/packages.sh
. bench/env.sh

usage() {
	cat <<-END
	usage: bench/quickstart.sh [--no-install] [--duration=SECONDS]
	  --no-install   install no packages; name what is missing
	  --duration=N   seconds per direction (default 2)
	END
}

install=yes
duration=2
for arg in "$@"; do
	case $arg in
	--no-install) install=no ;;
	--duration=*) duration=${arg#*=} ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done

case $duration in
'' | . | *[!0-9.]* | *.*.*)
	echo "--duration=$duration: not a number of seconds, such as 2 or 0.5" >&2
	exit 2
	;;
esac

install_packages $install $pkg_build || exit 1
if [ -x build/bench/transfer_engine_bench ]; then
	echo "building into build/"
else
	echo "building into build/: the first time takes a minute or two"
fi
build_tree build && use_build build || exit 1

dir=$(mktemp -d "${TMPDIR:-/tmp}/mooncake-quickstart.XXXXXX") || exit 1
target=
finish() {
	[ -n "$target" ] && kill "$target" 2>/dev/null && wait "$target" 2>/dev/null
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM

set -- --metadata_server="file://$dir/metadata" --port=0 --log_level=warn
mkdir "$dir/metadata"
"$bench" "$@" --mode=target --local_server_name=quickstart-target --buffer_size=128M \
	--ready_file="$dir/ready" </dev/null &
target=$!
wait_ready "$dir/ready" "$target" || exit 1

for operation in write read; do
	"$bench" "$@" --local_server_name=quickstart-initiator --segment_id=quickstart-target \
		--operation=$operation --block_size=1M --batch_size=16 --threads=1 --check \
		--duration="$duration" </dev/null || exit 1
done
