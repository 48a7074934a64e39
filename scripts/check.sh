#!/usr/bin/env bash
# What CI checks. Usage: bash scripts/check.sh lint|tests|examples|docs|wheel ... (default: lint tests, as .ci/run).
# PYTHON names the interpreter, as for scripts/setup_env.sh. PACKAGES=newest takes the newest packages for `tests`
# instead of those of requirements.lock; it changes .venv, so use it in a clone of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

lint() {
    bash scripts/setup_env.sh dev test
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
}

tests() {
    bash scripts/setup_env.sh test # before the newest packages, which scripts/test.sh then leaves alone
    if [ "${PACKAGES:-locked}" = newest ]; then
        .venv/bin/python -m uv pip install --quiet --python .venv/bin/python --upgrade -e ".[test]"
    fi
    bash scripts/test.sh
}

# Autoencoders of another framework through every stage, in small.
examples() {
    bash scripts/setup_env.sh test torch
    .venv/bin/python -m pytest tests/test_torch.py tests/stages/test_external.py
}

docs() {
    bash scripts/setup_env.sh docs
    GEOVQ_SMOKE=1 .venv/bin/python -m sphinx -W --keep-going docs docs/_build/html
}

# The wheel in an empty environment and directory: a run by name ends with a report, and the page of the explorer
# answers with its extra, which is named without.
wheel() {
    local folder python
    bash scripts/setup_env.sh
    folder=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$folder'" EXIT
    .venv/bin/python -m uv build --quiet --wheel --out-dir "$folder" .
    .venv/bin/python -m venv "$folder/venv"
    python=$folder/venv/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check "$folder"/*.whl
    du -sm "$folder/venv"
    "$python" - <<'END'
import re
from importlib.metadata import metadata

relative = re.findall(r"\]\((?!https?://)[^)]*\)", metadata("geovq-jax").get_payload())
assert not relative, f"expected a README without relative images and links in the wheel, got {relative}"
END
    mkdir "$folder/empty"
    cd "$folder/empty"
    ../venv/bin/geovq --help
    ../venv/bin/geovq run --config=digits:smoke
    test -s runs/digits-smoke/report/index.html
    if ../venv/bin/geovq explore --demo 2>refused; then
        echo "error: expected explore to refuse without its extra" >&2
        exit 1
    fi
    test "$(wc -l <refused)" = 1
    grep "extra explore" refused
    "$python" -m pip install --quiet --disable-pip-version-check "$(echo ../*.whl)[explore]"
    "$python" - <<'END'
import subprocess, sys, time, urllib.request
from pathlib import Path

command = [Path(sys.executable).with_name("geovq"), "explore", "--demo", "--port=8765"]
with subprocess.Popen(command) as process:
    for _ in range(600):
        try:
            assert urllib.request.urlopen("http://127.0.0.1:8765/").status == 200
            break
        except OSError:
            assert process.poll() is None, "the explorer ended"
            time.sleep(0.5)
    else:
        sys.exit("error: expected an answer of the explorer, got none in five minutes")
    process.terminate()
END
    cd - >/dev/null
}

[ $# -gt 0 ] || set -- lint tests
for check in "$@"; do
    case $check in
    lint | tests | examples | docs | wheel) "$check" ;;
    *) echo "error: expected checks among lint, tests, examples, docs, wheel, got '$check'" >&2 && exit 2 ;;
    esac
done
