import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import grpo_engines  # noqa: E402
import grpo_export  # noqa: E402
import grpo_step  # noqa: E402
import performance_page  # noqa: E402
import side_by_side  # noqa: E402
import trl_engine  # noqa: E402
import tunix_engine  # noqa: E402
from grpo_workloads import (  # noqa: E402
    ADAMW,
    PAD,
    STOP,
    WORKLOADS,
    Batches,
    PrivateTokenizer,
    flops,
    prompt_ids,
    reward_of,
    rows_of,
    step_flops,
    tensors_sha256,
    tokenizer_of,
)
from side_by_side import BenchmarkError, Engine, Measurement, measure  # noqa: E402

# The workers of these tests read this file as well, so what is slow to import is imported where it is needed.
SCRIPT = FOLDER / "grpo_step.py"
TINY, RAGGED = WORKLOADS["tiny"], WORKLOADS["tiny_ragged"]


def reported(workload=TINY, *, seconds=(1.0, 1.0), tokens=None, logged=None, memory=0.25, **ready):
    """A measurement of one warm-up step and the given steps."""
    shared = {"cpu_seconds": 1.5, "other_cpu_seconds": 0.0, "idle_cpu_seconds": 0.0, "peak_memory_gb": memory}

    def step(number, value):
        split = {"rollout_s": value / 4}
        return {**shared, "seconds": value, "split": split, "tokens": tokens or workload.tokens(number)}

    steps = [step(number, value) for number, value in enumerate(seconds, start=1)]
    facts = {"parameters": 10, "dtypes": ["float32"], "params_sha256": "a", "backend": "cpu", "loss": {}}
    facts |= {"optimizer": ADAMW, "kl_coefficient": 0.04}
    final = {} if logged is None else {"logged": logged}
    return Measurement({**facts, "configuration": {}, **ready}, [step(0, 9.0)], steps, final)


def recording_engine(path, name, seconds, steps, turns):
    """Stands for a product: takes its time, and writes down when it worked."""
    turns.wait({"name": name})
    for number in range(steps):
        started = time.monotonic()
        time.sleep(seconds)
        with open(path, "a") as file:
            file.write(f"{name} {number} {started} {time.monotonic()}\n")
        turns.wait({"number": number})
    turns.finish({"steps": steps})


def failing_engine(turns):
    turns.wait({})
    raise ValueError("no such kernel")


def vanishing_engine(turns):
    turns.wait({})
    os.write(1, b"the last words\n")
    os.kill(os.getpid(), signal.SIGKILL)


def test_ratio_pairs_steps_of_the_same_number():
    # 2/1, 6/2, 2/4: the median of the quotients is 2, where the quotient of the medians (2 and 2) would be 1.
    assert grpo_step.ratio([1.0, 2.0, 4.0], [2.0, 6.0, 2.0]) == {
        "median": 2.0,
        "min": 0.5,
        "max": 3.0,
        "pairs": [2.0, 3.0, 0.5],
    }


def test_ratio_refuses_unpaired_steps():
    with pytest.raises(ValueError, match="shorter"):
        grpo_step.ratio([1.0, 2.0], [3.0])


def test_the_fastest_of_ours_is_set_against_the_fastest_of_each_other():
    measured = {
        "agent_tunix": reported(seconds=(5.0, 5.0), memory=1.0),
        "agent_tunix_micro_1": reported(seconds=(1.0, 2.0), memory=2.0),
        "tunix": reported(seconds=(4.0, 4.0), memory=3.0),
        "tunix_micro_1": reported(seconds=(3.0, 3.0), memory=5.0),
        "trl": reported(seconds=(2.0, 2.0), memory=1.0),
    }
    out = grpo_step.ratios(TINY, measured)
    assert list(out) == ["tunix", "trl"]
    assert (out["tunix"]["ours"], out["tunix"]["theirs"]) == ("agent_tunix_micro_1", "tunix_micro_1")
    assert out["tunix"]["seconds"]["median"] == 2.25  # 3/1 and 3/2
    assert out["tunix"]["peak_memory"] == 2.5  # 5/2, of the configurations chosen by time
    assert out["trl"]["seconds"]["pairs"] == [2.0, 1.0]
    out = grpo_step.ratios(dataclasses.replace(TINY, metric="peak_memory_gb"), measured)
    assert (out["tunix"]["ours"], out["tunix"]["theirs"], out["tunix"]["peak_memory"]) == ("agent_tunix", "tunix", 3.0)


