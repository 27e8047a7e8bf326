#!/usr/bin/env bash
# Trains on GPU nodes of a SLURM cluster, one process per GPU (or per node).
#
#   experiments/launch/slurm.sh --nodes 4 --gpus 8 --workdir /shared/runs/board_3b
#
# --nodes, --gpus     nodes, and GPUs of each
# --workdir           logs, metrics and checkpoints, on a file system that all nodes see
# --processes         gpu (one per GPU, the default) or node
# --cpus              of each process, for reading and preparing data (SLURM's default)
# --config            experiment, experiments/board_3b.py by default
# --python            interpreter, python by default; every node must have it
# --partition, --account, --time, --image
#                     handed to sbatch; image is a container for pyxis
# --dry-run           print the commands only
#
# A job that is preempted or reaches its time gets SIGTERM 120 s before the end, saves,
# and is queued again (SLURM itself does so only after a lost node or a preemption that
# ended it); training goes on at the last step saved. Processes find one another by
# SLURM's own variables.

set -euo pipefail
source "$(dirname "$0")/common.sh"

nodes='' gpus='' cpus='' processes=gpu partition='' account='' time='' image='' python=python
read_flags "nodes gpus cpus processes partition account time image python" "$@"
need nodes gpus workdir
need_config
[[ $workdir != gs://* ]] || fail "--workdir $workdir: SLURM's log needs a file system"
need_command sbatch "run this on a login node"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes $nodes: expected a number of nodes"
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "--gpus $gpus: expected a number of GPUs per node"
case $processes in
gpu) tasks=$gpus ;;
node) tasks=1 ;;
*) fail "--processes $processes: expected gpu or node" ;;
esac

name=$(basename "${config%%:*}" .py)
flags=(
    --job-name="$name" --nodes="$nodes" --ntasks-per-node="$tasks"
    --gpus-per-node="$gpus" --exclusive
    --requeue --signal=TERM@120 --open-mode=append
    --output="$workdir/slurm-%j.log" --export=ALL
)
[[ -z $cpus ]] || flags+=(--cpus-per-task="$cpus")
[[ -z $partition ]] || flags+=(--partition="$partition")
[[ -z $account ]] || flags+=(--account="$account")
[[ -z $time ]] || flags+=(--time="$time")
step=(srun --kill-on-bad-exit=1)
[[ -z $image ]] || step+=(--container-image="$image" --container-workdir=/app)
command=("$python" -m swm_jax.train --config "$config" --workdir "$workdir"
    "${train_flags[@]}")

# After SIGTERM training saves and exits with status 0 although it is not complete.
log=$(quote "$workdir")/slurm-\$SLURM_JOB_ID.log
script="before=\$(wc -l < $log); $(quote "${step[@]}" "${command[@]}") || exit; \
! tail -n +\$((before + 1)) $log | grep -q '^stopped by a signal' || \
exec scontrol requeue \$SLURM_JOB_ID"

run mkdir -p "$workdir"
run sbatch "${flags[@]}" --wrap "$script"
