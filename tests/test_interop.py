"""Reward functions of TRL and verl, unchanged, and ours called by Tunix itself."""

import dataclasses
import functools
import logging
import types

import numpy as np
import pytest

from agent_tunix import rewards
from agent_tunix.types import Bounds, Outcome, Rollouts

GRADED, ABSTAINED, FAILED, TIMED_OUT = Outcome


def rollouts(completions, **columns):
    """Rollouts of texts, `completions[prompt][member]`, whose tokens are their characters."""
    shape = (len(completions), len(completions[0]))
    width = max(len(text) for group in completions for text in group) + 1
    mask = np.array([[[at < len(text) for at in range(width)] for text in group] for group in completions])
    ids = np.zeros(mask.shape, np.int32)
    ids[mask] = [ord(letter) for group in completions for text in group for letter in text]
    return Rollouts(
        prompts=[f"question {prompt}" for prompt in range(shape[0])],
        completions=completions,
        columns=columns,
        prompt_ids=np.zeros((shape[0], 1), np.int32),
        prompt_mask=np.ones((shape[0], 1), bool),
        completion_ids=ids,
        completion_mask=mask,
        truncated=np.zeros(shape, bool),
        logprobs=np.zeros(mask.shape, np.float32),
        old_logprobs=np.zeros(mask.shape, np.float32),
    )


TWO_BY_TWO = rollouts([["a", "bb"], ["ccc", "dddd"]], answer=["bb", "x"], level=[1, 2])


# --- TRL: the signatures of trl/rewards/*.py and of its documentation -------------------------------------------------