def test_alone_there_is_no_ratio():
    assert grpo_step.ratios(TINY, {"agent_tunix": reported()}) == {}


def test_summary_leaves_the_compiling_step_out_of_the_median():
    out = grpo_step.summary(TINY, reported(seconds=(1.0, 2.0, 6.0)), [1.0, 1.0, 1.0])
    assert out["seconds"] == {"median": 2.0, "min": 1.0, "max": 6.0}
    assert out["first_step_seconds"] == 9.0
    assert out["split"] == {"rollout_s": 0.5}
    assert (out["cpu_seconds"], out["peak_memory_gb"], out["parameters"]) == (1.5, 0.25, 10)


def test_share_of_the_floor_uses_the_peak_of_the_same_round():
    (operations,) = step_flops(TINY, [1])
    peaks = [operations / 1e9, operations / 2e9]  # at these rates the floor takes 1 s, then 2 s
    out = grpo_step.summary(TINY, reported(seconds=(2.0, 10.0)), peaks)
    assert out["floor_share"] == {"median": 0.35, "min": 0.2, "max": 0.5}


def test_what_was_tried_is_told_without_the_compiling_step():
    one = reported()
    one.warm_up.append({**one.warm_up[0], "seconds": 3.0})
    assert grpo_step.tried({"trl": one}) == {"trl": {"seconds": 3.0, "peak_memory_gb": 0.25}}


def test_tokens_of_the_workloads_are_those_of_the_table():
    # 16 prompts x 8 = 128 rows of 32 + 64 tokens; 4 x 8 = 32 rows of 128 + 128; 8 x 16 = 128 rows of 512 + 64.
    assert WORKLOADS["W1"].tokens(0) == {"completions": 128, "prompt_tokens": 4096, "completion_tokens": 8192}
    assert WORKLOADS["W2"].tokens(7) == {"completions": 32, "prompt_tokens": 4096, "completion_tokens": 4096}
    assert WORKLOADS["W3"].tokens(0) == {"completions": 128, "prompt_tokens": 65536, "completion_tokens": 8192}
    assert WORKLOADS["W5"].tokens(0) == {"completions": 16, "prompt_tokens": 2048, "completion_tokens": 6144}


def test_ragged_lengths_end_with_the_same_chance_at_every_token():
    workload = WORKLOADS["W4"]
    lengths = workload.lengths.ravel()
    assert lengths.shape == (256 * 8,) and lengths.min() == 1 and lengths.max() == 256
    # Mean of a geometric length cut off at 256: 48 (1 - (47/48)^256) = 47.8; its standard error is 1.
    assert abs(lengths.mean() - 47.8) < 3
    for start in (0, 40, 80):  # of those that get so far, 1 - (47/48)^24 = 40 % end within the next 24 tokens
        left = lengths[lengths > start]
        assert abs((left <= start + 24).mean() - 0.397) < 4 * (0.397 * 0.603 / len(left)) ** 0.5
    np.testing.assert_array_equal(dataclasses.replace(workload).lengths, workload.lengths)


def test_tokens_of_a_ragged_step_are_those_of_its_own_prompts():
    steps = [RAGGED.tokens(number)["completion_tokens"] for number in range(16)]
    assert sum(steps[:15]) == RAGGED.lengths.sum()  # 60 rows in 15 batches of 4
    assert steps[15] == steps[0] and len(set(steps)) > 1


def test_floor_of_a_small_step_is_the_sum_worked_out_by_hand():
    # Per layer and token: queries and outputs 2 x 16 x 16, keys and values 2 x 16 x 8, MLP 3 x 16 x 32 multiply-adds.
    body, head, pair = 2 * (512 + 256 + 1536), 2 * 16 * 64, 2 * 2 * 16
    lengths = np.array([[4, 2]])  # one prompt of 8 tokens, two completions
    pairs = 8 * 8 / 2 + 4 * (8 + 4 / 2) + 2 * (8 + 2 / 2)
    forward = body * (8 + 6) + head * 6 + pair * pairs
    out = flops(TINY, lengths)
    assert out == {"decode": forward, "reference": forward, "update": 3 * forward, "total": 5 * forward}
    twice = flops(TINY, lengths, shared=False)
    assert twice["decode"] - forward == body * 8 + pair * 8 * 8 / 2  # the prompt once more


