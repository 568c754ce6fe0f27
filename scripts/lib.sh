# shellcheck shell=bash
# Sourced by the scripts beside it: goes to the project's root and provides `setup`.
#
#   setup [EXTRA]    make or refresh .venv with the package and one of its extras (dev: everything
#                    that the checks and the tests need), and put it on PATH

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv
cd "$ROOT" || exit 1

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Run a command silently; if it fails, show what it said.
quietly() {
    local log
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        rm -f "$log"
        return 0
    fi
    cat "$log" >&2
    rm -f "$log"
    return 1
}

# Print the first Python that is 3.11 or newer and works (a pyenv shim may be there and not work).
find_python() {
    local candidate
    for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Use an environment with this version of Python (3.13) instead of .venv.
use_python() {
    local candidate
    for candidate in "python$1" "$HOME/.pyenv/versions/$1"*/bin/python; do
        if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$1" ]; then
            PYTHON=$(command -v "$candidate")
            VENV=$ROOT/.venv-$1
            return 0
        fi
    done
    fail "There is no Python $1, neither on PATH nor in ~/.pyenv/versions."
}

make_venv() {
    local python
    python=${PYTHON:-$(find_python)} || fail "Python 3.11 or newer is needed, and there is none on PATH. Install python3."
    rm -rf "$VENV"
    "$python" -m venv "$VENV" >/dev/null 2>&1 && return 0
    rm -rf "$VENV"
    # Debian and Ubuntu ship Python without ensurepip
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "$python makes no virtual environments: calling apt-get install python3-venv" >&2
        export DEBIAN_FRONTEND=noninteractive
        quietly apt-get -qq update || true # old lists may do
        quietly apt-get -qq install -y --no-install-recommends python3-venv || true
    fi
    quietly "$python" -m venv "$VENV" || {
        rm -rf "$VENV"
        fail "$python cannot make a virtual environment. On Debian or Ubuntu: apt-get install python3-venv"
    }
}

setup() {
    local extra=${1:-dev} stamp=$VENV/.installed wanted
    # an environment that was moved or whose Python is gone does not work any more
    "$VENV/bin/python" -c '' 2>/dev/null && [ "$(cat "$VENV/.root" 2>/dev/null)" = "$ROOT" ] || {
        make_venv
        printf '%s\n' "$ROOT" >"$VENV/.root"
    }
    wanted=$(cksum <pyproject.toml)
    # dev holds all that the other extras of the scripts do
    case "$(cat "$stamp" 2>/dev/null)" in
    "$wanted $extra" | "$wanted dev") ;;
    *)
        echo "installing into .venv" >&2
        # compat: our directory on the path; a finder would cost every Python 40 ms at its start
        quietly "$VENV/bin/python" -m pip --disable-pip-version-check install \
            --config-settings editable_mode=compat -e ".[$extra]" ||
            fail "pip could not install the package; see above."
        printf '%s\n' "$wanted $extra" >"$stamp"
        ;;
    esac
    export PATH="$VENV/bin:$PATH" VIRTUAL_ENV="$VENV"
    # as pip does it for an installed package; else every process would compile it anew
    unset PYTHONDONTWRITEBYTECODE
}
