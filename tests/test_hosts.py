"""Which processes belong together is read from the environment, without starting JAX."""

import pytest

from agent_tunix import hosts
from agent_tunix.errors import ConfigError, NotFinite, RewardError, RunError
from agent_tunix.hosts import Group

OWN = {"AGENT_TUNIX_COORDINATOR": "10.0.0.1:1234", "AGENT_TUNIX_PROCESSES": "4", "AGENT_TUNIX_PROCESS": "2"}
SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[001-002]", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip
GKE = {"TPU_WORKER_HOSTNAMES": "a-0,a-1", "TPU_WORKER_ID": "1"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("environment", "found", "asked"),
    [
        ({}, None, False),
        (OWN, Group("10.0.0.1:1234", 4, 2), False),
        (OWN | {"AGENT_TUNIX_PROCESSES": "1", "AGENT_TUNIX_PROCESS": "0"}, None, False),
        (OWN | SLURM | {"SLURM_NTASKS": "8"}, Group("10.0.0.1:1234", 4, 2), False),
        (SLURM | {"SLURM_NTASKS": "2"}, Group(), True),
        (SLURM | {"SLURM_NTASKS": "1"}, None, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, Group(), True),
        (GKE, Group(), True),
        (GKE | {"JAX_PLATFORMS": "cpu"}, None, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None, False),
        ({"MEGASCALE_NUM_SLICES": "2"}, Group(), True),
        ({"TPU_ACCELERATOR_TYPE": "v5litepod-16"}, Group(), True),
        (POD, None, False),
        (POD | {"JOB_COMPLETION_INDEX": "0"}, Group(), True),
    ],
)
def test_processes_are_found_in_the_environment(environment, found, asked, monkeypatch):
    monkeypatch.setattr(hosts, "_libtpu", lambda: False)
    questions = []

    def detected(given):
        questions.append(given)
        return 2

    assert hosts.group(environment, detected) == found
    assert bool(questions) is asked


def test_a_machine_that_turns_out_to_be_alone_trains_alone(monkeypatch):
    monkeypatch.setattr(hosts, "_libtpu", lambda: True)  # a Cloud TPU virtual machine without any variable
    assert hosts.group({}, lambda environment: 1) is None
    assert hosts.group({}, lambda environment: 4) == Group()
    assert hosts.group({"JAX_PLATFORMS": "cpu"}, lambda environment: 4) is None


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"AGENT_TUNIX_PROCESS": "0"}, "AGENT_TUNIX_COORDINATOR and AGENT_TUNIX_PROCESSES is not"),
        (OWN | {"AGENT_TUNIX_PROCESSES": "four"}, "AGENT_TUNIX_PROCESSES is `four`"),
        (OWN | {"AGENT_TUNIX_PROCESS": "4"}, "count processes from 0"),
        (OWN | {"AGENT_TUNIX_COORDINATOR": "10.0.0.1"}, "give host:port"),
    ],
)
def test_variables_that_cannot_mean_anything_are_told(environment, sentence):
    with pytest.raises(ConfigError, match=sentence):
        hosts.group(environment)


def test_slurm_and_open_mpi_are_found_by_jax_itself(monkeypatch):
    for name, value in (SLURM | {"SLURM_NTASKS": "2"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert hosts.group({"SLURM_NTASKS": "2"}) == Group()


def test_a_process_alone_asks_nobody():
    assert hosts.count() == 1 and hosts.index() == 0
    assert hosts.exchanged("values", 3) == [3]
    assert hosts.together("values", lambda: 3) == [3]
    hosts.meet("here")


def several(monkeypatch, index, others):
    """Two processes, of which the other one says what is given."""
    said = iter(others)
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "index", lambda: index)

    def exchanged(channel, value):
        other = next(said)
        return [value, other] if index == 0 else [other, value]

    monkeypatch.setattr(hosts, "exchanged", exchanged)


def test_what_fails_in_one_process_fails_in_all(monkeypatch):
    def fail():
        raise OSError("disk full")

    several(monkeypatch, 0, [(5, None)] * 2)
    assert hosts.together("work", lambda: 3) == [3, 5]
    with pytest.raises(OSError, match="disk full") as own:
        hosts.together("work", fail)
    assert hosts.alike(own.value)
    several(monkeypatch, 1, [(None, ("OSError", "disk full"))] * 2)
    with pytest.raises(RewardError, match=r"process 0 failed \(OSError: disk full\)"):
        hosts.together("work", lambda: 3, RewardError)
    with pytest.raises(hosts.FailedElsewhere) as told:
        hosts.together("work", lambda: 3)
    assert told.value.kind == "OSError" and hosts.alike(told.value)


def test_errors_of_one_process_alone_are_told_apart(monkeypatch):
    several(monkeypatch, 0, [])
    assert hosts.alike(NotFinite("loss nan")) and hosts.alike(RewardError("a nan"))
    assert not hosts.alike(RunError("disk full")) and not hosts.alike(KeyboardInterrupt())


def test_a_lost_process_is_told_in_a_sentence(monkeypatch):
    several(monkeypatch, 0, [])
    monkeypatch.setattr(hosts, "_left", [])

    def closing():
        try:
            raise TimeoutError("barrier\nmore")
        finally:
            raise ValueError("closing")

    sentence = r"another process has ended.*\(barrier\); start all of them again"
    with pytest.raises(RunError, match=sentence), hosts.noticed():
        closing()
    assert len(hosts._left) == 1