def accuracy_reward(completions, solution, log_extra=None, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    if log_extra is not None:
        log_extra("solution", list(solution))
        log_extra("gold_length", [len(gold) for gold in solution])
    return [None if gold == "x" else float(text == gold) for text, gold in zip(contents, solution, strict=True)]


def think_format_reward(completions, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if text.startswith("<think>") and "</think>" in text else 0.0 for text in contents]


def get_soft_overlong_punishment(max_completion_len, soft_punish_cache):
    def soft_overlong_punishment_reward(completion_ids, **kwargs):
        """Nothing up to the cache, then down to -1 at the limit."""
        over = [len(ids) - (max_completion_len - soft_punish_cache) for ids in completion_ids]
        return [max(-1.0, -extra / soft_punish_cache) if extra > 0 else 0.0 for extra in over]

    return soft_overlong_punishment_reward


class CosineScaledReward:
    __name__ = "cosine_scaled_reward"

    def __call__(self, completions, solution, completion_ids, **kwargs):
        right = accuracy_reward(completions, solution)
        return [None if value is None else value / len(ids) for value, ids in zip(right, completion_ids, strict=True)]


def test_trl_accuracy_reward_reads_chat_messages_and_abstains():
    reward = rewards.from_trl(accuracy_reward, chat=True, columns={"solution": "answer"}, bounds=(0, 1))
    score = reward(TWO_BY_TWO)
    np.testing.assert_array_equal(score.value, [[0, 1], [0, 0]])
    np.testing.assert_array_equal(score.valid, [[True, True], [False, False]])
    np.testing.assert_array_equal(score.outcomes["accuracy_reward"], [[GRADED, GRADED], [ABSTAINED, ABSTAINED]])
    assert (reward.name, reward.bounds) == ("accuracy_reward", Bounds(0, 1))


def test_trl_extra_columns_of_numbers_become_parts_and_text_does_not():
    score = rewards.from_trl(accuracy_reward, chat=True, columns={"solution": "answer"}, name="acc")(TWO_BY_TWO)
    assert list(score.parts) == ["acc", "acc/gold_length"] == list(score.outcomes)
    np.testing.assert_array_equal(score.parts["acc/gold_length"], [[2, 2], [1, 1]])
    assert (score.outcomes["acc/gold_length"] == GRADED).all()


def test_trl_format_reward_is_worked_out_by_hand():
    batch = rollouts([["<think>a</think>b", "b"]])
    assert rewards.from_trl(think_format_reward, chat=True)(batch).value.tolist() == [[1, 0]]


def test_trl_overlong_punishment_counts_the_tokens_under_the_mask():
    # Limit 4, cache 2: lengths 1, 2, 3, 4 give 0, 0, -1/2, -1; length 5 stays at -1.
    reward = rewards.from_trl(get_soft_overlong_punishment(4, 2))
    assert reward.name == "soft_overlong_punishment_reward"
    np.testing.assert_array_equal(reward(TWO_BY_TWO).value, [[0, 0], [-0.5, -1]])
    assert reward(rollouts([["eeeee"]])).value.tolist() == [[-1]]


def test_trl_objects_and_partials_have_names():
    reward = rewards.from_trl(CosineScaledReward(), chat=True, columns={"solution": "answer"})
    assert reward.name == "cosine_scaled_reward"
    np.testing.assert_array_equal(reward(TWO_BY_TWO).value, [[0, 0.5], [0, 0]])

    class Nameless:
        def __call__(self, completions, **kwargs):
            return [0.0] * len(completions)

    assert rewards.from_trl(functools.partial(Nameless())).name == "Nameless"
    assert rewards.from_trl(functools.partial(think_format_reward, unused=1)).name == "think_format_reward"


def test_trl_functions_get_everything_the_trainer_passes():
    seen = []

    def full(prompts, completions, completion_ids, trainer_state, **kwargs):
        seen.append((prompts, completions, completion_ids, trainer_state.global_step, kwargs))
        return [0.0] * len(prompts)

    reward = rewards.from_trl(full, gain=2)
    reward(TWO_BY_TWO)
    reward(TWO_BY_TWO)
    prompts, completions, ids, step, rest = seen[1]
    assert prompts == ["question 0", "question 0", "question 1", "question 1"]
    assert completions == ["a", "bb", "ccc", "dddd"]
    assert ids == [[97], [98, 98], [99, 99, 99], [100, 100, 100, 100]]
    assert [entry[3] for entry in seen] == [0, 1] and step == 1
    assert rest["answer"] == ["bb", "bb", "x", "x"] and rest["level"] == [1, 1, 2, 2]
    assert set(rest) == {"answer", "level", "log_extra", "log_metric", "gain"} and rest["gain"] == 2
    stepped = rewards.from_trl(lambda trainer_state, **kwargs: [trainer_state.global_step] * 4, step=lambda: 70)
    assert stepped(TWO_BY_TWO).value.tolist() == [[70, 70], [70, 70]]


def test_trl_chat_prompts_are_messages_of_the_user():
    seen = []
    rewards.from_trl(lambda prompts, **kwargs: seen.extend(prompts) or [0.0] * 4, chat=True)(TWO_BY_TWO)
    assert seen[0] == [{"role": "user", "content": "question 0"}]


def test_trl_functions_without_kwargs_get_what_they_name():
    by_level = rewards.from_trl(
        lambda completions, level, scale=10: [scale * value for value in level], name="by_level"
    )
    np.testing.assert_array_equal(by_level(TWO_BY_TWO).value, [[10, 10], [20, 20]])


def test_trl_columns_that_are_missing_are_named_before_the_call():
    with pytest.raises(ValueError, match=r"reward `accuracy_reward` needs `solution`, which is neither .* answer,"):
        rewards.from_trl(accuracy_reward, chat=True)(TWO_BY_TWO)
    with pytest.raises(ValueError, match=r"needs the column `anser`.*did you mean `answer`"):
        rewards.from_trl(accuracy_reward, columns={"solution": "anser"})(TWO_BY_TWO)
    texts_alone = dataclasses.replace(TWO_BY_TWO, completion_ids=np.zeros((2, 2, 0), np.int32))
    with pytest.raises(ValueError, match="needs `completion_ids`"):
        rewards.from_trl(get_soft_overlong_punishment(4, 2))(texts_alone)


def test_trl_functions_that_raise_fail_and_are_no_zero():
    def broken(completions, **kwargs):
        raise OSError("no verifier")

    score = rewards.from_trl(broken)(TWO_BY_TWO)
    assert (score.outcomes["broken"] == FAILED).all() and not score.valid.any()
    assert {failure.reason for failure in score.failures} == {"OSError: no verifier"}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, float("nan"), 0, 0], "returned nan for prompt 0, completion 1"),
        ([1.0], "1 entries for 4"),
        ([2.0] * 4, "bounds"),
    ],
)
def test_trl_results_are_checked_like_all_others(returned, message):
    with pytest.raises(ValueError, match=message):
        rewards.from_trl(lambda completions, **kwargs: returned, bounds=(0, 1))(TWO_BY_TWO)


