#!/usr/bin/env bash
# Set up and run the test suite on two processes. Usage: bash scripts/test.sh [PYTEST ARGUMENT ...]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup_env.sh test
unset PYTHONDONTWRITEBYTECODE # set in many images; each of the suite's processes would compile every module again
exec .venv/bin/python -m pytest -n "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder -m "not slow" "$@"
