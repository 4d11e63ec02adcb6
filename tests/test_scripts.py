"""The scripts for clouds and clusters, with stand-ins that record what they are asked to do."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = ("AGENT_TUNIX_COORDINATOR", "AGENT_TUNIX_PROCESSES", "AGENT_TUNIX_PROCESS")
CALL = ["--name", "grpo", "--zone", "us-west4-a", "--type", "v5litepod-16"]
SHELLCHECK = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))


def stand_in(folder, name, body):
    file = folder / name
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(0o755)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A `gcloud` that writes down its words, one call a line, and fails where its words hold $GCLOUD_FAILS."""
    (tmp_path / "bin").mkdir()
    body = """printf '%s|' "$@" >>"$GCLOUD_CALLS"; echo >>"$GCLOUD_CALLS"
[ -z "${GCLOUD_FAILS:-}" ] || [[ "$*" != *"$GCLOUD_FAILS"* ]] || exit 3"""
    stand_in(tmp_path / "bin", "gcloud", body)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GCLOUD_CALLS", str(tmp_path / "calls"))
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "file").write_text("text")
    git = ("git", "-C", str(checkout), "-c", "user.name=n", "-c", "user.email=e@example.org")
    for words in (("init", "-q"), ("add", "file"), ("commit", "-qm", "one")):
        subprocess.run([*git, *words], check=True)
    return tmp_path


def tpu_vm(cloud, *words):
    command = ["bash", str(SCRIPTS / "tpu_vm.sh"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cloud)
    calls = cloud / "calls"
    found = [line.removesuffix("|").split("|") for line in calls.read_text().splitlines()] if calls.exists() else []
    return done, found


def verbs(calls):
    return [call[3] for call in calls]


def source(cloud):
    return ["--source", str(cloud / "checkout")]


def test_a_vm_lives_as_long_as_its_command(cloud):
    done, calls = tpu_vm(cloud, *CALL, *source(cloud), "--spot", "--", "python", "run_training.py", "run_dir=runs/a b")
    assert done.returncode == 0, done.stderr
    assert verbs(calls) == ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]
    assert all(call[:3] == ["compute", "tpus", "tpu-vm"] for call in calls)
    assert all(call[call.index("--zone") + 1] == "us-west4-a" for call in calls)
    create, copy, unpack, install, command, fetch, delete = calls
    assert create[4:] == [
        "grpo", "--zone", "us-west4-a", "--accelerator-type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite",
        "--spot",
    ]  # fmt: skip
    assert all(call[call.index("--worker") + 1] == "all" for call in (copy, unpack, install, command))
    assert "'.[tpu]'" in install[-1] and "--constraint constraints.txt" in install[-1]
    assert command[-1].endswith(r"&& python run_training.py run_dir=runs/a\ b")
    assert fetch[4:] == ["--recurse", "grpo:agent_tunix/runs", ".", "--zone", "us-west4-a", "--worker", "0"]
    assert delete[4:] == ["grpo", "--zone", "us-west4-a", "--quiet"]


def test_the_vm_is_kept_where_that_is_wanted_and_gone_on_with(cloud):
    done, calls = tpu_vm(cloud, *CALL, *source(cloud), "--keep", "--", "true")
    assert done.returncode == 0, done.stderr
    assert verbs(calls) == ["describe", "scp", "ssh", "ssh", "ssh", "scp"]


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ("create", ["create", "delete"]),
        (".[tpu]", ["create", "scp", "ssh", "ssh", "delete"]),
        ("&& false", ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]),  # what there is is fetched all the same
    ],
)
def test_an_error_leaves_no_vm_behind(cloud, monkeypatch, failing, expected):
    monkeypatch.setenv("GCLOUD_FAILS", failing)
    done, calls = tpu_vm(cloud, *CALL, *source(cloud), "--", "false")
    assert done.returncode == 3
    assert verbs(calls) == expected


def test_a_vm_that_cannot_be_deleted_is_told_of(cloud, monkeypatch):
    monkeypatch.setenv("GCLOUD_FAILS", "delete")
    done, _ = tpu_vm(cloud, *CALL, *source(cloud), "--", "true")
    assert "grpo may still exist and cost money" in done.stderr


