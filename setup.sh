#!/bin/sh
# Make this clone ready: Python environment in .venv, system libraries where that is allowed.
# Runs again in no time when nothing changed, and then needs no network. Options are environment variables:
#   PYTHON   the interpreter to use (3.11 or 3.12)        VENV   the environment's folder (.venv)
set -eu
cd "$(dirname "$0")"
VENV=${VENV:-.venv}
LOG=$VENV/setup.log

say() { printf '%s\n' "$*" >&2; }

stop() {
    say "setup: $1"
    shift
    for line in "$@"; do say "  $line"; done
    exit 1
}

# Only Debian and its kin have these package names; elsewhere the libraries' files are named.
may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

apt_install() {
    say "setup: installing $*"
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get update && apt-get install -y --no-install-recommends "$@"; } </dev/null >"$LOG" 2>&1; then
        tail -n 20 "$LOG" >&2
        stop "apt-get could not install the packages above. Run this yourself, then try again:" \
            "apt-get update && apt-get install -y --no-install-recommends $*"
    fi
}

suits() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3 python /usr/bin/python3.11 /usr/bin/python3.12; do
        if suits "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
}

need_python() {
    python=$(find_python)
    if [ -z "$python" ] && may_install; then
        apt_install python3 python3-venv
        python=$(find_python)
    fi
    [ -n "$python" ] || stop "Python 3.11 or 3.12 is needed and was not found. Install one, for example with" \
        "sudo apt-get install -y python3.11 python3.11-venv" "or name yours: make PYTHON=/path/to/python3.11 ..."
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
        if may_install; then
            apt_install "$package"
        else
            stop "this Python cannot make environments. Install what is missing, then try again:" \
                "sudo apt-get install -y $package"
        fi
    fi
}

# What mediapipe's OpenCV, pyrender and pymeshlab load at run time (measured on a bare Debian 12).
missing_libraries() {
    "$VENV/bin/python" - <<'PYTHON'
import ctypes

LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libEGL.so.1": "libegl1",
    "libOpenGL.so.0": "libopengl0",
    "libXrender.so.1": "libxrender1",
}
for library, package in LIBRARIES.items():
    try:
        ctypes.CDLL(library)
    except OSError:
        print(package)
PYTHON
}

need_libraries() {
    packages=$(missing_libraries | tr '\n' ' ')
    packages=${packages% }
    [ -n "$packages" ] || return 0
    if may_install; then
        # shellcheck disable=SC2086
        apt_install $packages
        packages=$(missing_libraries | tr '\n' ' ')
        [ -z "$packages" ] || stop "these packages were installed but their libraries do not load: $packages"
    else
        stop "system libraries are missing. Install them, then try again:" \
            "sudo apt-get install -y --no-install-recommends $packages"
    fi
}

need_packages() {
    say "setup: installing Python packages into $VENV (about 2.5 GB; some minutes)"
    "$python" -m venv "$VENV"
    # No build isolation: setuptools comes from the lock, so that nothing unpinned is fetched.
    if ! {
        "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
            -r requirements.lock &&
            "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --no-deps \
                --no-build-isolation -e . &&
            "$VENV/bin/python" -m pip check
    } </dev/null >"$LOG" 2>&1; then
        tail -n 30 "$LOG" >&2
        stop "pip could not install the packages; its whole output is in $LOG." \
            "If the network failed, run the same command again: what is installed stays."
    fi
    # Snakemake's start-up takes 6 s without bytecode and 2.5 s with it.
    "$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" >/dev/null 2>&1 || true
}

# A moved or half-made environment cannot start its Python.
if [ -e "$VENV/bin/python" ] && ! "$VENV/bin/python" -c 'pass' >/dev/null 2>&1; then
    say "setup: $VENV is damaged and is made anew"
    rm -rf "$VENV"
fi
mkdir -p "$VENV"
# Two set-ups at once (make -j, two terminals) take turns.
if command -v flock >/dev/null 2>&1; then
    exec 9>"$VENV/.lock"
    flock 9
fi
# The linters' settings in pyproject.toml install nothing.
wanted=$( (cat setup.sh requirements.lock && sed '/^\[tool/,$d' pyproject.toml) | cksum)-$(pwd)
if [ "$(cat "$VENV/.ready" 2>/dev/null)" != "$wanted" ]; then
    need_python
    need_packages
    printf '%s' "$wanted" >"$VENV/.ready"
fi
need_libraries
"$VENV/bin/python" -m compileall -q nphm_core pipelines workflow
# Numba keeps what it compiled beside the sources, until they change.
kernels=$(grep -rl --include='*.py' njit nphm_core | sort | xargs cat | cksum)-$(pwd)
if [ "$(cat "$VENV/.kernels" 2>/dev/null)" != "$kernels" ]; then
    say "setup: compiling the numeric kernels (half a minute)"
    "$VENV/bin/python" -m pipelines.compile_kernels
    printf '%s' "$kernels" >"$VENV/.kernels"
fi
