"""Processes that train one policy together, usually one on each host: how they find each other and what they agree on.

Every process runs the same command on the same rows and takes the same decisions. What only one of them can know (a
signal, the grades of its own completions, an error) is exchanged, so that all go on, stop or fail together. Objects
travel through the key-value store of JAX's coordinator and occupy no device, so that a thread of its own may exchange
them; arrays go from device to device (`devices`).

A process that dies is noticed by its missing heartbeat, and JAX then ends the others.
"""

import atexit
import collections
import contextlib
import importlib.util
import itertools
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
from jax._src import clusters, distributed

from agent_tunix.errors import AgentTunixError, ConfigError, ModelError, NotFinite, RewardError, RunError

Result = TypeVar("Result")

COORDINATOR, PROCESSES, PROCESS = "AGENT_TUNIX_COORDINATOR", "AGENT_TUNIX_PROCESSES", "AGENT_TUNIX_PROCESS"
"""Variables that say where the first process listens (`host:port`), how many there are, and which one this is."""
HEARTBEAT = "AGENT_TUNIX_HEARTBEAT_S"
HEARTBEAT_S = 60
"""Seconds without a sign of life after which a process counts as dead, unless the variable says otherwise."""
JOIN_S = 300
"""Seconds that a process waits for the others at the start."""
PIECE = 2**20
"""Bytes of an object that travel in one message."""
WAIT_MS = 5_000
"""Milliseconds after which a waiting process looks for signals of its own."""


class Group(NamedTuple):
    """The processes that belong together; a field that is None is found out by JAX.

    Attributes:
      coordinator: Where the first process listens, `host:port`.
      processes: How many there are.
      process: Which one this is, from 0.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def group(environment: Mapping[str, str], detected: Callable[[Mapping[str, str]], int] | None = None) -> Group | None:
    """The processes that the environment says belong together, or None if this one is alone; starts nothing.

    Args:
      environment: Variables.
      detected: How many processes JAX finds on a machine that looks like one of several; by default its own detection.

    Raises:
      ConfigError: If the variables of this package are incomplete or wrong.
    """
    given = {name: environment[name] for name in (COORDINATOR, PROCESSES, PROCESS) if environment.get(name)}
    if given:
        return _explicit(given)
    if not looks_shared(environment):
        return None
    return Group() if (detected or _detected)(environment) > 1 else None


def _explicit(given: Mapping[str, str]) -> Group | None:
    missing = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in given]
    if missing:
        raise ConfigError(f"{', '.join(given)} is set, but {' and '.join(missing)} is not; set all three, or none")
    try:
        processes, process = int(given[PROCESSES]), int(given[PROCESS])
    except ValueError:
        wrong = next(name for name in (PROCESSES, PROCESS) if not given[name].lstrip("-").isdigit())
        raise ConfigError(f"{wrong} is `{given[wrong]}`; give a number") from None
    if not 0 <= process < processes:
        raise ConfigError(f"{PROCESS} is {process}, but {PROCESSES} is {processes}; count processes from 0")
    host, _, port = given[COORDINATOR].rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"{COORDINATOR} is `{given[COORDINATOR]}`; give host:port of process 0")
    return Group(given[COORDINATOR], processes, process) if processes > 1 else None


def looks_shared(environment: Mapping[str, str]) -> bool:
    """Whether an environment may be that of one process of several, so that JAX's detection is worth asking.

    SLURM steps with more than one task, Open MPI with more than one rank, indexed jobs of Kubernetes, and Cloud TPU
    virtual machines, unless JAX is told to use none of their chips.
    """
    tasks = [environment.get(name, "") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")]
    if any(number.isdigit() and int(number) > 1 for number in tasks):
        return True
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return True
    platforms = environment.get("JAX_PLATFORMS", "")
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    several = "," in hosts or environment.get("MEGASCALE_NUM_SLICES", "1") not in ("", "1")
    return (several or "TPU_ACCELERATOR_TYPE" in environment or _libtpu()) and platforms in ("", "tpu", "tpu,cpu")


def _libtpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def _detected(environment: Mapping[str, str]) -> int:
    """Processes that JAX itself finds: Cloud TPU, SLURM, Open MPI and Kubernetes, in its order."""
    del environment  # JAX reads that of the process
    for kind in clusters.ClusterEnv._cluster_types:
        if not kind.opt_in_only_method and kind.is_env_present():
            return kind.get_process_count()
    return 1


def join(mode: str) -> None:
    """Joins the other processes, if there are any; to be called before JAX is used.

    Args:
      mode: `auto` asks the environment (`group`), `never` stays alone.

    Raises:
      ConfigError: If the environment's variables cannot mean anything.
      RunError: If the others are not there, or JAX was used already.
    """
    found = None if mode == "never" or jax.distributed.is_initialized() else group(os.environ)
    if found is None:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    seconds = int(os.environ.get(HEARTBEAT) or HEARTBEAT_S)
    try:
        jax.distributed.initialize(
            *found,
            cluster_detection_method="deactivate" if found.coordinator else None,
            initialization_timeout=JOIN_S,
            heartbeat_timeout_seconds=seconds,
            shutdown_timeout_seconds=seconds,
        )
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"could not join the other processes ({_line(error)}); distributed=never trains alone"
        ) from error
    atexit.register(_leave)  # before JAX's own, which would wait for the others


def count() -> int:
    """Processes that train together."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this one is; the first one writes the run's folder."""
    return jax.process_index() if count() > 1 else 0


