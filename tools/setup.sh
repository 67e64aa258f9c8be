#!/usr/bin/env bash
# Prepare this checkout: install missing Debian packages, then make a virtual environment in .venv with the system's
# Python and the locked libraries. It is quick when nothing is missing, safe to repeat, and prints each step.
#
# It needs only git, make and Debian's python3. Libraries are installed by hash only. The tools that build the few
# libraries without a wheel are installed first, also by hash. Builds are not isolated, so no unpinned code runs.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly PYTHON=/usr/bin/python3 VENV=.venv
readonly SETUP_LOCK=.setup.lock LIBRARIES_STAMP=$VENV/.libraries PROJECT_STAMP=$VENV/.project

# Each line: package and reason.
readonly DEBIAN_PACKAGES='
python3              the interpreter of the virtual environment
python3-venv         makes the virtual environment
python3-dev          headers, to build tpm2-pytss
gcc                  compiler, to build tpm2-pytss
libc6-dev            headers, to build tpm2-pytss
pkg-config           finds the TPM software stack, to build tpm2-pytss
libtss2-dev          the TPM software stack: headers to build with, and its libraries with all their transports
libtss2-tcti-tabrmd0 the transport to a TPM through tpm2-abrmd
libudev1             hardware components, read by pyudev
ca-certificates      trust for downloads
swtpm                a TPM 2.0 in software, for demo and tests
swtpm-tools          gives the software TPM an endorsement key and its certificate
tpm2-abrmd           resource manager in front of the software TPM (only started on private buses of demo and tests)
tpm2-tools           TPM commands that tests compare against
dbus-daemon          private message buses for tpm2-abrmd
openssl              an independent check of certificates in the tests
curl                 an independent client of EST, OCSP and CRLs in the tests
postgresql           the other database engine: tests start private servers of it
softhsm2             a PKCS#11 token in software, for the tests of the signer
golang-cfssl         the peer that `make bench` measures issuing beside
strace               shows the tests every byte that a node writes to a file system; no session key may be among them
'

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: cannot go on: %s\n' "$*" >&2; exit 1; }

missing_debian_packages() {
    command -v dpkg-query >/dev/null || die 'this system has no dpkg-query. Cascade is developed on Debian.'
    local names installed name
    names=$(awk 'NF {print $1}' <<<"$DEBIAN_PACKAGES")
    # dpkg-query fails for unknown names and leaves them out of its answer. A multi-arch package may have one line for
    # each architecture.
    # shellcheck disable=SC2086  # one argument a package is meant
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $names 2>/dev/null || true)
    for name in $names; do
        [[ $'\n'$installed$'\n' == *$'\n'"installed $name"$'\n'* ]] || printf '%s\n' "$name"
    done
}

install_debian_packages() {
    local missing=("$@") name privilege=()
    say "Debian packages missing: ${#missing[@]}. They are installed with apt-get:"
    for name in "${missing[@]}"; do
        grep "^$name " <<<"$DEBIAN_PACKAGES" | sed 's/^/setup:   /'
    done
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null || die "that needs root, and there is no sudo. As root, run:
    apt-get update && apt-get install --no-install-recommends ${missing[*]}"
        say 'Not root: asking through sudo.'
        privilege=(sudo)
    fi
    "${privilege[@]}" apt-get -qq update || die 'apt-get update failed (see above)'
    "${privilege[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}" >/dev/null \
        || die "apt-get install failed (see above). By hand, as root:
    apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    say 'Debian packages installed.'
}

digest() { sha256sum "$@" | sha256sum | cut -c1-64; }

pip_install() {
    # The output of pip is shown only when it fails.
    local log=$VENV/pip.log
    "$VENV/bin/python" -m pip --disable-pip-version-check --no-input install --progress-bar off "$@" &>"$log" \
        || { tail -n 60 "$log" >&2; die 'pip install failed (see its last lines above)'; }
}

install_libraries() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$PYTHON is older than Python 3.11"
    say "virtual environment $VENV on $("$PYTHON" --version) ($PYTHON)"
    rm -rf "$VENV"
    "$PYTHON" -m venv "$VENV"
    say 'build tools, by hash'
    pip_install --require-hashes --no-deps --only-binary :all: -r requirements-build.lock
    say "$(grep -c '^[a-z0-9].*==' requirements.lock) libraries, by hash; tpm2-pytss is compiled, which takes about half a minute"
    # Every other library is a wheel, because the build of a source archive would run its code here. FAPI is left out: it
    # would load libcurl, GnuTLS, Kerberos and LDAP into every process, 4 MiB that nothing here uses.
    PKG_CONFIG_PATH=$PWD/tools/pkgconfig pip_install --require-hashes --no-deps --no-build-isolation \
        --only-binary :all: --no-binary tpm2-pytss -r requirements.lock
    printf '%s\n' "$1" >"$LIBRARIES_STAMP"
}

install_project() {
    say 'the project itself: .venv/bin/cascade and .venv/bin/cascadia'
    pip_install --no-deps --no-build-isolation --editable .
    rm -rf -- *.egg-info
    # The lock leaves out the libraries in tools/unused.txt on purpose.
    local unmet
    unmet=$("$VENV/bin/python" -m pip --disable-pip-version-check check 2>&1 | grep -vxE \
        "No broken requirements found\.|piccolo [^ ]+ requires ($(paste -sd'|' tools/unused.txt)), which is not installed\." || true)
    [[ -z $unmet ]] || die "the lock does not satisfy pyproject.toml: run \"make lock\". pip check says: $unmet"
    printf '%s\n' "$1" >"$PROJECT_STAMP"
}

is_current() { [[ -f $1 && $(<"$1") == "$2" ]]; }

main() {
    # Two targets that start at the same time wait for each other here.
    exec 9>"$SETUP_LOCK"
    flock 9
    local missing libraries project interpreter
    missing=$(missing_debian_packages)
    # shellcheck disable=SC2086  # one argument a package is meant
    [[ -z $missing ]] || install_debian_packages $missing

    # The resolved name has the version, so an upgrade of the distribution makes a new environment.
    interpreter=$(readlink -f "$PYTHON")
    libraries="$interpreter $PWD $(digest requirements.lock requirements-build.lock tools/setup.sh tools/pkgconfig/*)"
    project="$libraries $(digest pyproject.toml)"
    is_current "$LIBRARIES_STAMP" "$libraries" || install_libraries "$libraries"
    is_current "$PROJECT_STAMP" "$project" || { install_project "$project"; say 'ready.'; }
}

main
