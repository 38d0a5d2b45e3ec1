# SPDX-License-Identifier: Apache-2.0
# For tests of the conformance kit over plugins that break the contract; sourced with PROGRAM PLUGIN-FOLDER.
program=$1 plugins=$2
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
failed=0

complain() {
	echo "FAIL: $*"
	sed 's/^/    /' "$tmp/out"
	failed=1
}

# check PLUGIN ARGUMENT...: its output is in $tmp/out, its exit code in $code.
check() {
	case $1 in
	metadata-* | memory-* | filter-*) file=$plugins/$1.so ;;
	*) file=$plugins/transport-$1.so ;;
	esac
	shift
	"$program" "$file" "$@" >"$tmp/out" 2>"$tmp/err"
	code=$?
}

# found PLUGIN CHECK SECTION WORDS [ARGUMENT...]: that check alone fails, and says these words.
found() {
	plugin=$1 name=$2 section=$3 words=$4
	shift 4
	check "$plugin" --case="$name" "$@"
	[ $code -eq 1 ] || complain "$plugin: exit code $code, not 1"
	grep "^FAIL [a-z]*: $name: .*; breaks docs/plugin-abi.md section $section, " "$tmp/out" | grep -q "$words" ||
		complain "$plugin: '$name' does not say '$words' and section $section"
	grep -q '^0 passed, 1 failed, 0 skipped$' "$tmp/out" || complain "$plugin: not one failure"
}

# sound PLUGIN CHECK [ARGUMENT...]: that check passes.
sound() {
	plugin=$1 name=$2
	shift 2
	check "$plugin" --case="$name" "$@"
	[ $code -eq 0 ] && grep -q '^1 passed, 0 failed, 0 skipped$' "$tmp/out" || complain "$plugin: '$name' fails"
}
