import logging

import jax
import numpy as np
import pytest

from agent_tunix import data, supervised
from agent_tunix.errors import RunError
from agent_tunix.supervised import Demonstrations, cross_entropy, fitting, warm_start

ROWS, PROMPT, TOKENS = 8, 16, 24
SETTINGS = {
    "steps": 12,
    "rows_per_batch": ROWS,
    "learning_rate": 0.02,
    "warmup_steps": 2,
    "final_fraction": 0.1,
    "max_prompt_tokens": PROMPT,
    "max_completion_tokens": TOKENS,
    "overlong_prompts": "raise",
    "seed": 0,
}


@pytest.fixture(scope="module")
def start(policy, params, tokenizer, rows):
    """`(trained, losses)` of a warm start with changed settings."""

    def run(rows=rows, **changes):
        losses = []
        out = warm_start(
            policy,
            params,
            rows,
            tokenizer,
            **SETTINGS | changes,
            on_step=lambda step, loss: losses.append((step, loss)),
        )
        return out, losses

    return run


@pytest.fixture(scope="module")
def trained(start):
    return start()


@pytest.fixture(scope="module")
def loss(policy):
    return jax.jit(lambda params, batch: cross_entropy(policy, params, batch))


def encoded(tokenizer, rows, width=TOKENS):
    prompts = data.encode_prompts(tokenizer, [row["prompt"] for row in rows], max_tokens=PROMPT, overlong="raise")
    shown = data.encode_completions(tokenizer, [row["demonstration"] for row in rows], max_tokens=width)
    return Demonstrations(prompts.ids, prompts.mask, shown.ids, shown.mask)


def leaves(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_cross_entropy_is_the_mean_over_demonstrated_tokens(policy, params, tokenizer, rows, loss):
    batch = encoded(tokenizer, [rows[0], {**rows[1], "demonstration": "7"}])
    logprobs, _ = jax.jit(policy.logprobs)(params, *batch[:2], batch.completion_ids[:, None])
    logprobs = np.asarray(logprobs, np.float64)[:, 0]
    long, short = batch.completion_mask.sum(-1)
    assert short == 2  # the digit and the end-of-sequence token
    total = logprobs[0, :long].sum() + logprobs[1, :2].sum()
    assert loss(params, batch) == pytest.approx(-total / (long + 2), abs=1e-5)


def test_an_untrained_policy_is_about_as_good_as_guessing(params, tokenizer, rows, loss):
    assert loss(params, encoded(tokenizer, rows[:2])) == pytest.approx(np.log(tokenizer.vocab_size), abs=0.5)


def test_padding_carries_no_loss(params, tokenizer, rows, loss):
    narrow, wide = encoded(tokenizer, rows[:2]), encoded(tokenizer, rows[:2], TOKENS + 9)
    assert loss(params, narrow) == pytest.approx(float(loss(params, wide)), abs=1e-5)
    scribbled = narrow._replace(completion_ids=np.where(narrow.completion_mask, narrow.completion_ids, 50))
    assert float(loss(params, narrow)) == float(loss(params, scribbled))


def test_a_batch_without_any_token_has_no_loss(params, tokenizer, rows, loss):
    batch = encoded(tokenizer, rows[:2])
    assert loss(params, batch._replace(completion_mask=np.zeros_like(batch.completion_mask))) == 0.0


def test_the_loss_falls_on_rows_it_was_not_trained_on(trained, params, tokenizer, rows, loss):
    after, losses = trained
    assert [step for step, _ in losses] == list(range(1, 13))
    assert losses[-1][1] < 0.75 * losses[0][1]
    unseen = [{"prompt": "9 1 7 2 8=", "demonstration": "<answer>1 2 7 8 9</answer>"}] * 2
    assert loss(after, encoded(tokenizer, unseen)) < 0.75 * loss(params, encoded(tokenizer, unseen))


def test_the_given_parameters_are_neither_changed_nor_consumed(start, params):
    before = leaves(params)
    after, _ = start(steps=1)
    assert leaves(params) == before  # a donated buffer could not even be read
    assert leaves(after) != before


def test_no_steps_return_equal_parameters(start, params):
    after, losses = start(steps=0)
    assert leaves(after) == leaves(params) and losses == []


def test_equal_seeds_give_equal_bits_and_other_seeds_other_orders(start, trained):
    again, losses = start()
    assert leaves(again) == leaves(trained[0]) and losses == trained[1]
    assert start(seed=1, steps=3)[1] != losses[:3]


def test_fewer_rows_than_a_batch_are_enough(start, rows):
    _, losses = start(rows[:2], steps=2)
    assert len(losses) == 2


def test_a_demonstration_fits_with_its_end_of_sequence_token(tokenizer, rows, caplog):
    length = len(tokenizer.encode(rows[0]["demonstration"]))
    assert fitting(rows[:3], tokenizer, length + 1) == list(rows[:3])
    assert caplog.records == []
    assert fitting(rows[:3], tokenizer, length) == []


def test_rows_that_are_left_out_are_counted(tokenizer, caplog):
    caplog.set_level(logging.INFO)
    rows = [
        {"prompt": "a", "demonstration": "12"},
        {"prompt": "b", "demonstration": "123456"},
        {"prompt": "c", "demonstration": ""},
        {"prompt": "d"},
    ]
    assert fitting(rows, tokenizer, 4) == rows[:1]
    (record,) = caplog.records
    assert record.getMessage() == (
        "warm start: 1 of 4 rows used; 2 have no demonstration, 1 are longer than 4 tokens"
    )  # fmt: skip


def test_demonstrations_that_are_too_long_take_no_part(start, rows):
    long = [{**row, "demonstration": "8" * TOKENS} for row in rows]
    with_long, without = start([*rows[:2], *long], steps=2), start(rows[:2], steps=2)
    assert leaves(with_long[0]) == leaves(without[0])


def test_no_fitting_demonstration_says_what_to_do(start, rows):
    with pytest.raises(RunError, match=r"none of 64 demonstrations fits sampling.max_completion_tokens=5; raise it"):
        start(rows, max_completion_tokens=5)


def test_a_loss_that_is_not_finite_is_refused_with_its_step(start, monkeypatch):
    monkeypatch.setattr(supervised, "cross_entropy", lambda *_: jax.numpy.float32("nan"))
    with pytest.raises(RunError, match=r"loss is nan at step 1; lower warm_start.learning_rate"):
        start()


def test_the_callback_may_stop_the_warm_start(policy, params, tokenizer, rows):
    def stop(step, loss):
        if step == 2:
            raise InterruptedError(step)

    with pytest.raises(InterruptedError, match="2"):
        warm_start(policy, params, rows, tokenizer, **SETTINGS, on_step=stop)