def test_floors_of_the_workloads_are_known():
    floors = {name: step_flops(WORKLOADS[name], [0])[0] / 1e9 for name in ("W1", "W2")}
    assert floors == pytest.approx({"W1": 96.4, "W2": 2204}, rel=1e-3)
    unshared = {name: step_flops(WORKLOADS[name], [0], shared=False)[0] / 1e9 for name in ("W1", "W2")}
    assert unshared == pytest.approx({"W1": 132, "W2": 3350}, rel=2e-3)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"parameters": 11}, "differ in parameters"),
        ({"params_sha256": "b"}, "differ in params_sha256"),
        ({"dtypes": ["bfloat16"]}, "differ in dtypes"),
        ({"optimizer": ADAMW | {"weight_decay": 0.1}}, "differ in optimizer"),
        ({"kl_coefficient": 0.0}, "differ in kl_coefficient"),
        (
            {"tokens": {"completions": 16, "prompt_tokens": 128, "completion_tokens": 191}},
            "tunix did .*191.* in step 0",
        ),
        ({"logged": {"rows": 2, "samples": 48}}, "tunix logged .*it should have logged .*3, 'samples': 48"),
    ],
)
def test_unequal_work_is_refused(other, message):
    with pytest.raises(BenchmarkError, match=message):
        grpo_step.check_equal_work(TINY, {"agent_tunix": reported(), "tunix": reported(**other)})


def test_equal_work_passes_and_anything_but_float32_does_not():
    ours = reported(logged={"rows": 3, "samples": 48})  # 3 steps of 4 x 4 completions
    grpo_step.check_equal_work(TINY, {"agent_tunix": ours, "tunix": reported()})
    with pytest.raises(BenchmarkError, match="not in float32"):
        grpo_step.check_equal_work(TINY, {"agent_tunix": reported(dtypes=["bfloat16"])})


def test_unequal_ragged_work_is_refused_by_the_step():
    steps = [RAGGED.tokens(number) for number in range(3)]
    assert steps[0] != steps[1]
    grpo_step.check_equal_work(RAGGED, {"trl": reported(RAGGED)})
    with pytest.raises(BenchmarkError, match=r"trl did .* in step 1"):
        grpo_step.check_equal_work(RAGGED, {"trl": reported(RAGGED, tokens=steps[0])})


@pytest.mark.parametrize("vocab_size", [64, 512, 32_768, 151_936])
def test_private_tokens_turn_into_text_and_back(vocab_size):
    tokenizer = PrivateTokenizer(vocab_size)
    ids = [*range(0, vocab_size, 37), vocab_size - 1]
    text = tokenizer.decode(ids)
    assert len(text) == len(ids)
    assert tokenizer.encode(text) == ids
    assert text.encode().decode() == json.loads(json.dumps(text)) == text
    assert tokenizer.token_id(tokenizer.decode([5])) == 5
    assert min(tokenizer.pad_id(), tokenizer.eos_id()) >= vocab_size  # neither can be sampled
    assert tokenizer.pad_id() != tokenizer.eos_id()


def test_ragged_text_has_no_pad_and_no_stop_token():
    tokenizer = tokenizer_of(RAGGED)
    assert (tokenizer.pad_id(), tokenizer.eos_id()) == (PAD, STOP)
    assert tokenizer.encode(tokenizer.decode([7, PAD, 9, STOP])) == [7, 9]
    assert tokenizer.decode([]) == "" and reward_of(RAGGED)("") == 0.0


def test_prompts_are_full_length_and_the_reward_tells_completions_apart():
    tokenizer, rows = tokenizer_of(TINY), rows_of(TINY)
    ids = [tokenizer.encode(row["prompt"]) for row in rows]
    assert {len(row) for row in ids} == {TINY.prompt_tokens - 1}  # one is the beginning
    assert [row[0] - 3 for row in ids] == list(range(TINY.rows))  # the first token tells which row it is
    assert prompt_ids(TINY) == [tokenizer.bos_id(), *ids[0]]
    assert min(min(row) for row in ids) > max(tokenizer.bos_id(), PAD, STOP)
    assert reward_of(TINY)(tokenizer.decode([0, 31, 32, 63])) == 0.5  # 64 ids: two of four in the lower half


def test_batches_come_in_order_and_go_on_where_they_stopped():
    batches = Batches(TINY)
    first = next(batches)
    assert first == rows_of(TINY)[:4]
    state = batches.get_state()
    following = [next(batches) for _ in range(15)]
    assert following[14] == first  # 15 batches, then from the start
    other = Batches(TINY)
    other.set_state(json.loads(json.dumps(state)))
    assert next(other) == following[0]


