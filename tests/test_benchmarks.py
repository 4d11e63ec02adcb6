import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import grpo_step  # noqa: E402
from grpo_engines import WORKLOADS, PrivateTokenizer, reward_of, rows_of  # noqa: E402
from side_by_side import BenchmarkError, Measurement, measure  # noqa: E402

SCRIPT = FOLDER / "grpo_step.py"
TINY = WORKLOADS["tiny"]


def reported(workload=TINY, *, seconds=(1.0, 1.0), tokens=None, logged=None, **ready):
    """A measurement of one warm-up step and the given steps."""
    step = {"tokens": tokens or workload.tokens, "cpu_seconds": 1.5, "idle_cpu_seconds": 0.0, "peak_memory_gb": 0.25}
    steps = [{**step, "seconds": value, "split": {"rollout_s": value / 4}} for value in seconds]
    facts = {"parameters": 10, "dtypes": ["float32"], "params_sha256": "a", "backend": "cpu", "loss": {}}
    final = {} if logged is None else {"logged": logged}
    warm_up = [{**step, "seconds": 9.0, "split": {"rollout_s": 5.0}}]
    return Measurement({**facts, "configuration": {}, **ready}, warm_up, steps, final)


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


def test_the_fastest_of_ours_is_set_against_the_fastest_of_theirs():
    measured = {
        "agent_tunix": reported(seconds=(5.0, 5.0)),
        "agent_tunix_micro_1": reported(seconds=(1.0, 2.0)),
        "tunix": reported(seconds=(4.0, 4.0)),
        "tunix_micro_1": reported(seconds=(3.0, 3.0)),
    }
    out = grpo_step.ratios(measured)
    assert (out["ours"], out["theirs"]) == ("agent_tunix_micro_1", "tunix_micro_1")
    assert out["median"] == 2.25  # 3/1 and 3/2
    assert out["all"]["tunix"]["median"] == 3.0  # 4/1 and 4/2


def test_alone_there_is_no_ratio():
    assert grpo_step.ratios({"agent_tunix": reported()}) is None


def test_summary_leaves_the_compiling_step_out_of_the_median():
    out = grpo_step.summary(reported(seconds=(1.0, 2.0, 6.0)))
    assert out["seconds"] == {"median": 2.0, "min": 1.0, "max": 6.0}
    assert out["first_step_seconds"] == 9.0
    assert out["split"] == {"rollout_s": 0.5}
    assert (out["cpu_seconds"], out["peak_memory_gb"], out["parameters"]) == (1.5, 0.25, 10)


def test_tokens_of_the_workloads_are_those_of_the_table():
    # 16 prompts x 8 = 128 rows of 32 + 64 tokens; 4 x 8 = 32 rows of 128 + 128.
    assert WORKLOADS["W1"].tokens == {"completions": 128, "prompt_tokens": 4096, "completion_tokens": 8192}
    assert WORKLOADS["W2"].tokens == {"completions": 32, "prompt_tokens": 4096, "completion_tokens": 4096}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"parameters": 11}, "differ in parameters"),
        ({"params_sha256": "b"}, "differ in params_sha256"),
        ({"dtypes": ["bfloat16"]}, "differ in dtypes"),
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


@pytest.mark.parametrize("vocab_size", [64, 512, 32_768])
def test_private_tokens_turn_into_text_and_back(vocab_size):
    tokenizer = PrivateTokenizer(vocab_size)
    ids = [*range(0, vocab_size, 37), vocab_size - 1]
    text = tokenizer.decode(ids)
    assert len(text) == len(ids)
    assert tokenizer.encode(text) == ids
    assert tokenizer.token_id(tokenizer.decode([5])) == 5
    assert min(tokenizer.pad_id(), tokenizer.eos_id()) >= vocab_size  # neither can be sampled
    assert tokenizer.pad_id() != tokenizer.eos_id()


def test_prompts_are_full_length_and_the_reward_tells_completions_apart():
    tokenizer, rows = PrivateTokenizer(TINY.vocab_size), rows_of(TINY)
    assert {len(tokenizer.encode(row["prompt"])) for row in rows} == {TINY.prompt_tokens - 1}  # one is the beginning
    assert all(tokenizer.bos_id() not in tokenizer.encode(row["prompt"]) for row in rows)
    assert reward_of(TINY)(tokenizer.decode([0, 31, 32, 63])) == 0.5  # 64 ids: two of four in the lower half


