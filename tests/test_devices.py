"""A step over simulated devices is the step of one device, and they talk once per update. Children have the devices."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from agent_tunix import devices

FOLDER = Path(__file__).parents[1] / "benchmarks"
CACHE = Path(__file__).parents[1] / ".cache" / "tests" / "jax"
sys.path.insert(0, str(FOLDER))

import device_programs  # noqa: E402
from collectives import Collective, collectives, summary  # noqa: E402

SIZES = ("prompts=32", "completion_tokens=72", "mean_tokens=24")
"""Of the ragged tiny workload: completions end at different times, and what has ended is dropped on every device."""

FOUR = SimpleNamespace(shape={devices.AXIS: 4})
"""All that is asked of a mesh when host arrays are dealt."""


def child(*words, timeout=300):
    kept = {"JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=timeout, check=False, env=os.environ | kept
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reports():
    script = str(FOLDER / "device_programs.py")
    words = ("--workload", "tiny_ragged", "--set", *SIZES, "--devices", "1", "8")
    return {report["devices"]: report for report in child(script, *words)}


@pytest.mark.slow
def test_eight_devices_compute_what_one_does(reports):
    found = dict(reports[8]["differences"])
    assert found.pop("completion_ids") == 0
    assert max(found.values()) < 1e-5, found
    assert {"loss", "gradient", "parameters", "ref_logprobs", "logprobs"} == found.keys()


@pytest.mark.slow
def test_the_gradient_is_added_up_once_per_update_and_nothing_else_is_said(reports):
    report = reports[8]
    phases = {phase: found["collectives"] for phase, found in report["phases"].items()}
    assert phases["rollout"] == phases["reference"] == {}
    assert phases["update"].keys() == {"all-reduce"}
    summed = phases["update"]["all-reduce"]
    assert summed["bytes"] - summed["scalar_bytes"] == report["gradient_bytes"] > 0
    assert summed["looped"] == 0
    assert report["phases"]["update"]["in"] == ["_applied"]
    assert report["unexpected"] == []


@pytest.mark.slow
def test_one_device_says_nothing(reports):
    assert all(found["collectives"] == {} for found in reports[1]["phases"].values())


def test_prompts_that_cannot_be_dealt_equally_are_refused():
    with pytest.raises(ValueError, match="10 prompts cannot be dealt to 4 devices; give a multiple of 4"):
        devices.dealt(FOUR, np.zeros((10, 2)))


def test_dealt_prompts_stay_in_order_and_lie_together_on_an_axis_of_devices():
    prompts, nothing = np.arange(24).reshape(8, 3), None
    parts = devices.dealt(FOUR, (prompts, nothing))
    assert [part[0][0, 0] for part in parts] == [0, 6, 12, 18]
    whole = devices.together(FOUR, parts)
    assert whole[0].shape == (4, 2, 3) and whole[1] is None
    np.testing.assert_array_equal(np.concatenate(devices.apart(FOUR, whole[0])), prompts)


def test_without_a_mesh_arrays_stay_what_they_are():
    prompts = np.arange(6)
    assert devices.together(None, devices.dealt(None, prompts)) is prompts
    assert devices.count(None) == 1 and devices.count(FOUR) == 4


# --- Reading programs -------------------------------------------------------------------------------------------------

TEXT = """\
HloModule jit_step, entry_computation_layout={(f32[4]{0})->f32[4]{0}}, num_partitions=8

%add.1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: f32[8,2]) -> f32[16,2] {
  ROOT %all-gather.7 = f32[16,2]{1,0} all-gather(%p), channel_id=3, dimensions={0}
}

%body (carry: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-reduce.2 = f32[4]{0} all-reduce(%x), channel_id=1, to_apply=%add.1, metadata={op_name="all-gather(x)"}
  %called = f32[16,2]{1,0} fusion(%y), kind=kLoop, calls=%inner
}

%condition (carry: (s32[], f32[4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %while.1 = (s32[], f32[4]{0}) while(%t), condition=%condition, body=%body
  %all-reduce-start.3 = (bf16[3,2]{1,0}, f32[]) all-reduce-start(%a, %b), channel_id=2, to_apply=%add.1
  %all-reduce-done.3 = (bf16[3,2]{1,0}, /*index=1*/f32[]) all-reduce-done(%all-reduce-start.3)
  ROOT %collective-permute.1 = pred[5]{0} collective-permute(%c), source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_of_a_program_are_read_with_their_bytes_and_loops():
    assert sorted(collectives(TEXT)) == [
        Collective("all-gather", 16 * 2 * 4, 0, True),  # called from the loop's body
        Collective("all-reduce", 4 * 4, 0, True),
        Collective("all-reduce", 3 * 2 * 2 + 4, 4, False),  # started and waited for: once
        Collective("collective-permute", 5, 0, False),
    ]
    assert summary(collectives(TEXT))["all-reduce"] == {"count": 2, "bytes": 32, "scalar_bytes": 4, "looped": 1}


LEFT_TO_XLA = """
import json, sys
sys.path.insert(0, sys.argv[1])
import device_programs
device_programs.simulate(4)
import jax, jax.numpy as jnp
from collectives import collectives, recorded
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(jax.devices(), ("data",))
weights, inputs = jnp.ones((8, 8)), jnp.ones((3, 16, 8))
with recorded() as programs:
    @jax.jit
    def gradient(weights, inputs):
        def add(index, total):
            return total + jax.grad(lambda w: jnp.tanh(inputs[index] @ w).sum())(weights)
        return jax.lax.fori_loop(0, 3, add, jnp.zeros_like(weights))
    places = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, "data"))
    gradient(*jax.device_put((weights, inputs), places))
print(json.dumps([one._asdict() for program in programs for one in collectives(program.text)]))
"""


def test_a_gradient_that_is_left_to_the_partitioner_is_added_up_in_the_loop():
    assert child("-c", LEFT_TO_XLA, str(FOLDER)) == [
        {"kind": "all-reduce", "bytes": 256, "scalar_bytes": 0, "looped": True}
    ]


def test_what_is_not_due_is_named():
    def report(**phases):
        found = {phase: {"collectives": phases.get(phase, {})} for phase in device_programs.PHASES}
        return {"devices": 2, "gradient_bytes": 100, "phases": found}

    def one(size, looped=0):
        return {"count": 1, "bytes": size + 4, "scalar_bytes": 4, "looped": looped}

    assert device_programs.unexpected(report(update={"all-reduce": one(100)})) == []
    nothing = ["update: 0 bytes of arrays are added up over the devices instead of 100"]
    assert device_programs.unexpected(report()) == nothing
    found = device_programs.unexpected(
        report(rollout={"all-gather": one(8)}, update={"all-reduce": one(200, 1), "all-to-all": one(4)})
    )
    assert found == [
        "rollout: 1 all-gather of 12 bytes",
        "update: 1 all-reduce in a loop",
        "update: 1 all-to-all of 8 bytes",
        "update: 200 bytes of arrays are added up over the devices instead of 100",
    ]
