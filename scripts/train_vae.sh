#!/usr/bin/env bash
# Train the VAE of one experiment and extract its latents. Usage: bash scripts/train_vae.sh [CONFIG] [--config.KEY=VALUE ...]
# CONFIG as in scripts/run_experiments.sh.
set -euo pipefail
ENTRY=train_vae exec bash "$(dirname "$0")/run_experiments.sh" "$@"