_left: list[BaseException] = []
"""The error that this process alone has met."""


def _leave() -> None:
    if _left:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """What JAX says where another process is gone becomes a sentence; a process that fails alone ends at once.

    Raises:
      RunError: Another process has ended.
    """
    try:
        yield
    except BaseException as error:
        if alike(error):
            raise
        _left.append(error)
        lost = [one for one in _chain(error) if _is_lost(one)]
        if not lost:
            raise
        first = str(lost[-1]).strip().partition("\n")[0]
        raise RunError(f"another process has ended, or cannot be reached ({first}); {AGAIN}") from error


def _is_lost(error: BaseException) -> bool:
    """Whether an error is what JAX or Orbax raise where a process does not answer; some are mere ValueErrors."""
    if isinstance(error, AgentTunixError):
        return False
    known = isinstance(error, jax.errors.JaxRuntimeError | TimeoutError)
    return known or any(word in str(error) for word in ("Gloo", "heartbeat", "Connection reset"))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it was raised from, or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


AGAIN = "start all of them again with the same command, and the run goes on from its last checkpoint"


# --- Agreeing ---------------------------------------------------------------------------------------------------------

_rounds: dict[str, Any] = collections.defaultdict(itertools.count)


def exchanged(channel: str, value: Any) -> list[Any]:
    """The values of all processes, in their order; every process has to ask, as often as the others.

    Args:
      channel: What is exchanged; each has a sequence of its own, used by one thread.
      value: Anything that can be pickled.
    """
    if count() == 1:
        return [value]
    number = next(_rounds[channel])
    _send(f"{channel}/{number}/{index()}", pickle.dumps(value))
    found = [value if other == index() else _received(f"{channel}/{number}/{other}") for other in range(count())]
    if number:  # all have sent this round, so all have read the last one
        _client().key_value_delete(_key(f"{channel}/{number - 1}/{index()}"))
    return found


def _client() -> Any:
    return distributed.global_state.client


def _key(name: str) -> str:
    return f"agent_tunix/{name}"


def _send(name: str, data: bytes) -> None:
    client, pieces = _client(), range(0, len(data), PIECE)
    for number, start in enumerate(pieces):
        client.key_value_set_bytes(_key(f"{name}/{number}"), data[start : start + PIECE])
    client.key_value_set_bytes(_key(f"{name}/pieces"), str(len(pieces)).encode())


def _received(name: str) -> Any:
    pieces = int(_waited(f"{name}/pieces"))
    return pickle.loads(b"".join(_waited(f"{name}/{number}") for number in range(pieces)))


def _waited(name: str) -> bytes:
    while True:
        try:
            return _client().blocking_key_value_get_bytes(_key(name), WAIT_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


class FailedElsewhere(RunError):
    """Another process failed.

    Attributes:
      kind: Name of its error's class.
    """

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


def together(channel: str, work: Callable[[], Result], error_type: type[AgentTunixError] | None = None) -> list[Result]:
    """What a piece of work gave in every process; if it failed in one, it fails in all.

    Args:
      channel: As for `exchanged`.
      work: Done by each process by itself.
      error_type: What processes raise whose own work was done; `FailedElsewhere` by default.

    Raises:
      Exception: What the work raised here, or else what stands for the first error of another process.
    """
    if count() == 1:
        return [work()]
    result, own = None, None
    try:
        result = work()
    except Exception as error:
        own = error
    told = exchanged(channel, (result, own and (type(own).__name__, str(own))))
    if own is not None:
        setattr(own, AGREED, True)
        raise own
    for process, (_, failure) in enumerate(told):
        if failure:
            message = f"process {process} failed ({failure[0]}: {failure[1]})"
            raise error_type(message) if error_type else FailedElsewhere(message, failure[0])
    return [found for found, _ in told]


def meet(channel: str) -> None:
    """Waits for all processes."""
    exchanged(channel, None)


AGREED = "agreed"
"""Attribute of an error that the other processes have been told of."""

EVERYWHERE = (RewardError, NotFinite, ConfigError, ModelError, FailedElsewhere)
"""Errors that follow from what all processes know."""


def alike(error: BaseException) -> bool:
    """Whether all processes have met an error, so that they can still save their state together."""
    return count() == 1 or isinstance(error, EVERYWHERE) or hasattr(error, AGREED)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
