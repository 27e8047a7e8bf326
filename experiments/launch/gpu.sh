#!/usr/bin/env bash
# Trains on the accelerators of this machine, restarted until training is complete.
#
#   experiments/launch/gpu.sh --workdir runs/board_3b
#   experiments/launch/gpu.sh --config experiments/board_3b.py:lora \
#       --workdir runs/lora --dry-run -- --config.data.images=32
#
# --config            experiment, experiments/board_3b.py by default
# --workdir           logs, metrics and checkpoints; gs:// as well
# --python            interpreter, python by default
# --max-quick-failures  give up after this many failures within five minutes each (3)
# --dry-run           print the commands only

set -euo pipefail
source "$(dirname "$0")/common.sh"

python=python
read_flags "python" "$@"
need workdir
need_config
need_command "$python" "make venv, then --python .venv/bin/python"

# XLA takes this share of a GPU at the start; its own default of 0.75 wastes the rest.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
keep_trying env XLA_PYTHON_CLIENT_MEM_FRACTION="$XLA_PYTHON_CLIENT_MEM_FRACTION" \
    "$python" -m swm_jax.train --config "$config" --workdir "$workdir" \
    "${train_flags[@]}"
