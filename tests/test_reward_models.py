"""Learned rewards: losses by hand and against their twins, the trainer, encoders of texts, and rewards made of them."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent_tunix import batching
from agent_tunix import reward_models as rm
from agent_tunix.errors import RewardError
from agent_tunix.types import Bounds, Outcome
from tests.reference import reward_models as twin

NUMBERS = st.floats(-5, 5, width=32)
FRACTIONS = st.floats(0, 1, width=32)


def as_is(params, inputs):
    """The encoder that gives back its inputs, times the one parameter."""
    return params * inputs


ONE = jnp.ones(())
RANKING, TRIPLET = (jax.jit(objective) for objective in (rm.ranking(as_is), rm.triplet(as_is)))


def pairs_of(*columns):
    return rm.Pairs(*(None if column is None else jnp.asarray(column, jnp.float32) for column in columns))


# --- Losses -----------------------------------------------------------------------------------------------------------


def test_ranking_by_hand():
    # One nat of difference: log(1 + 1/e); no difference: log 2; a preference of 3/4 mixes both orders.
    assert float(RANKING(ONE, pairs_of([1.0], [0.0]))) == pytest.approx(math.log1p(math.exp(-1)), abs=1e-6)
    assert float(RANKING(ONE, pairs_of([3.0], [3.0]))) == pytest.approx(math.log(2), abs=1e-6)
    expected = 0.75 * math.log1p(math.exp(-1)) + 0.25 * math.log1p(math.exp(1))
    assert float(RANKING(ONE, pairs_of([1.0], [0.0], [0.75]))) == pytest.approx(expected, abs=1e-6)


@given(hnp.arrays(np.float32, (2, 6), elements=NUMBERS), hnp.arrays(np.float32, (2, 6), elements=FRACTIONS))
def test_ranking_equals_its_twin_and_does_not_care_which_comes_first(scores, numbers):
    preference, weight = numbers
    got = float(RANKING(ONE, pairs_of(*scores, preference, weight)))
    np.testing.assert_allclose(got, twin.bradley_terry(*scores, preference, weight), rtol=1e-4, atol=1e-5)
    swapped = float(RANKING(ONE, pairs_of(*scores[::-1], 1 - preference, weight)))
    np.testing.assert_allclose(got, swapped, rtol=1e-5, atol=1e-6)


def test_a_tie_of_no_weight_is_as_if_it_were_not_there_even_when_it_is_not_finite():
    kept = RANKING(ONE, pairs_of([1.0, 0.5], [0.0, 2.0], [1, 0]))
    masked = pairs_of([1.0, 0.5, jnp.inf], [0.0, 2.0, 1.0], [1, 0, 0.5], [1, 1, 0])
    np.testing.assert_allclose(RANKING(ONE, masked), kept, rtol=1e-6)
    none = pairs_of([1.0], [0.0], [0.5], [0.0])
    assert float(RANKING(ONE, none)) == 0.0
    assert float(jax.grad(RANKING)(ONE, none)) == 0.0


@given(hnp.arrays(np.float32, (3, 4, 2), elements=NUMBERS))
def test_triplet_and_its_gradients_equal_those_written_out(features):
    def loss(features):
        return TRIPLET(ONE, rm.Triplets(*features))

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(features))
    expected, by_hand = twin.triplet(*features, margin=1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    violations = np.square(features[0] - features[1]).sum(-1) - np.square(features[0] - features[2]).sum(-1) + 1
    clear = np.abs(violations) > 1e-3  # at the kink either side is right
    np.testing.assert_allclose(np.asarray(gradient)[:, clear], np.stack(by_hand)[:, clear], rtol=1e-4, atol=1e-4)


def test_a_triplet_beyond_its_margin_is_left_alone():
    far = rm.Triplets(*(jnp.asarray([[x, 0.0]]) for x in (0.0, 0.0, 2.0)))
    assert float(TRIPLET(ONE, far)) == 0.0
    near = rm.Triplets(*(jnp.asarray([[x, 0.0]]) for x in (0.0, 1.0, 1.0)))
    assert float(TRIPLET(ONE, near)) == 1.0  # equally far: the margin


def test_labels_by_hand():
    binary = rm.Labeled(jnp.asarray([0.0, 2.0]), jnp.asarray([1, 0]))
    expected = (math.log(2) + math.log1p(math.exp(2))) / 2
    assert float(rm.cross_entropy(as_is)(ONE, binary)) == pytest.approx(expected, abs=1e-6)
    classes = rm.Labeled(jnp.asarray([[0.0, 0.0, 0.0]]), jnp.asarray([2]))
    assert float(rm.cross_entropy(as_is)(ONE, classes)) == pytest.approx(math.log(3), abs=1e-6)
    values = rm.Labeled(jnp.asarray([1.0, 5.0]), jnp.asarray([3.0, 5.0]), jnp.asarray([3.0, 1.0]))
    assert float(rm.regression(as_is)(ONE, values)) == pytest.approx(3.0, abs=1e-6)  # 3 * 4 over a weight of 4


def test_any_loss_of_outputs_and_labels_will_do():
    hinge = rm.labeled(as_is, lambda score, label: optax.hinge_loss(score, 2 * label - 1))
    batch = rm.Labeled(jnp.asarray([2.0, 0.5, -3.0, 0.0]), jnp.asarray([1.0, 1.0, 0.0, 0.0]))
    assert float(hinge(ONE, batch)) == pytest.approx((0 + 0.5 + 0 + 1) / 4)


def test_reference_pairs_put_the_same_source_first_under_the_same_reference():
    pairs = rm.reference_pairs(jnp.zeros(2), jnp.ones(2), jnp.full(2, 2.0))
    nearness = rm.ranking(lambda params, inputs: -params * jnp.abs(inputs[0] - inputs[1]))
    # Distances 1 and 2: the one of the same source is ahead by 1.
    assert float(nearness(ONE, pairs)) == pytest.approx(math.log1p(math.exp(-1)), abs=1e-6)


def test_the_first_factor_that_differs_enough_decides():
    # Deviations are 0.5 and 2: the second factor has to differ by more than 2.
    factors = jnp.asarray([[[1.0, 1.0, 0.0, 0.0]], [[0.0, 4.0, 4.0, 0.0]]])
    expected = [[0, -1, 1, 1], [1, 0, 1, 1], [-1, -1, 0, 1], [-1, -1, -1, 0]]
    np.testing.assert_array_equal(rm.by_importance(factors)[0], expected)
    np.testing.assert_array_equal(rm.by_importance(factors, margin=3.0), np.zeros((1, 4, 4)))
    # One that is not valid moves no deviation: with it, the second factor's would be near 40.
    outlier = jnp.concatenate([factors, jnp.asarray([[[0.0]], [[99.0]]])], -1)
    kept = rm.by_importance(outlier, np.array([[True] * 4 + [False]]))
    np.testing.assert_array_equal(kept[0, :4, :4], expected)


def test_pairs_of_a_group_are_each_there_once_and_only_between_valid_ones():
    inputs = jnp.asarray([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
    order = jnp.sign(inputs - jnp.swapaxes(inputs, 1, 2))  # the larger one is preferred
    order = order.at[1, 0, 1].set(0.0)
    pairs = rm.group_pairs(inputs, order, np.array([[True, True, False], [True, True, True]]))
    assert pairs.first[:, 0].tolist() == [1, 1, 2, 4, 4, 5]
    assert pairs.second[:, 0].tolist() == [2, 3, 3, 5, 6, 6]
    assert pairs.preference.tolist() == [0, 0, 0, 0.5, 0, 0]
    assert pairs.weight.tolist() == [1, 0, 0, 0, 1, 1]


def test_references_and_the_rest_have_half_of_the_weight_each():
    examples = rm.against(jnp.asarray([[1.0], [2.0]]), jnp.asarray([[3.0], [4.0], [5.0], [6.0]]))
    assert examples.inputs[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert examples.label.tolist() == [1, 1, 0, 0, 0, 0]
    assert examples.weight.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25]


def test_importance_pairs_are_compared_within_their_group():
    factors, inputs = jnp.asarray([[[1.0, 0.0], [0.0, 1.0]]]), jnp.arange(4.0)[:, None]
    pairs = rm.importance_pairs(factors, inputs, np.array([[True, True], [True, True]]))
    assert (pairs.first[:, 0].tolist(), pairs.second[:, 0].tolist()) == ([0, 2], [1, 3])
    assert (pairs.preference.tolist(), pairs.weight.tolist()) == ([1, 0], [1, 1])


# --- The trainer ------------------------------------------------------------------------------------------------------

SCORE = rm.scalar(rm.mlp)
PREFERENCE = rm.ranking(SCORE)


def separable(seed, number=256):
    """Pairs of 3 features of which the first two say what is better, and the third is much larger noise."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(2, number, 3)).astype(np.float32) * np.float32([1, 1, 5])
    utility = inputs[..., 0] - 2 * inputs[..., 1]
    return rm.Pairs(inputs[0], inputs[1], (utility[0] > utility[1]).astype(np.float32))


