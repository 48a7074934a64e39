#!/usr/bin/env bash
# Run every stage of one experiment. Usage: bash scripts/run_experiments.sh [CONFIG] [--config.KEY=VALUE ...]
# CONFIG is a file of configs/, with variants after a colon (configs/mnist.py:smoke). Default: the data set chosen with
# scripts/select_dataset.sh, else configs/mnist5k.py. Results go to runs/<name>; finished stages are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup_env.sh

config=configs/mnist5k.py
[ ! -f .dataset ] || config=configs/$(cat .dataset).py
case "${1:-}" in "" | --*) ;; *) config=$1 && shift ;; esac
exec .venv/bin/python -m "geovq_jax.${ENTRY:-run}" --config="$config" "$@"
