"""Stored rollouts under another reward."""

import json
import math

import numpy as np
import pytest

from agent_tunix import rescoring, rewards, runs
from agent_tunix.cli import main


def record(prompt, member, completion, reward, answer="4", step=0, **parts):
    return {
        "step": step, "batch": 0, "prompt_index": prompt, "completion_index": member, "prompt": f"p{prompt}",
        "completion": completion, "columns": {"answer": answer}, "length": len(completion), "truncated": False,
        "reward": reward, "parts": parts,
    }  # fmt: skip


SAMPLES = [
    record(0, 0, "<answer>4</answer>", 1.0, correctness=1.0, format=1.0),
    record(0, 1, "#### 4", 0.7, correctness=1.0, format=0.0),
    record(0, 2, "<answer>5</answer>", 0.3, correctness=0.0, format=1.0),
    record(1, 0, "no", 0.0, correctness=0.0, format=0.0, step=9),
    record(1, 1, "#### 4", 0.7, correctness=1.0, format=0.0, step=9),
    record(1, 2, "<answer>4", None, correctness=None, format=0.0, step=9),
]


def test_the_same_reward_changes_nothing():
    result = rescoring.rescore(SAMPLES[:3], rewards.default())
    assert result.mean_before == pytest.approx(2 / 3) and result.mean_after == pytest.approx(2 / 3)
    assert result.rank_correlation == pytest.approx(1.0) and result.rank_correlation_within == pytest.approx(1.0)
    assert (result.best_turned, result.worst_turned, result.lost, result.gained) == (0, 0, 0, 0)
    assert result.moved == () and result.parts_after["correctness"] == pytest.approx(2 / 3)


def test_another_reward_turns_groups_round():
    brief = rewards.per_completion(lambda response: -float(len(response)), name="brief")
    result = rescoring.rescore(SAMPLES, brief)
    # Group 0: the best completion is among the longest now; the worst is as long. Group 1: "no" beats "#### 4".
    assert (result.groups, result.best_turned, result.worst_turned) == (2, 2, 1)
    assert result.completions == 5 and result.gained == 1 and result.lost == 0
    assert result.rank_correlation_within < 0
    assert result.moved[0].after * result.moved[0].before < 0


def test_lost_values_are_counted_with_their_reasons():
    def picky(response):
        if "5" in response:
            raise RuntimeError("no fives")
        return 1.0

    result = rescoring.rescore(SAMPLES[:3], rewards.per_completion(picky))
    assert result.lost == 1 and result.failures == {"RuntimeError: no fives": 1}
    assert math.isnan(result.rank_correlation)
    assert (result.flat_before, result.flat_after) == (0.0, 1.0)


def test_other_weights_call_no_grader():
    result = rescoring.reweigh(SAMPLES, {"format": 1.0})
    assert result.mean_after == pytest.approx((1 + 0 + 1 + 0 + 0) / 5)
    assert result.parts_after == {"format": pytest.approx(2 / 6)}
    assert result.gained == 1  # the completion without correctness has a format
    with pytest.raises(ValueError, match="no part `forma` in these rollouts; there are: correctness, format"):
        rescoring.reweigh(SAMPLES, {"forma": 1.0})


def test_groups_are_found_again_after_refills_restart_their_numbers():
    again = [record(0, 0, "a", 0.0), record(0, 1, "b", 1.0), record(0, 0, "c", 1.0), record(0, 1, "d", 0.0)]
    unscored = [{key: value for key, value in record(0, n, "x", 0.0).items() if key != "reward"} for n in range(2)]
    result = rescoring.rescore([*again, *unscored], rewards.per_completion(lambda response: 1.0 * (response in "bc")))
    assert (result.groups, result.completions, result.rank_correlation) == (2, 4, pytest.approx(1.0))


def test_lengths_are_there_for_rewards_that_read_them():
    seen = []

    def score(rollouts):
        seen.append(rollouts.lengths.tolist())
        return rewards.default()(rollouts)

    rescoring.rescore(SAMPLES[:3], rewards.default().__class__("watching", score))
    assert seen == [[[18, 6, 18]]]


@pytest.mark.parametrize(("first", "second", "rho"), [([1, 2, 3], [1, 3, 2], 0.5), ([1, 1, 2], [3, 3, 1], -1.0)])
def test_rank_correlation_by_hand(first, second, rho):
    assert rescoring.spearman(np.array(first, float), np.array(second, float)) == pytest.approx(rho)


def test_nothing_to_compare_with_is_said():
    with pytest.raises(ValueError, match="no completion has a value under both"):
        rescoring.rescore([], rewards.default())


@pytest.fixture
def run(tmp_path):
    with runs.open_run(tmp_path / "run", config={"seed": 0}) as writer:
        writer.log_samples(SAMPLES)
    return writer.path


def test_the_command_compares_and_prints(run, tmp_path, capsys):
    assert main(["rescore", str(run), "--reward", "exact_answer"]) == 0
    out = capsys.readouterr().out
    assert "mean reward" in out and "part exact_answer: mean 0.500" in out
    assert main(["rescore", str(run), "--weights", "format=1", "--steps", ":5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["completions"] == 3 and document["parts_after"] == {"format": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "give either --reward or --weights"),
        (["--reward", "exact_answr"], 2, "did you mean `exact_answer`"),
        (["--weights", "format"], 2, "--weights is format"),
        (["--weights", "speed=1"], 1, "no part `speed`"),
        (["--weights", "format=1", "--steps", "5"], 2, "--steps is 5"),
        (["--reward", "check_numbers"], 1, "needs the column `expected_numbers`"),
    ],
)
def test_wrong_words_are_named(run, words, code, said, capsys):
    assert main(["rescore", str(run), *words]) == code
    assert said in capsys.readouterr().err
