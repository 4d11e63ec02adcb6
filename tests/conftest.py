import logging
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest

from agent_tunix import models, tasks
from agent_tunix.tokenizers import CharacterTokenizer

# A loaded machine is no failure; `timeout` of pytest catches what hangs.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

# The suite compiles a few dozen small programs; kept ones make a second run of it several times faster.
CACHE = Path(__file__).parents[1] / ".cache" / "tests" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
logging.getLogger("absl").setLevel(logging.ERROR)


def pytest_collection_modifyitems(items):
    """Files that train whole runs come first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: "invariant" not in item.path.parts)


@pytest.fixture(scope="session")
def tokenizer():
    return CharacterTokenizer()


@pytest.fixture(scope="session")
def architecture(tokenizer):
    return models.tiny(tokenizer.vocab_size, layers=1, width=16, heads=2, kv_heads=1, head_dim=8, mlp=32)


@pytest.fixture(scope="session")
def policy(architecture):
    return models.policy(architecture)


@pytest.fixture(scope="session")
def params(architecture):
    return models.initial_params(architecture, seed=0)


@pytest.fixture(scope="session")
def rows():
    return tasks.generate("sorting", level=1, size=64, split="train", seed=0)


@pytest.fixture(scope="module")
def quickly_compiled():
    """Programs of the module compile in a third of the time and run slower; what they compute is the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