def test_only_the_stop_token_is_left_where_it_is_due():
    import jax.numpy as jnp

    due = jnp.array([[3, 12], [4, 1]])  # the longest are cut off at 12, not stopped
    logits = jnp.arange(2 * 2 * 5, dtype=jnp.float32).reshape(2, 2, 5)
    out = np.asarray(grpo_engines.stopped(RAGGED, logits, due, jnp.int32(2)))
    assert (np.argmax(out, -1) == [[STOP, 4], [4, 4]]).all()
    np.testing.assert_array_equal(np.isclose(out, -1e9)[0, 0], [True, True, False, True, True])
    np.testing.assert_array_equal(np.isclose(out, -1e9)[1, 0], [True, False, True, False, False])
    assert np.argmax(np.asarray(grpo_engines.stopped(RAGGED, logits, due, jnp.int32(11)))[0, 1]) == 4


def test_our_completions_have_the_lengths_that_are_due():
    import jax

    from agent_tunix import models

    architecture = grpo_engines.architecture_of(RAGGED)
    params, batches = models.initial_params(architecture, 0), Batches(RAGGED)
    sample = grpo_engines.our_sampler(models.policy(architecture), RAGGED)
    for number in range(2):
        rollouts = sample(models.full(params), next(batches), RAGGED.group_size, jax.random.key(number))
        due = RAGGED.lengths[RAGGED.batch(number)]
        np.testing.assert_array_equal(rollouts.lengths, due)
        np.testing.assert_array_equal(rollouts.truncated, due == RAGGED.completion_tokens)


def test_tokens_of_tunix_count_the_stop_token_that_it_takes_off():
    class Output:
        tokens = [np.arange(12), np.arange(3), np.arange(0)]  # cut off; stopped after three; stopped at once
        left_padded_prompt_tokens = np.array([[PAD, 5], [1, 5]])

    counted = tunix_engine.tunix_tokens(RAGGED, Output)
    assert counted == {"completions": 3, "prompt_tokens": 3, "completion_tokens": 12 + 4 + 1}


def test_exported_weights_are_ours_under_other_names():
    from agent_tunix import models

    params = models.initial_params(grpo_engines.architecture_of(TINY), 0)
    tensors = grpo_export.hugging_face(params)
    assert sum(value.size for value in tensors.values()) == 1024 + 768 + 1536 + 64  # each weight once, the head is tied
    layer = params["layers"][0]
    np.testing.assert_array_equal(
        tensors["model.layers.0.self_attn.k_proj.weight"], np.asarray(layer["attn"]["k_proj"]["w"]).reshape(16, 8).T
    )
    output = np.asarray(layer["attn"]["o_proj"]["w"])  # [heads head_dim width]
    np.testing.assert_array_equal(tensors["model.layers.0.self_attn.o_proj.weight"][3, 8:], output[1, :, 3])
    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (16, 32)
    assert grpo_export.hugging_face_config(TINY)["num_key_value_heads"] == 1
    changed = tensors | {"model.norm.weight": tensors["model.norm.weight"] * 2}
    assert tensors_sha256(changed) != tensors_sha256(tensors) == tensors_sha256(dict(reversed(tensors.items())))


def test_trl_gets_whole_groups_and_one_rollout_per_update():
    settings = trl_engine.trl_settings(WORKLOADS["W1"], 4)
    assert (settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]) == (32, 4)
    lines = (FOLDER / "peers.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-zA-Z0-9_.-]+==[a-zA-Z0-9_.+-]+", line) for line in packages)
    assert {"trl", "torch", "transformers"} <= {line.partition("==")[0] for line in packages}


def test_another_interpreter_sees_the_benchmarks_and_nothing_of_this_environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    own, other = side_by_side.environment_of(sys.executable), side_by_side.environment_of("/elsewhere/python")
    assert other["PYTHONPATH"] == str(FOLDER)
    assert own["PYTHONPATH"].split(os.pathsep)[0] == str(FOLDER)
    assert str(Path(np.__file__).parents[1]) in own["PYTHONPATH"].split(os.pathsep)


