# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/run.sh and bench/quickstart.sh: which Debian packages are needed, how to see
# that one is there without asking dpkg (it may come from elsewhere), and how to install them.

pkg_build="meson ninja-build gcc pkg-config libc6-dev libuv1-dev libyajl-dev uthash-dev
	libhwloc-dev libxxhash-dev liblmdb-dev libssl-dev libmicrohttpd-dev libcurl4-openssl-dev
	libibverbs-dev libcxl-dev libdaxctl-dev"
pkg_tests="libcmocka-dev g++ clang libclang-rt-14-dev iperf3 ucx-utils etcd-server etcd-client openssl python3
	iproute2 valgrind qemu-system-x86 busybox-static cpio kmod xz-utils curl ibverbs-providers perftest ndctl daxctl redis-server"

have() {
	command -v "$1" >/dev/null 2>&1
}

have_header() {
	printf '#include <stddef.h>\n#include <%s>\n' "$1" | ${CC:-cc} -E -x c - >/dev/null 2>&1
}

clang_sanitizes() {
	have clang && echo 'int main(void){return 0;}' |
		clang -fsanitize=address -x c -o /dev/null - >/dev/null 2>&1
}

# Is what the package is for there?
present() {
	case $1 in
	meson) have meson ;;
	ninja-build) have ninja ;;
	gcc) have gcc ;;
	g++) have g++ ;;
	clang) have clang ;;
	libclang-rt-14-dev) clang_sanitizes ;;
	pkg-config) have pkg-config ;;
	libc6-dev) have_header stdio.h ;;
	libuv1-dev) pkg-config --exists libuv 2>/dev/null ;;
	libyajl-dev) pkg-config --exists yajl 2>/dev/null ;;
	libssl-dev) pkg-config --exists libcrypto 2>/dev/null ;;
	libmicrohttpd-dev) pkg-config --exists libmicrohttpd 2>/dev/null ;;
	libhwloc-dev) pkg-config --exists hwloc 2>/dev/null ;;
	libcmocka-dev) pkg-config --exists cmocka 2>/dev/null ;;
	uthash-dev) have_header uthash.h ;;
	libxxhash-dev) have_header xxhash.h ;;
	liblmdb-dev) pkg-config --exists lmdb 2>/dev/null ;;
	libcurl4-openssl-dev) pkg-config --exists libcurl 2>/dev/null ;;
	libcxl-dev) pkg-config --exists libcxl 2>/dev/null ;;
	libdaxctl-dev) pkg-config --exists libdaxctl 2>/dev/null ;;
	ndctl) have ndctl && have cxl ;;
	daxctl) have daxctl ;;
	libibverbs-dev) pkg-config --exists libibverbs 2>/dev/null ;;
	ibverbs-providers) [ -e /etc/libibverbs.d/rxe.driver ] ;;
	perftest) have ib_write_bw ;;
	etcd-server) have etcd ;;
	etcd-client) have etcdctl ;;
	openssl) have openssl ;;
	python3) have python3 ;;
	iperf3) have iperf3 ;;
	ucx-utils) have ucx_perftest ;;
	iproute2) have ip && have tc && have rdma ;;
	perftest) have ib_write_bw ;;
	valgrind | cpio | curl | redis-server) have "$1" ;;
	qemu-system-x86) have qemu-system-x86_64 ;;
	busybox-static) have busybox ;;
	kmod) have modprobe || [ -x /sbin/modprobe ] ;;
	xz-utils) have xz ;;
	*) dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii' ;;
	esac
}

# Prints those of the packages that are not there.
missing_of() {
	for p in "$@"; do
		present "$p" || printf '%s ' "$p"
	done
}

# Without a terminal there is nobody to give sudo a password.
[ -t 0 ] && sudo_flags= || sudo_flags=-n

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo $sudo_flags "$@"
	fi
}

# What apt says is shown when it fails.
apt_install() {
	apt_log=$(mktemp) || return 1
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 \
		install --no-install-recommends "$@" </dev/null >"$apt_log" 2>&1
	apt_result=$?
	[ $apt_result -eq 0 ] || tail -n 5 "$apt_log" >&2
	rm -f "$apt_log"
	return $apt_result
}

# Have packages come by install_packages?  Then trees that exist look for them again.
new_packages=no

# install_packages yes|no PACKAGE...: make them be there.  1: something is missing, and said.
install_packages() {
	may=$1
	shift
	missing=$(missing_of "$@")
	[ -z "$missing" ] && return 0
	if [ "$may" = yes ] && have apt-get; then
		if [ "$(id -u)" -eq 0 ] || have sudo; then
			echo "installing: $missing" >&2
			new_packages=yes
			# The lists of a fresh container are empty, or old.
			apt_install $missing 2>/dev/null || {
				as_root apt-get -qq update </dev/null >/dev/null
				apt_install $missing
			}
			missing=$(missing_of "$@")
		fi
	fi
	[ -z "$missing" ] && return 0
	echo "missing: $missing" >&2
	if have apt-get; then
		echo "install them by: sudo apt-get install $missing" >&2
	else
		echo "these are Debian's names; there is no apt-get here, so install what gives the same" >&2
	fi
	return 1
}

# Processors to build with; a build may be told otherwise by JOBS.
jobs_nr() {
	echo "${JOBS:-$(nproc 2>/dev/null || echo 2)}"
}

# configured DIR -DNAME=VALUE...: was this tree configured so?  meson notes what it was told last.
configured() {
	told=$1/meson-private/cmd_line.txt
	shift
	for option in "$@"; do
		option=${option#-D}
		grep -qxF "${option%%=*} = ${option#*=}" "$told" 2>/dev/null || return 1
	done
}

# build_tree DIR -DNAME=VALUE...: configure DIR if it is new or has other values, build it; the log
# only on failure.  Options that are not named stay as they are.  $nicely is put before ninja.
nicely=
build_tree() {
	tree=$1 again=
	shift
	mkdir -p "$tree"
	log=$tree/last-build.log
	[ -f "$tree/build.ninja" ] && again=--reconfigure
	if [ -z "$again" ] || [ "$new_packages" = yes ] || ! configured "$tree" "$@"; then
		meson setup $again "$tree" "$@" </dev/null >"$log" 2>&1 || {
			cat "$log" >&2
			return 1
		}
	fi
	# Whoever watches sees how far it is; ninja shows failures itself then.
	if [ -t 1 ] && [ -t 2 ]; then
		ninja -C "$tree" -j "$(jobs_nr)" </dev/null || {
			echo "the build in $tree failed" >&2
			return 1
		}
		return 0
	fi
	$nicely ninja -C "$tree" -j "$(jobs_nr)" </dev/null >"$log" 2>&1 || {
		tail -n 60 "$log" >&2
		echo "the build in $tree failed" >&2
		return 1
	}
}
