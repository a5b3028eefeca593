#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Install what hookline needs on this machine, and nothing twice.
#
#   deploy/setup.sh          to run it: Debian packages, .venv, Kafka's jars in .kafka/libs
#   deploy/setup.sh --dev    to test and check it too
#   deploy/setup.sh --bench  to measure it too, beside what others have made
#
# What is there already is left alone, so a second run takes well under a second and needs
# neither root nor network.  When something is wrong, one line says what and how to mend it;
# the tools' own output goes to .setup.log.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly LOG=$PWD/.setup.log
readonly VENV=$PWD/.venv
# The distribution's own interpreter: bcc's bindings are built for it and for no other.
readonly PYTHON=/usr/bin/python3

readonly RUNTIME_PACKAGES=(ca-certificates iproute2 iputils-ping libbpf1 python3 python3-bpfcc python3-venv)
readonly DEV_PACKAGES=(
	bind9-dnsutils clang clang-format curl ethtool git iperf3 make openssl procps
	shellcheck systemd tcpdump tshark
)
# What is measured beside ours.  Each can be missing: then its rows say so.
readonly BENCH_PACKAGES=(haproxy iptables nftables nginx-light pmacct wrk xdp-tools)

die() {
	echo "setup: $*" >&2
	exit 1
}

# Run quietly; when it fails, say in one line what it was meant to do and where to read more.
quietly() {
	local purpose=$1
	shift
	echo "== $*" >>"$LOG"
	"$@" >>"$LOG" 2>&1 </dev/null || die "$purpose failed; see the end of $LOG"
}

fetching() {
	local what=$1
	shift
	echo "setup: fetching $what"
	quietly "fetching $what (is the network up?)" "$@"
}

check_kernel() {
	local release major minor
	release=$(uname -r)
	IFS=.- read -r major minor _ <<<"$release"
	if ((major < 5 || (major == 5 && minor < 10))); then
		die "kernel $release is too old: hookline needs 5.10 or newer"
	fi
	# This sysctl exists exactly when the kernel was built with CONFIG_BPF_SYSCALL.
	[[ -e /proc/sys/kernel/unprivileged_bpf_disabled ]] ||
		die "kernel $release has no bpf() system call: hookline needs CONFIG_BPF_SYSCALL"
}

# Print those of the named packages that are not installed.
missing_packages() {
	local installed
	installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
	for package; do
		grep -qx "installed $package" <<<"$installed" || echo "$package"
	done
}

has_java() {
	local version
	version=$(java -version 2>&1 | grep -oEm1 'version "[0-9]+' | grep -oE '[0-9]+') || return 1
	((version >= 17))
}

install_packages() {
	command -v apt-get >/dev/null ||
		die "apt-get not found: setup knows Debian and Ubuntu only, install by hand: $*"
	[[ $EUID -eq 0 ]] || die "must be root to install: $*"
	export DEBIAN_FRONTEND=noninteractive
	fetch_lists
	hold_services
	fetching "$*" apt-get install -q -y --no-install-recommends "$@"
}

has_lists=

fetch_lists() {
	[[ -z $has_lists ]] || return 0
	fetching "Debian's lists of packages" apt-get update -q
	has_lists=yes
}

# A package that brings a server may start it when installed; the tests only want the program.
hold_services() {
	local policy=/usr/sbin/policy-rc.d
	[[ ! -e $policy ]] || return 0
	# shellcheck disable=SC2064  # the path is wanted as it is now
	trap "rm -f $policy" EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
}

