#!/bin/bash
# setup-debian.sh - installs the Debian packages that a target of the Makefile needs and that are missing.
#
# Usage: setup-debian.sh SET...     with SET one of build, test, coverage, bench, format, package.
#
# Where nothing is missing it asks dpkg once and touches nothing else, so every target may call it first. Installing
# needs root, or sudo. A package that this release of Debian does not have is named and left out: whoever needs it says
# so later, and the rest still works. On a system without apt-get it changes nothing and says what to install.
set -euo pipefail

packages_of_set() {
    case "$1" in
        build)
            echo gcc g++ cmake ninja-build pkg-config zlib1g-dev libncurses-dev libjansson-dev libmicrohttpd-dev \
                 libcairo2-dev libdw-dev libelf-dev libiberty-dev libprotobuf-c-dev protobuf-c-compiler
            ;;
        test)
            echo clang clang-format libclang-rt-14-dev libcmocka-dev valgrind sqlite3 redis-server redis-tools git xz-utils \
                 perl python3 python3-jsonschema libpython3.11-testsuite strace gdb spin binutils jq tmux prometheus curl \
                 mold python3-prometheus-client chromium chromium-driver golang-go google-perftools php-cli dpkg-dev file man-db
            # Node.js may come from elsewhere than a package; then the package would only be in its way.
            if ! command -v node > /dev/null; then echo nodejs; fi
            ;;
        coverage) echo gcovr ;;
        bench)
            echo sqlite3 libmimalloc2.0 libjemalloc2 libtcmalloc-minimal4 libtbbmalloc2 time python3 perl xz-utils \
                 redis-server redis-tools gnuplot-nox
            ;;
        format) echo clang-format ;;
        package) echo dpkg-dev file ;;
        *) echo "setup-debian.sh: unknown set '$1'; the sets are build, test, coverage, bench, format, package" >&2; exit 2 ;;
    esac
}

wanted=()
for set in "$@"; do
    names=$(packages_of_set "$set")
    read -r -a names <<< "${names//$'\n'/ }"
    wanted+=("${names[@]}")
done
if [[ ${#wanted[@]} -eq 0 ]]; then exit 0; fi

if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
    echo "setup-debian.sh: not a Debian system; what Debian calls these is needed: ${wanted[*]}" >&2
    exit 0
fi

# dpkg-query fails for a name it has never seen, which is the usual case here, so its status says nothing.
installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2> /dev/null || true)
missing=()
for package in "${wanted[@]}"; do
    if ! grep -qxF "installed $package" <<< "$installed"; then missing+=("$package"); fi
done
if [[ ${#missing[@]} -eq 0 ]]; then exit 0; fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo > /dev/null; then
        echo "setup-debian.sh: neither root nor sudo; please install: ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

# A release update can leave an old package list behind, so it is fetched before the first installation. A source of
# packages that does not answer is no reason to stop: what is needed may come from the others.
echo "Installing Debian packages: ${missing[*]}"
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
own_policy=
tidy_up() {
    rm -f "$log"
    if [[ -n $own_policy ]]; then rm -f "$policy"; fi
}
trap tidy_up EXIT
"${as_root[@]}" apt-get update -qq > "$log" 2>&1 || { echo "setup-debian.sh: apt-get update failed:"; cat "$log"; } >&2

available=()
for package in "${missing[@]}"; do
    # The answer is read to its end: a reader that stops early makes the writer fail, and pipefail reports it.
    if LC_ALL=C apt-cache policy "$package" | grep '^ *Candidate: [^(]' > /dev/null; then
        available+=("$package")
    else
        echo "setup-debian.sh: this system's package sources have no $package; going on without it" >&2
    fi
done
if [[ ${#available[@]} -eq 0 ]]; then exit 0; fi

# In a container without an init system a package's service would be started by hand: nobody asked for a running
# server, and its failure to start would fail the installation. Debian asks this file first.
if [[ $(id -u) -eq 0 && ! -d /run/systemd/system && ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    own_policy=yes
fi

if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 "${available[@]}" > "$log" 2>&1 < /dev/null; then
    cat "$log" >&2
    exit 1
fi
