import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix.batching import join, take
from agent_tunix.types import Failure, Rollouts, Score

GROUP, TOKENS = 2, 3


def rollouts(prompts, seed=0, *, reference=False):
    random = np.random.default_rng(seed)
    shape = (prompts, GROUP, TOKENS)
    logprobs = random.normal(size=shape).astype(np.float32)
    return Rollouts(
        prompts=[f"prompt {seed} {p}" for p in range(prompts)],
        completions=[[f"text {seed} {p} {g}" for g in range(GROUP)] for p in range(prompts)],
        columns={"answer": [f"{seed}.{p}" for p in range(prompts)], "level": np.arange(prompts) + seed},
        prompt_ids=random.integers(9, size=(prompts, 4)),
        prompt_mask=random.random((prompts, 4)) < 0.5,
        completion_ids=random.integers(9, size=shape),
        completion_mask=random.random(shape) < 0.5,
        truncated=random.random((prompts, GROUP)) < 0.5,
        logprobs=logprobs,
        old_logprobs=logprobs + 1,
        ref_logprobs=logprobs - 1 if reference else None,
    )


def score(prompts, seed=0, *, per_token=False):
    random = np.random.default_rng(seed)
    valid = random.random((prompts, GROUP)) < 0.6
    return Score(
        value=np.where(valid, random.random((prompts, GROUP)), 0),
        valid=valid,
        parts={"a": np.where(valid, 1.0, np.nan), "b/c": random.random((prompts, GROUP))},
        outcomes={"a": np.where(valid, 0, 2), "b/c": np.zeros((prompts, GROUP), int)},
        per_token=random.random((prompts, GROUP, TOKENS)) if per_token else None,
        failures=tuple(Failure("a", int(p), int(g), f"reason {seed} {p} {g}") for p, g in np.argwhere(~valid)),
    )


def plain(value):
    """Comparable by `==`: arrays with their type and contents."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return (str(value.dtype), value.shape, value.tobytes()) if hasattr(value, "dtype") else value


batches = st.builds(
    lambda make, prompts, seed, optional: (
        rollouts(prompts, seed, reference=optional) if make else score(prompts, seed, per_token=optional)
    ),
    make=st.booleans(),
    prompts=st.integers(1, 5),
    seed=st.integers(0, 99),
    optional=st.booleans(),
)


def size(batch):
    return len(batch.prompts) if isinstance(batch, Rollouts) else len(batch.value)


@given(batches)
def test_taking_every_prompt_changes_nothing(batch):
    assert plain(take(batch, range(size(batch)))) == plain(batch)


@given(batches, st.data())
def test_parts_join_to_what_they_were_taken_from(batch, data):
    cut = data.draw(st.integers(0, size(batch)))
    parts = [take(batch, range(cut)), take(batch, range(cut, size(batch)))]
    assert plain(join(parts)) == plain(batch)


@given(batches, st.randoms())
def test_a_permutation_is_undone_by_its_inverse(batch, random):
    order = list(range(size(batch)))
    random.shuffle(order)
    there_and_back = plain(take(take(batch, order), np.argsort(order).tolist()))
    assert there_and_back == plain(batch)


@settings(max_examples=30)
@given(st.booleans(), st.lists(st.integers(0, 4), min_size=1, max_size=4), st.booleans())
def test_joined_batches_can_be_taken_apart_again(of_scores, sizes, optional):
    parts = [
        score(prompts, seed, per_token=optional) if of_scores else rollouts(prompts, seed, reference=optional)
        for seed, prompts in enumerate(sizes)
    ]
    whole, start = join(parts), 0
    for part in parts:
        stop = start + size(part)
        assert plain(take(whole, range(start, stop))) == plain(part)
        start = stop


@given(batches, st.data())
def test_taking_twice_is_taking_once(batch, data):
    first = data.draw(st.lists(st.integers(0, size(batch) - 1), min_size=1, max_size=6))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), max_size=6))
    assert plain(take(take(batch, first), second)) == plain(take(batch, [first[index] for index in second]))


def test_failures_follow_their_prompts():
    whole = Score(
        np.zeros((3, 2)),
        np.zeros((3, 2), bool),
        failures=(Failure("a", 0, 1, "zero"), Failure("a", 2, 0, "two"), Failure("b", 2, 0, "two too")),
    )
    assert take(whole, [2, 1]).failures == (Failure("a", 0, 0, "two"), Failure("b", 0, 0, "two too"))
    assert take(whole, [1]).failures == ()
    assert take(whole, [0, 0]).failures == (Failure("a", 0, 1, "zero"), Failure("a", 1, 1, "zero"))
    joined = join([take(whole, [0, 1]), take(whole, [2])])
    assert joined.failures == (Failure("a", 0, 1, "zero"), Failure("a", 2, 0, "two"), Failure("b", 2, 0, "two too"))


def test_columns_keep_their_kind():
    part = take(rollouts(4, 7), [3, 0])
    assert part.columns["answer"] == ["7.3", "7.0"]
    assert isinstance(part.columns["level"], np.ndarray) and part.columns["level"].tolist() == [10, 7]
    assert join([part, part]).columns["answer"] == ["7.3", "7.0", "7.3", "7.0"]


def test_what_is_not_there_stays_away():
    assert take(rollouts(2), [1]).ref_logprobs is None
    assert join([rollouts(1), rollouts(1)]).ref_logprobs is None
    assert join([score(1), score(1)]).per_token is None


def test_jax_arrays_are_taken_and_joined_with_equal_values():
    host = score(3)
    device = jax.tree.map(jnp.asarray, host)
    joined = join([take(device, [2]), take(device, [0, 1])])
    np.testing.assert_array_equal(joined.value, take(device, [2, 0, 1]).value)
    np.testing.assert_array_equal(joined.parts["a"], take(device, [2, 0, 1]).parts["a"])
