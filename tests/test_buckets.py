"""Laws of length buckets over random lengths, and cuts worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix import buckets
from agent_tunix.buckets import Cut


def divisors(number):
    return [part for part in range(1, number + 1) if number % part == 0]


@st.composite
def cut_masks(draw):
    """A mask of right-padded completions, some empty, some with holes, and a way to cut it."""
    cut = Cut(draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    shape = cut.prompts * draw(st.integers(1, 3)), cut.members * draw(st.integers(1, 3)), draw(st.integers(1, 40))
    skew = draw(st.sampled_from([0.2, 1.0, 5.0]))  # mostly long, anything, mostly short
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = np.floor((shape[2] + 1) * random.random(shape[:2]) ** skew).astype(int)
    mask = np.arange(shape[2]) < lengths[..., None]
    return mask & (random.random(shape) < draw(st.sampled_from([0.5, 1.0]))), cut


def lengths_of(mask):
    """Tokens up to the last one that counts, one completion at a time."""
    return np.array([[max(np.flatnonzero(row), default=-1) + 1 for row in group] for group in mask])


@given(cut_masks())
def test_every_completion_is_in_exactly_one_bucket_and_none_is_cut(case):
    mask, cut = case
    lengths, seen = lengths_of(mask), np.zeros(mask.shape[:2], int)
    for chunk in buckets.chunks(mask, cut):
        if chunk.buckets[0].packing is None:
            assert len(chunk.buckets) == cut.members
            assert len({bucket.members.size for bucket in chunk.buckets}) == 1  # equal work, equal memory
        else:
            assert len({bucket.computed for bucket in chunk.buckets}) == 1
        for bucket in chunk.buckets:
            places = np.arange(len(mask))[chunk.prompts][bucket.prompts][:, None], bucket.members
            np.add.at(seen, places, 1)
            assert bucket.members.shape[0] == len(bucket.prompts)
            assert lengths[places].max() <= bucket.tokens <= mask.shape[2]
    assert (seen == 1).all()


@given(cut_masks())
def test_no_more_tokens_are_computed_than_by_padding_to_the_longest(case):
    mask, cut = case
    computed = [bucket.computed for chunk in buckets.chunks(mask, cut) for bucket in chunk.buckets]
    assert sum(computed) <= mask[..., 0].size * buckets.rung(lengths_of(mask).max(), mask.shape[2]) <= mask.size


@given(cut_masks())
def test_packed_tokens_lie_behind_each_other_in_the_order_of_their_places(case):
    mask, cut = case
    lengths = lengths_of(mask)
    for bucket in buckets._packed(lengths, cut.members, mask.shape[2]):
        own = np.pad(lengths[bucket.prompts, bucket.members[:, 0]], (0, bucket.blocks - len(bucket.prompts)))
        there = np.arange(bucket.tokens) < own[:, None]
        places, order = bucket.packing
        real = places[: there.sum()]
        np.testing.assert_array_equal(real, np.flatnonzero(there))
        assert (places[len(real) :] == there.size).all()  # past the last place
        np.testing.assert_array_equal(order.ravel()[real], np.arange(len(real)))
        assert (order[~there[:, None]] == len(places)).all()  # past the last token


def test_packed_buckets_worked_out_by_hand():
    lengths = np.array([[8, 1, 3, 2], [2, 1, 1, 1]])
    mask = np.arange(8) < lengths[..., None]
    (chunk,) = buckets.chunks(mask, Cut(1, 1))
    # 64 places, 19 tokens, room for 32: one bucket, with 8 blocks of 8 tokens.
    (bucket,) = chunk.buckets
    assert (bucket.tokens, bucket.blocks, bucket.computed) == (8, 8, 32)
    assert bucket.prompts.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    # Room for 8: the 8 alone; 3 + 2 + 2 + 1 in 4 blocks of 4 tokens; 1 + 1 + 1 in 16, at most 8, of 1.
    four = buckets._packed(lengths, 4, 8)
    found = [(bucket.tokens, bucket.blocks, len(bucket.prompts), bucket.computed) for bucket in four]
    assert found == [(8, 2, 1, 8), (4, 4, 4, 8), (1, 8, 3, 8)]


@given(cut_masks(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_buckets_side_by_side_have_one_shape_and_lose_no_completion(case, parts, seed):
    mask, cut = case
    random = np.random.default_rng(seed)
    masks = [mask & (np.arange(mask.shape[2]) < random.integers(0, mask.shape[2] + 1)) for _ in range(parts)]
    seen = np.zeros((parts, *mask.shape[:2]), int)
    for chunks in buckets.aligned(masks, cut):
        assert len({tuple((bucket.members.shape, bucket.tokens) for bucket in chunk.buckets) for chunk in chunks}) == 1
        for own, chunk, count in zip(masks, chunks, seen):
            for bucket in chunk.buckets:
                places = np.arange(len(own))[chunk.prompts][bucket.prompts][:, None], bucket.members
                np.add.at(count, places, 1)
                assert lengths_of(own)[places].max() <= bucket.tokens
    assert (seen == 1).all()


@given(st.integers(1, 600), st.data())
def test_a_rung_is_the_nearest_of_four_lengths_above(longest, data):
    least = data.draw(st.integers(0, longest))
    rung = buckets.rung(least, longest)
    assert least <= rung <= longest
    assert rung in {int(np.ceil(longest / part)) for part in (1, 2, 4, 8)}
    assert rung <= max(2 * least, np.ceil(longest / 8))


@pytest.mark.parametrize(
    ("least", "longest", "rung"),
    [(0, 64, 8), (8, 64, 8), (9, 64, 16), (33, 64, 64), (64, 64, 64), (1, 1, 1), (2, 5, 2), (4, 5, 5)],
)
def test_rungs_worked_out_by_hand(least, longest, rung):
    assert buckets.rung(least, longest) == rung


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 700), st.integers(1, 700), st.data())
def test_parts_of_a_cut_multiply_up_and_divide_prompts_and_groups(prompts, group, prompt_tokens, tokens, data):
    parts = data.draw(st.sampled_from(divisors(prompts))) * data.draw(st.sampled_from(divisors(group)))
    cut = buckets.cut_of(parts, prompts, group, prompt_tokens, tokens)
    assert cut.prompts * cut.members == parts
    assert prompts % cut.prompts == 0 == group % cut.members


@pytest.mark.parametrize(
    ("case", "cut"),
    [
        ((1, 4, 8, 100, 10), Cut(1, 1)),
        ((4, 4, 8, 16, 64), Cut(1, 4)),  # 64 tokens of prompts, 512 of completions in a bucket
        ((4, 4, 8, 128, 64), Cut(1, 4)),  # 512 of both: still not cut
        ((4, 4, 8, 129, 64), Cut(2, 2)),
        ((4, 4, 8, 999, 64), Cut(4, 1)),  # never as cheap: as fine as it goes
        ((8, 4, 4, 1, 64), Cut(2, 4)),  # a group of 4 has no 8 parts
        ((3, 6, 4, 1, 64), Cut(3, 1)),
    ],
)
def test_cuts_worked_out_by_hand(case, cut):
    assert buckets.cut_of(*case) == cut


@pytest.mark.parametrize(("parts", "prompts", "group"), [(3, 4, 8), (5, 1, 4), (64, 4, 8)])
def test_parts_that_fit_neither_prompts_nor_groups_are_refused(parts, prompts, group):
    with pytest.raises(ValueError, match=rf"{parts} buckets of {prompts} prompts x {group}.*divisor"):
        buckets.cut_of(parts, prompts, group, 8, 8)


def test_groups_of_one_spread_stay_whole_and_uneven_ones_are_sorted_over_all_or_packed():
    lengths = np.array([[8, 1], [8, 1]])
    (even,) = buckets.chunks(np.arange(8) < lengths[..., None], Cut(1, 2))
    assert [bucket.tokens for bucket in even.buckets] == [8, 1]
    assert [bucket.members.tolist() for bucket in even.buckets] == [[[0], [0]], [[1], [1]]]
    lengths = np.array([[1, 8, 7, 1], [1, 1, 1, 1]])
    mask = np.arange(8) < lengths[..., None]
    (packed,) = buckets.chunks(mask, Cut(1, 4))
    assert [bucket.computed for bucket in packed.buckets] == [8, 8, 8]  # within groups: 16, 16, 2, 2
    ((uneven, other),) = buckets.aligned([mask, mask], Cut(1, 4))
    assert [bucket.tokens for bucket in uneven.buckets] == [8, 1, 1, 1]  # within groups: 8, 8, 1, 1
    assert [bucket.tokens for bucket in other.buckets] == [8, 1, 1, 1]
    first = uneven.buckets[0]
    assert (first.prompts.tolist(), first.members.tolist()) == ([0, 0], [[1], [2]])


@given(cut_masks())
def test_unstacking_undoes_stacking(case):
    mask, cut = case
    random = np.random.default_rng(0)
    tree = {"tokens": random.normal(size=mask.shape), "completions": random.normal(size=mask.shape[:2]), "none": None}
    out = np.full(mask.shape, np.nan)
    for chunk in buckets.chunks(mask, cut):
        stacks = buckets.stacks(tree, chunk)
        assert sum(stack.filled for stack in stacks) == len(chunk.buckets)
        room = len(chunk.buckets) if chunk.buckets[0].packing is None else buckets.TOGETHER
        assert all(len(stack.prompts) == room for stack in stacks)  # one shape, whatever is filled
        buckets.unstack([stack.arrays["tokens"] for stack in stacks], chunk, out)
        whole = np.concatenate([stack.arrays["completions"][: stack.filled].ravel() for stack in stacks])
        whole = whole[whole != 0]  # empty blocks
        np.testing.assert_array_equal(np.sort(whole), np.sort(tree["completions"][chunk.prompts].ravel()))
    written = ~np.isnan(out)
    assert (written | ~mask).all()
    np.testing.assert_array_equal(out[written], tree["tokens"][written])


@given(cut_masks())
def test_blocks_of_a_stack_name_the_prompt_their_completions_belong_to(case):
    mask, cut = case
    owner = np.broadcast_to(np.arange(len(mask))[:, None], mask.shape[:2])
    for chunk in buckets.chunks(mask, cut):
        for stack in buckets.stacks(owner + 1, chunk):
            expected = np.broadcast_to(stack.prompts[..., None] + chunk.prompts.start + 1, stack.arrays.shape)
            there = stack.arrays > 0
            assert there.any()
            np.testing.assert_array_equal(stack.arrays[there], expected[there])
