#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench/compare-*.sh: what they print and how they judge, not how fast anything is.
# compare.sh judge|run|p2p|store|rdma|cxl; SOURCE: the source tree, BUILD: the build to measure.
. "$(dirname "$0")/lib.sh"
here=$SOURCE/bench

line='^[a-z0-9-]+ ratio [0-9.]+ reach [0-9.]+ (ok|short|unsure|unjudged) \[[0-9.]+\.\.[0-9.]+\]$'

# says WORD REACH RATIO...: a case with these ratios is judged so.
says() {
	word=$1 reach=$2
	shift 2
	printf '%s\n' "$@" >"$dir/case.ratio"
	got=$(verdict case "$reach" | head -n 1)
	echo "$got" | grep -Eq "$line" || die "not the line that was promised: '$got'"
	case $got in *" $word "*) ;; *) die "$* against $reach: '$got' instead of $word" ;; esac
}

case_judge() {
	. "$here/lib/judge.sh"
	says ok 1.0 1.1 1.0 1.2 1.1 1.0 1.3 1.1
	says short 1.0 0.8 0.9 0.8 0.7 0.8 0.9 0.8
	says ok 1.0 0.97 0.96 0.97 1.02 1.01 0.95 0.97 # near, and the interval reaches it
	says short 1.0 0.97 0.96 0.97 0.98 0.98 0.95 0.97 # near, and it does not
	says unsure 1.0 1.0 0.4 2.0 1.1 0.9 1.2 1.0 # the ends are a factor of 5 apart
	says ok 1.0 1.0 0.6 2.0 1.1 0.9 1.2 1.0
	quick=yes
	says unjudged 1.0 0.1 0.1
	quick=no
	warn_if_busy 100000 2>"$dir/busy" && grep -q 'load average is 100000' "$dir/busy" || die "no word of the load"
	warn_if_busy 0 2>"$dir/busy" && [ ! -s "$dir/busy" ] || die "a quiet machine is called busy"
	says short 1.0 0.90 0.91 0.90 1.20 1.20 0.90 0.94 # the interval reaches it, from too far
	# The 2nd and the 6th of 7: P(at most 1 of 7 below the median) = 6.3 % > 5 %, so the ends.
	[ "$(printf '%s\n' 7 1 2 3 4 5 6 >"$dir/x" && judge "$dir/x")" = '4.000 1.000 7.000 no' ] ||
		die "the interval of seven: $(judge "$dir/x")"
	seq 1 21 >"$dir/x"
	[ "$(judge "$dir/x")" = '11.000 7.000 15.000 no' ] || die "the interval of 21: $(judge "$dir/x")"
	printf '1\n1\n1\n1\n1\n1\n1\n' >"$dir/x.ratio"
	enough 7 x || die "seven equal ones are not enough"
	! enough 6 x || die "six are enough"
	seq 1 7 >"$dir/x.ratio"
	! enough 7 x || die "seven scattered ones are enough"
	enough 21 x || die "21 are not enough"
}

case_run() {
	command -v iperf3 >/dev/null || skip "there is no iperf3 (package iperf3)"
	command -v ucx_perftest >/dev/null || skip "there is no ucx_perftest (package ucx-utils)"
	"$here/compare-tcp.sh" --build="$BUILD" --pairs=2 --seconds=0.2 null-64b write-64k open ucx-4k \
		>"$dir/text.out" 2>"$dir/text.err" && got=0 || got=$?
	[ $got -le 1 ] || die "it ended with $got"
	for name in null-64b write-64k open ucx-4k; do
		grep "^$name " "$dir/text.out" | grep -Eq "$line" || die "no line about $name"
	done
	grep -Eq ' (short|unsure) ' "$dir/text.out" && want=1 || want=0
	[ $got -eq $want ] || die "it ended with $got instead of $want"
	"$here/compare-tcp.sh" --build="$BUILD" --quick --json null-64b first-etcd >"$dir/json.out" \
		2>"$dir/json.err" || die "--quick --json ended with $?"
	python3 - "$dir/json.out" <<-'END' || die "the object is not as it should be"
		import json, sys
		o = json.load(open(sys.argv[1]))
		c = o['cases'][0]
		assert o['schema'] == 1 and o['quick'] is True and o['machine']
		assert c['case'] == 'null-64b' and c['runs'] == 2 and c['verdict'] == 'unjudged'
		assert c['low'] <= c['ratio'] <= c['high'] and c['reach'] == 1
	END
	"$here/compare-tcp.sh" nonsense 2>"$dir/usage.err" && got=0 || got=$?
	[ $got -eq 2 ] || die "an unknown case ended with $got"
	"$here/compare-tcp.sh" --nonsense 2>"$dir/flag.err" && got=0 || got=$?
	[ $got -eq 2 ] && head -n 1 "$dir/flag.err" | grep -q -- ': --nonsense$' || die "it does not name the unknown flag"
	grep -q "there is no case 'nonsense'" "$dir/usage.err" || die "it does not name the unknown case"
}

