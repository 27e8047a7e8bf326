"""Launchers: what they would run, what they refuse, and how they survive a loss."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from experiments import board_3b

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "experiments" / "launch"
WHERE = ["--name", "swm", "--zone", "us-west4-a", "--project", "p"]
BUCKET = ["--workdir", "gs://bucket/run"]


def launch(script, *flags, path="", **environment):
    return subprocess.run(
        [str(LAUNCH / script), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ
        | {"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
        | environment,
    )


def commands(result):
    """What --dry-run printed, as a shell would split it."""
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


def test_shellcheck_has_nothing_to_say():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    scripts = sorted(str(path) for path in LAUNCH.glob("*.sh"))
    assert len(scripts) == 5
    found = subprocess.run(
        [str(shellcheck), "--external-sources", f"--source-path={LAUNCH}", *scripts],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("topology", "accelerator", "runtime"),
    [
        ("v4:2x2x4", "v4-32", "tpu-ubuntu2204-base"),
        ("v5e:4x4", "v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p:2x2x4", "v5p-32", "v2-alpha-tpuv5"),
        ("v6e:16x16", "v6e-256", "v2-alpha-tpuv6e"),
    ],
)
def test_a_tpu_slice_is_asked_for_by_its_product_name(topology, accelerator, runtime):
    flags = [*WHERE, *BUCKET, "--topology", topology, "--dry-run"]
    asked = commands(launch("tpu_vm.sh", *flags))
    (create,) = [command for command in asked if "create" in command]
    assert create[:6] == shlex.split("gcloud compute tpus queued-resources create swm")
    assert f"--accelerator-type={accelerator}" in create
    assert f"--runtime-version={runtime}" in create
    assert "--spot" not in create


def test_training_flags_reach_every_worker_as_they_were_written():
    odd = "--config.finetune.lora=((\"llm/.*\", {'rank': 4}),)"
    flags = [*WHERE, *BUCKET, "--topology", "v5e:4x4", "--dry-run", "--", odd]
    (ssh,) = [c for c in commands(launch("tpu_vm.sh", *flags)) if "train.log" in c[-1]]
    assert "--worker=all" in ssh
    command = ssh[-1].removeprefix("--command=").split("&&")[-1].split("2>&1")[0]
    assert shlex.split(command) == [
        *shlex.split("python -m swm_jax.train --config experiments/board_3b.py"),
        *BUCKET,
        odd,
    ]


FAKE_GCLOUD = """#!/usr/bin/env bash
# A slice that is preempted during the first training and finishes the second.
echo "$*" >> "$LOG"
case $* in
*describe*) cat "$STATE" 2> /dev/null ;;
*" create "*) echo ACTIVE > "$STATE" ;;
*" delete "*) rm -f "$STATE" ;;
*"swm_jax.train "*)
    [[ ! -e $STATE.preempted ]] || exit 0
    touch "$STATE.preempted"
    echo SUSPENDED > "$STATE"
    exit 1
    ;;