def test_a_dry_run_prints_everything_and_does_nothing(cloud):
    words = (*CALL, *source(cloud), "--project", "mine", "--", "python", "run_training.py")
    done, calls = tpu_vm(cloud, "--dry-run", *words)
    assert done.returncode == 0, done.stderr
    assert calls == []
    printed = re.findall(r"^\+ gcloud compute tpus tpu-vm (\w+) .*--project mine", done.stderr, re.MULTILINE)
    assert printed == verbs(tpu_vm(cloud, *words)[1])


def test_a_url_is_cloned_on_every_host(cloud):
    done, calls = tpu_vm(cloud, *CALL, "--source", "https://example.org/a.git", "--", "true")
    assert done.returncode == 0, done.stderr
    assert verbs(calls) == ["create", "ssh", "ssh", "ssh", "scp", "delete"]
    assert "git clone --depth 1 https://example.org/a.git" in calls[1][-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--name is missing"),
        ([*CALL], "no command"),
        (["--name"], "--name needs a value"),
        (["--nmae", "x"], "unknown option --nmae"),
        ([*CALL, "--source", "nowhere", "--", "true"], "nowhere is no Git checkout"),
    ],
)
def test_a_wrong_call_creates_nothing(cloud, words, message):
    done, calls = tpu_vm(cloud, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert calls == []


def test_help_names_every_option(cloud):
    text = (SCRIPTS / "tpu_vm.sh").read_text()
    options = set(re.findall(r"(--[a-z-]+)(?: \||\))", text[text.index("while [") : text.index("done\nfor")]))
    done, _ = tpu_vm(cloud, "--help")
    assert done.returncode == 0
    assert options
    assert options <= set(re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE))


# --- Kubernetes and SLURM ---------------------------------------------------------------------------------------------

JOBSETS = list(yaml.safe_load_all((SCRIPTS / "jobset.yaml").read_text()))


def test_the_names_are_those_of_the_code():
    if importlib.util.find_spec("agent_tunix.hosts") is None:
        pytest.skip("this version trains in one process")
    from agent_tunix import hosts

    assert (hosts.COORDINATOR, hosts.PROCESSES, hosts.PROCESS) == NAMES


@pytest.mark.parametrize("jobset", JOBSETS, ids=lambda jobset: jobset["metadata"]["name"])
def test_every_pod_knows_its_place(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    name, (job,) = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    hosts = spec["completions"]
    assert spec["parallelism"] == hosts
    assert (spec["completionMode"], job["replicas"], spec["backoffLimit"]) == ("Indexed", 1, 0)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry for entry in container["env"]}
    assert set(NAMES) <= set(variables)
    # Pods are JOBSET-JOB-0-INDEX in a subdomain that is named as the set.
    coordinator, port = variables[NAMES[0]]["value"].split(":")
    assert coordinator == f"{name}-{job['name']}-0-0.{name}"
    assert int(port) in [entry["containerPort"] for entry in container["ports"]]
    assert variables[NAMES[1]]["value"] == str(hosts)
    index = variables[NAMES[2]]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    (chips,) = container["resources"]["limits"].values()
    assert f"mesh=data{hosts * chips}" in container["args"]
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    assert next(word for word in container["args"] if word.startswith("run_dir=")).startswith(
        f"run_dir={mount['mountPath']}/"
    )


@pytest.mark.parametrize("jobset", JOBSETS, ids=lambda jobset: jobset["metadata"]["name"])
def test_settings_of_a_jobset_are_understood(jobset):
    from agent_tunix import overrides, recipes

    words = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    recipes.validate(overrides.load(words))


def test_slurm_gives_every_process_its_place(tmp_path):
    stand_in(tmp_path, "scontrol", "printf 'node7\\nnode8\\n'")
    stand_in(tmp_path, "srun", 'shift; for i in 0 1; do SLURM_PROCID=$i "$@"; done')
    places = " ".join(f"${name}" for name in NAMES)
    stand_in(tmp_path, "python", f'echo "{places} $*"')
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "20123", "SLURM_NTASKS": "2",
    }  # fmt: skip
    command = ["bash", str(SCRIPTS / "slurm.sbatch"), "run_dir=runs/a b", "mesh=data16"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"node7:20123 2 {place} run_training.py run_dir=runs/a b mesh=data16" for place in (0, 1)
    ]


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", ["tpu_vm.sh", "slurm.sbatch"])
def test_shellcheck_has_nothing_to_say(name):
    done = subprocess.run([SHELLCHECK, str(SCRIPTS / name)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