def test_engines_step_in_turn_and_never_together(tmp_path):
    path = tmp_path / "work"
    engines = {name: partial(recording_engine, path, name, seconds, 4) for name, seconds in (("a", 0.02), ("b", 0.06))}
    measured = measure(engines, warm_up=1, steps=3, folder=tmp_path)
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [name + number for name, number, *_ in lines] == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]
    ends = [float(end) for *_, end in lines]
    assert all(float(begin) >= end for (_, _, begin, _), end in zip(lines[1:], ends))
    assert [step["number"] for step in measured["b"].steps] == [1, 2, 3]
    assert all(step["seconds"] >= 0.06 for step in measured["b"].steps)
    assert measured["a"].ready["name"] == "a" and measured["a"].final == {"steps": 4}


@pytest.mark.parametrize(
    ("engine", "message"),
    [(failing_engine, "broken died with exit code 1.*no such kernel"), (vanishing_engine, "code -9.*the last words")],
)
def test_a_dead_worker_is_reported_with_its_last_words(tmp_path, engine, message):
    with pytest.raises(BenchmarkError, match=f"(?s){message}"):
        measure({"broken": engine}, warm_up=1, steps=1, folder=tmp_path)


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
    "argv", [["--steps", "0"], ["--workload", "W1", "--micro-batch-sizes", "3"], ["--against", "x"]]
)
def test_arguments_that_mean_nothing_are_refused(argv):
    with pytest.raises(SystemExit) as stopped:
        grpo_step.arguments(argv)
    assert stopped.value.code == 2


def test_every_engine_is_tried_with_every_micro_batch_size(tmp_path):
    engines = grpo_step.engines_of(TINY, against="tunix", micro_batch_sizes=[4, 2], steps=1, folder=tmp_path)
    assert list(engines) == ["agent_tunix", "agent_tunix_micro_2", "tunix", "tunix_micro_2"]


def test_batches_are_tried_whole_and_in_quarters():
    assert grpo_step.arguments([]).micro_batch_sizes == [16, 4]
    assert grpo_step.arguments(["--workload", "W2"]).micro_batch_sizes == [4, 1]


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


def run(*arguments):
    command = [sys.executable, str(SCRIPT), "--workload", "tiny", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_alone_our_loop_prints_its_own_numbers():
    result = run("--against", "none", "--steps", "2", "--warm-up", "1", "--micro-batch-sizes", "2")
    assert list(result["engines"]) == ["agent_tunix_micro_2"]
    assert result["ratio"] is None
    (ours,) = result["engines"].values()
    assert ours["configuration"]["microbatches"] == 2  # two of two prompts
    assert ours["tokens_per_step"] == {"completions": 16, "prompt_tokens": 128, "completion_tokens": 192}
    assert ours["logged"] == {"rows": 3, "samples": 48}
    assert ours["first_step_seconds"] > ours["seconds"]["max"] > ours["split"]["rollout_s"] > 0
    assert result["workload"] == dataclasses.asdict(TINY)


@pytest.mark.slow
def test_both_engines_do_the_same_work_side_by_side():
    result = run("--against", "tunix", "--steps", "2", "--warm-up", "1", "--micro-batch-sizes", "2")
    ours, theirs = (result["engines"][name] for name in ("agent_tunix_micro_2", "tunix_micro_2"))
    # 64 x 16 embeddings; attention 16 x (16 + 8 + 8) + 16 x 16, MLP 3 x 16 x 32; norms 3 x 16 + 2 x 8.
    assert ours["parameters"] == theirs["parameters"] == 1024 + 768 + 1536 + 64
    assert ours["params_sha256"] == theirs["params_sha256"]
    assert ours["tokens_per_step"] == theirs["tokens_per_step"] == TINY.tokens
    for engine in (ours, theirs):
        assert abs(engine["kl"]["first"]) < 1e-6 < engine["kl"]["last"]  # starts at its reference, and moves away
    assert (result["ratio"]["ours"], result["ratio"]["theirs"]) == ("agent_tunix_micro_2", "tunix_micro_2")
    assert len(result["ratio"]["pairs"]) == 2
