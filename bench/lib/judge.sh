# SPDX-License-Identifier: Apache-2.0
# Sourced by compare-*.sh: pairs of runs, their ratios, and what is said about them.
#
# A case collects ratios, one per line, in $dir/CASE.ratio; more is better, and 1 means "as good as
# the peer" or "just at the limit".  Runs alternate peer/ours/ours/peer, so that a drifting machine
# hits both.  The figure of a case is the median R of its ratios; pairs are added, $min_pairs to
# $max_pairs, until the 90 % interval of the median is within 5 % of it.  A case with the reach L is
# ok if R >= L, or if R >= 0.95 L with the interval's upper end >= L; it is unsure, which is not ok, if
# the interval's ends are more than a factor of 4 apart.  A quick run judges nothing: unjudged.

quick=no json=no min_pairs=7 max_pairs=21 short=no
guest= # the machine inside of this one where the cases were run, if they were
progress=$([ -t 2 ] && echo yes || echo no)

# say TEXT: for people; with --json stdout is for the object alone.
say() {
	if [ $json = yes ]; then echo "$*" >&2; else echo "$*"; fi
}

# show TEXT: where a person looks on; the next one replaces it.
show() {
	[ $progress = no ] || printf '\r%s\033[K' "$*" >&2
}

die() {
	echo "$*" >&2
	exit 1
}

# judge FILE: of the ratios in it: median, ends of its 90 % interval, "yes" if that is within 5 %.
# The interval is between the k-th and the (n+1-k)-th, for the largest k with
# P(fewer than k of n below the median) <= 5 %.
judge() {
	sort -n "$1" | awk '
		{ x[NR] = $1 }
		END {
			n = NR
			if (!n)
				exit
			median = n % 2 ? x[(n + 1) / 2] : (x[n / 2] + x[n / 2 + 1]) / 2
			term = 0.5 ^ n
			sum = term
			for (k = 1; k <= n / 2; k++) {
				term *= (n - k + 1) / k
				if (sum + term > 0.05)
					break
				sum += term
			}
			lo = x[k]
			hi = x[n + 1 - k]
			tight = (lo >= median * 0.95 && hi <= median * 1.05) ? "yes" : "no"
			printf "%.3f %.3f %.3f %s\n", median, lo, hi, tight
		}'
}

# enough COUNT CASE...: no more runs are needed for any of the cases.
enough() {
	nr=$1
	shift
	[ "$nr" -ge "$max_pairs" ] && return 0
	[ "$nr" -ge "$min_pairs" ] || return 1
	for one in "$@"; do
		[ "$(judge "$dir/$one.ratio" | cut -d ' ' -f 4)" = yes ] || return 1
	done
}

# verdict CASE REACH [DETAIL]: one line, and an entry for --json.
verdict() {
	set -- "$1" "$2" "${3:-}" $(judge "$dir/$1.ratio")
	[ $# -eq 7 ] || die "case '$1' has no runs"
	word=unjudged
	[ $quick = yes ] || word=$(awk -v r="$4" -v l="$2" -v lo="$5" -v hi="$6" 'BEGIN {
		if (hi > 4 * lo)
			print "unsure"
		else
			print (r >= l || (r >= 0.95 * l && hi >= l)) ? "ok" : "short"
	}')
	case $word in short | unsure) short=yes ;; esac
	runs=$(wc -l <"$dir/$1.ratio")
	say "$1 ratio $4 reach $2 $word [$5..$6]"
	say "  $runs runs${3:+; $3}"
	entry "\"case\": \"$1\", \"ratio\": $4, \"reach\": $2, \"low\": $5, \"high\": $6," \
		"\"runs\": $runs, \"verdict\": \"$word\", \"detail\": \"${3:-}\""
}

# skipped CASE WHY
skipped() {
	say "$1 skipped: $2"
	entry "\"case\": \"$1\", \"verdict\": \"skipped\", \"detail\": \"$2\""
}

entry() {
	printf '%s    {%s}' "$([ -s "$dir/entries" ] && printf ',\n')
" "$*" >>"$dir/entries"
}

machine() {
	echo "$(uname -srm), $(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo |
		head -n 1)"
}

# warn_if_busy [LOAD]: what others do is in all figures.
warn_if_busy() {
	load=${1:-$(cut -d ' ' -f 1 /proc/loadavg)}
	awk -v l="$load" -v n="$(nproc)" 'BEGIN { exit !(l > n) }' || return 0
	echo "warning: the load average is $load on $(nproc) processors: the figures will not be steady" >&2
}

# finish_report: the JSON object, and the exit code: a quick run judges nothing.
finish_report() {
	[ $json = no ] || {
		printf '{\n  "schema": 1,\n  "program": "%s",\n  "machine": "%s",\n  "time": "%s",\n' \
			"${0##*/}" "$(echo "$(machine)${guest:+, in it $guest}" | tr -d '"\\')" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
		printf '  "quick": %s,\n  "cases": [' $([ $quick = yes ] && echo true || echo false)
		cat "$dir/entries" 2>/dev/null
		printf '\n  ]\n}\n'
	}
	[ $quick = yes ] || [ $short = no ]
}

# median FILE [COLUMN]
median() {
	awk -v c="${2:-1}" '{ print $c }' "$1" | sort -n |
		awk '{ x[NR] = $1 } END { printf "%.9g\n", NR ? x[int((NR + 1) / 2)] : 0 }'
}

# median_of N COMMAND...: run it N times; the median of each column of what it prints.
median_of() {
	times=$1
	shift
	rm -f "$dir/times"
	while [ "$times" -gt 0 ]; do
		"$@" >>"$dir/times" || exit 1
		times=$((times - 1))
	done
	for column in $(seq "$(awk '{ n = NF } END { print n }' "$dir/times")"); do
		printf '%s ' "$(median "$dir/times" "$column")"
	done
	echo
}

# pairs PEER OURS CASE=FORMULA...: run PEER and OURS (functions that print a line of figures) in
# turn; FORMULA, in awk, makes the case's ratio of the peer's figures p[1..] and ours o[1..].
# What they printed is in $dir/FIRSTCASE.peer and .ours.
pairs() {
	peer=$1 ours=$2 nr=0 names=
	shift 2
	for one in "$@"; do
		names="$names ${one%%=*}"
		rm -f "$dir/${one%%=*}".*
	done
	at=$dir/${1%%=*}
	until enough $nr $names; do
		show "${at##*/}: $((nr + 1)) of $min_pairs to $max_pairs pairs"
		if [ $((nr % 2)) -eq 0 ]; then
			p=$($peer) && o=$($ours) || exit 1
		else
			o=$($ours) && p=$($peer) || exit 1
		fi
		echo "$p" >>"$at.peer"
		echo "$o" >>"$at.ours"
		for one in "$@"; do
			ratio "$p" "$o" "${one#*=}" >>"$dir/${one%%=*}.ratio"
		done
		nr=$((nr + 1))
	done
	show
}

# single OURS CASE=FORMULA...: the same against fixed limits, with o[1..] only.
single() {
	ours=$1
	shift
	pairs : "$ours" "$@"
}

# ratio PEER OURS FORMULA
ratio() {
	awk -v ps="$1" -v os="$2" "BEGIN { split(ps, p); split(os, o); printf \"%.5f\\n\", $3 }"
}
