#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster: writes a JobSet and applies it, or hands the
# same to XPK.
#
#   experiments/launch/gke.sh --name swm --topology v5e:4x4 \
#       --image us-docker.pkg.dev/my-project/swm/tpu:1 \
#       --workdir gs://my-bucket/runs/board_3b --dry-run
#
# --name              of the JobSet (lower case, digits, hyphens)
# --topology          chip and shape: v4, v5e, v5p or v6e, as in v5e:4x4 or v5p:2x2x4
# --image             built from experiments/launch/Dockerfile.tpu
# --workdir           gs://bucket/folder for logs, metrics and checkpoints
# --config            experiment, experiments/board_3b.py by default
# --spot              yes for spot nodes (no by default)
# --service-account   of Kubernetes, with access to the bucket (default)
# --restarts          after preemptions and failures (100)
# --xpk-cluster       hand it to `xpk workload create` on this cluster instead
# --dry-run           print the manifest and the commands only

set -euo pipefail
source "$(dirname "$0")/common.sh"

name='' topology='' image='' spot=no service_account=default restarts=100
xpk_cluster=''
read_flags "name topology image spot service-account restarts xpk-cluster" "$@"
need name topology image workdir
need_config
need_bucket
split_topology "$topology"
[[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
    fail "--name $name: expected lower case letters, digits and hyphens, at most 40"
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts $restarts: expected a whole number"
[[ $spot == yes || $spot == no ]] || fail "--spot $spot: expected yes or no"
case $kind in
v4) accelerator=tpu-v4-podslice type=v4-$((2 * chips)) ;;
v5e) accelerator=tpu-v5-lite-podslice type=v5litepod-$chips ;;
v5p) accelerator=tpu-v5p-slice type=v5p-$((2 * chips)) ;;
v6e) accelerator=tpu-v6e-slice type=v6e-$chips ;;
esac
per_node=$((chips < 4 ? chips : 4))
nodes=$((chips / per_node))

if [[ -n $xpk_cluster ]]; then
    need_command xpk "pip install xpk"
    flags=(--cluster="$xpk_cluster" --workload="$name" --tpu-type="$type"
        --num-slices=1 --docker-image="$image" --max-restarts="$restarts")
    [[ $spot == no ]] || flags+=(--spot)
    run xpk workload create "${flags[@]}" --command="$(train_command)"
    exit 0
fi

manifest() {
    cat << YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $restarts
  replicatedJobs:
  - name: slice
    replicas: 1
    template:
      spec:
        parallelism: $nodes
        completions: $nodes
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            hostNetwork: true
            dnsPolicy: ClusterFirstWithHostNet
            serviceAccountName: $service_account
            terminationGracePeriodSeconds: 120
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $accelerator
              cloud.google.com/gke-tpu-topology: $shape
YAML
    [[ $spot == no ]] || echo '              cloud.google.com/gke-spot: "true"'
    cat << YAML
            containers:
            - name: train
              image: $image
              args:
YAML
    local word
    for word in --config "$config" --workdir "$workdir" "${train_flags[@]}"; do
        printf '              - %s\n' "'${word//\'/\'\'}'" # YAML quotes a quote twice
    done
    cat << YAML
              ports:
              - containerPort: 8471
              - containerPort: 8080
              resources:
                requests:
                  google.com/tpu: $per_node
                limits:
                  google.com/tpu: $per_node
YAML
}

if [[ -n $dry_run ]]; then
    manifest
    echo "# kubectl apply --filename -"
else
    need_command kubectl "https://kubernetes.io/docs/tasks/tools"
    manifest | kubectl apply --filename -
fi
