"""
`examples/kubernetes.yaml` and `examples/slurm.sh`; the latter runs in `tests/processes/test_command_line.py`. And what
`tests.machines` has recorded.
"""

import json
import re
import shlex
import shutil
import signal
import subprocess

import pytest
import yaml

from htpo_trl.cli import main

from ..distributed_run import ROOT, ROUND_OFF
from ..machines import DRILLS, DRILLS_OF, table


EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def manifests():
    return {each["kind"]: each for each in yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())}


@pytest.fixture(scope="module")
def pod(manifests):
    return manifests["Job"]["spec"]["template"]["spec"]


def command_of(pod):
    shell, flag, script = pod["containers"][0]["command"]
    assert (shell, flag) == ("/bin/sh", "-c")
    assert script.startswith("exec htpo train "), "signals must reach it"
    return shlex.split(script.removeprefix("exec htpo "))


def value(command, option):
    return command[command.index(option) + 1]


def test_the_pods_of_kubernetes_find_each_other(manifests, pod):
    service, job = manifests["Service"], manifests["Job"]
    command = command_of(pod)
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(value(command, "--num_machines"))
    assert value(command, "--machine_rank") == "$JOB_COMPLETION_INDEX"
    # A pod of an indexed job is <job>-<index>.<subdomain>; the subdomain is that of a headless service for these pods.
    name = job["metadata"]["name"]
    assert value(command, "--main_process_ip") == f"{name}-0.{pod['subdomain']}"
    assert service["metadata"]["name"] == pod["subdomain"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert service["spec"]["selector"] == {"job-name": name}
    gpus = pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert int(value(command, "--num_processes")) == gpus * job["spec"]["completions"]


def test_kubernetes_starts_again_what_can_go_on(manifests, pod):
    policy = manifests["Job"]["spec"]["podFailurePolicy"]["rules"]
    assert {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}} in policy
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    assert manifests["Job"]["spec"]["backoffLimit"] >= 4
    assert pod["terminationGracePeriodSeconds"] >= 300
    assert value(command_of(pod), "--resume_from_checkpoint") == "auto"


def test_kubernetes_mounts_what_a_run_writes(pod):
    container, command = pod["containers"][0], command_of(pod)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    environment = {each["name"]: each["value"] for each in container["env"]}
    for path in (value(command, "--output_dir"), environment["HF_HOME"]):
        (mount,) = (mount for mount in mounts if path.startswith(f"{mount}/"))
        assert "persistentVolumeClaim" in mounts[mount]


def test_the_command_of_kubernetes_is_planned(pod, capsys, tmp_path):
    command = [word.replace("$JOB_COMPLETION_INDEX", "3") for word in command_of(pod)]
    command[command.index("--output_dir") + 1] = str(tmp_path / "run")
    main([*command, "--dry_run"])
    assert "processes         32 on 4 machines, 8 on each, DeepSpeed ZeRO-3" in capsys.readouterr().out


def test_the_job_of_slurm():
    script = EXAMPLES / "slurm.sh"
    checker = ["shellcheck"] if shutil.which("shellcheck") else ["bash", "-n"]
    subprocess.run([*checker, script], check=True)
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", script.read_text(), re.M))
    assert asked["signal"].startswith("B:USR1@")
    assert "requeue" in asked
    assert asked["ntasks-per-node"] == "1"
    assert asked["open-mode"] == "append", "a second start would empty the log of the first"


def test_recorded_drills():
    """Whatever happened: both machines ended by the same code, one said why, and the run went on as if nothing had."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "machines.json").read_text())
    assert {row["drill"] for row in rows if row["config"] == "ddp-cpu"} == {"none", *DRILLS_OF["ddp-cpu"]}
    for row in rows:
        if row["drill"] == "none":
            assert [each["exit_code"] for each in row["stopped"]] == [0, 0]
            assert row["from_one_process"] < ROUND_OFF
            continue
        signum = signal.Signals[DRILLS[row["drill"]][0]]
        codes = [each["exit_code"] for each in row["stopped"]]
        if signum == signal.SIGKILL:
            assert any("ended first: " in line for each in row["stopped"] for line in each["told"]), row
            assert 0 not in codes
        else:
            assert codes == [128 + signum] * 2
            assert f"Stopped by {signum.name}. The run is saved at step 3." in row["stopped"][0]["told"][0]
        assert all(each["seconds"] < 60 for each in row["stopped"])
        assert row["same_weights"], row
        assert row["same_log"], row
    assert table(rows) in (ROOT / "docs" / "failures.md").read_text()
