import pytest

from agent_tunix import reward_analysis


def sample(completion, reward, *, correctness=0.0, truncated=False, step=0, member=0):
    return {
        "step": step,
        "completion_index": member,
        "prompt": "2+2=",
        "columns": {"answer": "4"},
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
    {
        "step": 0,
        "completion_index": 0,
        "prompt": "2+2=",
        "completion": "?",
        "truncated": False,
    },  # the reward failed before it was scored
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


def test_the_variance_is_split_between_prompts_and_within_groups():
    group = [sample("<answer>4</answer>", 1.0, correctness=1.0), sample("<answer>5</answer>", 0.3, member=1)]
    other = [sample("<answer>5</answer>", 0.3), sample("no", 0.0, member=1)]
    found = reward_analysis.analyse([*group, *other])["variance"]
    # Group means 0.65 and 0.15; within (0.35**2 * 2 + 0.15**2 * 2) / 4 = 0.0725, between 0.25**2 = 0.0625.
    assert found["within_groups"] == pytest.approx(0.0725) and found["between_groups"] == pytest.approx(0.0625)
    # The first group differs by correctness alone, the second by format alone: (0.7 * 0.5 * 0.35 * 2) / (4 * 0.0725).
    assert found["share_of_advantage"]["correctness"] == pytest.approx(0.245 / 0.29)
    assert sum(found["share_of_advantage"].values()) == pytest.approx(1.0)


def test_failure_patterns_are_counted_with_examples():
    wrong = ["<answer>-4</answer>", "4 or so", "", "<answer></answer>", "x\n" * 4, "It is 2+2= 4\n#### 5"]
    analysis = reward_analysis.analyse([sample(text, 0.0) for text in wrong] + SAMPLES[:1])
    patterns = {name: row["count"] for name, row in analysis["failure_patterns"].items()}
    assert patterns["sign of the answer flipped"] == 1 and patterns["states an empty answer"] == 1
    assert patterns["empty"] == 1 and patterns["repeats a line four times"] == 1
    assert patterns["holds the answer but does not state it"] == 3  # -4 holds a 4 as well
    assert patterns["states no answer"] == 3
    assert analysis["failure_patterns"]["empty"]["fraction"] == pytest.approx(1 / 6)
    assert "of what is not right" in reward_analysis.table(analysis)


def test_grader_failures_and_the_course_of_training_are_told():
    failed = sample("x", None) | {"failures": {"judge": "TimeoutError: 1 s"}}
    analysis = reward_analysis.analyse([failed, failed, *(sample("x", step / 20, step=step) for step in range(20))])
    assert analysis["grader_failures"] == {"judge": {"TimeoutError: 1 s": 2}}
    stages = analysis["over_training"]
    assert len(stages) == 10 and (stages[0]["first_step"], stages[-1]["last_step"]) == (0, 19)
    assert stages[0]["mean"] == pytest.approx(0.025) and stages[-1]["max"] == pytest.approx(0.95)