@pytest.fixture(scope="module")
def fitted():
    params = rm.mlp_params(jax.random.key(0), (3, 16, 1))
    return rm.fit(jax.random.key(1), separable(0), params, PREFERENCE, steps=300, batch_size=64, learning_rate=0.02)


def accuracy(params, pairs):
    return float(rm.pair_accuracy(SCORE(params, pairs.first), SCORE(params, pairs.second), pairs.preference))


def test_a_separable_preference_is_learned_and_holds_on_new_pairs(fitted):
    start = rm.mlp_params(jax.random.key(0), (3, 16, 1))
    assert accuracy(start, separable(1)) < 0.75
    assert accuracy(fitted.params, separable(1)) > 0.95
    assert float(fitted.losses[-10:].mean()) < 0.2 < float(fitted.losses[0])


def test_fit_is_a_function_of_its_arguments_and_the_key_orders_the_examples(fitted):
    params, data = rm.mlp_params(jax.random.key(0), (3, 16, 1)), separable(0)
    run = functools.partial(rm.fit, examples=data, params=params, objective=PREFERENCE, steps=4, batch_size=64)
    first, again, other = (run(jax.random.key(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (first, again))))
    assert not np.array_equal(first.losses, other.losses)


def test_four_batches_of_a_quarter_see_every_example_once():
    seen = rm.Labeled(jnp.arange(8.0), jnp.zeros(8))
    objective = rm.labeled(lambda params, inputs: 0 * params + inputs, lambda found, label: found)
    losses = rm.fit(jax.random.key(0), seen, ONE, objective, steps=4, batch_size=2).losses
    np.testing.assert_allclose(losses.sum() * 2, 28.0)