esac
"""


def fake(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


def test_a_preempted_slice_is_asked_for_again_and_training_goes_on(tmp_path):
    fake(tmp_path, "gcloud", FAKE_GCLOUD)
    fake(tmp_path, "git", "#!/bin/sh\n")  # leaves the source where it is
    result = launch(
        "tpu_vm.sh", *WHERE, *BUCKET, "--topology", "v5e:4x4", "--spot", "yes",
        path=tmp_path, STATE=str(tmp_path / "state"), LOG=str(tmp_path / "log"),
        LAUNCH_PAUSE="0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    log = (tmp_path / "log").read_text().splitlines()
    turn = [" create ", "$uv pip install", "swm_jax.train ", " delete "]
    steps = [word for line in log for word in turn if word in line]
    assert steps == turn + turn
    assert log[-1].endswith("--force --quiet")


def test_a_run_that_keeps_ending_at_once_is_given_up(tmp_path):
    fake(tmp_path, "broken", f"#!/bin/sh\necho tried >> {tmp_path}/log\nexit 1\n")
    result = launch(
        "gpu.sh", "--workdir", str(tmp_path), "--python", str(tmp_path / "broken"),
        LAUNCH_PAUSE="0",
    )  # fmt: skip
    assert result.returncode == 2
    assert "ended 3 times within five minutes" in result.stderr
    assert (tmp_path / "log").read_text().count("tried") == 3


def test_slurm_starts_one_process_per_gpu_or_per_node(tmp_path):
    flags = ["--nodes", "4", "--gpus", "8", "--workdir", "/shared/run", "--dry-run"]
    make, batch = commands(launch("slurm.sh", *flags, "--", "--config.seed=1"))
    assert make == ["mkdir", "-p", "/shared/run"]
    assert {"--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8"} <= set(batch)
    assert {"--requeue", "--signal=TERM@120"} <= set(batch)
    assert shlex.split(batch[-1].split("; ")[1]) == [
        *shlex.split("srun --kill-on-bad-exit=1 python -m swm_jax.train"),
        *shlex.split("--config experiments/board_3b.py --workdir /shared/run"),
        *shlex.split("--config.seed=1 || exit"),
    ]
    per_node = commands(launch("slurm.sh", *flags, "--processes", "node"))[1]
    assert "--ntasks-per-node=1" in per_node


FAKE_SBATCH = """#!/usr/bin/env bash
# A node: the job's output is added to its log, and a job queued again runs again.
for word in "$@"; do [[ $word != --output=* ]] || log=${word#--output=}; done
export SLURM_JOB_ID=7
log=${log/\\%j/7}
touch "$QUEUE"
while [[ -e $QUEUE ]]; do
    rm "$QUEUE"
    sh -c "${!#}" >> "$log" 2>&1 || exit
done
"""
FAKE_SRUN = """#!/bin/sh
# Training that is stopped twice, then done or, as asked, failed.
echo "training $((starts = $(wc -l < "$STARTS") + 1))" >> "$STARTS"
test $starts -gt 2 || echo "stopped by a signal, step $starts is saved"
test $starts -lt 3 || exit $LAST
"""


@pytest.mark.parametrize("last", [0, 1])
def test_a_slurm_job_that_was_told_to_stop_is_queued_again(last, tmp_path):
    fake(tmp_path, "sbatch", FAKE_SBATCH)
    fake(tmp_path, "srun", FAKE_SRUN)
    fake(tmp_path, "scontrol", '#!/bin/sh\ntest "$*" = "requeue 7" && touch "$QUEUE"\n')
    starts, workdir = tmp_path / "starts", tmp_path / "a run"
    starts.touch()
    flags = ["--nodes", "1", "--gpus", "1", "--workdir", str(workdir)]
    result = launch(
        "slurm.sh", *flags, path=tmp_path, STARTS=str(starts), LAST=str(last),
        QUEUE=str(tmp_path / "queue"),
    )  # fmt: skip
    assert result.returncode == last, result.stderr
    assert starts.read_text().splitlines() == ["training 1", "training 2", "training 3"]
    log = (workdir / "slurm-7.log").read_text()
    assert log.count("stopped by a signal") == 2  # what the launcher looks for:
    assert (
        '"stopped by a signal, step' in (ROOT / "swm_jax/training/loop.py").read_text()
    )


# The fields of jobset.x-k8s.io/v1alpha2 that a training JobSet needs; nothing else.
TEXT, COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}


def fields(required, **optional):
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": required | optional,
    }


def list_of(each):
    return {"type": "array", "minItems": 1, "items": each}


CHIPS = fields({"google.com/tpu": COUNT})
POD = fields(
    {
        "restartPolicy": {"const": "Never"},
        "nodeSelector": {
            "type": "object",
            "required": [
                "cloud.google.com/gke-tpu-accelerator",
                "cloud.google.com/gke-tpu-topology",
            ],
            "additionalProperties": {"type": "string"},
        },
        "containers": list_of(
            fields(
                {
                    "name": TEXT,
                    "image": TEXT,
                    "args": list_of({"type": "string"}),
                    "resources": fields({"requests": CHIPS, "limits": CHIPS}),
                },
                ports=list_of(fields({"containerPort": COUNT})),
            )
        ),
    },
    hostNetwork={"type": "boolean"},
    dnsPolicy={"enum": ["ClusterFirst", "ClusterFirstWithHostNet"]},
    serviceAccountName=TEXT,
    terminationGracePeriodSeconds=COUNT,
)
JOB = fields(
    {
        "parallelism": COUNT,
        "completions": COUNT,
        "backoffLimit": {"const": 0},
        "template": fields({"spec": POD}),
    }
)
JOBSET = fields(
    {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": fields(
            {"name": {"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"}},
            annotations={"type": "object", "additionalProperties": TEXT},
        ),
        "spec": fields(
            {
                "replicatedJobs": list_of(
                    fields(
                        {
                            "name": TEXT,
                            "replicas": COUNT,
                            "template": fields({"spec": JOB}),
                        }
                    )
                )
            },
            failurePolicy=fields({"maxRestarts": COUNT}),
        ),
    }
)


@pytest.mark.parametrize(
    ("topology", "accelerator", "nodes"),
    [
        ("v5e:4x4", "tpu-v5-lite-podslice", 4),
        ("v5e:16x16", "tpu-v5-lite-podslice", 64),
        ("v5p:2x2x4", "tpu-v5p-slice", 4),
        ("v6e:2x2", "tpu-v6e-slice", 1),
    ],
)
def test_the_manifest_is_a_jobset_with_one_pod_per_host(topology, accelerator, nodes):
    odd = "--config.name=it's: {a} #test"
    result = launch(
        "gke.sh", "--name", "swm", "--image", "docker.pkg.dev/p/swm:1", *BUCKET,
        "--topology", topology, "--spot", "yes", "--dry-run", "--", odd,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    manifest = yaml.safe_load(result.stdout)
    jsonschema.validate(manifest, JOBSET)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == nodes
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology.split(":")[1],
        "cloud.google.com/gke-spot": "true",
    }
    config = "experiments/board_3b.py"
    assert pod["containers"][0]["args"] == ["--config", config, *BUCKET, odd]


def test_xpk_gets_the_same_training_command():
    (command,) = commands(
        launch(
            "gke.sh",
            "--name",
            "swm",
            "--image",
            "i",
            *BUCKET,
            "--topology",
            "v5e:4x4",
            "--xpk-cluster",
            "pods",
            "--dry-run",
        )
    )
    assert command[:4] == ["xpk", "workload", "create", "--cluster=pods"]
    assert "--tpu-type=v5litepod-16" in command
    train = "python -m swm_jax.train --config experiments/board_3b.py --workdir"
    assert command[-1] == f"--command={train} gs://bucket/run"


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("gpu.sh", ["--workdri", "x"], "unknown flag --workdri; known: --dry-run"),
        ("gpu.sh", ["--workdir", "x", "--keep"], "unknown flag --keep; known"),
        ("gpu.sh", [], "--workdir is missing"),
        ("gpu.sh", ["--workdir"], "--workdir needs a value"),
        ("gpu.sh", ["--workdir", "x", "y"], "unexpected argument 'y'"),
        ("gpu.sh", ["--workdir", "x", "--config", "no.py"], "no such file"),
        ("slurm.sh", ["--nodes", "0", "--gpus", "8", "--workdir", "x"], "--nodes 0"),
        ("slurm.sh", ["--nodes", "2", "--gpus", "8", *BUCKET], "needs a file system"),
        ("tpu_vm.sh", [*WHERE, *BUCKET, "--topology", "v5e:16"], "as in v5e:4x4"),
        ("tpu_vm.sh", [*WHERE, *BUCKET, "--topology", "v5p:4x4"], "v5p (2x2x4)"),
        ("tpu_vm.sh", [*WHERE, *BUCKET, "--topology", "v5e:5x7"], "v5e comes as 1x1"),
        ("tpu_vm.sh", [*WHERE, *BUCKET, "--topology", "v4:3x3x4"], "multiple of 4"),
        (
            "tpu_vm.sh",
            [*WHERE, "--workdir", "runs/x", "--topology", "v5e:4x4"],
            "expected gs://bucket/folder",
        ),
        (
            "gke.sh",
            ["--name", "Swm", "--image", "i", *BUCKET, "--topology", "v5e:4x4"],
            "--name Swm: expected lower case",
        ),
    ],
)
def test_wrong_flags_give_one_line(script, flags, message):
    result = launch(script, "--dry-run", *flags)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize("kind", ["tpu", "gpu", "cpu"])
def test_a_dockerfile_installs_its_extra_and_trains(kind):
    lines = (LAUNCH / f"Dockerfile.{kind}").read_text().splitlines()
    steps = [line.split(" ", 1) for line in lines if line and line[0] not in "# "]
    order = [word for word, _ in steps]
    assert order[0] == "FROM" and set(order) <= {
        "FROM", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    assert order.index("COPY") < order.index("RUN")
    said = dict(steps)
    extras = {"tpu": "tpu,gcs", "gpu": "gpu,gcs", "cpu": "gcs"}[kind]
    assert f"-e '.[{extras}]'" in said["RUN"] and "-c constraints.txt" in said["RUN"]
    assert yaml.safe_load(said["ENTRYPOINT"]) == ["python", "-m", "swm_jax.train"]
    setup = (ROOT / "setup.cfg").read_text()
    assert all(f"\n{extra} =" in setup for extra in extras.split(","))


def test_launchers_default_to_the_papers_settings():
    assert (LAUNCH / "common.sh").read_text().count("config=experiments/board_3b.py")
    config = board_3b.get_config()
    assert config.steps == 64_000 and config.data.images == 96