def test_engines_step_in_turn_and_never_together(tmp_path):
    path = tmp_path / "work"
    times = (("a", 0.02), ("b", 0.06))
    engines = {name: {name: Engine(partial(recording_engine, path, name, seconds, 4))} for name, seconds in times}
    measured = measure(engines, warm_up=1, steps=3, folder=tmp_path)
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [name + number for name, number, *_ in lines] == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]
    ends = [float(end) for *_, end in lines]
    assert all(float(begin) >= end for (_, _, begin, _), end in zip(lines[1:], ends))
    assert [step["number"] for step in measured["b"].steps] == [1, 2, 3]
    assert all(step["seconds"] >= 0.06 for step in measured["b"].steps)
    assert measured["a"].ready["name"] == "a" and measured["a"].final == {"steps": 4}
    assert all(step["other_cpu_seconds"] >= 0 for one in measured.values() for step in one.steps)


def test_configurations_that_are_clearly_behind_do_not_go_on(tmp_path):
    path = tmp_path / "work"
    costs = {"slow": 3.0, "fast": 1.0, "close": 1.1, "late": 1.2}
    engines = {name: Engine(partial(recording_engine, path, name, 0.0, 3)) for name in costs}
    order = iter(costs)
    seen = {}

    def cost(warm_up):
        """By the order in which the configurations are first judged; the same for the same reports later."""
        return seen.setdefault(id(warm_up), costs[next(order)] if id(warm_up) not in seen else None)

    measured = measure({"engine": engines}, warm_up=2, steps=1, folder=tmp_path, cost=cost)
    assert [name for name, one in measured.items() if one.steps] == ["fast", "close"]
    assert {name: len(one.warm_up) for name, one in measured.items()} == dict.fromkeys(costs, 2)
    done = [line.split()[0] for line in path.read_text().splitlines()]
    assert sorted(done) == sorted([*costs, *costs, "fast", "close"])


def test_a_configuration_is_judged_by_its_fastest_step_behind_the_compiling_one():
    assert side_by_side.last_seconds([{"seconds": 1.0}, {"seconds": 5.0}, {"seconds": 4.0}]) == 4.0
    assert side_by_side.last_seconds([{"seconds": 9.0}]) == 9.0


@pytest.mark.parametrize(
    ("engine", "message"),
    [(failing_engine, "broken died with exit code 1.*no such kernel"), (vanishing_engine, "code -9.*the last words")],
)
def test_a_dead_worker_is_reported_with_its_last_words(tmp_path, engine, message):
    with pytest.raises(BenchmarkError, match=f"(?s){message}"):
        measure({"broken": {"broken": Engine(engine)}}, warm_up=1, steps=1, folder=tmp_path)


def test_a_void_measurement_is_exit_code_1(monkeypatch, caplog, capsys):
    def void(*_, **__):
        raise BenchmarkError("tunix died with exit code 1; it last said:\nboom")

    monkeypatch.setattr(grpo_step, "benchmark", void)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(grpo_step.os, "environ", dict(os.environ))
    try:
        assert grpo_step.main(["--workload", "tiny"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "boom" in caplog.text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["--steps", "0"],
        ["--workload", "W1", "--micro-batch-sizes", "3"],
        ["--against", "x"],
        ["--against", "trl", "--trl-python", "/nowhere/python"],
    ],
)
def test_arguments_that_mean_nothing_are_refused(argv):
    with pytest.raises(SystemExit) as stopped:
        grpo_step.arguments(argv)
    assert stopped.value.code == 2


def test_every_engine_is_tried_with_every_micro_batch_size(tmp_path):
    engines = grpo_step.engines_of(
        TINY,
        against=["tunix", "trl"],
        micro_batch_sizes=[4, 2],
        steps=1,
        folder=tmp_path,
        trl_python=Path("/trl/python"),
    )
    assert {name: list(configurations) for name, configurations in engines.items()} == {
        "matmul": ["matmul"],
        "agent_tunix": ["agent_tunix", "agent_tunix_micro_2"],
        "tunix": ["tunix", "tunix_micro_2"],
        "trl": ["trl", "trl_micro_2"],
    }
    assert {engine.python for engine in engines["trl"].values()} == {"/trl/python"}
    assert engines["tunix"]["tunix"].python == sys.executable


