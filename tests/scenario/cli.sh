#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The mooncake tool: usage: cli.sh CASE.  Each verdict is provoked by the situation that it speaks of.
# CLI is the program, PLUGINS the folder of the plugins of the tests, NOT_BUILT what the build left out.
. "$(dirname "$0")/lib.sh"

# ask CODE ARGUMENT...: run it; what it says is in $dir/o.out and .err.
ask() {
	want=$1
	shift
	timeout 60 "$CLI" "$@" >"$dir/o.out" 2>"$dir/o.err" </dev/null && got=0 || got=$?
	[ "$got" -eq "$want" ] || die "mooncake $*: ended with $got instead of $want"
}

# says TEXT...: stdout or stderr of the last one has each of these; with ! it has not.
says() {
	for text in "$@"; do
		case $text in
		!*) ! grep -qF -- "${text#!}" "$dir/o.out" "$dir/o.err" || die "it says '${text#!}'" ;;
		*) grep -qF -- "$text" "$dir/o.out" "$dir/o.err" || die "it does not say '$text'" ;;
		esac
	done
}

# json EXPRESSION: true of the object j on stdout.
json() {
	python3 -c "import json,sys; j=json.load(open(sys.argv[1])); sys.exit(not ($1))" "$dir/o.out" ||
		die "not so in the JSON: $1"
}

# lint CODE LEVEL-AND-CODE TEXT -- ARGUMENT...: one line with both.
lint() {
	want=$1 head=$2 text=$3
	shift 4
	ask "$want" lint "$@"
	grep -F -- "$head" "$dir/o.out" | grep -qF -- "$text" || die "lint $*: no line '$head ... $text'"
}

# Manifests of our own, to be broken.
own_manifests() {
	mkdir -p "$dir/c/plugins.d"
	cp "$MC_CONFIG_DIR"/plugins.d/*.json "$dir/c/plugins.d" || die "no manifests"
	export MC_CONFIG_DIR="$dir/c"
}

# The last answer fits a terminal of 80 columns and 24 lines, prompt and command included.
screen() {
	[ "$(wc -l <"$dir/o.out")" -le 22 ] || die "the help of ${verb:-mooncake} does not fit a screen"
	wide=$(awk 'length > 80' "$dir/o.out")
	[ -z "$wide" ] || die "the help of ${verb:-mooncake} is too wide: $wide"
}

case_help() {
	ask 0 --help
	screen
	verbs=$(sed -n '/^Verbs:/,/^Example:/s/^  \([a-z-]*\) .*/\1/p' "$dir/o.out")
	[ -n "$verbs" ] || die "no verbs"
	for verb in $verbs; do
		ask 0 "$verb" --help
		screen
		says "mooncake $verb" '--json' "  mooncake $verb "
		ask 0 help "$verb"
		says "mooncake $verb"
		ask 2 "$verb" --jsno
		says "mooncake $verb: flag --jsno is not known (did you mean --json?)"
	done
	ask 0 --version
	grep -Eqx 'mooncake [0-9]+\.[0-9]+\.[0-9]+' "$dir/o.out" || die "no version"
	ask 2
	says 'a verb is missing'
	ask 2 lnit
	says "there is no verb 'lnit' (did you mean 'lint'?)"
	ask 2 nothinglikeit
	says 'mooncake --help lists them'
	ask 2 inspect
	says 'FILE.so is missing'
	ask 2 plugins extra
	says "argument 'extra' is one too many"
	ask 2 segments --metadata-sever=x
	says 'flag --metadata_sever is not known (did you mean --metadata_server?)'
	ask 2 segments --timeout
	says 'flag --timeout: the value is missing'
	ask 2 segments --port
	says 'flag --port: the value is missing: --port=VALUE'
	ask 2 segments --noport --timeout=1s
	says 'flag --noport is not known'
	ask 0 lint --show --nospill --nic_priority_matrix='{"*": [["tcp:lo"]]}'
	grep -Eqx 'spill +flag +false' "$dir/o.out" || die "--nospill does not say false"
	ask 2 segments --timeout=soon
	says "flag --timeout: 'soon'"
	if [ -w /dev/full ]; then
		"$CLI" --help >/dev/full 2>"$dir/o.err" && die "a full disk is not noticed"
		says 'mooncake: stdout: No space left'
	fi
}

