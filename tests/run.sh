#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds and tests everything: as users build it (build/), under ASan+UBSan (build/asan), under
# TSan (build/tsan), and as clang's release with -Werror and NDEBUG (build/clang).  Prints each
# failure and the reason of each skip; the last line is "N passed, N failed, N skipped".
set -u
cd "$(dirname "$0")/.." || exit 1
. tests/packages.sh

usage() {
	cat <<-END
	usage: tests/run.sh [--quick] [--full] [--strict] [--no-install]
	  --quick        the plain build only
	  --full         also gcc's release, clang's sanitizers, each option on and off
	  --strict       a skipped test is a failure
	  --no-install   install no packages; name what is missing
	Environment: JOBS=N, processors to use.  Exit: 0 all passed, 1 not, 2 usage.
	END
}

install=yes quick=no full=no strict=no
for arg in "$@"; do
	case $arg in
	--quick) quick=yes ;;
	--full) full=yes ;;
	--strict) strict=yes ;;
	--no-install) install=no ;;
	-h | --help) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done

passed=0 failed=0 skipped=0
wrapper= # what tests run under
failures=$(mktemp) || exit 1 # what failed tests printed
trap 'rm -f "$failures"' EXIT
trap 'exit 1' INT TERM HUP
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:suppressions=$PWD/tests/tsan.supp"

pass() {
	passed=$((passed + 1))
}

fail() {
	failed=$((failed + 1))
	echo "FAIL: $1"
}

skip() {
	skipped=$((skipped + 1))
	echo "SKIP: $1: $2"
}

# What failed is told again at the end, where it is not lost among others' lines.
finish() {
	[ ! -s "$failures" ] || head -n 300 "$failures"
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" -eq 0 ] || exit 1
	[ "$strict" = no ] || [ "$skipped" -eq 0 ] || exit 1
	exit 0
}

# One line "RESULT<tab>NAME<tab>REASON" per test from meson's log, which has one JSON object per
# line; the reason is the last line that the test printed.
results_of() {
	awk '{
		name = $0
		sub(/^[{]"name": "/, "", name)
		name = substr(name, 1, index(name, "\"") - 1)
		at = match($0, /"result": "[A-Z]+"/)
		result = substr($0, at + 11, RLENGTH - 12)
		reason = substr($0, 1, at - 4)
		from = index(reason, "\"stdout\": \"")
		reason = from ? substr(reason, from + 11) : ""
		sub(/", "stderr": .*$/, "", reason)
		gsub(/\\t/, " ", reason)
		gsub(/\\"/, "\047", reason)
		n = split(reason, lines, /\\n/)
		while (n > 1 && lines[n] == "")
			n--
		print result "\t" name "\t" (n ? lines[n] : "")
	}' "$1"
}

# printed_by LOG NAME: the end of what the failed test NAME printed.
printed_by() {
	awk -v name="$2" '
		/^=+ [0-9]+\/[0-9]+ =+$|^Summary of Failures:/ { is = 0 }
		/^test: / { is = substr($0, 15) == name; bad = 0; next }
		is && /^result: / { bad = !/exit status 0$/; next }
		is && bad && !/^(start time|duration|command): / { print }
	' "$1" | tail -n 60
}

# alone TREE NAME: whether one that failed beside others passes by itself, in words; it has failed all the same.  Not asked
# after the first few, which say enough.
alone() {
	[ "$failed" -lt 3 ] || return 0
	if env --default-signal=HUP $wrapper meson test -C "$1" --no-rebuild --num-processes 1 --logbase alone --repeat 3 \
		--timeout-multiplier=4 "${2##* / }" </dev/null >/dev/null 2>&1; then
		echo ", passes 3 times alone"
	else
		echo ", fails alone, too"
	fi
}

# count TREE LOGBASE: add a run's tests to the totals.
count() {
	log=$1/meson-logs/$2.json
	results_of "$log" >"$1/results.txt"
	while IFS=$(printf '\t') read -r result name reason; do
		case $result in
		OK | EXPECTEDFAIL) pass ;;
		SKIP) skip "$1: $name" "${reason:-no reason given}" ;;
		*)
			word=
			[ "$result" = TIMEOUT ] || word=$(alone "$1" "$name")
			fail "$1: $name ($result$word); see $1/meson-logs/$2.txt"
			{ echo "--- $1: $name" && printed_by "$1/meson-logs/$2.txt" "$name"; } >>"$failures"
			;;
		esac
	done <"$1/results.txt"
}

# How many tests at once: guests and measurements, run as `busy`, need their processor; all others of the plain tree
# compute for a quarter of their time, under sanitizers for more.
processes() {
	case $1/$2 in
	*/busy) jobs_nr ;;
	build/testlog) echo $(($(jobs_nr) * 2)) ;;
	*) echo $((($(jobs_nr) * 3 + 1) / 2)) ;;
	esac
}

# run_tests TREE NAME MESON-TEST-ARGUMENT...: NAME is the log's.
run_tests() {
	tree=$1 name=$2
	shift 2
	rm -f "$tree/meson-logs/$name.json"
	# Under nohup programs would not hear the SIGHUP that some tests send.
	if ! env --default-signal=HUP $wrapper meson test -C "$tree" --no-rebuild --num-processes "$(processes "$tree" "$name")" --logbase "$name" \
		--print-errorlogs "$@" </dev/null >"$tree/$name.out" 2>&1; then
		sed -n '/^ *[0-9]*\/[0-9]* .*\(FAIL\|TIMEOUT\|ERROR\)/,$p' "$tree/$name.out" | head -n 200
	fi
	if [ -f "$tree/meson-logs/$name.json" ]; then
		count "$tree" "$name"
	else
		tail -n 20 "$tree/$name.out"
		fail "$tree: the tests could not be run"
	fi
}