case_shm() {
	command -v ucx_perftest >/dev/null || skip "there is no ucx_perftest (package ucx-utils)"
	set -- attach-write-1m map-read-1m ucx-1m map-write-64b
	"$here/compare-shm.sh" --build="$BUILD" --pairs=1 --seconds=0.2 "$@" >"$dir/text.out" 2>"$dir/text.err" && got=0 || got=$?
	[ $got -le 1 ] || die "it ended with $got"
	for name in "$@"; do
		grep "^$name " "$dir/text.out" | grep -Eq "$line" || die "no line about $name"
	done
}

case_p2p() {
	set -- tcp-1g
	[ ! -f "$BUILD/transports/shm/transport-shm.so" ] || set -- tcp-1g shm-bare bare-1g
	"$here/compare-p2p.sh" --build="$BUILD" --quick --size=64M "$@" >"$dir/p2p.out" 2>"$dir/p2p.err" ||
		die "--quick ended with $?: $(tail -n 2 "$dir/p2p.err")"
	for name in "$@"; do
		grep "^$name " "$dir/p2p.out" | grep -Eq "$line" || die "no line about $name"
	done
}

case_store() {
	command -v redis-server >/dev/null || skip "there is no redis-server (package redis-server)"
	set -- memory master-alone redis-set-64k
	"$here/compare-store.sh" --build="$BUILD" --quick "$@" >"$dir/store.out" 2>"$dir/store.err" ||
		die "--quick ended with $?: $(tail -n 2 "$dir/store.err")"
	for name in "$@"; do
		grep "^$name " "$dir/store.out" | grep -Eq "$line" || die "no line about $name"
	done
}

case_cxl() {
	"$here/compare-cxl.sh" --build="$BUILD" --quick one-read-64k >"$dir/cxl.out" 2>"$dir/cxl.err" && got=0 || got=$?
	[ $got -ne 77 ] || skip "$(tail -n 1 "$dir/cxl.out")"
	[ $got -eq 0 ] || die "--quick ended with $got"
	grep '^one-read-64k ' "$dir/cxl.out" | grep -Eq "$line" || die "no line about one-read-64k"
}

# Over the tests' own driver it runs; without a GPU it says what is missing.  FAKE_CUDA: the driver's folder.
case_cuda() {
	LD_LIBRARY_PATH="$FAKE_CUDA" "$here/compare-cuda.sh" --build="$BUILD" --quick copy-to-host-1m write-64k \
		>"$dir/cuda.out" 2>"$dir/cuda.err" || die "--quick ended with $?"
	grep '^copy-to-host-1m ' "$dir/cuda.out" | grep -Eq "$line" || die "no line about copy-to-host-1m"
	grep -Eq '^write-64k (skipped: .|ratio )' "$dir/cuda.out" || die "no line about write-64k"
	LD_LIBRARY_PATH="$FAKE_CUDA" FAKE_CUDA_DEVICES=0 "$here/compare-cuda.sh" --build="$BUILD" >"$dir/none.out" 2>&1 &&
		got=0 || got=$?
	[ $got -eq 77 ] && grep -q 'finds no GPU' "$dir/none.out" || die "without a GPU it ended with $got"
}

# One boot of a guest, for one case of both sides.
case_rdma() {
	"$here/compare-rdma.sh" --build="$BUILD" --quick --json write-64k >"$dir/json.out" 2>"$dir/json.err" &&
		got=0 || got=$?
	[ $got -ne 77 ] || skip "$(tail -n 1 "$dir/json.out")"
	[ $got -eq 0 ] || die "--quick --json ended with $got"
	grep '^write-64k ' "$dir/json.err" | grep -Eq "$line" || die "no line about write-64k"
	python3 - "$dir/json.out" <<-'END' || die "the object is not as it should be"
		import json, sys
		o = json.load(open(sys.argv[1]))
		c, = o['cases']
		assert o['program'] == 'compare-rdma.sh' and o['quick'] is True and ', in it Linux' in o['machine']
		assert c['case'] == 'write-64k' and c['runs'] == 2 and c['verdict'] == 'unjudged'
		assert 0 < c['low'] <= c['ratio'] <= c['high'] and 'perftest' in c['detail']
	END
	"$here/compare-rdma.sh" --build="$BUILD" nonsense 2>"$dir/usage.err" && got=0 || got=$?
	[ $got -eq 2 ] && grep -q "there is no case 'nonsense'" "$dir/usage.err" || die "an unknown case ended with $got"
}

"case_$1"
