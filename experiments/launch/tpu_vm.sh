#!/usr/bin/env bash
# Trains on a Cloud TPU slice: queues for it, runs on all its workers, and when the slice
# is preempted queues again and goes on from the last checkpoint.
#
#   experiments/launch/tpu_vm.sh --name swm --topology v5e:4x4 --zone us-west4-a \
#       --project my-project --workdir gs://my-bucket/runs/board_3b --spot yes
#
# --name              of the queued resource and its node
# --topology          chip and shape: v4, v5e, v5p or v6e, as in v5e:4x4 or v5p:2x2x4
# --zone, --project   where
# --workdir           gs://bucket/folder for logs, metrics, checkpoints and the source
# --config            experiment, experiments/board_3b.py by default
# --spot              yes for spot capacity (no by default)
# --keep              yes leaves the slice when training is done (no by default)
# --max-quick-failures  give up after this many failures within five minutes each (3)
# --dry-run           print the commands only

set -euo pipefail
source "$(dirname "$0")/common.sh"

name='' topology='' zone='' project='' spot=no keep=no
read_flags "name topology zone project spot keep" "$@"
need name topology zone project workdir
need_config
need_bucket
need_command gcloud "https://cloud.google.com/sdk/docs/install"
split_topology "$topology"
for flag in spot keep; do
    [[ ${!flag} == yes || ${!flag} == no ]] || fail "--$flag ${!flag}: expected yes or no"
done
case $kind in # the number in a type counts cores on v4 and v5p, chips on the others
v4) type=v4-$((2 * chips)) runtime=tpu-ubuntu2204-base ;;
v5e) type=v5litepod-$chips runtime=v2-alpha-tpuv5-lite ;;
v5p) type=v5p-$((2 * chips)) runtime=v2-alpha-tpuv5 ;;
v6e) type=v6e-$chips runtime=v2-alpha-tpuv6e ;;
esac

where=(--zone="$zone" --project="$project")
queue=(gcloud compute tpus queued-resources)
source_file="$workdir/source.tar.gz"
# The images' own Python is older than 3.11.
setup="set -e; mkdir -p swm_jax_run; cd swm_jax_run; \
gcloud storage cp $(quote "$source_file") source.tar.gz; tar xzf source.tar.gz; \
python3 -m pip install --quiet --user uv; uv=\$HOME/.local/bin/uv; \
test -x .venv/bin/python || \$uv venv --quiet --python 3.11 .venv; \
\$uv pip install --quiet --python .venv -c constraints.txt -e '.[tpu,gcs]'"
# Output of every worker also lies in the workdir's logs.
train="cd swm_jax_run && set -o pipefail && PATH=\$PWD/.venv/bin:\$PATH && \
$(train_command) 2>&1 | tee train.log; code=\$?; \
gcloud storage cp --quiet train.log $(quote "$workdir")/logs/\$(hostname).log; \
exit \$code"

create() {
    local flags=(--node-id="$name" --accelerator-type="$type"
        --runtime-version="$runtime" "${where[@]}")
    [[ $spot == no ]] || flags+=(--spot)
    run "${queue[@]}" create "$name" "${flags[@]}"
}

state() {
    "${queue[@]}" describe "$name" "${where[@]}" --format='value(state.state)' \
        2> /dev/null || echo ABSENT
}

delete() {
    run "${queue[@]}" delete "$name" "${where[@]}" --force --quiet
}

on_all_workers() {
    run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
        --command="$1"
}

upload() {
    local changed
    changed=$(git status --porcelain) || fail "no git repository: run from the root of one"
    [[ -z $changed ]] || echo "warning: what is not committed is not sent" >&2
    run git archive --format=tar.gz --output=source.tar.gz HEAD
    run gcloud storage cp source.tar.gz "$source_file"
    run rm -f source.tar.gz
}

upload
if [[ -n $dry_run ]]; then
    create
    run "${queue[@]}" describe "$name" "${where[@]}" --format='value(state.state)'
    on_all_workers "$setup"
    on_all_workers "$train"
    delete
    exit 0
fi
quick=0
while true; do
    now=$(state)
    echo "$(date +%H:%M:%S) $name is $now"
    case $now in
    ABSENT) create ;;
    ACTIVE)
        started=$SECONDS
        if on_all_workers "$setup" && on_all_workers "$train"; then
            [[ $keep == yes ]] || delete
            echo "done: $workdir"
            exit 0
        fi
        # A preempted slice leaves ACTIVE; a program that fails at once does not.
        [[ $(state) != ACTIVE ]] || ((SECONDS - started > 300)) || quick=$((quick + 1))
        ((quick < max_quick_failures)) ||
            fail "training ended $quick times within five minutes: see $workdir/logs"
        ;;
    SUSPENDED | SUSPENDING | FAILED) delete ;;
    esac
    sleep "$pause"
done
