import pytest

from agent_tunix import reward_analysis


def sample(completion, reward, *, correctness=0.0, truncated=False, step=0):
    return {
        "step": step,
        "prompt": "2+2=",
        "completion": completion,
        "reward": reward,
        "parts": {"format": 1.0 if completion.startswith("<answer>") else 0.0, "correctness": correctness},
        "truncated": truncated,
    }


SAMPLES = [
    sample("<answer>4</answer>", 1.0, correctness=1.0),
    sample("<answer>4</answer>", 1.0, correctness=1.0),
    sample("<answer>5</answer>", 0.3),
    sample("well, #### 4", 0.7, correctness=1.0),
    sample("it is four", 0.0),
    sample("<answer>4", 0.0, truncated=True),
    {"step": 0, "prompt": "2+2=", "completion": "?", "truncated": False},  # the reward failed before it was scored
]


def test_moments_are_those_worked_out_by_hand():
    # Values 0 0 0 1: mean 1/4, variance 3/16, third moment 3/32, skewness (3/32) / (3/16)**1.5 = 2 / sqrt(3).
    found = reward_analysis.distribution([0.0, 0.0, 0.0, 1.0])
    assert found["variance"] == pytest.approx(3 / 16)
    assert found["skewness"] == pytest.approx(2 / 3**0.5)
    assert reward_analysis.distribution([2.0, 2.0])["skewness"] == 0.0
    assert reward_analysis.distribution([]) == {"count": 0}


def test_completions_are_sorted_into_kinds_by_what_went_wrong_first():
    kinds = reward_analysis.analyse(SAMPLES)["kinds"]
    assert {name: row["count"] for name, row in kinds.items()} == {
        "right answer in format": 2,
        "wrong answer in format": 1,
        "right answer, format not kept": 1,
        "states no answer": 1,
        "cut off by the token budget": 1,
    }
    assert kinds["right answer in format"]["mean_reward"] == 1.0
    assert sum(row["fraction"] for row in kinds.values()) == pytest.approx(1.0)


def test_unscored_rollouts_are_counted_and_enter_nothing():
    analysis = reward_analysis.analyse(SAMPLES)
    assert (analysis["completions"], analysis["unscored"], analysis["reward"]["count"]) == (7, 1, 6)
    assert analysis["reward"]["mean"] == pytest.approx(3.0 / 6)


def test_extremes_show_different_completions():
    analysis = reward_analysis.analyse(SAMPLES)
    assert [item["completion"] for item in analysis["highest"]][:2] == ["<answer>4</answer>", "well, #### 4"]
    assert analysis["lowest"][0]["reward"] == 0.0
    assert len({item["completion"] for item in analysis["highest"]}) == len(analysis["highest"])


def test_the_table_names_every_part_and_kind():
    table = reward_analysis.table(reward_analysis.analyse(SAMPLES))
    for word in ("total", "format", "correctness", "skewness", "right answer in format", "cut off by the token budget"):
        assert word in table


def test_nothing_scored_is_no_error():
    analysis = reward_analysis.analyse(SAMPLES[-1:])
    assert analysis["kinds"] == {}
    assert "reward" in reward_analysis.table(analysis)
