#!/usr/bin/env bash
# Make .venv with the locked packages. Usage: bash scripts/setup_env.sh [EXTRA ...]; extras as in pyproject.toml, e.g. test.
# Does nothing where .venv already holds this lock with these extras. PYTHON names the interpreter (python3.11, then python3).
set -euo pipefail
cd "$(dirname "$0")/.."

extras=$(printf '%s\n' "$@" | sort -u | paste -sd, -)
stamp=.venv/.setup-$(cat pyproject.toml requirements.lock | sha256sum | cut -c1-16)-${extras:-core}
[ ! -f "$stamp" ] || exit 0

python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
[ -n "$python" ] || { echo "error: expected python3.11 or newer on the PATH, found none; install it or set PYTHON" >&2; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: expected Python 3.11 or newer, got $("$python" --version); set PYTHON" >&2
    exit 2
}

echo "setting up .venv (a minute or two)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
.venv/bin/python -m uv pip install --quiet --python .venv/bin/python --constraints requirements.lock -e ".${extras:+[$extras]}"
touch "$stamp"
