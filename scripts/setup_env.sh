#!/usr/bin/env bash
# Make .venv with the locked packages. Usage: bash scripts/setup_env.sh [EXTRA ...]; extras as in pyproject.toml, e.g. test.
# Does nothing where .venv already holds this lock with these extras. PYTHON names the interpreter; by default python3, or
# where that is older than 3.11 the first of python3.11 to python3.14. An interrupted .venv is built anew.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "error: $1" >&2
    exit 2
}
suitable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}
# Version and installation of an interpreter; an environment has those of the interpreter that made it.
identity() {
    "$1" -c 'import platform, sys; print(platform.python_version(), "of", sys.base_prefix)' 2>/dev/null || echo "$1, which does not run"
}

# The file .venv.unfinished stands while .venv changes, so that whatever a kill leaves behind is recognised.
whole() {
    [ ! -e .venv.unfinished ] && [ -x .venv/bin/python ]
}
if [ -n "${PYTHON:-}" ]; then
    suitable "$PYTHON" || fail "expected Python 3.11 or newer, got $(identity "$PYTHON"); set PYTHON to another"
    ! whole || [ "$(identity .venv/bin/python)" = "$(identity "$PYTHON")" ] ||
        fail "expected .venv with Python $(identity "$PYTHON"), got $(identity .venv/bin/python); remove .venv or unset PYTHON"
fi

extras=$(printf '%s\n' "$@" | sort -u | paste -sd, -)
lock=$(cat pyproject.toml requirements.lock | sha256sum | cut -c1-16)
finished() {
    whole && compgen -G ".venv/.setup-$lock-${extras:-*}" >/dev/null
}
! finished || exit 0

# One at a time: children of a killed script, which may still run, hold the lock as well.
exec 9<requirements.lock
if command -v flock >/dev/null && ! flock --nonblock 9; then
    echo "waiting for another setup_env.sh"
    flock 9
    ! finished || exit 0
fi

if [ -e .venv ] && ! { whole && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    echo "removing an unfinished .venv"
    touch .venv.unfinished
    rm -rf .venv
fi
if [ ! -e .venv ]; then
    python=${PYTHON:-}
    for candidate in python3 python3.11 python3.12 python3.13 python3.14; do
        [ -n "$python" ] || ! suitable "$candidate" || python=$candidate
    done
    [ -n "$python" ] || fail "expected Python 3.11 or newer on the PATH, got $(identity python3); install it or set PYTHON"
    echo "setting up .venv with Python $(identity "$python") (a minute or two)"
    touch .venv.unfinished
    "$python" -m venv .venv
fi
touch .venv.unfinished
.venv/bin/python -m uv --version >/dev/null 2>&1 || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
find .venv -maxdepth 1 -name '.setup-*' ! -name ".setup-$lock-*" -delete # their packages are replaced now
packages() {
    ls .venv/lib/python*/site-packages
}
before=$(packages) status=0
.venv/bin/python -m uv pip install --quiet --python .venv/bin/python --constraints requirements.lock \
    --compile-bytecode -e ".${extras:+[$extras]}" || status=$?
if [ "$status" != 0 ]; then
    [ "$before" != "$(packages)" ] || rm .venv.unfinished # nothing was installed, for instance without a network
    exit "$status"
fi
touch ".venv/.setup-$lock-${extras:-core}"
rm .venv.unfinished
version='import importlib.metadata; print(importlib.metadata.version("jax"))'
echo ".venv: Python $(identity .venv/bin/python), jax $(.venv/bin/python -c "$version")"
