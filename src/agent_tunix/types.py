"""The nouns of agent_tunix: what flows from tasks to the update, and the functions that transform it.

Everything is indexed by two axes, `prompts` and `group`; token-level arrays add a third, `tokens`.
A reward-design method is a choice of the five functions in `Recipe`.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Params = Any
"""A pytree of parameters, as nested dictionaries of arrays."""

Row = Mapping[str, Any]
"""One example of a task: `prompt`, `answer`, `demonstration` and any further columns."""


class Outcome(enum.IntEnum):
    """What became of one grader call. Only `GRADED` carries a value."""

    GRADED = 0
    ABSTAINED = 1
    FAILED = 2
    TIMED_OUT = 3


class Failure(NamedTuple):
    """Why one completion got no value from one grader."""

    part: str
    prompt_index: int
    completion_index: int
    reason: str


@dataclass(frozen=True)
class Rollouts:
    """Everything sampled for one batch of prompts, on the host.

    Attributes:
      prompts: Prompt texts, one per group.
      completions: Completion texts, `completions[prompt][member]`, tags rendered, without the end-of-sequence token.
      columns: Further dataset columns (answer, task, level, ...), each a sequence with one entry per prompt.
      prompt_ids: Prompt tokens, left-padded.
      prompt_mask: True on prompt tokens that are not padding.
      completion_ids: Sampled tokens, right-padded after the stop token.
      completion_mask: True on sampled tokens including the stop token.
      truncated: True where the token budget ended the completion before a stop token was sampled.
      logprobs: Log-probabilities in nats of the sampled tokens under the distribution they were drawn from, that is
        after temperature and after top-k, top-p and min-p.
      old_logprobs: The same under the policy itself (temperature only): the denominator of the importance ratio.
        Equal to `logprobs` when no filter is on.
      ref_logprobs: The same under the reference policy, or None when nothing asks for it.
    """

    prompts: Sequence[str]
    completions: Sequence[Sequence[str]]
    columns: Mapping[str, Sequence[Any]]
    prompt_ids: Int[np.ndarray, "prompts prompt_tokens"]
    prompt_mask: Bool[np.ndarray, "prompts prompt_tokens"]
    completion_ids: Int[np.ndarray, "prompts group tokens"]
    completion_mask: Bool[np.ndarray, "prompts group tokens"]
    truncated: Bool[np.ndarray, "prompts group"]
    logprobs: Float[Any, "prompts group tokens"]
    old_logprobs: Float[Any, "prompts group tokens"]
    ref_logprobs: Float[Any, "prompts group tokens"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """`(prompts, group)`."""
        return self.truncated.shape[0], self.truncated.shape[1]

    @property
    def lengths(self) -> Int[np.ndarray, "prompts group"]:
        """Tokens of each completion, stop token included."""
        return np.asarray(self.completion_mask).sum(-1)


@dataclass(frozen=True)
class Score:
    """A reward value for every completion, with its validity and its named parts.

    A pytree of arrays, so that shaping and advantages can be jitted; `failures` and `seconds` are for people and do not
    survive a jit boundary.

    Attributes:
      value: The reward. Entries that are not valid hold 0 and mean nothing.
      valid: False where no value could be given. Such an entry gets no advantage and enters no statistic.
      parts: Raw named components, before weights; NaN where a component gave no value. Combinators extend the path
        (`accuracy/exact_answer`) and always produce the same keys.
      outcomes: For each part, the `Outcome` of every call.
      per_token: Optional reward per token, `[prompts group tokens]`.
      failures: The reasons behind outcomes other than `GRADED` that carry a message.
      seconds: For each part that was timed, how long every call took.
    """

    value: Float[Any, "prompts group"]
    valid: Bool[Any, "prompts group"]
    parts: Mapping[str, Float[Any, "prompts group"]] = field(default_factory=dict)
    outcomes: Mapping[str, Int[Any, "prompts group"]] = field(default_factory=dict)
    per_token: Float[Any, "prompts group tokens"] | None = None
    failures: Sequence[Failure] = ()
    seconds: Mapping[str, Float[Any, "prompts group"]] = field(default_factory=dict)


jax.tree_util.register_dataclass(
    Score,
    data_fields=("value", "valid", "parts", "outcomes", "per_token"),
    meta_fields=(),
    drop_fields=("failures", "seconds"),
)


class Bounds(NamedTuple):
    """Least and greatest attainable reward."""

    low: float
    high: float


UNBOUNDED = Bounds(float("-inf"), float("inf"))
"""Where nothing is known of a reward's range."""