# units TREE: a run without a single unit test has not tested.
units() {
	grep -q 'unit / ' "$1/results.txt" 2>/dev/null || fail "$1: no unit test was run"
}

# step TITLE TREE: say what comes.
step() {
	echo "== $1 ($2)"
}

# Can a program of this compiler with this sanitizer run here?  TSan cannot where addresses are
# randomised more than it knows; then it is run without randomisation, if that is allowed.
sanitizer_runs() {
	compiler=$1 flag=$2 prefix=$3
	printf 'int main(void){return 0;}' >build/probe.c
	$compiler -fsanitize="$flag" -o build/probe build/probe.c >/dev/null 2>&1 &&
		$prefix ./build/probe >/dev/null 2>&1
}

plain() {
	step "as users build it" build
	if build_tree build -Dtests=enabled; then
		pass
		run_tests build busy --suite busy
		[ "$quick" = yes ] || ahead build_asan build/asan gcc
		run_tests build testlog --no-suite busy
		units build
	else
		fail "build"
	fi
}

# Through a pipe: a process that it left behind would hold the pipe open until the timeout.
quickstart() {
	step "bench/quickstart.sh" build
	out=build/quickstart.out
	timeout 300 sh -c '{ bench/quickstart.sh --no-install --duration=0.5; echo "exit $?"; } 2>&1 |
		cat >'$out </dev/null
	if [ $? -eq 0 ] && tail -n 1 $out | grep -qx 'exit 0' &&
		tail -n 2 $out | grep -q '^Test completed: '; then
		pass
		grep '^rail\|^Test completed' $out
	else
		tail -n 20 $out
		fail "bench/quickstart.sh"
	fi
}

# build_KIND TREE COMPILER [MESON-OPTION]...
build_asan() {
	tree=$1 compiler=$2
	shift 2
	CC=$compiler build_tree "$tree" -Dtests=enabled -Db_sanitize=address,undefined "$@"
}

build_tsan() {
	tree=$1 compiler=$2
	shift 2
	CC=$compiler build_tree "$tree" -Dtests=enabled -Db_sanitize=thread "$@"
}

build_release() {
	CC=$2 build_tree "$1" -Dtests=enabled -Dbuildtype=release -Db_ndebug=true -Dwerror=true
}

# ahead BUILD-FUNCTION TREE COMPILER: build it while tests wait, behind them.  The tree's own step then finds what is
# done, and says what failed.
ahead() {
	have "$3" || return 0
	nicely="nice -n 19"
	"$@" >/dev/null 2>&1 &
	nicely=
}

# asan TREE COMPILER MESON-OPTION...
asan() {
	tree=$1 compiler=$2
	step "ASan and UBSan, $compiler" "$tree"
	if ! sanitizer_runs "$compiler" address,undefined ""; then
		skip "$tree" "programs of $compiler with -fsanitize=address,undefined do not run here"
	elif wait && build_asan "$@"; then
		pass
		[ "$tree" != build/asan ] || ahead build_tsan build/tsan gcc
		run_tests "$tree" testlog --timeout-multiplier=4
		units "$tree"
	else
		fail "$tree"
	fi
}

# tsan TREE COMPILER MESON-OPTION...
tsan() {
	tree=$1 compiler=$2 prefix=
	step "TSan, $compiler" "$tree"
	sanitizer_runs "$compiler" thread "" || prefix="setarch $(uname -m) -R"
	if ! sanitizer_runs "$compiler" thread "$prefix"; then
		skip "$tree" "programs of $compiler with -fsanitize=thread do not run here"
	elif wait && build_tsan "$@"; then
		pass
		[ "$tree" != build/tsan ] || ahead build_release build/clang clang
		wrapper=$prefix
		run_tests "$tree" testlog --timeout-multiplier=4 --suite unit --suite conformance \
			--suite scenario --no-suite tool
		wrapper=
		units "$tree"
	else
		fail "$tree"
	fi
}

# release TREE COMPILER MESON-TEST-ARGUMENT...
release() {
	step "release, -Werror, NDEBUG, $2" "$1"
	if ! have "$2"; then
		skip "$1" "there is no $2"
	elif wait && build_release "$1" "$2"; then
		pass
		tree=$1
		shift 2
		run_tests "$tree" testlog "$@"
		units "$tree"
	else
		fail "$1"
	fi
}

# Each option away, alone: it must build, its bench must start, and its checks must pass.
options() {
	for option in tcp rdma cxl cuda shm null example fault checksum etcd file discovery admission http p2p_store managed_store allocator bench tests; do
		step "without $option" "build/no-$option"
		tree=build/no-$option
		if build_tree "$tree" "-D$option=disabled"; then
			pass
			[ "$option" = bench ] || "$tree/bench/transfer_engine_bench" --help >/dev/null ||
				fail "$tree: transfer_engine_bench --help"
			[ "$option" = tests ] || run_tests "$tree" testlog --suite checks
		else
			fail "build/no-$option"
		fi
	done
}

install_packages "$install" $pkg_build libcmocka-dev || { fail "packages"; finish; }
install_packages "$install" $pkg_tests || echo "going on without them"
start=$(date +%s)
plain
quickstart
if [ "$quick" = no ]; then
	asan build/asan gcc
	tsan build/tsan gcc
	# Another compiler and no asserts: what computes and moves bytes; the plain tree has run all of it.
	release build/clang clang --suite unit --suite fuzz --suite checks --suite release
fi
if [ "$full" = yes ]; then
	release build/release gcc
	asan build/asan-clang clang -Db_lundef=false
	tsan build/tsan-clang clang -Db_lundef=false
	options
fi
echo "took $(($(date +%s) - start)) s"
finish
