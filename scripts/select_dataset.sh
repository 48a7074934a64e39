#!/usr/bin/env bash
# Choose the data set that run_experiments.sh and train_vae.sh use when no config is named: the name of its config is
# written to the file .dataset. Usage: bash scripts/select_dataset.sh mnist|fashion|cifar10|mnist5k
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  mnist | cifar10 | mnist5k) name=$1 ;;
  fashion | fashion_mnist) name=fashion_mnist ;;
  *)
    echo "error: expected a data set among mnist, fashion, cifar10, mnist5k, got '${1:-}'" >&2
    exit 2
    ;;
esac
if [ ! -f "configs/$name.py" ]; then
  echo "error: expected $PWD/configs/$name.py, found none; restore it from the repository" >&2
  exit 2
fi
echo "$name" > .dataset
echo "selected configs/$name.py"
