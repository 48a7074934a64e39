#!/usr/bin/env bash
# Download a data set, or check the copy that is there already.
# Usage: bash scripts/download_data.sh [mnist|fashion|cifar10] [--data_dir DIR]. Without a name: all three.
set -euo pipefail

names=(mnist fashion cifar10)
case "${1:-}" in
  "" | --*) ;;
  mnist | fashion | fashion_mnist | cifar10) names=("$1") && shift ;;
  *)
    echo "error: expected a data set among mnist, fashion, cifar10, got '$1'" >&2
    exit 2
    ;;
esac

root=$(cd "$(dirname "$0")/.." && pwd)
bash "$root/scripts/setup_env.sh"
for name in "${names[@]}"; do
  "$root/.venv/bin/python" -m geovq_jax.data.download "$name" "$@"
done