Grader = Callable[..., float | None]
"""One completion and dataset columns to a value; None abstains, an exception is a failure."""


@dataclass(frozen=True)
class Reward:
    """A callable `Rollouts -> Score` that knows its name and its attainable bounds.

    Attributes:
      name: Path of the part, or of the combination, in metrics.
      score: The function.
      bounds: Attainable range, infinite where nothing is known.
      combined: Ranges of its parts by path, if it is made of others.
    """

    name: str
    score: Callable[[Rollouts], Score]
    bounds: Bounds = UNBOUNDED
    combined: Mapping[str, Bounds] | None = None

    @property
    def parts(self) -> Mapping[str, Bounds]:
        """Attainable range of every part, by path; its own where it has a single one."""
        return {self.name: self.bounds} if self.combined is None else self.combined

    def __call__(self, rollouts: Rollouts) -> Score:
        """Scores every completion."""
        return self.score(rollouts)


class Shaping(NamedTuple):
    """A transformation of scores that may remember, in the manner of an optax transformation.

    Attributes:
      init: `() -> state`, a pytree of arrays; it is checkpointed.
      update: `(score, state, rollouts) -> (score, state)`.
      needs_reference: Whether `rollouts.ref_logprobs` must be filled in.
    """

    init: Callable[[], Any]
    update: Callable[[Score, Any, Rollouts], tuple[Score, Any]]
    needs_reference: bool = False


Advantage = Callable[[Score], Float[Array, "prompts group"] | Float[Array, "prompts group tokens"]]
"""Credit for every completion, or for every token; zero where the score is not valid."""


class TokenBatch(NamedTuple):
    """What a loss sees: per-token arrays `[prompts group tokens]` inside the compiled update.

    Attributes:
      logprobs: Under the policy being trained; gradients flow through it.
      entropy: Of the policy's distribution at each position, nats; gradients flow through it.
      old_logprobs: Under the policy that sampled, before this batch's updates (temperature only).
      sampler_logprobs: Under the distribution the tokens were drawn from (after filters, by the sampling engine).
      ref_logprobs: Under the reference policy, or None.
      advantages: Credit, broadcast over tokens.
      mask: True on tokens that carry loss.
    """

    logprobs: Float[Array, "prompts group tokens"]
    entropy: Float[Array, "prompts group tokens"]
    old_logprobs: Float[Array, "prompts group tokens"]
    sampler_logprobs: Float[Array, "prompts group tokens"]
    ref_logprobs: Float[Array, "prompts group tokens"] | None
    advantages: Float[Array, "prompts group tokens"]
    mask: Bool[Array, "prompts group tokens"]


class Loss(NamedTuple):
    """A policy loss as a sum over tokens of `weights * per_token`.

    Weights come from the masks of the whole minibatch: the sum over microbatches is exact whatever their number.

    Attributes:
      per_token: `TokenBatch -> (losses, statistics)`, both `[prompts group tokens]`; statistics are averaged over the
        mask and logged as `policy/<name>`.
      weights: `(mask, truncated) -> weights`; zero where a token carries no loss.
      needs_reference: Whether `ref_logprobs` must be filled in.
      needs_entropy: Whether gradients flow through `entropy`.
    """

    per_token: Callable[[TokenBatch], tuple[Float[Array, "prompts group tokens"], dict[str, Array]]]
    weights: Callable[
        [Bool[Array, "prompts group tokens"], Bool[Array, "prompts group"]], Float[Array, "prompts group tokens"]
    ]
    needs_reference: bool = False
    needs_entropy: bool = False


KeepGroup = Callable[[Score], Bool[np.ndarray, " prompts"]]
"""Which groups of the unshaped score are worth training on (dynamic sampling)."""


class Recipe(NamedTuple):
    """A reward-design method."""

    reward: Reward
    shaping: Shaping
    advantage: Advantage
    loss: Loss
    keep_group: KeepGroup | None = None

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities of a reference policy have to be computed."""
        return self.shaping.needs_reference or self.loss.needs_reference
