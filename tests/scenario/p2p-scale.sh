#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bench/p2p-scale: what it prints, draws and refuses, and that the choice of sources keeps what the simulation
# promises; how fast this machine is plays no part.  SOURCE: the source tree, BUILD: the build to measure.
. "$(dirname "$0")/lib.sh"
scale=$SOURCE/bench/p2p-scale

"$BUILD/bench/p2p_sim" --getters=1,2,16,200 --json >"$dir/sim.json" || die "p2p_sim ended with $?"
"$BUILD/bench/p2p_sim" --getters=1,2,16,200 --json | cmp - "$dir/sim.json" || die "the same seed gives other figures"
python3 - "$dir/sim.json" <<-'END' || die "the choice of sources has become worse: $(cat "$dir/sim.json")"
	import json, sys
	runs = {r['getters']: r for r in json.load(open(sys.argv[1]))['runs']}
	one = runs[1]['seconds']
	assert 2.7 < one < 3.0                          # 64 MiB over 200 Mbit/s
	assert runs[2]['seconds'] < 1.25 * one
	assert runs[16]['seconds'] < 1.5 * one
	assert runs[200]['seconds'] < 1.8 * one
	assert runs[16]['seed_copies'] < 1.5
END

"$scale" --build="$BUILD" --quick --svg="$dir/scale.svg" >"$dir/text.out" 2>"$dir/text.err" && got=0 || got=$?
[ $got -ne 77 ] || skip "$(tail -n 1 "$dir/text.out")"
[ $got -eq 0 ] || die "--quick ended with $got"
for n in 1 4; do
	grep -Eq "^$n getters [0-9.]+ s simulated [0-9.]+ s ratio [0-9.]+ unjudged " "$dir/text.out" || die "no line about $n"
done
python3 - "$dir/scale.svg" <<-'END' || die "the picture is not as it should be"
	import sys, xml.etree.ElementTree as tree
	svg = tree.parse(sys.argv[1]).getroot()
	points = [c for c in svg.iter('{http://www.w3.org/2000/svg}circle') if len(c)]
	assert len(points) == 2
	assert 'prefers-color-scheme: dark' in open(sys.argv[1]).read()
END
"$scale" --build="$BUILD" --quick --simulate --json >"$dir/json.out" || die "--simulate ended with $?"
python3 -c 'import json, sys
o = json.load(open(sys.argv[1]))
assert o["verdict"] == "unjudged" and not o["measured"] and len(o["simulated"]) == 4' "$dir/json.out" ||
	die "the object is not as it should be"
for flag in --getters=0 --getters=1,,2 --runs=x --nonsense; do
	"$scale" $flag 2>"$dir/usage.err" && got=0 || got=$?
	[ $got -eq 2 ] && grep -q -- "$flag" "$dir/usage.err" || die "$flag ended with $got"
done
ip netns list | grep -q mcscale && die "name spaces are left behind: $(ip netns list)"
exit 0
