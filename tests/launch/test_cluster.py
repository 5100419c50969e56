"""The kits for clusters, run against programs that only write down how they were called."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

KITS = Path(__file__).parents[2] / "launch" / "cluster"


@pytest.fixture
def run(tmp_path):
    """(kit, arguments, programs: name -> script, variables) -> the ended process and the calls, in a folder of its own whose
    set-up does nothing. A program's script sees its arguments; what it was called with is listed."""
    calls = tmp_path / "calls"
    checkout, programs_folder = tmp_path / "checkout", tmp_path / "programs"
    (checkout / "launch" / "cluster").mkdir(parents=True)
    programs_folder.mkdir()
    (checkout / "launch" / "environment.sh").write_text("")
    for kit in KITS.glob("*.sh"):
        (checkout / "launch" / "cluster" / kit.name).write_text(kit.read_text())

    def start(kit, arguments, programs, **variables):
        calls.write_text("")
        for name, script in programs.items():
            program = programs_folder / name
            program.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {calls}\n{script}\n')
            program.chmod(0o755)
        environment = {
            "PATH": f"{programs_folder}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(checkout),
            **variables,
        }
        ended = subprocess.run(
            ["bash", f"launch/cluster/{kit}", *arguments],
            cwd=checkout, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return ended, calls.read_text().splitlines()

    return start


TRAINING = ["qwen-vl", "--stage", "multitask"]


@pytest.mark.parametrize(
    "code, restarts, ends, requeued",
    [
        (0, "0", 0, False),
        (2, "0", 2, False),
        (1, "0", 1, False),
        (75, "0", 0, True),
        (134, "1", 0, True),
        (143, "3", 0, True),
        (143, "100", 143, False),
    ],
)
def test_slurm_requeues_what_was_stopped_from_outside(run, code, restarts, ends, requeued):
    """A job that was told to stop, or lost a process, is put into the queue again, a hundred times at most; a mistake and a
    crash end it with their code."""
    programs = {"srun": f"exit {code}", "scontrol": ""}
    ended, calls = run("slurm.sh", TRAINING, programs, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=restarts)
    assert ended.returncode == ends, ended.stderr
    assert calls == [
        "srun qwenvl train qwen-vl --stage multitask --coordinator auto", *(["scontrol requeue 7"] if requeued else []),
    ]  # fmt: skip


def test_slurm_is_told_what_a_requeue_needs():
    """A signal early enough to save, leave to requeue, and a log that is not overwritten."""
    options = [line for line in (KITS / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --signal=TERM@180", "#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(options)


def test_gke_writes_a_job_set(run):
    """One pod on each host of each slice, all restarted together, a mistake ending all; arguments arrive as they were."""
    odd = 'a "b" \\ $c'
    ended, _ = run("gke.sh", [*TRAINING, "--workdir", odd], {}, IMAGE="i", BUCKET="b", TOPOLOGY="4x4x8", SLICES="2")
    job_set = yaml.safe_load(ended.stdout)
    [slices] = job_set["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    assert (slices["replicas"], job["parallelism"], job["completions"], job["backoffLimit"]) == (2, 32, 32, 0)
    assert job_set["spec"]["failurePolicy"]["maxRestarts"] == 100
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"] == {
        "containerName": container["name"], "operator": "In", "values": [2],
    }  # fmt: skip
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4x8"
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["args"][:6] == ["train", *TRAINING, "--workdir", odd]
    assert container["args"][6:8] == ["--coordinator", "auto"]


@pytest.mark.parametrize(
    "variables, arguments, reason",
    [
        ({"BUCKET": "b"}, TRAINING, "IMAGE"),
        ({"IMAGE": "i"}, TRAINING, "BUCKET"),
        ({"IMAGE": "i", "BUCKET": "b"}, [], "give a recipe"),
        ({"IMAGE": "i", "BUCKET": "b", "TOPOLOGY": "1x1"}, TRAINING, "not whole hosts of 4"),
    ],
)
def test_gke_names_what_is_missing(run, variables, arguments, reason):
    """One sentence, and nothing that kubectl would take."""
    ended, _ = run("gke.sh", arguments, {}, **variables)
    assert ended.returncode != 0
    assert reason in ended.stderr
    assert ended.stdout == ""


GCLOUD = """
case "$*" in
  *describe*) [ -e exists ] && echo "$(cat exists)" || exit 1 ;;
  *"queued-resources create"*) echo ACTIVE > exists ;;
  *"queued-resources delete"*) rm exists ;;
  *"qwenvl train"*) echo run >> runs; sh -c "$ENDS" ;;
esac
"""
SECOND_TIME = "[ $(wc -l < runs) = 2 ] && echo qwenvl ended: 0"


@pytest.mark.parametrize(
    "ends, code, runs, reason",
    [
        ("echo qwenvl ended: 0; echo qwenvl ended: 0", 0, 1, ""),
        ("echo qwenvl ended: 143; echo qwenvl ended: 75", 1, 3, "restarted 2 times"),
        ("echo qwenvl ended: 2; echo qwenvl ended: 75", 2, 1, "ended with 2"),
        ("echo qwenvl ended: 2; echo qwenvl ended: 2; exit 1", 2, 1, "ended with 2"),
        (
            "[ $(wc -l < runs) = 2 ] && echo qwenvl ended: 0 || { echo SUSPENDED > exists; exit 255; }",
            0,
            2,
            "restart 1 of 2",
        ),
        ("[ $(wc -l < runs) = 2 ] && echo qwenvl ended: 0 || echo qwenvl ended: 143", 0, 2, "restart 1 of 2"),
    ],
)
def test_tpu_vms_are_asked_for_until_the_run_ends(run, ends, code, runs, reason):
    """TPUs are acquired, the checkout is copied and set up, the run is started on all hosts; again where they were taken
    away or a process was lost, not after a mistake."""
    programs = {"gcloud": GCLOUD, "git": ""}
    variables = {"PROJECT": "p", "ZONE": "z", "PAUSE": "0", "MOST_RESTARTS": "2", "ENDS": ends}
    ended, calls = run("tpu_vm.sh", TRAINING, programs, **variables)
    assert (ended.returncode, sum("qwenvl train" in call for call in calls)) == (code, runs), ended.stderr
    assert reason in ended.stderr
    assert all(call.endswith("--project p --zone z") for call in calls if call.startswith("gcloud"))
    started = next(call for call in calls if "qwenvl train" in call)
    assert "--worker=all" in started
    assert "qwenvl train qwen-vl --stage multitask --coordinator auto" in started
    order = [next(n for n, call in enumerate(calls) if verb in call) for verb in ("create", "scp", "qwenvl train")]
    assert order == sorted(order)


def test_tpu_vms_are_given_back(run):
    """`delete` ends the lease and starts nothing."""
    _, calls = run("tpu_vm.sh", ["delete"], {"gcloud": ""}, PROJECT="p", ZONE="z")
    assert calls == ["gcloud compute tpus queued-resources delete qwenvl --force --quiet --project p --zone z"]