def test_two_calls_with_the_optimizer_state_equal_one():
    data, params = separable(0, 32), rm.mlp_params(jax.random.key(0), (3, 1))
    run = functools.partial(rm.fit, jax.random.key(0), data, objective=PREFERENCE, learning_rate=0.1)
    whole = run(params, steps=6)
    half = run(params, steps=3)
    rest = run(half.params, steps=3, optimizer_state=half.optimizer_state)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), whole.params, rest.params)


def test_an_ensemble_is_a_vmap():
    data, keys = separable(0, 32), jax.random.split(jax.random.key(0), 2)
    params = jax.vmap(lambda key: rm.mlp_params(key, (3, 1)))(keys)

    def run(key, params):
        return rm.fit(key, data, params, PREFERENCE, steps=3, batch_size=8)

    together = jax.vmap(run)(keys, params)
    for member in range(2):
        alone = run(keys[member], jax.tree.map(lambda leaf, member=member: leaf[member], params))
        np.testing.assert_allclose(together.losses[member], alone.losses, rtol=1e-5)


def test_wrong_sizes_are_refused():
    run = functools.partial(rm.fit, jax.random.key(0), params=ONE, objective=rm.regression(as_is), steps=1)
    with pytest.raises(ValueError, match=r"batch_size=3 for 2 examples"):
        run(rm.Labeled(jnp.zeros(2), jnp.zeros(2)), batch_size=3)
    with pytest.raises(ValueError, match=r"\[2, 4\] examples"):
        run(rm.Labeled(jnp.zeros(2), jnp.zeros(4)))


