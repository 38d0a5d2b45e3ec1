#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench/run-all and bench/compare: that every point is measured and verified or listed with its reason,
# and what two results say; not how fast anything is.
# run-all.sh quick|lab|compare|usage; SOURCE: the source tree, BUILD: the build to measure.
. "$(dirname "$0")/lib.sh"
here=$SOURCE/bench
export BUILD

# ends CODE COMMAND...: it must end so; output in $dir/out and .err.
ends() {
	want=$1
	shift
	"$@" >"$dir/case.out" 2>"$dir/case.err" </dev/null && got=0 || got=$?
	[ $got -eq "$want" ] || die "'$*' ended with $got instead of $want"
}

# says TEXT: on either output.
says() {
	grep -q -- "$1" "$dir/case.out" "$dir/case.err" || die "'$1' is not said"
}

# Two transports, two sizes and the latency; then each result beside itself.
case_quick() {
	ends 0 "$here/run-all" --build="$BUILD" --quick --out="$dir/result" --jobs=64b,4K,1m null tcp
	! grep -v '^warning: the load average' "$dir/case.err" || die "it is not quiet in a pipe"
	python3 - "$dir/result/result.json" <<-'END' || die "the object is not as it should be"
		import json, sys
		o = json.load(open(sys.argv[1]))
		assert o['schema'] == 1 and o['program'] == 'run-all' and o['quick'] is True and o['runs'] == 3
		assert o['version'] and o['machine']['cpus'] >= 1 and o['machine']['memory_bytes'] > 0
		points = {(p['stack'], p['operation'], p['block_size']): p for p in o['points']}
		assert sorted(points) == sorted((s, d, b) for s in ('null', 'tcp') for d in ('write', 'read')
		                                for b in (64, 4096, 1048576)), sorted(points)
		for (stack, _, block), p in points.items():
		    assert len(p['samples']) == 3 and p['where'] == 'host'
		    assert p['kind'] == ('latency' if block == 64 else 'throughput')
		    for key in p['median']:
		        values = [s[key] for s in p['samples']]
		        if None in values: # a target that is too busy to say its CPU time
		            assert key == 'target_cpu_s_per_gb' and p['median'][key] is None
		        else:
		            assert abs(p['median'][key] / sorted(values)[1] - 1) < 1e-6, (key, p)
		    assert p['median']['batch_p50_ns'] <= p['median']['batch_p99_ns']
		    assert p['checked_bytes'] is None if stack == 'null' else p['checked_bytes'] > block
		assert o['left_out'] == [], o['left_out']
	END
	page=$dir/result/index.html
	[ "$(grep -o '<svg ' "$page" | wc -l)" -eq 2 ] || die "the page has not two pictures"
	[ "$(grep -c '^<tr><td>' "$page")" -eq 12 ] || die "the page has not a row for each point"
	! grep -v xmlns= "$page" | grep -q http || die "the page refers to the network"
	ends 0 "$here/compare" "$dir/result/result.json" "$dir/result/result.json"
	says '^12 points: 0 worse by more than 3 %, 0 worse by less, 0 better'
	# One that cannot be run is there with its reason; what runs is measured all the same.
	ends 0 "$here/run-all" --build="$BUILD" --quick --out="$dir/again" --jobs=4k --runs=1 rdma tcp
	grep -q '^not measured: rdma: ' "$dir/case.out" || [ -d /sys/class/infiniband ] || die "nothing is said of rdma"
	grep -q '"stack": "tcp"' "$dir/again/result.json" || die "tcp is not there"
	# One that should have worked: it is told, marked, and the exit code says so.
	ends 1 env MC_TRANSFER_TIMEOUT=1ms "$here/run-all" --build="$BUILD" --quick --out="$dir/failed" --jobs=4m --runs=1 tcp
	says '^not measured: tcp write 4m: [a-z]* of 4194304 bytes .* failed: Connection timed out$'
	says '^nothing could be measured$'
	ends 0 "$here/run-all" --build="$BUILD" --list 'nul*'
	[ "$(cat "$dir/case.out")" = null ] || die "--list does not list null alone"
	# Nothing that is built is missing, and all of it is found.
	ends 0 "$here/run-all" --build="$BUILD" --list
	for manifest in $(grep -l '"kind": "transport"' "$BUILD"/plugins.d/*.json); do
		says "^\(not measured: \)\?$(basename "$manifest" .json)\(:\|$\)"
	done
	! grep 'no file for it' "$dir/case.out" || die "a plugin of the build is not found"
}

# In a guest: one boot, two points.
case_lab() {
	ends 0 "$here/run-all" --build="$BUILD" --quick --lab --out="$dir/result" --jobs=64k rdma
	said=$(sed -n 's/^not measured: rdma (guest): //p' "$dir/case.out")
	[ -z "$said" ] || skip "$said"
	python3 - "$dir/result/result.json" <<-'END' || die "the object is not as it should be"
		import json, sys
		o = json.load(open(sys.argv[1]))
		assert o['guest']['cpus'] >= 1 and o['guest']['kernel'] != o['machine']['kernel']
		points = [p for p in o['points'] if p['where'] == 'guest']
		assert [(p['stack'], p['operation']) for p in points] == [('rdma', 'write'), ('rdma', 'read')], points
		assert all(len(p['samples']) == 3 and p['checked_bytes'] >= 16 * 65536 for p in points)
	END
	grep -q 'rdma (guest) write' "$dir/result/index.html" || die "the page has no line of it"
}

# result FILE RATE RATE RATE [STACK]: throughputs of tcp write at 64 KiB, and of a latency that is their
# inverse.
result() {
	python3 - "$@" <<-'END' >"$dir/$1"
		import json, sys
		rates, stack = [float(r) for r in sys.argv[2:5]], (sys.argv[5:] or ['tcp'])[0]
		def sample(rate, p50, cpu):
		    return {'throughput_bytes_per_s': rate, 'batch_p50_ns': p50, 'batch_p99_ns': 2 * p50,
		            'cpu_s_per_gb': cpu, 'target_cpu_s_per_gb': 0.1, 'transfers_per_s': 1}
		def point(stack, kind, block, samples):
		    return {'stack': stack, 'where': 'host', 'operation': 'write', 'kind': kind, 'block_size': block,
		            'batch_size': 1, 'threads': 1, 'checked_bytes': 1, 'median': {}, 'samples': samples}
		json.dump({'schema': 1, 'program': 'run-all', 'version': '1', 'quick': False, 'seconds': 1, 'runs': 3,
		           'machine': {'host': 'h', 'cpu': 'c', 'cpus': 2, 'kernel': 'k', 'time': 't'}, 'guest': None,
		           'points': [point('tcp', 'latency', 64, [sample(1e6, 1e13 / r, 1) for r in rates]),
		                      point(stack, 'throughput', 65536, [sample(r, 1000, r / 1e10) for r in rates])],
		           'left_out': []}, sys.stdout)
	END
}

case_compare() {
	result base 1.00e9 1.01e9 0.99e9
	result same 1.01e9 0.99e9 1.00e9
	result little 0.98e9 0.982e9 0.978e9
	result slow 0.80e9 0.81e9 0.79e9
	result fast 1.50e9 1.51e9 1.49e9
	result wild 0.50e9 1.00e9 2.00e9
	result other 1.00e9 1.01e9 0.99e9 cxl
	ends 0 "$here/compare" "$dir/base" "$dir/same"
	[ "$(grep -c 'no difference \[' "$dir/case.out")" -eq 2 ] || die "the same is not the same"
	ends 1 "$here/compare" "$dir/base" "$dir/slow"
	[ "$(grep -c '20 % slower \[18\.\.22\]  <-$' "$dir/case.out")" -eq 2 ] || die "20 % is not told"
	ends 0 "$here/compare" --threshold=25 "$dir/base" "$dir/slow"
	says '0 worse by more than 25 %, 2 worse by less'
	ends 0 "$here/compare" "$dir/base" "$dir/little" # slower for sure, but not by 3 %
	says '^2 points: 0 worse by more than 3 %, 2 worse by less'
	ends 1 "$here/compare" --threshold=0 "$dir/base" "$dir/little"
	ends 0 "$here/compare" "$dir/base" "$dir/fast"
	says '50 % faster \[4[78]\.\.5[23]\]$'
	ends 0 "$here/compare" "$dir/base" "$dir/wild"
	says 'unclear, the runs differ too much \[-50\.\.+10[0-2]\]'
	ends 0 "$here/compare" "$dir/base" "$dir/other"
	says '^not compared: 1 only in A, 1 only in B; --json names them$'
	! grep -q '^cxl' "$dir/case.out" || die "a line for a point that only one file has"
	# By other figures: CPU time goes with the rate here, p99 is the same at 64 KiB.
	ends 1 "$here/compare" --by=cpu "$dir/base" "$dir/fast"
	says '25 % more CPU \[2[34]\.\.2[67]\]  <-$'
	ends 0 "$here/compare" --by=p99 "$dir/base" "$dir/fast"
	says '33 % shorter p99 \[3[23]\.\.3[45]\]$'
	ends 1 "$here/compare" --by=p99 "$dir/base" "$dir/slow"
	says '^2 points: 1 worse by more'
	says '25 % longer p99 \[2[23]\.\.2[78]\]  <-$'
	ends 1 "$here/compare" --json "$dir/base" "$dir/slow"
	python3 - "$dir/case.out" <<-'END' || die "the object is not as it should be"
		import json, sys
		o = json.load(open(sys.argv[1]))
		assert o['schema'] == 1 and o['program'] == 'compare' and o['bad'] == 2 and o['threshold'] == 0.03
		for p in o['points']:
		    assert p['verdict'] == 'slower' and p['bad'] is True and p['low'] <= p['ratio'] <= p['high'] < 0.97
		    assert abs(p['ratio'] - 0.8) < 1e-6 and p['sentence'].startswith('20 % slower')
	END
	"$here/compare" "$dir/base" "$dir/wild" >"$dir/one" && "$here/compare" "$dir/base" "$dir/wild" >"$dir/two"
	cmp -s "$dir/one" "$dir/two" || die "two answers differ"
}

case_usage() {
	echo '{"schema": 1, "oops' >"$dir/bad.json"
	result base 1e9 1e9 1e9
	ends 2 "$here/compare" "$dir/base" "$dir/bad.json"
	says 'bad.json:1:.*not the JSON of run-all'
	ends 2 "$here/compare" "$dir/base" "$dir/absent.json"
	says 'absent.json: No such file'
	ends 2 "$here/compare" "$dir/base"
	ends 2 "$here/compare" --threshold=x "$dir/base" "$dir/base"
	says 'threshold=x: not a number'
	ends 2 "$here/compare" --nonsense "$dir/base" "$dir/base"
	says 'nonsense'
	ends 2 "$here/run-all" --build="$BUILD" --nonsense
	says '--nonsense'
	ends 2 "$here/run-all" --build="$BUILD" --jobs=5k
	says "there is no job '5k'"
	ends 2 "$here/run-all" --build="$BUILD" --runs=0
	ends 2 "$here/run-all" --build="$BUILD" --seconds=1.2.3
	ends 2 "$here/run-all" --build="$BUILD" nonsense
	says "no stack is called 'nonsense'"
	ends 1 "$here/run-all" --build="$dir"
	ends 1 "$here/run-all" --build="$BUILD" --quick --out=/proc null
	says '/proc/result.json.new'
	for program in run-all compare; do
		ends 0 "$here/$program" --help
		[ "$(wc -l <"$dir/case.out")" -le 24 ] && ! grep -q '.\{81\}' "$dir/case.out" || die "$program --help is no screen"
	done
}

"case_$1"
