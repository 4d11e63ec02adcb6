import contextlib
import errno
import functools
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from agent_tunix.checkpoints import CheckpointError, Checkpoints, load_tree, save_tree
from agent_tunix.optimizers import adamw


@pytest.fixture
def open_manager(tmp_path):
    """Opens the checkpoints of one folder; closed after the test."""
    with contextlib.ExitStack() as stack:

        def opened(**settings):
            manager = Checkpoints(tmp_path / "checkpoints", **{"keep": 2} | settings)
            stack.callback(manager.close)
            return manager

        yield opened


@pytest.fixture
def manager(open_manager):
    return open_manager()


def params(fill=0.0):
    return {"layer": {"w": jnp.arange(6.0).reshape(2, 3) + fill}, "bias": jnp.full(3, fill, jnp.bfloat16)}


def save(manager, step, accuracy=0.0, **settings):
    manager.save(step, params(step), {"step": step}, accuracy=accuracy, wait=True, **settings)


def assert_same_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@contextlib.contextmanager
def full_disk(limit=200_000):
    """No file may grow above `limit` bytes: the operating system's refusal, without filling a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def too_large():
    return {"w": jax.random.normal(jax.random.key(0), (500_000,))}  # 2 MB that do not compress


# round trip


def test_what_is_restored_equals_what_was_saved_bit_for_bit(manager):
    optimizer = adamw(optax.constant_schedule(0.1))
    tree = params(0.1)
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1 / 3), tree)
    state = optimizer.update(gradient, optimizer.init(tree), tree)[1]
    shaping = {"seen": np.int32(3), "total": np.float64(0.1), "empty": (), "odd": jnp.array([np.nan, -0.0, np.inf])}
    saved = (tree, state, shaping)
    record = {"progress": {"step": 3, "accuracy": 0.1}, "data": {"next": [1, None, "ü"]}, "position": {"rows": 2**40}}
    manager.save(3, saved, record, accuracy=0.5, wait=True)

    like = jax.tree.map(np.zeros_like, (params(), optimizer.init(params()), shaping))
    like = (params(), optimizer.init(params()), like[2])
    restored, read = manager.restore(like)
    assert read == record
    for one, other in zip(saved, restored, strict=True):
        assert_same_bits(one, jax.tree.unflatten(jax.tree.structure(one), jax.tree.leaves(other)))


def test_shapes_are_enough_to_restore_into(manager):
    save(manager, 1)
    restored, _ = manager.restore(jax.eval_shape(params))
    assert_same_bits(restored, params(1))


def test_an_empty_folder_restores_nothing(manager):
    assert manager.restore(params()) is None
    assert manager.steps() == []
    assert manager.best_step() is None


def test_the_newest_checkpoint_is_restored_unless_another_is_asked_for(manager):
    save(manager, 1), save(manager, 5)
    assert manager.restore(params())[1] == {"step": 5}
    tree, record = manager.restore(params(), 1)
    assert record == {"step": 1}
    assert_same_bits(tree, params(1))


def test_a_step_that_does_not_exist_is_refused_with_those_that_do(manager):
    save(manager, 1), save(manager, 5)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3 in .*there are \[1, 5\]"):
        manager.restore(params(), 3)


def test_another_process_finds_the_same_checkpoints(manager, open_manager):
    save(manager, 1, 0.7), save(manager, 2, 0.2)
    reader = open_manager()
    assert reader.steps() == [1, 2]
    assert reader.best_step() == 1
    assert reader.restore(params())[1] == {"step": 2}


# which are kept


def test_the_newest_and_the_best_are_kept(manager):
    for step, accuracy in ((1, 0.1), (2, 0.9), (3, 0.2), (4, 0.3), (5, 0.4)):
        save(manager, step, accuracy)
    assert manager.steps() == [2, 4, 5]
    assert manager.best_step() == 2


def test_of_equally_good_ones_the_newest_is_the_best(manager):
    for step in (1, 2, 3, 4):
        save(manager, step, 0.5)
    assert manager.steps() == [3, 4]
    assert manager.best_step() == 4


def test_the_best_is_still_kept_by_a_run_that_was_resumed(manager, open_manager):
    save(manager, 1, 0.9), save(manager, 2, 0.2)
    manager.close()
    resumed = open_manager(keep=1)
    save(resumed, 3, 0.3), save(resumed, 4, 0.4)
    assert resumed.steps() == [1, 4]
    assert resumed.best_step() == 1


# unfinished and repeated saves


def test_a_torn_checkpoint_is_never_seen(manager, open_manager):
    save(manager, 1)
    torn = manager.directory / "2.orbax-checkpoint-tmp"
    torn.mkdir()
    (torn / "arrays").write_bytes(b"half")
    again = open_manager()
    assert again.steps() == [1]
    assert again.restore(params())[1] == {"step": 1}
    save(again, 2)
    assert again.steps() == [1, 2]
    assert sorted(path.name for path in again.directory.iterdir()) == ["1", "2"]


def test_a_reader_leaves_alone_what_another_process_is_writing(manager, open_manager):
    save(manager, 1)
    under_way = manager.directory / "2.orbax-checkpoint-tmp"
    under_way.mkdir()
    reader = open_manager()
    reader.restore(params())
    reader.close()
    assert under_way.exists()


def test_a_checkpoint_counts_only_when_it_is_complete(manager, monkeypatch):
    save(manager, 1)
    monkeypatch.setattr(manager._manager, "all_steps", lambda: [1, 2])  # as while the second is being written
    assert manager.steps() == [1]
    assert manager.restore(params())[1] == {"step": 1}


def test_an_existing_step_is_left_as_it_is(manager):
    save(manager, 1)
    manager.save(1, params(9), {"step": 9}, accuracy=1.0, wait=True)
    tree, record = manager.restore(params())
    assert record == {"step": 1}
    assert_same_bits(tree, params(1))


@pytest.mark.parametrize("wait", [False, True])
def test_saving_a_step_that_is_being_written_ends_with_one_complete_checkpoint(manager, wait):
    manager.save(1, params(1), {"step": 1}, accuracy=0.0)
    manager.save(1, params(9), {"step": 9}, accuracy=0.0, wait=wait)
    assert manager.steps() == [1]
    assert manager.restore(params())[1] == {"step": 1}


def test_donating_and_overwriting_after_save_does_not_reach_the_checkpoint(manager):
    @functools.partial(jax.jit, donate_argnums=0)
    def overwrite(tree):
        return jax.tree.map(lambda leaf: leaf * 0 - 7, tree)

    tree = {"w": jax.random.normal(jax.random.key(0), (300_000,)), "count": jnp.int32(3)}
    expected = jax.tree.map(np.array, tree)
    manager.save(1, tree, {}, accuracy=0.0)
    for _ in range(5):
        tree = overwrite(tree)
    jax.block_until_ready(tree)
    manager.wait()
    assert_same_bits(manager.restore(tree)[0], expected)


def test_numpy_arrays_changed_after_save_do_not_reach_the_checkpoint(manager):
    tree = {"w": np.ones(300_000)}
    manager.save(1, tree, {}, accuracy=0.0)
    tree["w"][:] = 7
    manager.wait()
    assert_same_bits(manager.restore(tree)[0], {"w": np.ones(300_000)})


# a disk that refuses


def test_a_full_disk_names_the_last_complete_checkpoint(manager):
    save(manager, 1)
    with full_disk(), pytest.raises(CheckpointError, match=r"the last complete one is of step 1. Free space") as caught:
        manager.save(2, too_large(), {}, accuracy=0.0, wait=True)
    assert "File too large" in str(caught.value)
    assert manager.steps() == [1]
    assert [path.name for path in manager.directory.iterdir()] == ["1"]  # what was half written is gone


def test_a_failed_step_can_be_saved_once_there_is_space(manager):
    with full_disk(), pytest.raises(CheckpointError, match="none is complete"):
        manager.save(2, too_large(), {}, accuracy=0.0, wait=True)
    manager.save(2, too_large(), {"step": 2}, accuracy=0.0, wait=True)
    assert manager.steps() == [2]
    assert_same_bits(manager.restore(too_large())[0], too_large())


@pytest.mark.parametrize("notice", ["wait", "close", "save"])
def test_a_background_failure_is_reported_at_the_next_opportunity(manager, notice):
    save(manager, 1)
    calls = {"wait": manager.wait, "close": manager.close, "save": lambda: save(manager, 3)}
    with full_disk():
        manager.save(2, too_large(), {}, accuracy=0.0)
        with pytest.raises(CheckpointError, match="last complete one is of step 1"):
            calls[notice]()


@pytest.mark.parametrize("method", ["save", "wait_until_finished"])
def test_an_error_of_the_operating_system_becomes_a_checkpoint_error(manager, monkeypatch, method):
    save(manager, 4)
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*_, **__):
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(manager._manager, method, refuse)
        with pytest.raises(
            CheckpointError, match=r"No space left on device; the last complete one is of step 4"
        ) as caught:
            manager.save(5, params(5), {}, accuracy=0.0, wait=True)
    assert caught.value.__cause__ is full
    save(manager, 5)
    assert manager.steps() == [4, 5]


# single trees


def test_a_tree_is_read_as_it_was_written(tmp_path):
    save_tree(tmp_path / "start", params(0.3))
    assert_same_bits(load_tree(tmp_path / "start", params()), params(0.3))


def test_a_tree_that_could_not_be_written_is_not_there_at_all(tmp_path):
    with full_disk(), pytest.raises(CheckpointError, match=r"could not write parameters to .*start: .*File too large"):
        save_tree(tmp_path / "start", too_large())
    assert not (tmp_path / "start").exists()
    save_tree(tmp_path / "start", too_large())
    assert_same_bits(load_tree(tmp_path / "start", too_large()), too_large())


def test_a_tree_is_not_written_over_another(tmp_path):
    save_tree(tmp_path / "start", params(1))
    with pytest.raises(CheckpointError, match="already exists"):
        save_tree(tmp_path / "start", params(2))
    assert_same_bits(load_tree(tmp_path / "start", params()), params(1))