def test_compared_tells_a_source_from_others():
    # Sources differ in their mean; only a comparison with the reference can tell which of two candidates is of it.
    rng = np.random.default_rng(0)

    def batch(number):
        sources = rng.normal(size=(2, number, 2)) * 3
        same, reference = (sources[0] + 0.3 * rng.normal(size=(number, 2)) for _ in range(2))
        other = sources[1] + 0.3 * rng.normal(size=(number, 2))
        return rm.reference_pairs(*(x.astype(np.float32) for x in (reference, same, other)))

    keys = jax.random.split(jax.random.key(0))
    params = {"features": rm.mlp_params(keys[0], (2, 4)), "head": rm.mlp_params(keys[1], (16, 8, 1))}
    score = rm.scalar(rm.compared(rm.mlp))
    found = rm.fit(keys[0], batch(512), params, rm.ranking(score), steps=400, batch_size=128, learning_rate=0.02).params
    new = batch(512)
    assert float(rm.pair_accuracy(score(found, new.first), score(found, new.second))) > 0.9


# --- Encoders of texts ------------------------------------------------------------------------------------------------

encode = functools.partial(rm.encoded, prompt_tokens=4, tokens=5)


def test_the_pooled_state_has_read_all_of_the_completion_and_nothing_after(policy, params, tokenizer):
    last, mean = jax.jit(rm.hidden(policy)), jax.jit(rm.hidden(policy, rm.mean_pool))
    texts = encode(tokenizer, ["ab", "ab", "ab"], ["xyz", "xyw", "xyzuvw"])
    for pooled in (last, mean):
        features = pooled(params, texts)
        assert features.shape == (3, 16)
        assert not np.allclose(features[0], features[1], atol=1e-5)  # differ in the last character
        padded = texts._replace(completion_ids=np.where(texts.completion_mask, texts.completion_ids, 50))
        np.testing.assert_allclose(pooled(params, padded), features, atol=1e-6)
    # The last token of a completion that was cut is read too.
    cut = encode(tokenizer, ["ab", "ab"], ["xyzuv", "xyzuw"])
    assert not np.allclose(*last(params, cut), atol=1e-5)


def test_features_that_are_there_are_counted():
    params = {"weights": jnp.asarray([1.0, 10.0, 100.0]), "bias": jnp.asarray(0.5)}
    features = np.array([[[0, 1], [2, 2]]])
    np.testing.assert_array_equal(rm.counted(params, features), [[11.5, 200.5]])
    np.testing.assert_array_equal(rm.averaged(rm.counted)(params, features), [106.0])
    assert not rm.counted(rm.counted_params(3), features).any()


def test_ngrams_tell_texts_apart_and_cut_or_fill_them():
    found = rm.ngrams(["abc", "abcx", "abcdefgh"], places=3, buckets=1 << 20)
    assert found.shape == (3, 3, 1)
    assert found[0, 0] == found[1, 0] == found[2, 0]  # abc
    assert found[0, 1] != found[1, 1] != found[2, 1]
    np.testing.assert_array_equal(found[2], rm.ngrams(["abcde"], places=3, buckets=1 << 20)[0])
    assert rm.ngrams([], places=3, buckets=8).shape == (0, 3, 1)


def test_pooling_by_hand():
    features = jnp.asarray([[[1.0], [2.0], [6.0]], [[4.0], [8.0], [9.0]]])
    mask = jnp.asarray([[True, True, False], [True, True, True]])
    np.testing.assert_allclose(rm.last_token(features, mask)[:, 0], [2.0, 9.0])
    np.testing.assert_allclose(rm.mean_pool(features, mask)[:, 0], [1.5, 7.0])


@pytest.fixture(scope="module")
def text_model(policy, params, tokenizer):
    """A reward model of texts that has learned to prefer completions with more a's, and its training pairs."""
    rng = np.random.default_rng(0)
    drawn = ["".join(rng.choice(list("ab"), 4)) for _ in range(256)]
    texts = encode(tokenizer, ["?"] * 256, drawn)
    counts = np.array([text.count("a") for text in drawn])
    halves = [jax.tree.map(lambda leaf, half=half: leaf[half::2], texts) for half in (0, 1)]
    first, second = counts[0::2], counts[1::2]
    pairs = rm.Pairs(*halves, (first > second).astype(np.float32), (first != second).astype(np.float32))
    score = rm.scalar(rm.sequence(policy))
    start = rm.sequence_params(jax.random.key(0), params, 16)
    found = rm.fit(jax.random.key(1), pairs, start, rm.ranking(score), steps=150, batch_size=32, learning_rate=0.01)
    return score, found.params


def rollouts_of(*groups):
    return batching.text_rollouts(["?"] * len(groups), groups, {})


