"""Decoding in segments, with shared prompts, a cache and finished completions dropped, draws what a plain sampler does.

The plain one (`tests/reference/grpo_step.py`) computes everything so far again for every token, in Tunix's module.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from agent_tunix import models, sampling
from agent_tunix.sampling import Distribution
from tests.reference import grpo_step as twin
from tests.reference.grpo_step import ARCHITECTURE

pytestmark = pytest.mark.usefixtures("quickly_compiled")

VOCAB, PROMPT_TOKENS, TOKENS, PAD = ARCHITECTURE.vocab_size, 6, 16, 23
TEMPERATURE = 0.8
PARAMS = twin.params()
FULL = models.full(PARAMS)
SOME, NONE, ALL = (7, 8, 9, 10, 11, 12), (VOCAB,), tuple(range(VOCAB))
"""Stop tokens: about every fourth that is drawn, none that is ever drawn, and every one."""


@pytest.fixture(autouse=True)
def grids(monkeypatch):
    """Segments that end at 4, 8 and 16 tokens; the grids before and after every regrouping that happened."""
    seen, find = [], sampling.regrouping

    def watched(done, most_blocks):
        found = find(done, most_blocks)
        if found is not None:
            seen.append((done[0].shape, found[0].members.shape))
        return found

    monkeypatch.setattr(sampling, "FIRST_SEGMENT", 4)
    monkeypatch.setattr(sampling, "regrouping", watched)
    return seen


def prompts_of(prompts):
    """Of different lengths, the shortest of one token."""
    random = np.random.default_rng(prompts)
    lengths = random.permutation(np.arange(prompts) % PROMPT_TOKENS + 1)
    mask = np.arange(PROMPT_TOKENS) >= PROMPT_TOKENS - lengths[:, None]
    return random.integers(0, VOCAB, (prompts, PROMPT_TOKENS)).astype(np.int32), mask


def decode(prompts, group, stop_ids, streams=1, dtype="float32"):
    decoded = sampling.decoding(
        models.policy(ARCHITECTURE, dtype=dtype), max_tokens=TOKENS, stop_ids=stop_ids, pad_id=PAD,
        distribution=Distribution(temperature=TEMPERATURE), streams=streams,
    )  # fmt: skip
    return decoded(FULL, *prompts, group, jax.random.key(0))


def plain(prompts, group, stop_ids):
    sample = twin.sampler(
        twin.full(ARCHITECTURE), max_tokens=TOKENS, stop_ids=stop_ids, pad_id=PAD, temperature=TEMPERATURE
    )
    return sample(PARAMS, *prompts, group, jax.random.key(0))


FORCED = twin.teacher_forced(twin.full(ARCHITECTURE), TEMPERATURE)

CASES = [
    ("ragged, with several completions to a block after a while", 16, 4, SOME, 1, True),
    ("the same in two streams", 16, 4, SOME, 2, True),
    ("ragged, of few prompts", 4, 4, SOME, 1, True),
    ("one completion a prompt", 16, 1, SOME, 1, True),
    ("none ends", 4, 4, NONE, 1, False),
    ("all end at once, at the first token", 4, 4, ALL, 1, False),
    ("one row", 1, 1, SOME, 2, False),
    ("one prompt, many completions", 1, 16, SOME, 1, False),
]


@pytest.mark.parametrize(
    ("prompts", "group", "stop_ids", "streams", "shrinks"), [pytest.param(*case, id=name) for name, *case in CASES]
)
def test_tokens_and_logprobs_are_those_of_the_plain_sampler(prompts, group, stop_ids, streams, shrinks, grids):
    ids = prompts_of(prompts)
    got, expected = decode(ids, group, stop_ids, streams), plain(ids, group, stop_ids)
    assert expected.margin > 1e-5  # no draw so near the border of two tokens that float32 could not tell
    for name in ("completion_ids", "completion_mask", "truncated"):
        np.testing.assert_array_equal(got[name], getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(got["old_logprobs"], expected.logprobs, atol=1e-5)
    np.testing.assert_array_equal(got["logprobs"], got["old_logprobs"])  # nothing is filtered
    forced = twin.logprobs(FORCED, PARAMS, *ids, got["completion_ids"])
    mask = got["completion_mask"]
    np.testing.assert_allclose(got["old_logprobs"][mask], forced[mask], atol=1e-5)
    assert bool(grids) == shrinks and all(np.prod(new) <= 0.75 * np.prod(old) for old, new in grids)


def chi_square(observed, expected):
    """Probability of counts this far from the expected ones; of those below five, one count is made."""
    rare = expected < 5
    observed, expected = (np.append(counts[~rare], counts[rare].sum()) for counts in (observed, expected))
    observed, expected = observed[expected > 0], expected[expected > 0]
    return scipy.stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1)


def spread(cumulative, tokens):
    """Where draws fall in their own distribution: uniform in [0, 1) exactly if each token was drawn from its own.

    Every row has another distribution once its first token is drawn, so that counts of tokens are no multinomial; these
    places are (the randomised probability integral transform). `cumulative` is `[rows vocab]`, from 0.
    """
    rows, random = np.arange(len(tokens)), np.random.default_rng(0)
    low, high = cumulative[rows, tokens], cumulative[rows, tokens + 1]
    return low + random.random(len(tokens)) * (high - low)


def uniformity(values, bins=12):
    return chi_square(np.histogram(values, bins, (0, 1))[0], np.full(bins, len(values) / bins))


def test_tokens_follow_the_teacher_forced_distribution_before_and_after_a_regrouping(grids):
    """At a fixed seed the probabilities are fixed; a right sampler would be refused for one seed in ten thousand."""
    ids, mask = prompts_of(6)
    ids, mask = np.repeat(ids[3:4], 64, 0), np.repeat(mask[3:4], 64, 0)
    drawn = decode((ids, mask), 64, SOME)
    tokens, real = (drawn[name].reshape(64 * 64, -1) for name in ("completion_ids", "completion_mask"))
    forced = np.exp(FORCED(PARAMS, ids, mask, drawn["completion_ids"]).astype(np.float64)).reshape(64 * 64, TOKENS, -1)
    assert chi_square(np.bincount(tokens[:, 0], minlength=VOCAB), 64 * 64 * forced[0, 0]) > 1e-4
    assert len(grids) >= 2
    for index in (4, 8):  # the first ones on the second and the third grid
        alive = real[:, index]
        assert alive.sum() > 200
        own = np.pad(np.cumsum(forced[alive, index], -1), ((0, 0), (1, 0)))
        assert uniformity(spread(own, tokens[alive, index])) > 1e-4
        others = np.roll(own, 1, axis=0)  # as if the rows had come out of order
        assert uniformity(spread(others, tokens[alive, index])) < 1e-4


ROUNDINGS = 2 + 14 * ARCHITECTURE.layers
"""To bfloat16 on the way of a feature: embedding and final norm; in a layer norm, projection, norm and rotation of
keys, weights, mixture, output and sum, then norm, gate, up, their product, down and sum."""


def test_logprobs_of_a_bfloat16_sampler_differ_from_a_teacher_forced_pass_by_its_roundings():
    r"""The cache, the shared prompt and the order of sums make other roundings, nothing else.

    One rounding moves a feature by :math:`2^{-9}` of itself at most, `ROUNDINGS` of them that are independent by
    :math:`\sqrt n` times that, a logit by that times the norms of feature and unembedding, a log-probability by twice
    that, and each of the two passes rounds for itself. Measured: 0.011 at most to the same pass in bfloat16, 0.11 to
    one in float32, where the bound is 0.5.
    """
    ids = prompts_of(16)
    drawn = decode(ids, 4, SOME, dtype="bfloat16")
    policy, mask = models.policy(ARCHITECTURE, dtype="bfloat16"), drawn["completion_mask"]
    arrays = map(jnp.asarray, (*ids, drawn["completion_ids"]))
    forced, _ = jax.jit(lambda *args: policy.logprobs(PARAMS, *args, TEMPERATURE))(*arrays)
    exact = twin.logprobs(FORCED, PARAMS, *ids, drawn["completion_ids"])
    # Of root mean square 1 before the weights of the final norm.
    feature = np.sqrt(ARCHITECTURE.width) * np.abs(PARAMS["final_norm"]["w"]).max()
    unembedding = np.linalg.norm(PARAMS["embedder"]["input_embedding"], axis=1).max()
    bound = 2 * 2 * np.sqrt(ROUNDINGS) * 2.0**-9 * feature * unembedding / TEMPERATURE
    for other in (np.asarray(forced), exact):
        difference = (drawn["old_logprobs"] - other)[mask]
        assert np.abs(difference).max() < bound
    assert np.abs(drawn["old_logprobs"] - exact)[mask].max() > 1e-4  # it is no float32