# What is written by strangers is no command for the terminal; stdin, stdout and stderr may be closed, and descriptors
# may be few: an exit code and a sentence, never a signal.
case_hostile() {
	printf '{ "\\u001b[31mred": 1, "local_server_name": "a\\u001b[2J" }' >"$dir/c.json"
	ask 1 lint "$dir/c.json"
	says 'unknown key' 'red' 'control character'
	! tr -d '\n' <"$dir/o.out" | grep -q '[[:cntrl:]]' || die "lint prints control characters"
	"$CLI" segments --metadata_server="$metadata" >&- 2>"$dir/o.err" && die "a closed stdout is not noticed"
	says 'mooncake: stdout: Bad file descriptor'
	ask 1 segments --metadata_server="$metadata" nobody <&- 2>&-
	for nr in 4 5 6 7 8 9 10 11 12; do
		(
			ulimit -n $nr && exec "$CLI" segments --metadata_server="$metadata" --log_level=error
		) >"$dir/o.out" 2>"$dir/o.err" </dev/null && got=0 || got=$?
		[ $got -le 1 ] || die "$nr descriptors: ended with $got: $(tail -n 1 "$dir/o.err")"
	done
}

case_plugins() {
	# LeakSanitizer cannot look through a process that has opened more libraries with thread-local storage than glibc
	# keeps places for; what one plugin leaks shows when it is alone.
	export ASAN_OPTIONS="${ASAN_OPTIONS-}:detect_leaks=0"
	own_manifests
	ask 0 plugins
	says 'tcp' 'metadata   file'
	for name in $NOT_BUILT; do
		says "'$name' was not built: "
	done
	[ "$(grep -c ' was not built: ' "$dir/o.out")" -eq "$(echo $NOT_BUILT | wc -w)" ] || die "more than was left out"
	manifest='{"name": "%s", "kind": "transport", "library": "transport-%s.so", "wire": "x", "memory": ["cpu"]%s}'
	printf "$manifest" absent absent '' >"$dir/c/plugins.d/absent.json"
	printf "$manifest" major-new major-new ', "optional": true' >"$dir/c/plugins.d/major-new.json"
	printf "$manifest" tcp tcp '' >"$dir/c/plugins.d/tcp2.json"
	echo '{"name": "bad",' >"$dir/c/plugins.d/bad.json"
	mkdir "$dir/p"
	cp "$PLUGINS/transport-good.so" "$dir/p/transport-lonely.so"
	export MC_PLUGIN_PATH="$dir/p:$MC_PLUGIN_PATH:$PLUGINS"
	ask 1 plugins
	says "error: transport 'absent' refused: there is no file for it" \
		"note: transport 'major-new' refused: $PLUGINS/transport-major-new.so speaks plugin ABI 3.1" \
		"error: $dir/c/plugins.d/bad.json:" "tcp2.json' describe it; remove one" \
		"note: $dir/p/transport-lonely.so: no manifest describes it"
	ask 1 plugins --json
	json '{p["name"]: p["state"] for p in j["plugins"] if p["kind"] == "transport"} ==
		{**{p["name"]: p["state"] for p in j["plugins"] if p["kind"] == "transport"},
		"tcp": "ok", "absent": "missing", "major-new": "refused"}'
	json '"transports.tcp.lanes" in [p for p in j["plugins"] if p["name"] == "tcp"][0]["options"]'
	json 'len(j["bad_manifests"]) == 2 and j["without_manifest"][0]["name"] == "lonely"'
	ask 1 plugins --options
	says 'transports.tcp.lanes' "now '1'" "transport 'tcp', " '/transport-tcp.so:'
	# Without the broken ones, an optional one that is refused is no failure.
	rm "$dir"/c/plugins.d/absent.json "$dir"/c/plugins.d/bad.json "$dir"/c/plugins.d/tcp2.json
	ask 0 plugins
	says 'major-new' 'refused'
}