def test_a_model_of_texts_becomes_a_reward(text_model, tokenizer):
    score, params = text_model
    reward = rm.learned_reward(score, params, rm.texts(tokenizer, prompt_tokens=4, tokens=5), name="likes_a")
    found = reward(rollouts_of(["aaaa", "abab", "bbbb"], ["bbab", "aaba", "baab"]))
    assert found.value.shape == (2, 3) and found.valid.all()
    assert (np.diff(found.value[0]) < 0).all()
    assert found.value[1, 1] > found.value[1, 2] > found.value[1, 0]
    np.testing.assert_array_equal(found.parts["likes_a"], found.value)
    assert (found.outcomes["likes_a"] == Outcome.GRADED).all()


def lengths(rollouts):
    return jnp.asarray([float(len(text)) for group in rollouts.completions for text in group])


def test_bounds_of_a_learned_reward_are_enforced():
    reward = rm.learned_reward(as_is, ONE, lengths, name="length", bounds=(0, 3))
    assert reward.bounds == Bounds(0, 3)
    np.testing.assert_array_equal(reward(rollouts_of(["a", "bcd"])).value, [[1, 3]])
    with pytest.raises(RewardError, match="`length` gave 4 for prompt 1, completion 0"):
        reward(rollouts_of(["a", "b"], ["abcd", ""]))
    broken = rm.learned_reward(as_is, jnp.asarray(jnp.nan), lengths, name="length")
    with pytest.raises(RewardError, match="not finite"):
        broken(rollouts_of(["a", "b"]))
    with pytest.raises(RewardError, match=r"shape \(1,\) for 1 prompts with 2 completions"):
        rm.learned_reward(as_is, ONE, lambda rollouts: jnp.zeros(1), name="length")(rollouts_of(["a", "b"]))


# --- A model that goes on learning ------------------------------------------------------------------------------------


def label_with_reward(raw, rollouts):
    return rm.Labeled(lengths(rollouts), raw.value.reshape(-1))


def co_trained(**settings):
    return rm.co_trained(
        as_is,
        rm.regression(as_is),
        ONE,
        lambda raw, rollouts: lengths(rollouts),
        label_with_reward,
        steps=20,
        learning_rate=0.05,
        **settings,
    )


def raw_score(rollouts):
    return rm.learned_reward(as_is, jnp.asarray(3.0), lengths, name="three_times")(rollouts)


def test_a_co_trained_model_learns_from_every_batch_and_its_state_is_all_it_remembers():
    rollouts, shaping = rollouts_of(["a", "ab"], ["abc", ""]), co_trained(batch_size=2)
    raw, states, values = raw_score(rollouts), [shaping.init()], []
    for _ in range(3):
        # Through the host, as a checkpoint gives it back.
        score, state = shaping.update(raw, jax.tree.map(np.array, states[-1]), rollouts)
        states.append(state)
        values.append(np.asarray(score.value))
    slopes = [float(state.params) for state in states]
    assert slopes[0] == 1.0 and abs(slopes[3] - 3.0) < 0.3 < abs(slopes[1] - 3.0)
    np.testing.assert_allclose(values[2], slopes[3] * np.array([[1, 2], [3, 0]]), rtol=1e-5)
    assert [int(state.batches) for state in states] == [0, 1, 2, 3]
    assert score.parts is raw.parts
    again, _ = co_trained(batch_size=2).update(raw, states[2], rollouts)
    np.testing.assert_array_equal(again.value, values[2])
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(states[0])] == [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(states[3])
    ]


def test_a_co_trained_model_may_be_added_and_gives_nothing_where_the_score_is_not_valid():
    rollouts = rollouts_of(["a", "ab"])
    raw = dataclasses.replace(raw_score(rollouts), value=np.float32([[3, 0]]), valid=np.array([[True, False]]))
    shaping = co_trained(combine=lambda value, learned: value + 10 * learned)
    score, state = shaping.update(raw, shaping.init(), rollouts)
    np.testing.assert_allclose(score.value, [[3 + 10 * float(state.params), 0.0]], rtol=1e-5)


