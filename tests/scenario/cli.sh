#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The mooncake tool: usage: cli.sh CASE.  Each verdict is provoked by the situation that it speaks of.
# CLI is the program, PLUGINS the folder of the plugins of the tests.
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

# Manifests of our own, to be broken.
own_manifests() {
	mkdir -p "$dir/c/plugins.d"
	cp "$MC_CONFIG_DIR"/plugins.d/*.json "$dir/c/plugins.d" || die "no manifests"
	export MC_CONFIG_DIR="$dir/c"
}

case_help() {
	ask 0 --help
	[ "$(wc -l <"$dir/o.out")" -le 24 ] || die "the help does not fit a screen"
	[ "$(awk '{ if (length > 100) n++ } END { print n + 0 }' "$dir/o.out")" -eq 0 ] || die "the help is too wide"
	verbs=$(sed -n '/^Verbs:/,/^Example:/s/^  \([a-z-]*\) .*/\1/p' "$dir/o.out")
	[ -n "$verbs" ] || die "no verbs"
	for verb in $verbs; do
		ask 0 "$verb" --help
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
	ask 2 plugin
	says "there is no verb 'plugin' (did you mean 'plugins'?)"
	ask 2 nothinglikeit
	says 'mooncake --help lists them'
	ask 2 inspect
	says 'FILE.so is missing'
	ask 2 plugins extra
	says "argument 'extra' is one too many"
	if [ -w /dev/full ]; then
		"$CLI" --help >/dev/full 2>"$dir/o.err" && die "a full disk is not noticed"
		says 'mooncake: stdout: No space left'
	fi
}

case_plugins() {
	own_manifests
	ask 0 plugins
	says 'tcp' 'metadata   file'
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
	says 'transports.tcp.lanes' "now '1'"
	# Without the broken ones, an optional one that is refused is no failure.
	rm "$dir"/c/plugins.d/absent.json "$dir"/c/plugins.d/bad.json "$dir"/c/plugins.d/tcp2.json
	ask 0 plugins
	says 'major-new' 'refused'
}

case_inspect() {
	ask 0 inspect "$PLUGINS/transport-good.so"
	says "transport 'good'" 'this core speaks 1.' 'operations open close' 'lacks' 'wire '
	ask 0 inspect "$PLUGINS/transport-good.so" --json
	json 'j["manifest"]["name"] == "good" and "submit" in j["operations"] and j["usual_file"] == "transport-good.so"'
	ask 0 inspect "$PLUGINS/metadata-min.so" --manifest
	json 'j["kind"] == "metadata" and j["library"] == "metadata-min.so"'
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

"case_$1"
