#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a user gets for bad input: usage: bad-input.sh CASE.  One sentence that says what is wrong,
# where and how to mend it, the exit code, and both soon.
. "$(dirname "$0")/lib.sh"

# refused CODE MILLISECONDS WORD... -- FLAG...: the bench must end so, and say all these words in
# its last line.  A word that begins with ! must not be there.
refused() {
	want=$1 limit=$(($2 * ${SLOW:-1}))
	shift 2
	words=$dir/words
	: >"$words"
	while [ "$1" != -- ]; do
		echo "$1" >>"$words"
		shift
	done
	shift
	begin=$(date +%s%N)
	timeout 60 "$BENCH" --metadata_server="$metadata" --local_server_name=i --port=0 --duration=0.1 \
		--threads=1 "$@" >"$dir/i.out" 2>"$dir/i.err" </dev/null && got=0 || got=$?
	took=$((($(date +%s%N) - begin) / 1000000))
	[ "$got" -eq "$want" ] || die "'$*' ended with $got instead of $want"
	[ $took -lt $limit ] || die "'$*' took $took ms"
	last=$(tail -n 1 "$dir/i.err")
	while IFS= read -r word; do
		case $word in
		!*) case $last in *"${word#!}"*) die "'$*' says '${word#!}': $last" ;; esac ;;
		*) case $last in *"$word"*) ;; *) die "'$*' does not say '$word': $last" ;; esac ;;
		esac
	done <"$words"
}

# matrix TEXT WORD...: refused as usage.
matrix() {
	text=$1
	shift
	refused 2 2000 "$@" -- --nic_priority_matrix="$text"
}

case_matrix() {
	f=$dir/nics.json
	matrix '{"*": [["tcp:lo"' 'nic_priority_matrix:1:17: ' 'ends too early'
	printf '{\n  "*": [["tcp:lo"]],\n  x\n}\n' >"$f"
	matrix "$f" "$f:3:3: "
	: >"$f"
	matrix "$f" "$f:1:1: it is empty"
	matrix '{}' 'it has no row' 'leave it out'
	matrix '{"*": [[]]}' '$.*' 'names no device'
	matrix "$dir/none.json" "$dir/none.json" 'No such file' 'JSON text' 'path of a file'
	matrix '[]' 'must be an object such as {' 'not an array'
	matrix '{"cpu:0": ["tcp:lo"]}' '$.cpu:0[0] must be an array of devices, not a string'
	matrix '{"cpu:0": [["tcp:lo"], [5]]}' '$.cpu:0[1][0]' 'not a whole number'
	matrix '{"cpu:0": [[{"device": "tcp:lo", "wieght": 2}]]}' '$.cpu:0[0][0]' 'wieght' "weight"
	matrix '{"cpux": [["tcp:lo"]]}' '$.cpux' "write 'cpux:0'"
	matrix '{"cpux:0": [["tcp:lo"]]}' '$.cpux:0' "no memory kind 'cpux'" "did you mean 'cpu'" 'there are: cpu, cuda, cxl'
	# Known, but not here: not refused; a target that nobody could use says so.
	refused 1 5000 "its memory at 'cpu:0'" 'cuda:0' 'add a row' -- --mode=target \
		--nic_priority_matrix='{"cuda:0": [["tcp:lo"]]}' --buffer_size=1M --log_level=error
	matrix '{"*": [["tcp:lo", "tcp:lo"]]}' '$.*[0][1]' 'already' '[0][0]'
	matrix '{"*": [["tcp:lo"]], "*": [["tcp:lo"]]}' "'*' is there twice"
	# Peers could not be told of it.
	awk 'BEGIN { printf "{ \"*\": [[\"tcp:lo\"]]"; while (++i < 3000) printf ", \"cpu:%d\": [[\"tcp:lo\"]]", i; print " }" }' >"$f"
	refused 1 5000 'nic_priority_matrix' 'to tell each peer' 'name fewer locations or devices' -- --nic_priority_matrix="$f"
	printf '{ "*": [["tcp:lo"], ["tcp:lo", "tpc:lo"]] }' >"$f"
	matrix "$f" "$f: " '$.*[1]'
}