def test_a_discriminator_pays_for_being_taken_for_a_reference():
    score = rm.averaged(rm.counted)
    shaping = rm.discriminator(
        score,
        rm.cross_entropy(score),
        rm.counted_params(64),
        real=lambda rollouts: rm.ngrams(["yes sir"] * 4, places=4, buckets=64),
        fake=lambda rollouts: rm.ngrams(
            (text for group in rollouts.completions for text in group), places=4, buckets=64
        ),
        steps=50,
        learning_rate=0.1,
    )
    rollouts = rollouts_of(["yes sir", "no never"], ["no sir", "yes madam"])
    shaped, _ = shaping.update(raw_score(rollouts), shaping.init(), rollouts)
    assert shaped.value[0, 0] > shaped.value[1, 1] > max(float(shaped.value[0, 1]), float(shaped.value[1, 0]))


# --- Quality ----------------------------------------------------------------------------------------------------------


def test_pair_accuracy_by_hand():
    first, second = jnp.asarray([2.0, 1.0, 0.0, 5.0]), jnp.asarray([1.0, 1.0, 1.0, 0.0])
    assert float(rm.pair_accuracy(first, second)) == 0.5  # right, tied, wrong, right
    assert float(rm.pair_accuracy(first, second, jnp.asarray([1, 1, 0, 0.5]))) == pytest.approx(2 / 3)
    assert float(rm.pair_accuracy(first, second, weight=jnp.asarray([0.0, 1, 0, 3]))) == 0.75
    assert float(rm.pair_accuracy(first, second, jnp.full(4, 0.5))) == 0.0


@given(hnp.arrays(np.float32, 8, elements=st.sampled_from([0.0, 0.5, 1.0, 2.0])), hnp.arrays(bool, 8))
def test_auc_equals_its_twin(scores, labels):
    got = float(rm.auc(jnp.asarray(scores), labels))
    if labels.all() or not labels.any():
        assert math.isnan(got)
    else:
        assert got == pytest.approx(twin.auc(scores, labels), abs=1e-6)


@given(hnp.arrays(np.float32, 8, elements=FRACTIONS), hnp.arrays(bool, 8))
def test_calibration_error_equals_its_twin(probabilities, labels):
    # Away from the edges, where float32 and float64 may fall on different sides.
    probabilities = np.float32(np.floor(probabilities * 9.99) / 10 + 0.05)
    got = float(rm.calibration_error(jnp.asarray(probabilities), labels, bins=10))
    assert got == pytest.approx(twin.calibration_error(probabilities, labels, 10), abs=1e-5)


def test_coins_that_are_predicted_as_coins_are_calibrated():
    assert float(rm.calibration_error(jnp.full(4, 0.5), jnp.asarray([0, 1, 1, 0]))) == 0.0
    assert float(rm.calibration_error(jnp.full(4, 1.0), jnp.asarray([0, 1, 1, 0]))) == 0.5


# --- Augmentation -----------------------------------------------------------------------------------------------------


def outermost(plane):
    """Points of which a line leaves all others on one side, by trying every pair of points."""
    kept = set()
    for i, j in itertools.permutations(range(len(plane)), 2):
        (along, up), rest = plane[j] - plane[i], plane - plane[i]
        across = along * rest[:, 1] - up * rest[:, 0]
        if (np.delete(across, [i, j]) > 0).all():
            kept |= {i, j}
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_hull_vertices_are_the_outermost_points_of_the_plane_that_varies_most(seed):
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=(9, 2)) * [3, 2]
    turned, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    points = np.concatenate([plane - plane.mean(0), 1e-6 * rng.normal(size=(9, 3))], 1) @ turned + rng.normal(size=5)
    found = rm.hull_vertices(points)
    assert set(np.flatnonzero(found)) == outermost(plane)
    assert 3 <= found.sum() < 9


def test_hull_vertices_keep_all_where_there_is_no_hull():
    line = np.arange(5.0)[:, None] * [1, 2, 3]
    for points in (line[:0], line[:1], line[:2], line, np.ones((4, 3))):
        assert rm.hull_vertices(points).tolist() == [True] * len(points)
    square = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    assert rm.hull_vertices(np.concatenate([square, square])).sum() == 4
    corners = np.array([*itertools.product((0.0, 1), repeat=3), (0.5, 0.5, 0.5)])
    assert rm.hull_vertices(corners, dimensions=3).tolist() == [True] * 8 + [False]
    with pytest.raises(ValueError, match="at least 2 dimensions, got dimensions=1"):
        rm.hull_vertices(square, dimensions=1)