def test_trl_metrics_go_to_the_log(caplog):
    def logs(completions, log_metric, **kwargs):
        log_metric("share", 0.25)
        return [0.0] * len(completions)

    with caplog.at_level(logging.INFO, logger="agent_tunix"):
        rewards.from_trl(logs)(TWO_BY_TWO)
    assert "logs/share: 0.25" in caplog.text


def test_trl_parts_keep_their_names_from_batch_to_batch(caplog):
    logged = iter([{"hits": [1, 2, None, True]}, {}, {"late": [1, 2, 3, 4], "hits": [5, 6, 7]}])

    def changing(completions, log_extra, **kwargs):
        for column, values in next(logged).items():
            log_extra(column, values)
        return [None, 0.0, 0.0, 0.0]

    reward = rewards.from_trl(changing)
    first, second, third = reward(TWO_BY_TWO), reward(TWO_BY_TWO), reward(TWO_BY_TWO)
    np.testing.assert_array_equal(first.parts["changing/hits"], [[1, 2], [np.nan, 1]])
    np.testing.assert_array_equal(first.outcomes["changing/hits"], [[GRADED, GRADED], [ABSTAINED, GRADED]])
    for later in (second, third):
        assert list(later.parts) == ["changing", "changing/hits"] and np.isnan(later.parts["changing/hits"]).all()
    assert "logged 3 values of `hits` for 4 completions" in caplog.text
    assert "gave `late` after its first batch" in caplog.text


def test_trl_coroutine_functions_are_awaited():
    async def remote(completions, log_extra, **kwargs):
        log_extra("length", [len(text) for text in completions])
        return [0.5 * len(text) for text in completions]

    score = rewards.from_trl(remote)(TWO_BY_TWO)
    np.testing.assert_array_equal(score.value, [[0.5, 1], [1.5, 2]])
    np.testing.assert_array_equal(score.parts["remote/length"], [[1, 2], [3, 4]])


def test_trl_rewards_combine_with_ours():
    both = rewards.weighted_sum(
        (1.0, rewards.from_trl(get_soft_overlong_punishment(4, 2), name="overlong", bounds=(-1, 0))),
        (2.0, rewards.per_completion(lambda completion, answer: completion == answer, "answer", name="right")),
    )
    np.testing.assert_array_equal(both(TWO_BY_TWO).value, [[0, 2], [-0.5, -1]])


# --- verl -------------------------------------------------------------------------------------------------------------


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """The documented signature of a custom reward function."""
    if data_source == "broken":
        raise NotImplementedError(f"Reward function is not implemented for {data_source=}")
    return 1.0 if solution_str == ground_truth else 0.0


def test_verl_functions_get_their_four_arguments():
    seen = []

    def spy(data_source, solution_str, ground_truth, extra_info=None):
        seen.append((data_source, solution_str, ground_truth, extra_info))
        extra_info["spoiled"] = True
        return 0.0

    rewards.from_verl(spy, data_source="openai/gsm8k")(TWO_BY_TWO)
    row = {"answer": "bb", "level": 1, "spoiled": True}
    assert seen[:2] == [("openai/gsm8k", "a", "bb", row), ("openai/gsm8k", "bb", "bb", row)]
    assert seen[0][3] is not seen[1][3] and "spoiled" not in TWO_BY_TWO.columns


