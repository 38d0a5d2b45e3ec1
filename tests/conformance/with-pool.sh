#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A conformance run over a pool that is a file: formatted before, gone after.  Each case has a metadata service
# of its own, so that engines of the last one are strangers until the quarantine is over.
#
#   with-pool.sh MOONCAKE COMMAND ARGUMENT...
set -u
mooncake=$1
shift
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
"$mooncake" cxl format --size=64MiB "$dir/cxl0" >/dev/null || exit 1
"$@" --device cxl0 --option pool_dir="$dir" --option quarantine=500ms
