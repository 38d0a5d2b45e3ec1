#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Hit ratios on Mooncake's open traces: store-policy-traces.sh PROGRAM FOLDER.  The reference policies give the
# figures that the house has measured with others; ours is never below LRU nor ARC, and
# does not lose what it has reached.  Exit 77: the traces are not here.
set -eu
program=$1 folder=$2
for trace in conversation synthetic; do
	[ -r "$folder/$trace.jsonl" ] || { echo "skipped: no $folder/$trace.jsonl (Mooncake's open traces)"; exit 77; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"$program" --svg="$dir/svg" "$folder/conversation.jsonl" "$folder/synthetic.jsonl" >"$dir/table"
"$program" --json "$folder/conversation.jsonl" "$folder/synthetic.jsonl" >"$dir/json"
python3 -m json.tool "$dir/json" >/dev/null
python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$dir/svg"
[ "$(grep -c '<polyline' "$dir/svg")" = 12 ] || { echo "the picture has not 12 curves"; exit 1; }
if "$program" "$folder/nothing.jsonl" 2>"$dir/err"; then exit 1; fi
grep -q 'nothing.jsonl: No such file' "$dir/err"
r=0
"$program" --part=1,0 x 2>/dev/null || r=$?
[ $r = 2 ] || { echo "--part=1,0 exits with $r"; exit 1; }

# The order of the store costs nothing to speak of, whatever is drawn.
for seed in 2 3 5 7; do
	"$program" --before --seed=$seed --capacities=1000 "$folder/synthetic.jsonl" | grep '^| 1000 |' | tr -d '|' |
		awk '{ if ($7 < 0.098) { print "room made before: ours has " $7; exit 1 } got = 1 } END { exit !got }'
done

# LRU SIEVE S3-FIFO ARC Belady, and what ours has reached, of each row of the table.
cat >"$dir/want" <<-END
	.355 .344 .350 .343 .366 .3550
	.326 .276 .306 .311 .366 .3340
	.211 .132 .198 .225 .366 .2280
	.045 .048 .057 .053 .191 .0780
	.640 .640 .640 .640 .640 .6396
	.624 .626 .613 .626 .640 .6270
	.424 .358 .418 .434 .618 .4590
	.083 .040 .087 .095 .277 .0970
END
grep '^| [0-9]*0 |' "$dir/table" | tr -d '|' | paste -d ' ' - "$dir/want" | awk '
	function far(a, b) { return a - b > 0.00101 || b - a > 0.00101 }
	{
		for (i = 2; i <= 6; i++)
			if (far($i, $(i + 6))) { print "row " NR ": a reference has " $i ", not " $(i + 6); bad = 1 }
		if ($7 < $2 || $7 < $5 || $7 < $13 || $7 > $6) { print "row " NR ": ours has " $7; bad = 1 }
	}
	END { exit bad || NR != 8 }' || { cat "$dir/table"; exit 1; }
