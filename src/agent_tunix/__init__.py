"""GRPO post-training of language models in JAX on Google Tunix, with reward engineering at its heart.

The short way in::

    import agent_tunix
    from agent_tunix.config import Config, TrainingConfig

    run = agent_tunix.train(Config(training=TrainingConfig(steps=20)))
    print(run.summary["final"]["eval/accuracy"])
"""

from typing import TYPE_CHECKING, Any

from agent_tunix.config import Config

if TYPE_CHECKING:
    from agent_tunix.jobs import evaluate_run, resume, sample_run, train

__all__ = ["Config", "evaluate_run", "resume", "sample_run", "train"]


def __getattr__(name: str) -> Any:
    """Imports jobs when one is asked for: graders and the command line's errors need none of JAX or Tunix."""
    if name in __all__:
        from agent_tunix import jobs

        return getattr(jobs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
