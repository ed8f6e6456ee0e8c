# shellcheck shell=bash
# The Python environment of this repository, shared by scripts/run, scripts/test and .ci/run. Sourced, not run.
#
#   use_environment run|dev          makes it if need be; afterwards PYTHON is its interpreter
#   use_compiled_environment         the same for one beside it, with Charon installed as the packages have it: compiled
#   want_tools NAME                  adds what requirements-NAME.txt lists to it; returns 1 where that cannot be had
#   want_programs NAME:PACKAGE ...   installs missing programs (root on Debian); returns 1 where it may not
#
# It lives in .venv, or where CHARON_VENV says. A stamp inside it holds a hash of everything it was made from, so the
# next start has nothing to do. The scripts that source this file have set -euo pipefail.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=${CHARON_VENV:-$ROOT/.venv}
PYTHON=$VENV/bin/python

say() { printf '==> %s\n' "$*" >&2; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Runs a command and shows its output indented, line by line; returns its exit status.
shown() { "$@" 2>&1 </dev/null | sed -u 's/^/    /' >&2; }

can_apt() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

apt_install() {
    say "installing with apt: $*"
    # Where apt has never fetched its lists, or they are too old to be true, the first try fails.
    if ! DEBIAN_FRONTEND=noninteractive shown apt-get install -q -y -o Dpkg::Use-Pty=0 --no-install-recommends "$@"; then
        shown apt-get update -q || fail "apt-get update failed (see above)"
        DEBIAN_FRONTEND=noninteractive shown apt-get install -q -y -o Dpkg::Use-Pty=0 --no-install-recommends "$@" ||
            fail "apt could not install: $*"
    fi
}

want_programs() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    if ! can_apt; then
        say "missing: ${missing[*]} (as root: apt-get install ${missing[*]})"
        return 1
    fi
    # These packages are wanted for their programs: a web server must not start and take port 80 on the way.
    local policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        apt_install "${missing[@]}"
    else
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        apt_install "${missing[@]}"
        rm -f "$policy"
        trap - EXIT
    fi
}

# Prints the first interpreter that is new enough. The system's own comes first: the packages run on it, and distributions
# build it with profiling and link-time optimisation, which hand-made ones often lack (a third of the speed).
find_python() {
    local name system=
    [[ $'\n'$(type -aP python3)$'\n' != *$'\n'/usr/bin/python3$'\n'* ]] || system=/usr/bin/python3
    for name in ${CHARON_PYTHON:+"$CHARON_PYTHON"} $system python3 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

make_venv() {
    local base
    if ! base=$(find_python); then
        can_apt || fail "missing: Python 3.11 or later (as root: apt-get install python3 python3-venv)"
        apt_install python3 python3-venv
        base=$(find_python) || fail "this system's python3 is older than 3.11; CHARON_PYTHON can name another"
    fi
    if ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
        can_apt || fail "missing: python3-venv (as root: apt-get install python3-venv)"
        apt_install python3-venv
    fi
    say "making the environment $VENV with $("$base" --version)"
    shown "$base" -m venv --clear "$VENV" || fail "could not make $VENV (see above)"
}

# What the environment was made from: Python, the requirement files, and the package's own description.
fingerprint() {
    {
        "$PYTHON" -c 'import sys; print(sys.version, sys.prefix)'
        printf '%s\n' "$ROOT"
        cat "$ROOT/requirements.txt" "$ROOT/setup.py"
        [ "$1" = dev ] && cat "$ROOT/requirements-dev.txt" "$ROOT/requirements-build.txt"
        :
    } | sha256sum | cut -d' ' -f1
}

use_environment() {
    local kind=$1 file=$ROOT/requirements.txt
    [ "$kind" = dev ] && file=$ROOT/requirements-dev.txt
    local stamp=$VENV/.made-from-$kind
    if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
        fail "$VENV is not a Python environment, and is not empty: not touching it"
    fi
    mkdir -p "$(dirname -- "$VENV")"
    local lock
    exec {lock}<"$(dirname -- "$VENV")"
    flock --nonblock "$lock" || { say "waiting for another script that makes $VENV"; flock "$lock"; }

    "$PYTHON" -m pip --version >/dev/null 2>&1 || make_venv
    local want
    want=$(fingerprint "$kind")
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        say "installing $(basename "$file")"
        export PIP_DISABLE_PIP_VERSION_CHECK=1
        shown "$PYTHON" -m pip install --progress-bar off -r "$file" || fail "pip failed (see above)"
        say "installing the charon command"
        shown "$PYTHON" -m pip install --progress-bar off --no-deps --editable "$ROOT" || fail "pip failed (see above)"
        fingerprint run >"$VENV/.made-from-run"
        printf '%s\n' "$want" >"$stamp"
        say "the environment is ready"
    fi
    exec {lock}<&-
}

# What the installed Charon was made from, sources and all.
compiled_fingerprint() {
    {
        fingerprint dev
        find "$ROOT/charon" -type f ! -path '*/__pycache__/*' ! -name '*.so' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum | cut -d' ' -f1
}

use_compiled_environment() {
    VENV=${CHARON_VENV:-$ROOT/.venv}-compiled
    PYTHON=$VENV/bin/python
    want_programs gcc:gcc || fail "the data path cannot be compiled without gcc"
    local header='import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
    use_environment dev
    "$PYTHON" -c "$header" || { can_apt && apt_install python3-dev libc6-dev; } || fail "missing: python3-dev"
    local stamp=$VENV/.compiled-from want
    want=$(compiled_fingerprint)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
        say "compiling the data path (two to four minutes)"
        local scratch
        scratch=$(mktemp -d)
        cp -r "$ROOT"/{setup.py,README.md,LICENSE,charon} "$scratch"
        find "$scratch" \( -name __pycache__ -o -name '*.so' \) -prune -exec rm -rf {} +
        CHARON_COMPILE=1 shown "$PYTHON" -m pip install --quiet --no-deps --no-build-isolation --force-reinstall "$scratch" ||
            { rm -rf "$scratch"; fail "the data path could not be compiled (see above)"; }
        rm -rf "$scratch"
        printf '%s\n' "$want" >"$stamp"
    fi
}

# Tools that not everybody needs, or that there are not for every Python. After use_environment.
want_tools() {
    local file=$ROOT/requirements-$1.txt stamp=$VENV/.made-from-$1 want
    want=$(sha256sum "$file")
    [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return 0
    say "installing $(basename "$file")"
    PIP_DISABLE_PIP_VERSION_CHECK=1 shown "$PYTHON" -m pip install --progress-bar off -r "$file" || return 1
    printf '%s\n' "$want" >"$stamp"
}
