#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Programs under valgrind: no error, and at the end no leak and no descriptor that they opened.
# Usage: valgrind.sh bench, or valgrind.sh PROGRAM ARGUMENT...; programs that these start are watched too.
. "$(dirname "$0")/lib.sh"

command -v valgrind >/dev/null || skip "there is no valgrind (package valgrind)"

# One report for each process; what the system's programs do is theirs.
watch="valgrind --leak-check=full --errors-for-leak-kinds=definite,possible --error-exitcode=99
	--track-fds=yes --fair-sched=yes --num-callers=24 --trace-children=yes --child-silent-after-fork=yes
	--trace-children-skip=/bin/*,/usr/bin/* --log-file=$dir/vg.%p"

# Descriptors 0 to 2 are there from the start, and so is whatever is marked as inherited.
check_reports() {
	ls "$dir"/vg.* >/dev/null 2>&1 || die "there is no report"
	for report in "$dir"/vg.*; do
		# One that was killed has no summary.
		grep -q 'ERROR SUMMARY' "$report" || continue
		grep -q 'ERROR SUMMARY: 0 errors' "$report" || { cat "$report"; die "valgrind found errors"; }
		awk '/Open file descriptor|Open AF_/ { open = $0; next }
			open != "" { if (!/inherited from parent/) { print open; print; bad = 1 } open = "" }
			END { exit bad }' "$report" || { cat "$report"; die "descriptors are left open"; }
	done
}

if [ "$1" = bench ]; then
	cat >"$dir/watched" <<-END
		#!/bin/sh
		exec $(echo $watch) "$BENCH" "\$@"
	END
	chmod +x "$dir/watched"
	BENCH=$dir/watched
	target t --nic_priority_matrix="$tcp_matrix" --buffer_size=4M
	for op in write read; do
		initiate "i-$op" --segment_id=t --operation=$op --check --nic_priority_matrix="$tcp_matrix" \
			--buffer_size=4M || { cat "$dir"/vg.*; die "$op ended with $?"; }
		check_run "i-$op"
	done
	kill -TERM "$target"
	wait "$target" || { cat "$dir"/vg.*; die "the target ended with $?"; }
else
	$watch "$@" >"$dir/program.out" 2>&1 || { code=$?; cat "$dir"/vg.*; die "$1 ended with $code"; }
fi
check_reports
exit 0