# A plugin that goes wrong when it is loaded is a finding, not the end of the tool.
case_loading() {
	own_manifests
	rm "$dir"/c/plugins.d/*.json
	manifest='{"name": "load-%s", "kind": "transport", "library": "transport-load-%s.so", "wire": "good", "memory": ["cpu"]}'
	for how in crashes exits prints hangs; do
		printf "$manifest" $how $how >"$dir/c/plugins.d/$how.json"
	done
	export MC_PLUGIN_PATH="$PLUGINS"
	ask 1 plugins --json
	json '{p["name"]: p["state"] for p in j["plugins"]} == {"load-crashes": "refused", "load-exits": "refused",
		"load-hangs": "refused", "load-prints": "ok"}'
	says 'transport-load-crashes.so: loading it crashes: Segmentation fault (signal 11); mooncake check-plugin' \
		'transport-load-exits.so: loading it ends the process, with exit status 0;' \
		'transport-load-hangs.so: loading it does not end within 10 s;' \
		"transport-load-prints.so: loading it prints: 'hello from the constructor'"
	rm "$dir/c/plugins.d/hangs.json"
	ask 1 plugins
	says "error: transport 'load-crashes' refused: " \
		"note: $PLUGINS/transport-load-prints.so: loading it prints: 'hello from the constructor'"
	ask 1 lint --nic_priority_matrix='{"*": [["load-prints:x"]]}'
	says "warning [plugin-unusable]: transport 'load-crashes' refused" "warning [plugin-prints]: $PLUGINS/transport-load-prints.so"
	ask 1 inspect "$PLUGINS/transport-load-crashes.so"
	says 'loading it crashes'
	[ "$(wc -l <"$dir/o.err")" -eq 1 ] || die "not one sentence"
	ask 0 inspect "$PLUGINS/transport-load-prints.so" --manifest
	says "mooncake inspect: $PLUGINS/transport-load-prints.so: loading it prints"
	json 'j["name"] == "load-prints"'
}

case_inspect() {
	ask 0 inspect "$PLUGINS/transport-good.so"
	says "transport 'good'" 'this core speaks 1.' 'operations open close' 'lacks' 'wire '
	ask 0 inspect "$PLUGINS/transport-good.so" --json
	json 'j["manifest"]["name"] == "good" and "submit" in j["operations"] and j["usual_file"] == "transport-good.so"'
	ask 0 inspect "$PLUGINS/metadata-min.so" --manifest
	json 'j["kind"] == "metadata" and j["library"] == "metadata-min.so"'
	# What a plugin prints when it is loaded is no part of the answer.
	ask 0 inspect "$PLUGINS/transport-bent-prints.so" --manifest
	json 'j["name"] == "bent-prints"'
	ask 0 inspect "$PLUGINS/filter-count.so"
	says "filter 'count'"
	ask 0 inspect "$PLUGINS/memory-fake.so"
	says "memory 'fake'"
	refuse() {
		ask 1 inspect "$PLUGINS/transport-$1.so"
		[ "$(wc -l <"$dir/o.err")" -eq 1 ] || die "not one sentence"
		[ ! -s "$dir/o.out" ] || die "it is refused and told"
		shift
		says "$@"
	}
	refuse major-new 'speaks plugin ABI 3.1, this core speaks 1.x; rebuild the plugin'
	refuse no-desc "does not export 'mc_plugin_desc': it is not a plugin of Mooncake"
	refuse borrowed 'the one found lies in'
	refuse magic 'bad magic'
	refuse no-submit "its table has no 'submit'"
	refuse nosuch 'No such file'
	echo 'this is text and no shared object, and long enough for a header' >"$dir/text.so"
	ask 1 inspect "$dir/text.so"
	says 'it is no shared object of this machine'
	cp "$PLUGINS/transport-good.so" "$dir/other.so"
	ask 0 inspect "$dir/other.so"
	says 'it would be looked for as transport-good.so'
}

case_lint_config() {
	ask 0 lint --nic_priority_matrix="$tcp_matrix" --metadata_server="$metadata"
	says '0 errors, 0 warnings'
	c=$dir/c.json
	# All that is wrong in a file, not the first only.
	printf '{ "prot": 1,\n "retry_count": 70000,\n "transports": { "tcp": { "lane": 2 } },\n "log_level": "debug" }' >"$c"
	for how in "$c" "--config=$c"; do
		ask 1 lint "$how" --nic_priority_matrix="$tcp_matrix" --show
		says "error [config]: $c:1:11: unknown key 'prot' (did you mean 'port'?)" "$c:2:17: retry_count: 70000" \
			"did you mean 'transports.tcp.lanes'?" "3 errors, 0 warnings"
		grep -Eq "^log_level +file $c:4:.* debug\$" "$dir/o.out" || die "--show does not show the origin"
		grep -Eq "^retry_count +default +9\$" "$dir/o.out" || die "--show does not show a default"
	done
	lint 1 'error [file]' 'ends too early' -- "$(printf '{ "port": 1' >"$dir/cut.json"; echo "$dir/cut.json")"
	lint 1 'error [file]' 'No such file' -- "$dir/none.json"
	MC_HANDSHAKE_PORT=70000 MC_RETRY_CNT=many lint 1 'error [environment]' 'MC_HANDSHAKE_PORT: 70000' -- \
		--nic_priority_matrix="$tcp_matrix"
	says 'MC_RETRY_CNT' '2 errors'
	MC_LOG_LEVL=debug lint 0 'warning [environment]' 'did you mean MC_LOG_LEVEL?' -- --nic_priority_matrix="$tcp_matrix"
	MC_LOG_LEVL=debug ask 1 lint --strict --nic_priority_matrix="$tcp_matrix"
	ask 2 lint --port=70000
	ask 2 lint --prot=1
	says 'did you mean --port?'
	lint 1 'error [value]' 'No such file' -- --cluster_key_file="$dir/none.key" --nic_priority_matrix="$tcp_matrix"
	lint 1 'error [value]' "'reed' is no right" -- --access='{"a": "reed"}' --nic_priority_matrix="$tcp_matrix"
	lint 1 'error [value]' "advertise_address '300.1.1.1': no IPv4 or IPv6" -- --advertise_address=192.0.2.1,300.1.1.1 \
		--nic_priority_matrix="$tcp_matrix"
	lint 1 'error [value]' "local_socket '$dir/nosuch': cannot listen there: No such file" -- \
		--local_socket="$dir/nosuch" --nic_priority_matrix="$tcp_matrix"
	ask 0 lint --advertise_address=192.0.2.1,node0.example --nic_priority_matrix="$tcp_matrix"
	lint 1 'error [value]' "there is no directory '$dir/nosuch/'" -- --metadata_server="file://$dir/nosuch/records/" \
		--nic_priority_matrix="$tcp_matrix"
	lint 1 'error [value]' "no metadata plugin serves the scheme 'nosuch'" -- --metadata_server=nosuch://x \
		--nic_priority_matrix="$tcp_matrix"
	lint 1 'error [plugin-unusable]' "transports.tcp.filters: filter 'falt' refused" -- --transports.tcp.filters=falt \
		--nic_priority_matrix="$tcp_matrix"
	lint 0 'warning [value]' 'staging_chunk' -- --staging_pool=64KiB --nic_priority_matrix="$tcp_matrix"
	ask 1 lint "$c" --json --show --nic_priority_matrix="$tcp_matrix"
	json 'j["errors"] == 3 and [f["code"] for f in j["findings"]] == ["config"] * 3'
	json '[k for k in j["config"] if k["key"] == "log_level"][0]["origin"] == "file"'
}

# What cannot be made leaves nothing behind; what is there stays as it is.
case_cxl() {
	pool=$dir/pool0
	refused() { # TEXT FLAG...
		text=$1
		shift
		ask 1 cxl format "$@"
		says "$text"
	}
	ask 0 cxl --help
	refused 'too few for a pool: give it' --size=1 "$pool"
	refused 'there is no room for' --size=1000TiB "$pool"
	refused 'at most 254 can use a pool' --size=4MiB --engines=300 "$pool"
	[ ! -e "$pool" ] || die "a file is left behind"
	refused 'name a file that can be made' --size=4MiB "$dir/none/pool0"
	refused 'it is no file' --size=4MiB /dev/null
	refused 'a dax device has its own size' --size=4MiB dax9.0
	refused 'mooncake cxl format --size=SIZE' "$pool"
	refused 'no such CXL memory' mem987
	ln -s "$dir/none/pool0" "$dir/astray"
	refused 'name a file that can be made' --size=4MiB "$dir/astray"
	[ -L "$dir/astray" ] || die "a link was removed"
	# A label that is not at the very beginning, as btrfs has it.
	truncate -s 4M "$dir/label"
	printf '_BHRfS_M' | dd of="$dir/label" bs=1 seek=65600 conv=notrunc 2>/dev/null
	refused 'there is something on it' "$dir/label"
	: >"$pool"
	refused 'at most 254 can use a pool' --size=4MiB --engines=300 "$pool"
	[ -e "$pool" ] && [ ! -s "$pool" ] || die "an empty file is not as it was"
	ask 0 cxl format --size=4MiB "$pool"
	says 'units of'
	cp "$pool" "$dir/copy"
	refused 'it has a size already' --size=4MiB "$pool"
	refused '--force takes it from them' "$pool"
	printf 'something else' >"$dir/foreign"
	refused "$dir/foreign" "$dir/foreign"
	[ "$(cat "$dir/foreign")" = 'something else' ] || die "a foreign file was changed"
	cmp "$pool" "$dir/copy" || die "the pool was changed"
	ask 0 cxl info --json "$pool"
	says '"uuid"'
	ask 0 cxl format --force "$pool"
	! cmp -s "$pool" "$dir/copy" || die "--force changes nothing"
}

case_lint_matrix() {
	one() { # CODE HEAD TEXT MATRIX FLAG...
		want=$1 head=$2 text=$3 matrix=$4
		shift 4
		lint "$want" "$head" "$text" -- --nic_priority_matrix="$matrix" --metadata_server="$metadata" "$@"
	}
	one 1 'error [matrix]' 'nic_priority_matrix:1:17: ' '{"*": [["tcp:lo"'
	one 1 'error [no-transport]' "\$.*[0][0]: no transport 'tpc' (did you mean 'tcp'?)" '{"*": [["tpc:lo"]]}'
	one 1 'error [device-claim]' "\$.*[1][0]: device 'nosuch0': no transport claims it: " '{"*": [["tcp:lo"], ["nosuch0"]]}'
	one 1 'error [device-missing]' "\$.*[0][0]: device 'tcp:nosuch0' is not on this host: there is no interface" \
		'{"*": [["tcp:nosuch0"]]}'
	says "error [row-unusable]: nic_priority_matrix: \$.*: no device of the row"
	one 0 'warning [device-missing]' "'tcp:nosuch0' is not on this host" '{"*": [["tcp:lo"], ["tcp:nosuch0"]]}'
	says 'used instead: tcp:lo' 'warning [tier-unused]: nic_priority_matrix: $.*[1]: the tier can never be used on this host'
	# Nothing is left for a row of optional devices only: the engine would not open.
	if [ -f "$MC_CONFIG_DIR/plugins.d/rdma.json" ]; then
		one 1 'error [row-unusable]' '$.cpu:0: ' '{"cpu:0": [["rdma:nosuch0"]], "*": [["tcp:lo"]]}'
		says 'warning [device-missing]'
	fi
	one 1 'error [device-missing]' '$.*[1][0]' '{"*": [["tcp:lo"], [{"device": "tcp:nosuch0", "require": true}]]}'
	one 1 'error [matrix]' 'is in this row already' '{"*": [["tcp:lo", "lo"]]}'
	one 1 'error [no-kind]' "no memory kind 'cpux' (did you mean 'cpu'?)" '{"cpux:0": [["tcp:lo"]]}'
	one 0 'warning [no-location]' 'this host has no NUMA node 999' '{"cpu:999": [["tcp:lo"]], "*": [["tcp:lo"]]}'
	[ ! -f "$MC_CONFIG_DIR/plugins.d/cuda.json" ] ||
		one 0 'warning [no-location]' '$.cuda:63: ' '{"cuda:63": [["tcp:lo"]], "*": [["tcp:lo"]]}'
	[ ! -d /sys/devices/system/node/node0 ] ||
		one 0 'warning [location-uncovered]' 'cpu:0' '{"cpu:999": [["tcp:lo"]]}'
	one 1 'error [weight]' 'has the weights 2 and 3' \
		'{"cpu:0": [[{"device": "tcp:lo", "weight": 2}]], "*": [[{"device": "tcp:lo", "weight": 3}]]}'
	# Two things that are wrong are both told.
	one 1 'error [no-transport]' "'tpc'" '{"*": [["tpc:lo"], ["tcp:nosuch0"]]}'
	says 'device-missing'
	# A file of a matrix is known by its members.
	printf '{ "cpu:0": ["tcp:lo"] }' >"$dir/m.json"
	lint 1 'error [matrix]' "$dir/m.json: \$.cpu:0[0] must be an array of devices" -- "$dir/m.json"
	printf '{ "*": [["tcp:lo"]] }' >"$dir/m.json"
	ask 0 lint "$dir/m.json"
	says '0 errors, 0 warnings' '1 row, 1 device'
	# A transport that reaches host memory only: other memory is staged by its kind's plugin, or not reached.
	export MC_CONFIG_DIR="$PLUGINS" MC_PLUGIN_PATH="$PLUGINS:$MC_PLUGIN_PATH"
	own_manifests
	"$CLI" inspect "$PLUGINS/transport-good.so" --manifest >"$dir/c/plugins.d/good.json" || die "no manifest"
	one 0 '0 errors' '0 warnings' '{"fake:0": [["good:good0"]], "*": [["tcp:lo"]]}' --transports.good.token=x
	one 0 'warning [kind-unreached]' '$.fake:0: the row can never be used: no transport of it reaches fake memory, and staging_pool is 0' \
		'{"fake:0": [["good:good0"]], "*": [["tcp:lo"]]}' --staging_pool=0 --transports.good.token=x
	one 0 'warning [kind-unreached]' 'there is no memory plugin of this name' '{"cxl:0": [["good:good0"]], "*": [["tcp:lo"]]}' --transports.good.token=x
	one 0 'warning [tier-unused]' '$.cxl:0[1]: the tier can never be used: no device of it reaches cxl memory' \
		'{"cxl:0": [["tcp:lo"], ["good:good0"]], "*": [["tcp:lo"]]}' --transports.good.token=x
	one 1 'error [device-claim]' 'does not reach cuda memory' '{"cuda:0": [["good0"]], "*": [["tcp:lo"]]}'
	one 1 'error [device-down]' "'keys:keysdown' is down" '{"*": [["keys:keysdown"]]}'
	sed 's/"altkeys\*"/"*keys*"/' "$PLUGINS/plugins.d/altkeys.json" >"$dir/c/plugins.d/altkeys.json"
	one 1 'error [device-claim]' "'altkeys:keys0' or 'keys:keys0'" '{"*": [["keys0"]]}'
}

case_lint_manifest() {
	own_manifests
	p=$dir/c/plugins.d
	echo '{ "optinal": true }' >"$p/over.json"
	lint 1 'error [manifest-broken]' "'optinal' (did you mean 'optional'?)" -- --nic_priority_matrix="$tcp_matrix"
	rm "$p/over.json"
	python3 - "$p/tcp.json" <<-'END'
		import json, sys
		m = json.load(open(sys.argv[1]))
		m["wire_max"] = 9
		m["options"]["speed"] = {"type": "int", "default": "1"}
		json.dump(m, open(sys.argv[1], "w"))
	END
	lint 0 'warning [manifest-differs]' 'but the plugin speaks' -- --nic_priority_matrix="$tcp_matrix"
	says "option 'speed': the plugin has none of this name"
	# An option that only the manifest has is refused when it is set.
	lint 1 'error [option]' "the plugin has no option 'speed'" -- --nic_priority_matrix="$tcp_matrix" --transports.tcp.speed=2
	# As a file: whole, and laid over one that is installed.
	echo '{"name": "x", "kind": "transprot", "library": "x.so"}' >"$dir/x.json"
	lint 1 'error [manifest-broken]' "did you mean 'transport'?" -- "$dir/x.json"
	echo '{"name": "absent", "kind": "transport", "library": "transport-absent.so", "wire": "x"}' >"$dir/x.json"
	lint 0 'warning [plugin-unusable]' "transport 'absent' refused: there is no file for it" -- "$dir/x.json"
	echo '{ "optional": true, "options": { "lnes": 2 } }' >"$dir/file.json"
	lint 1 'error [manifest-broken]' 'options.lnes' -- "$dir/file.json"
	echo '{ "optional": true }' >"$dir/nosuch.json"
	lint 1 'error [manifest-broken]' 'no such is installed' -- "$dir/nosuch.json"
	# The plugin that the matrix needs is not there.
	echo '{"name": "absent", "kind": "transport", "library": "transport-absent.so", "wire": "x"}' >"$p/absent.json"
	lint 1 'error [plugin-unusable]' "\$.*[0][0]: transport 'absent' refused" -- --nic_priority_matrix='{"*": [["absent:x"]]}'
}

# An interface that is there, up and without a carrier: the other end of its cable is down.
case_lint_carrier() {
	[ "$(id -u)" -eq 0 ] || skip "network name spaces need root"
	command -v ip >/dev/null || skip "there is no ip (package iproute2)"
	near=mclint$$
	ip netns add $near 2>/dev/null || skip "network name spaces are not allowed here"
	trap 'code=$?; ip netns del $near; (exit $code); finish' EXIT
	ip -n $near link add lint0 type veth peer name lint1 || skip "no veth devices here"
	ip -n $near addr add 10.79.0.1/24 dev lint0
	ip -n $near link set lo up
	inside() {
		ip netns exec $near timeout 60 "$CLI" lint --metadata_server="$metadata" \
			--nic_priority_matrix='{"*": [["tcp:lint0"], ["tcp:lo"]]}' >"$dir/o.out" 2>"$dir/o.err" </dev/null &&
			got=0 || got=$?
	}
	inside
	[ $got -eq 1 ] || die "an interface that is down: $got"
	says "error [device-down]: nic_priority_matrix: \$.*[0][0]: device 'tcp:lint0' is down: interface lint0 is down: ip link set"
	ip -n $near link set lint0 up
	inside
	[ $got -eq 1 ] || die "an interface without a carrier: $got"
	says "device 'tcp:lint0' is down: interface lint0 has no carrier"
	ip -n $near link set lint1 up
	wait_until "the carrier" ip netns exec $near grep -q 1 /sys/class/net/lint0/carrier
	wait_until "the device" sh -c "ip netns exec $near '$CLI' lint --nic_priority_matrix='{\"*\": [[\"tcp:lint0\"]]}' >/dev/null"
}

case_segments() {
	ask 0 segments --metadata_server="$metadata"
	says "no engine in cluster 'default' of $metadata"
	target t1 --nic_priority_matrix="$tcp_matrix"
	target t2 --nic_priority_matrix="$tcp_matrix"
	ask 0 segments --metadata_server="$metadata"
	grep -Eq '^t1 +[0-9a-f]{16} +[0-9]+ (s|min) +yes +tcp:lo +.*:[0-9]+$' "$dir/o.out" || die "no line of t1"
	grep -q '^t2 ' "$dir/o.out" || die "no line of t2"
	ask 0 segments --metadata_server="$metadata" --json 't*1'
	json '[s["segment"] for s in j["segments"]] == ["t1"] and j["segments"][0]["record"]["devices"][0]["device"] == "tcp:lo"'
	json '0 <= j["segments"][0]["age_s"] < 3600 and j["segments"][0]["leased"] is True'
	ask 1 segments --metadata_server="$metadata" nobody
	says 'no engine of this name'
	ask 0 segments --metadata_server="$metadata" --cluster=other
	says "cluster 'other'"
	# Nothing was left by who asked.
	[ "$(ls "$dir/metadata" | grep -c '^k\.')" -eq 2 ] || die "asking left a record"
	ask 1 segments --metadata_server=file:///proc/mooncake
	says 'cannot create'
	# Which rails there would be between them and us.
	ask 0 lint --metadata_server="$metadata" --nic_priority_matrix="$tcp_matrix" --peer=t1
	grep -Eq '^\* +\* +1 +tcp:lo +tcp:lo +tcp [0-9]+$' "$dir/o.out" || die "no rail to t1"
	ask 0 lint --metadata_server="$metadata" --nic_priority_matrix="$tcp_matrix" --peer=t1 --json
	json 'len(j["rails"]) == 1 and j["rails"][0]["remote"] == "tcp:lo"'
	lint 1 'error [peer]' "segment 'nobody'" -- --metadata_server="$metadata" --nic_priority_matrix="$tcp_matrix" --peer=nobody
	says "there are: 't1', 't2'"
	if [ -f "$MC_CONFIG_DIR/plugins.d/null.json" ]; then
		lint 1 'error [peer-no-rail]' 'no rail from * here to * there' -- --metadata_server="$metadata" \
			--nic_priority_matrix='{"*": [["null:null0"]]}' --peer=t1
	fi
	# Records that strangers wrote: one is broken, in the other a name is a terminal's command.
	metadata=file://$dir/others
	mkdir "$dir/others"
	"$RECORDS" "$dir/others" 1 '{"format": 1, "name": "node-00000"' || die "no record"
	ask 1 segments --metadata_server="$metadata"
	says 'node-00000  broken' "error: record 'node-00000':"
	lint 1 'error [peer]' 'node-00000' -- --metadata_server="$metadata" --nic_priority_matrix="$tcp_matrix" --peer=node-00000
	"$RECORDS" "$dir/others" 1 '{"format": 1, "name": "node-00000", "generation": "0000000000000001", "addresses": ["127.0.0.1:1"],
		"devices": [{"device": "tcp:\u001b[31m", "wire": "x"}, {"device": "tcp:lo", "wire": "tcp", "wire_min": 8, "wire_max": 9}],
		"matrix": "{\"*\": [[\"tcp:lo\"]]}"}' || die "no record"
	ask 0 segments --metadata_server="$metadata"
	grep -Eq '^node-00000 +0{15}1 +- +no ' "$dir/o.out" || die "a record that does not say when it was written"
	says 'tcp:?[31m'
	lint 1 'warning [peer-version]' "tcp:lo speaks wire tcp 1..1, its tcp:lo another version" -- \
		--metadata_server="$metadata" --nic_priority_matrix="$tcp_matrix" --peer=node-00000
	says 'error [peer-no-rail]'
}

"case_$1"