def test_verl_rows_are_read_where_verl_keeps_them():
    seen = []

    def spy(data_source, solution_str, ground_truth, extra_info=None):
        seen.append((data_source, ground_truth, extra_info))
        return float(solution_str == ground_truth)

    verl = {
        "data_source": ["s0", "s1"],
        "reward_model": [{"style": "rule", "ground_truth": "a"}, {"style": "rule", "ground_truth": "dddd"}],
        "extra_info": [{"index": 0}, None],
    }
    reward = rewards.from_verl(spy)
    np.testing.assert_array_equal(reward(dataclasses.replace(TWO_BY_TWO, columns=verl)).value, [[1, 0], [0, 1]])
    assert seen == [("s0", "a", {"index": 0})] * 2 + [("s1", "dddd", None)] * 2
    truths = dataclasses.replace(TWO_BY_TWO, columns=verl | {"ground_truth": ["bb", "ccc"]})
    np.testing.assert_array_equal(reward(truths).value, [[0, 1], [1, 0]])
    other = rewards.from_verl(spy, answer="gold")
    np.testing.assert_array_equal(other(rollouts([["a", "b"]], gold=["b"])).value, [[0, 1]])
    with pytest.raises(ValueError, match="needs the column `answer`"):
        reward(rollouts([["a", "b"]], gold=["b"]))


def test_verl_scorers_with_fewer_parameters_work_unchanged():
    def gsm8k_score(solution_str, ground_truth, method="strict", format_score=0.0, score=1.0):
        return score if solution_str == ground_truth else format_score

    np.testing.assert_array_equal(rewards.from_verl(gsm8k_score)(TWO_BY_TWO).value, [[0, 1], [0, 0]])
    partial = functools.partial(gsm8k_score, format_score=0.5)
    np.testing.assert_array_equal(rewards.from_verl(partial)(TWO_BY_TWO).value, [[0.5, 1], [0.5, 0.5]])
    with pytest.raises(ValueError, match="reward `lambda` needs `tokenizer`"):
        rewards.from_verl(lambda solution_str, tokenizer: 0.0)(TWO_BY_TWO)


def test_verl_dictionaries_become_a_value_and_parts():
    def detailed(data_source, solution_str, ground_truth, extra_info=None):
        right = solution_str == ground_truth
        detail = {"score": 2.0 * right - 1, "acc": right, "pred": solution_str, "tokens": len(solution_str)}
        return detail if solution_str != "ccc" else {"score": None}

    score = rewards.from_verl(detailed, name="math", bounds=(-1, 1))(TWO_BY_TWO)
    assert list(score.parts) == ["math", "math/acc", "math/tokens"] == list(score.outcomes)
    np.testing.assert_array_equal(score.value, [[-1, 1], [0, -1]])
    np.testing.assert_array_equal(score.valid, [[True, True], [False, True]])
    np.testing.assert_array_equal(score.parts["math/acc"], [[0, 1], [np.nan, 0]])
    np.testing.assert_array_equal(score.parts["math/tokens"], [[1, 2], [np.nan, 4]])
    np.testing.assert_array_equal(score.outcomes["math/tokens"], [[GRADED, GRADED], [ABSTAINED, GRADED]])


def test_verl_failures_stay_apart_from_zeros():
    batch = dataclasses.replace(TWO_BY_TWO, columns={"answer": ["bb", "x"], "data_source": ["fine", "broken"]})
    score = rewards.from_verl(compute_score)(batch)
    np.testing.assert_array_equal(score.outcomes["compute_score"], [[GRADED, GRADED], [FAILED, FAILED]])
    np.testing.assert_array_equal(score.value, [[0, 1], [0, 0]])
    assert score.failures[0].reason.startswith("NotImplementedError: Reward function is not implemented")