setup_packages() {
	local -a wanted=("${RUNTIME_PACKAGES[@]}") missing
	if [[ $1 == dev ]]; then wanted+=("${DEV_PACKAGES[@]}"); fi
	if ! has_jars; then wanted+=(maven); fi
	mapfile -t missing < <(missing_packages "${wanted[@]}")
	has_java || missing+=(default-jre-headless)
	if ((${#missing[@]})); then install_packages "${missing[@]}"; fi
	has_java || die "java is older than 17, which Kafka needs: install openjdk-17-jre-headless or newer"
}

setup_bench_packages() {
	local package
	local -a missing known=()
	mapfile -t missing < <(missing_packages "${BENCH_PACKAGES[@]}")
	if ((${#missing[@]})) && [[ $EUID -eq 0 ]]; then (fetch_lists) && has_lists=yes; fi
	for package in "${missing[@]}"; do
		if apt-cache show "$package" >>"$LOG" 2>&1; then known+=("$package"); else
			echo "setup: this distribution has no $package: what is measured beside it is left out" >&2
		fi
	done
	((${#known[@]})) || return 0
	(install_packages "${known[@]}") ||
		echo "setup: going on without ${known[*]}: what is measured beside them is left out" >&2
}

# A short name for what is read: other input gives another name.
name_of() {
	sha256sum | cut -c 1-16
}

# Started afresh only for another interpreter or another place; another lock is installed over it.
make_venv() {
	local stamp
	stamp=$VENV/.made-$(cat <("$PYTHON" --version) <(pwd) | name_of)
	[[ ! -e $stamp ]] || return 0
	"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		die "$("$PYTHON" --version) is too old: hookline needs Python 3.11 or newer"
	quietly "making .venv" "$PYTHON" -m venv --clear --system-site-packages "$VENV"
	"$VENV/bin/python" -c 'import bcc' >>"$LOG" 2>&1 ||
		die "$PYTHON cannot import bcc: reinstall python3-bpfcc; see the end of $LOG"
	touch "$stamp"
}

# The locks and what the project says of itself, without the settings of its tools.
python_packages() {
	cat requirements.lock requirements-dev.lock
	sed '/^\[tool\./q' pyproject.toml
}

setup_venv() {
	local group=$1 name lock=requirements.lock
	local -a how=(--no-deps --require-hashes)
	# Another checkout's: to make it anew would take it away from there.
	[[ ! -L $VENV ]] || return 0
	make_venv
	name=$(python_packages | name_of)
	[[ ! -e $VENV/.installed-$name-dev && ! -e $VENV/.installed-$name-$group ]] || return 0
	# Of what tests and checks need, most is never imported: compiling all would take a quarter of it.
	if [[ $group == dev ]]; then lock=requirements-dev.lock how+=(--no-compile); fi
	fetching "the Python packages of $lock" "$VENV/bin/pip" install "${how[@]}" -r "$lock"
	# compat: a plain path that mypy can follow too, not a hook that lists the packages of today.
	quietly "installing hookline into .venv" "$VENV/bin/pip" install --no-deps \
		--no-build-isolation --config-settings editable_mode=compat --editable .
	touch "$VENV/.installed-$name-$group"
}

jars_stamp() {
	echo ".kafka/.installed-$(name_of <deploy/kafka/pom.xml)"
}

has_jars() {
	[[ -e $(jars_stamp) ]]
}

setup_jars() {
	! has_jars || return 0
	rm -rf .kafka.new
	fetching "Kafka's jars" mvn --batch-mode --quiet --strict-checksums \
		-f deploy/kafka/pom.xml dependency:copy-dependencies \
		-DincludeScope=runtime -DoutputDirectory="$PWD/.kafka.new/libs"
	# The archive of classes goes with the jars that it was made from.
	rm -rf .kafka
	mv .kafka.new .kafka
	touch "$(jars_stamp)"
}

# Only a Java that wrote an archive of classes can use it.
setup_class_archive() {
	local stamp
	stamp=.kafka/.archived-$(java -version 2>&1 | name_of)
	[[ ! -e $stamp ]] || return 0
	quietly "starting Kafka once" "$VENV/bin/python" -m hookline.class_archive
	touch "$stamp"
}

main() {
	local group=runtime peers=no
	case ${1-} in
	'') ;;
	--dev) group=dev ;;
	--bench) group=dev peers=yes ;;
	*) die "unknown argument $1: only --dev and --bench are known" ;;
	esac
	check_kernel
	# One setup at a time: the log doubles as the lock.
	: >>"$LOG" || die "cannot write $LOG: run setup as the owner of $PWD"
	exec 9>>"$LOG"
	flock 9
	setup_packages "$group"
	if [[ $peers == yes ]]; then setup_bench_packages; fi
	setup_venv "$group"
	setup_jars
	setup_class_archive
}

main "$@"