def test_every_engine_is_tried_in_two_configurations_and_ours_with_its_own_choice(tmp_path):
    engines = grpo_step.engines_of(
        TINY, against=["tunix"], micro_batch_sizes=None, steps=1, folder=tmp_path, trl_python=Path("/trl/python")
    )
    assert list(engines["agent_tunix"]) == ["agent_tunix", "agent_tunix_micro_auto"]
    assert list(engines["tunix"]) == ["tunix", "tunix_micro_1"]
    assert grpo_step.engine_of("agent_tunix_micro_auto") == "agent_tunix"


def test_our_own_choice_is_that_of_a_run_which_leaves_it_open():
    # 16 prompts x (32 + 8 x 64) = 8,704 tokens are four parts of about two thousand, halved for two streams.
    own = grpo_engines.our_plan(WORKLOADS["W1"], 1, grpo_engines.OWN_CHOICE)
    assert (own.microbatches, own.streams) == (8, 2)
    assert grpo_engines.our_plan(WORKLOADS["W1"], 1, 16).microbatches == 1
    # 4 x (128 + 8 x 128) = 4,608 tokens; 33 million parameters are too many for streams.
    own = grpo_engines.our_plan(WORKLOADS["W2"], 1, grpo_engines.OWN_CHOICE)
    assert (own.microbatches, own.streams) == (4, 1)


def test_batches_are_tried_whole_and_in_quarters():
    assert grpo_step.micro_batches(WORKLOADS["W1"]) == [16, 4]
    assert grpo_step.micro_batches(WORKLOADS["W2"]) == [4, 1]
    assert grpo_step.micro_batches(WORKLOADS["W5"]) == [2, 1]


def test_trl_takes_part_where_its_environment_is():
    assert grpo_step.arguments(["--trl-python", "/nowhere/python"]).against == ["tunix"]
    assert grpo_step.arguments(["--trl-python", sys.executable]).against == ["tunix", "trl"]
    assert grpo_step.arguments(["--against", "none"]).against == []
    assert grpo_step.arguments([]).workload == ["W1", "W2", "W3", "W4", "W5"]