def test_verl_parts_of_failed_calls_have_failed_too():
    def half(solution_str):
        if len(solution_str) > 2:
            raise ValueError("long")
        return {"score": 1, "acc": True, "huge": 10**400, "odd": float("inf")}

    score = rewards.from_verl(half)(TWO_BY_TWO)
    assert list(score.parts) == ["half", "half/acc"]
    np.testing.assert_array_equal(score.outcomes["half/acc"], [[GRADED, GRADED], [FAILED, FAILED]])
    assert {failure.part for failure in score.failures} == {"half"}


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ({"acc": 1.0}, ValueError, "reward `odd` returned a dictionary with acc; add `score`"),
        ({"score": float("nan")}, ValueError, "returned nan for prompt 0, completion 0"),
        (float("nan"), ValueError, "returned nan"),
        (2.0, ValueError, "outside its bounds"),
        ("1", TypeError, r"returned '1' \(str\)"),
        ([], TypeError, r"returned \[\] \(list\)"),
    ],
)
def test_verl_results_are_checked_like_all_others(returned, error, message):
    with pytest.raises(error, match=message):
        rewards.from_verl(lambda solution_str: returned, name="odd", bounds=(0, 1))(TWO_BY_TWO)


def test_verl_tuples_count_by_their_first_entry_and_none_abstains():
    assert rewards.from_verl(lambda solution_str: (True, "4"))(TWO_BY_TWO).value.tolist() == [[1, 1], [1, 1]]
    assert (rewards.from_verl(lambda solution_str: None)(TWO_BY_TWO).outcomes["lambda"] == ABSTAINED).all()


def test_verl_coroutine_functions_are_awaited():
    async def remote(data_source, solution_str, ground_truth, extra_info=None):
        return {"score": len(solution_str), "acc": solution_str == ground_truth}

    score = rewards.from_verl(remote)(TWO_BY_TWO)
    np.testing.assert_array_equal(score.value, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(score.parts["remote/acc"], [[0, 1], [0, 0]])


# --- Tunix ------------------------------------------------------------------------------------------------------------


def tunix_manager(*functions):
    from tunix.rl.grpo.grpo_learner import GRPOConfig
    from tunix.rl.reward_manager import SequenceRewardManager

    return SequenceRewardManager(list(functions), GRPOConfig(num_generations=2))


def test_tunix_itself_calls_our_rewards():
    function = rewards.as_tunix(rewards.default(), group_size=2)
    always = rewards.as_tunix(
        rewards.per_completion(lambda completion, beta: beta, "beta", name="column"), group_size=2
    )
    texts = ["<answer>4</answer>", "#### 5", "none", "#### 6"]
    out = tunix_manager(function, always)(["q", "q", "r", "r"], texts, answer=["4", "4", "6", "6"], beta=[3, 3, 5, 5])
    # 0.3 format + 0.7 correctness, and a column that bears the name of a setting of GRPO: 1 + 3, 0 + 3, 0 + 5, 0.7 + 5
    assert out["rewards"] == pytest.approx([4, 3, 5, 5.7], abs=1e-6)
    assert out["log_metrics"]["rewards/default"][0] == pytest.approx([1, 0, 0, 0.7], abs=1e-6)
    assert out["log_metrics"]["rewards/column"][0].tolist() == [3, 3, 5, 5]


def test_tunix_gets_an_error_and_no_zero_from_a_failed_grader():
    def broken(completion):
        raise OSError("down")

    with pytest.raises(ValueError, match=r"`broken` has no value for 2 of 2 .*OSError: down"):
        tunix_manager(rewards.as_tunix(rewards.per_completion(broken)))(["q", "q"], ["a", "b"])


def test_chat_messages_become_their_text():
    seen = []

    def score(batch):
        seen.append((batch.prompts, batch.completions))
        return rewards.per_completion(len)(batch)

    function = rewards.as_tunix(type(rewards.default())("length", score))
    prompts = [[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "plain"]
    completions = [[{"role": "assistant", "content": "four"}], "ab"]
    assert function(prompts, completions) == [4.0, 2.0]
    assert seen == [(["u", "plain"], [["four"], ["ab"]])]


def test_a_reward_from_trl_goes_on_to_tunix_and_back():
    ours = rewards.from_trl(think_format_reward, chat=True)
    function = rewards.as_tunix(ours)
    assert function(["q", "q"], ["<think>a</think>", "b"]) == [1.0, 0.0]
    again = rewards.from_trl(function)
    batch = rollouts([["<think>a</think>", "b"]])
    assert again.name == "think_format_reward" and again(batch).value.tolist() == ours(batch).value.tolist()
    assert isinstance(function, types.FunctionType)