case_device() {
	matrix '{"*": [["tcp:lo"], ["nosuch0"]]}' '$.*[1][0]' "'nosuch0'" 'no transport claims it' \
		"'TRANSPORT:nosuch0'" 'tcp'
	matrix '{"cpu:0": [["tpc:lo"]]}' '$.cpu:0[0][0]' "no transport 'tpc'" "did you mean 'tcp'?" 'there are: '
	matrix '{"*": [["tcp:nosuch0"]]}' '$.*[0][0]' "'tcp:nosuch0'" "is not on this host: there is no interface 'nosuch0': ip link" 'there are: ' 'lo'
	printf '{ "*": [["tcp:nosuch0"]] }' >"$dir/nics.json"
	matrix "$dir/nics.json" "$dir/nics.json: \$.*[0][0]: "
	# There is none: how a host gets one.
	[ "$RDMA" = no ] || (
		export SYSFS_PATH="$dir/none"
		refused 2 2000 "'rdma' finds no usable device here: there is no RDMA device" 'modprobe rdma_rxe' \
			'rdma link add' -- --protocol=rdma
	) || exit 1
	# Two transports claim it.
	mkdir "$dir/c"
	cp -r "$PLUGINS/plugins.d" "$dir/c"
	sed 's/"altkeys\*"/"*keys*"/' "$PLUGINS/plugins.d/altkeys.json" >"$dir/c/plugins.d/altkeys.json"
	export MC_CONFIG_DIR="$dir/c" MC_PLUGIN_PATH="$PLUGINS:$MC_PLUGIN_PATH"
	matrix '{"*": [["keys0"]]}' '$.*[0][0]' "'keys0'" 'altkeys, keys' "'altkeys:keys0' or 'keys:keys0'"
	# It is there, but down: nothing is wrong about what the user wrote.
	refused 1 2000 'keysdown' 'is down' 'use keys0' -- --nic_priority_matrix='{"*": [["keys:keysdown"]]}'
}

case_flags() {
	refused 2 2000 'flag --block_size' "'0'" 'from 1 to 17179869184' -- --block_size=0
	refused 2 2000 'flag --block_size' 'from 1 to 17179869184' -- --block_size=1099511627776
	refused 2 2000 'flag --block_size' 'from 1 to' -- --block_size=1T
	refused 2 2000 'flag --threads' "'-1'" 'from 1 to 1024' -- --threads=-1
	refused 2 2000 'flag --threads' 'from 1 to 1024' -- --threads=1099511627776
	refused 2 2000 'flag --batch_size' 'from 1 to' -- --batch_size=99999999999999999999
	refused 2 2000 'flag --duration' 'from 0 to' -- --duration=nan
	refused 2 2000 'flag --operation' "'wrte'" "'read' or 'write'" -- --operation=wrte
	refused 2 2000 'flag --blok_size is not known' 'did you mean --block_size' -- --blok_size=1
	refused 2 2000 'flag --metadata_sever' 'did you mean --metadata_server' -- --metadata-sever=x
	refused 2 2000 'flag --zzzzzz is not known' '--helpfull' -- --zzzzzz
	refused 2 2000 'flag -x is not known' '--helpfull' -- -x
	refused 2 2000 'flag --set' 'KEY=VALUE' -- --set port
	refused 2 2000 "unknown key 'foo'" 'docs/config.md' '--helpfull' -- --set foo=1
	refused 2 2000 "argument 'x': not a flag" '--mode=target' -- x
	refused 2 2000 'flag --segment_id' 'missing' -- --segment_id
	# The same for keys of the config, by flag.
	refused 2 2000 'port' '70000' '0..65535' -- --port=70000
	refused 2 2000 'max_peers' '1099511627776' '1..1048576' -- --max_peers=1099511627776
	refused 2 2000 'lease_ttl' '1us' '100ms..60min' -- --lease-ttl=1us
	refused 2 2000 'log_level' "'loud'" 'error, warn, info, debug, trace' -- --log_level=loud
	refused 2 2000 "unknown key 'prot'" "did you mean 'port'?" -- --set prot=1
	refused 2 2000 'transports.tcp.lanes' '1..64' -- --set transports.tcp.lanes=0
	refused 2 2000 "did you mean 'transports.tcp.lanes'?" -- --transports.tcp.lane=2
	refused 2 2000 'metadata_server' 'etcd://host:2379' -- --metadata_server=nonsense
	refused 2 2000 'metadata_server' 'file:///tmp' -- --metadata_server=/tmp
	"$BENCH" --helpfull >"$dir/help.out" || die "--helpfull ended with $?"
	grep -q -- '--port  int 0\.\.65535, default' "$dir/help.out" || die "--helpfull lacks the range of a key"
	grep -q -- '--log_level  enum error, warn' "$dir/help.out" || die "--helpfull lacks the words of a key"
	grep -q -- '--threads .*1 to 1024' "$dir/help.out" || die "--helpfull lacks the range of a flag"
}

