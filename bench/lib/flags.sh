# SPDX-License-Identifier: Apache-2.0
# Sourced by compare-*.sh: their flags and cases.  The script sets $all_cases and has usage(); after
# parse_flags, $build, $seconds and $cases say what to do.

build=build seconds=2 cases=

usage_flags() {
	cat <<-END
	usage: bench/${0##*/} [FLAG...] [CASE...]
	  --quick      2 pairs of 0.5 s: a smoke run, judges nothing
	  --pairs=N    so many pairs, whatever the interval (default: 7 to 21, see bench/lib/judge.sh)
	  --seconds=S  length of a run (default $seconds)
	  --json       one object on stdout instead of lines
	  --build=DIR  the build to measure (default build)
	A case may be a pattern ('write-*', '*-64k').  Cases:
	END
}

# choose PATTERN: the cases that it means go to $cases.
choose() {
	chosen=
	for c in $all_cases; do
		case $c in $1) chosen="$chosen $c" ;; esac
	done
	[ -n "$chosen" ] || {
		echo "there is no case '$1'" >&2
		usage >&2
		exit 2
	}
	cases="$cases $chosen"
}

parse_flags() {
	for arg in "$@"; do
		case $arg in
		--quick) quick=yes seconds=0.5 min_pairs=2 max_pairs=2 ;;
		--pairs=[1-9] | --pairs=[1-9][0-9]) min_pairs=${arg#*=} max_pairs=${arg#*=} ;;
		--seconds=[0-9]*) seconds=${arg#*=} ;;
		--json) json=yes ;;
		--build=*) build=${arg#*=} ;;
		-h | --help) usage; exit 0 ;;
		-*)
			echo "unknown flag, or a value that it does not take: $arg" >&2
			usage >&2
			exit 2
			;;
		*) choose "$arg" ;;
		esac
	done
	: "${cases:=$all_cases}"
}

# wanted CASE...: is one of them to be run?
wanted() {
	for one in "$@"; do
		case " $cases " in *" $one "*) return 0 ;; esac
	done
	return 1
}

# needs PROGRAM PACKAGE CASE...: it must be there if one of the cases is to be run.
needs() {
	program=$1 package=$2
	shift 2
	command -v "$program" >/dev/null && return 0
	! wanted "$@" || {
		echo "there is no $program (package $package)"
		exit 77
	}
}