def test_ctrl_c_leaves_no_worker_behind():
    command = [sys.executable, str(SCRIPT), "--against", "none", "--workload", "tiny"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert "starts" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert "interrupted" in err
        assert "Traceback" not in err
        assert gone(process.pid, seconds=10)
    finally:
        if not gone(process.pid, seconds=0):
            os.killpg(process.pid, signal.SIGKILL)


def gone(group, *, seconds):
    """Whether a process group has no member left, or loses its last one in time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)


def run(*arguments, workload=TINY):
    command = [sys.executable, str(SCRIPT), "--workload", workload.name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_alone_our_loop_prints_its_own_numbers():
    result = run("--against", "none", "--steps", "2", "--warm-up", "1", "--micro-batch-sizes", "2")
    assert list(result["engines"]) == list(result["tried"]) == ["agent_tunix_micro_2"]
    assert result["ratio"] == {}
    (ours,) = result["engines"].values()
    assert ours["tokens_of_last_step"] == {"completions": 16, "prompt_tokens": 128, "completion_tokens": 192}
    assert ours["logged"] == {"rows": 3, "samples": 48}
    assert ours["first_step_seconds"] > ours["seconds"]["max"] > ours["split"]["rollout_s"] > 0
    assert 0 < ours["floor_share"]["max"] < 1 < result["matmul"]["gflops"]["min"]
    assert result["operations"]["floor_gflop"] == round(step_flops(TINY, [0])[0] / 1e9, 2)
    assert result["workload"] == dataclasses.asdict(TINY)


@pytest.mark.slow
@pytest.mark.parametrize("workload", [TINY, RAGGED], ids=lambda workload: workload.name)
def test_both_engines_do_the_same_work_side_by_side(workload):
    result = run("--against", "tunix", "--steps", "2", "--warm-up", "1", "--micro-batch-sizes", "2", workload=workload)
    ours, theirs = (result["engines"][name] for name in ("agent_tunix_micro_2", "tunix_micro_2"))
    # 64 x 16 embeddings; attention 16 x (16 + 8 + 8) + 16 x 16, MLP 3 x 16 x 32; norms 3 x 16 + 2 x 8.
    assert ours["parameters"] == theirs["parameters"] == 1024 + 768 + 1536 + 64
    assert ours["params_sha256"] == theirs["params_sha256"]
    assert ours["tokens_of_last_step"] == theirs["tokens_of_last_step"] == workload.tokens(2)
    for engine in (ours, theirs):
        assert abs(engine["kl"]["first"]) < 1e-6 < engine["kl"]["last"]  # starts at its reference, and moves away
    found = result["ratio"]["tunix"]
    assert (found["ours"], found["theirs"]) == ("agent_tunix_micro_2", "tunix_micro_2")
    assert len(found["seconds"]["pairs"]) == 2 and found["peak_memory"] > 0


# --- The page ---------------------------------------------------------------------------------------------------------


def result_of(workload, *, tunix, trl, share):
    """What the page reads of a result, with the given quotients."""
    spread = {"median": 1.0, "min": 0.5, "max": 2.0}
    engine = {"seconds": spread, "floor_share": {**spread, "median": share}, "cpu_seconds": 2.0, "peak_memory_gb": 1.5}
    engine |= {"first_step_seconds": 9.0, "split": {"rollout_s": 0.25}}
    ratio = {"tunix": tunix, "trl": trl}
    return {
        "workload": {"name": workload},
        "machine": {"cores": 2, "cpu": "XYZ", "memory_gb": 8.0},
        "versions": {"jax": "1.2.3"},
        "date": "2030-01-02T03:04:05",
        "matmul": {"gflops": {"median": 100.0, "min": 90.0, "max": 110.0}},
        "operations": {"floor_gflop": 50.0, "without_sharing_gflop": 75.0},
        "engines": {"agent_tunix_micro_auto": engine, "trl": engine | {"versions": {"trl": "9.9"}}},
        "tried": {"agent_tunix_micro_1": {"seconds": 1.0, "peak_memory_gb": 1.5}},
        "ratio": {
            name: {"seconds": {"median": value, "min": value / 2, "max": 2 * value}, "peak_memory": value}
            for name, value in ratio.items()
            if value is not None
        },
    }


def test_goals_are_judged_by_their_own_quantity():
    results = {
        "W1": result_of("W1", tunix=2.8, trl=1.99, share=0.5),
        "W2": result_of("W2", tunix=2.7, trl=2.3, share=0.65),
        "W5": result_of("W5", tunix=4.5, trl=None, share=0.1),
    }
    lines = performance_page.goal_table(results)
    assert "| W1 against Tunix | a step takes it 2.8 times as long | 2.80 times (1.40 to 5.60) | met |" in lines
    assert "| W1 against TRL | a step takes it 2 times as long | 1.99 times (0.99 to 3.98) | missed |" in lines
    assert "| W2 against the floor | at least 65% of the matrix products' peak | 65% | met |" in lines
    assert "| W5 against Tunix | at most 1/4 of its peak memory | 1/4.50 | met |" in lines
    assert "| W5 against TRL | at most 1/3 of its peak memory | | not measured |" in lines
    assert [goal.name for goal in performance_page.missed(results)] == ["W1 against TRL", "W2 against Tunix"]
    said = "\n\n**W1 against TRL** was missed because.\n"
    assert performance_page.unexplained(said, results) == ["W2 against Tunix"]


def test_tables_of_a_page_are_renewed_and_its_words_stay():
    results = {"W1": result_of("W1", tunix=3.0, trl=3.0, share=0.5)}
    empty = "\n".join(
        f"Words on {name}.\n\n<!-- table: {name} -->\nold\n<!-- end -->" for name in performance_page.TABLES
    )
    page = performance_page.renewed(empty, results)
    assert "old" not in page and all(f"Words on {name}." in page for name in performance_page.TABLES)
    assert "| W1 | agent_tunix, its own choice | 1 | 0.5 to 2 | 0.25 | 2 | 1.50 | 9 | 50% |" in page
    assert "| W1 | 50.0 | 75.0 | 100 | 90 to 110 | 0.5 |" in page
    assert "jax 1.2.3, trl 9.9" in page and "[W1](results/grpo_step_W1.json)" in page
    assert performance_page.renewed(page, results) == page
    with pytest.raises(ValueError, match="no place for the table `machine`"):
        performance_page.renewed("nothing", results)


def test_the_page_shows_the_numbers_of_the_result_files():
    page = performance_page.PAGE.read_text(encoding="utf-8")
    results = performance_page.read(performance_page.RESULTS)
    assert performance_page.renewed(page, results) == page, "stale: run python benchmarks/performance_page.py"


def test_every_missed_goal_has_its_reason_on_the_page():
    page = performance_page.PAGE.read_text(encoding="utf-8")
    assert performance_page.unexplained(page, performance_page.read(performance_page.RESULTS)) == []