# config TEXT WORD...: as a file.
config() {
	printf "$1" >"$dir/c.json"
	shift
	refused 2 2000 "$@" -- --config="$dir/c.json"
}

case_config() {
	c=$dir/c.json
	config '{ "retry_count": 70000 }' "$c:1:18: retry_count: 70000" '0..1000'
	config '{ "retry_count": 1,\n  "prot": 1 }' "$c:2:11: unknown key 'prot'" "'port'"
	config '{ "retry_count": 1' "$c:1:18: " 'ends too early'
	config '{ "retry_count": 1,, }' "$c:1:22: "
	config '{ "transports": { "tcp": { "lanes": 0 } } }' "$c:1:37: " 'lanes' '1..64'
	config '{ "nic_priority_matrix": {"*": [["tpc:lo"]]} }' '$.*[0][0]' "'tcp'"
	config '[]' "$c" 'object'
	config '{ "foo-bar-baz": 1 }' "$c:1:18: unknown key 'foo-bar-baz'" 'docs/config.md'
	config '{ "port": x }' "$c:1:11: invalid char in json text"
	! grep -q 'text\.' "$dir"/*.err || die "a full stop ends the sentence"
	refused 2 2000 "config: file '$dir/none.json'" 'No such file' -- --config="$dir/none.json"
	# Values that name a file, and are as wrong when it is not there.
	refused 2 2000 "access: file '$dir/none.json'" 'No such file' 'path of a file' -- --access="$dir/none.json"
	refused 2 2000 "cluster_key_file '$dir/none.key'" 'No such file' -- --cluster_key_file="$dir/none.key"
	echo short >"$dir/short.key"
	chmod 644 "$dir/short.key"
	refused 2 2000 "cluster_key_file '$dir/short.key'" 'chmod 600' -- --cluster_key_file="$dir/short.key"
	chmod 600 "$dir/short.key"
	refused 2 2000 "cluster_key_file '$dir/short.key'" 'too few' -- --cluster_key_file="$dir/short.key"
}

case_environment() {
	export MC_HANDSHAKE_PORT=70000
	refused 2 2000 'MC_HANDSHAKE_PORT: 70000' '0..65535' --
	unset MC_HANDSHAKE_PORT
	export MC_TRANSFER_TIMEOUT=soon
	refused 2 2000 'MC_TRANSFER_TIMEOUT' "'soon'" 'such as 30' --
	unset MC_TRANSFER_TIMEOUT
	# Other programs have MC_* variables, too: one warning, and the run goes on.
	target t --nic_priority_matrix="$tcp_matrix"
	MC_LOG_LEVL=debug initiate i --segment_id=t --nic_priority_matrix="$tcp_matrix" || die "ended with $?"
	[ "$(grep -c 'MC_LOG_LEVL (did you mean MC_LOG_LEVEL?)' "$dir/i.err")" -eq 1 ] || die "not one warning"
}

# nowhere URL WORD...: a metadata server that cannot be used.
nowhere() {
	url=$1
	shift
	refused 1 5000 "'$url'" "$@" -- --metadata_server="$url" --nic_priority_matrix="$tcp_matrix" --segment_id=t
}

case_metadata() {
	touch "$dir/f"
	nowhere "file://$dir/f" 'Not a directory' 'name a directory'
	nowhere "file://$dir/f/x" 'Not a directory'
	nowhere "file:///proc/mooncake" 'cannot create' 'may write'
	# Only the last part of a path is made.
	nowhere "file://$dir/none/x" "no directory '$dir/none'" 'mkdir -p'
	[ ! -e "$dir/none" ] || die "a parent was created"
	nowhere "nosuch://$dir" "'nosuch'" 'file://'
	nowhere "http://127.0.0.1:1" "'http'" 'file://'
	refused 2 5000 "'file://relative'" 'three slashes' -- --metadata_server=file://relative
	# Variables for proxies have nothing to do with a directory.
	target t --nic_priority_matrix="$tcp_matrix"
	http_proxy=http://127.0.0.1:1 https_proxy=http://127.0.0.1:1 initiate i --segment_id=t \
		--nic_priority_matrix="$tcp_matrix" || die "ended with $?"
}

case_segment() {
	refused 1 2000 "segment 'x'" 'no such engine' 'nor any other' "$metadata" 'start it' -- --segment_id=x \
		--nic_priority_matrix="$tcp_matrix"
	target t --nic_priority_matrix="$tcp_matrix"
	refused 1 2000 "segment 'x'" "there are: 't'" "!'i'" -- --segment_id=x --nic_priority_matrix="$tcp_matrix"
	refused 1 2000 "'a/b'" "'/' is not allowed" -- --segment_id=a/b --nic_priority_matrix="$tcp_matrix"
	# Found, but not to be written.
	target r --nic_priority_matrix="$tcp_matrix" --access='{"i": "read"}'
	for how in --noprepared --prepared; do
		refused 1 5000 'Permission denied' "access list leaves 'i' only 'read'" -- --segment_id=r \
			--operation=write $how --log_level=warn --nic_priority_matrix="$tcp_matrix"
	done
	# Ten of ten thousand.
	"$RECORDS" "$dir/metadata" 10000 || die "the records could not be written"
	refused 1 2000 "segment 'node-04711x'" "the closest are: 'node-04711'" "'node-0471" '!node-09' "!'t'" -- \
		--segment_id=node-04711x --nic_priority_matrix="$tcp_matrix"
	[ "$(tail -n 1 "$dir/i.err" | grep -o "'node-[0-9]*'" | wc -l)" -eq 10 ] || die "not ten names"
}

case_plugin() {
	# Without a matrix it is why nothing is left, and is said once.
	refused 1 2000 "filter 'falt' refused" -- --transports.tcp.filters=falt
	[ "$(grep -c "filter 'falt'" "$dir/i.err")" -eq 1 ] || die "it is not said once: $(cat "$dir/i.err")"
	mkdir "$dir/p" "$dir/c" "$dir/c/plugins.d"
	cp "$PLUGINS"/plugins.d/*.json "$dir/c/plugins.d" || die "no manifests"
	manifest='{"name": "%s", "kind": "transport", "library": "transport-%s.so", "wire": "x", "memory": ["cpu"]}'
	for name in absent text major-new no-desc; do
		printf "$manifest" $name $name >"$dir/c/plugins.d/$name.json"
	done
	echo 'no shared object, only long enough to be one: it has no header of the kind that is wanted' \
		>"$dir/p/transport-text.so"
	export MC_CONFIG_DIR="$dir/c" MC_PLUGIN_PATH="$dir/p:$PLUGINS:$MC_PLUGIN_PATH"
	plugin() {
		name=$1
		shift
		refused 1 2000 '$.*[0][0]' "transport '$name' refused: " "$@" -- \
			--nic_priority_matrix="{\"*\": [[\"$name:x\"]]}"
		refused 2 2000 "transport '$name' refused: " "$@" -- --protocol=$name
	}
	plugin absent 'no file for it' "$dir/p/transport-absent.so" 'plugins there: '
	plugin text "$dir/p/transport-text.so" 'no shared object of this machine'
	plugin major-new "$PLUGINS/transport-major-new.so" 'speaks plugin ABI 3.1' 'this core speaks 1.x' 'rebuild the plugin'
	plugin no-desc "$PLUGINS/transport-no-desc.so" "does not export 'mc_plugin_desc'"
	# A manifest that is none.
	echo '{"name": "bad",' >"$dir/c/plugins.d/bad.json"
	refused 1 2000 "$dir/c/plugins.d/bad.json:" 'ends too early' --
}

"case_$1"
