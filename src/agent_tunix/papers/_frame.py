"""What a paper's file consists of, and how it is found."""

import dataclasses
import functools
import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent_tunix import advantages, losses, rewards
from agent_tunix.errors import ConfigError, unknown
from agent_tunix.types import Recipe, Reward, Rollouts, Score

Measured = Mapping[str, Any]
"""Quantities of one seed by name: numbers, and curves as arrays of one axis. `arm/quantity` says which arm."""

SECTIONS = ("Claim", "Method", "Here", "Run", "Seen")
"""Of a paper's docstring, in this order."""


class Comparison(NamedTuple):
    """A row of the table: the method against the baseline.

    Attributes:
      what: The quantity in words, with its unit.
      baseline: Name of the baseline's quantity, such as `sum/success`.
      method: Name of the method's.
    """

    what: str
    baseline: str
    method: str


class Check(NamedTuple):
    """Something that has to hold for the method to count as reproduced.

    The mean over the seeds of `of`, or its whole 95 % interval, has to lie between the bounds, ends included.

    Attributes:
      words: What is claimed, with its bound.
      of: The quantity, from what one seed measured.
      at_least: Lower bound.
      at_most: Upper bound.
      surely: Whether the whole confidence interval counts.
    """

    words: str
    of: Callable[[Measured], float]
    at_least: float = -math.inf
    at_most: float = math.inf
    surely: bool = False


Law = Callable[[np.random.Generator], bool]
"""A property that holds exactly, whatever is drawn; its docstring says which. It returns whether it held."""


@dataclass(frozen=True)
class Paper:
    """What is known of a publication and of its reproduction here.

    Attributes:
      title: As published.
      authors: Last names, `and others` for more than three.
      year: Of the first version.
      arxiv: Its number there; empty where it has none.
      checked: What the formulas were held against: `the authors' code`, `pages about the paper`, `memory`.
      comparisons: Rows of the table, the most important first.
      checks: What has to hold.
      laws: What holds exactly.
      curves: Names of measured curves that the figure shows, by what they are called there.
      axis: What the curves are over.
    """

    title: str
    authors: str
    year: int
    arxiv: str
    checked: str
    comparisons: tuple[Comparison, ...]
    checks: tuple[Check, ...]
    laws: tuple[Law, ...] = ()
    curves: Mapping[str, str] = field(default_factory=dict)
    axis: str = "update"


@dataclass(frozen=True)
class Method:
    """A paper's module.

    Attributes:
      slug: Its name.
      paper: What is known of it.
      sections: The sections of its docstring.
      headline: The first line of its docstring.
      reproduce: `seed -> Measured`.
      recipe: `(base, **numbers) -> Recipe`; None where the paper is no way of training.
    """

    slug: str
    paper: Paper
    sections: Mapping[str, str]
    headline: str
    reproduce: Callable[[int], Measured]
    recipe: Callable[..., Recipe] | None

    @property
    def numbers(self) -> Mapping[str, Any]:
        """The numbers of its recipe and their defaults."""
        if self.recipe is None:
            return {}
        given = inspect.signature(self.recipe).parameters.values()
        return {number.name: number.default for number in given if number.kind is number.KEYWORD_ONLY}


def names() -> list[str]:
    """The slugs of all papers that are built."""
    folder = Path(__file__).parent
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def find(slug: str) -> Method:
    """The paper of a name.

    Raises:
      ConfigError: There is none.
    """
    if slug not in names():
        raise ConfigError(unknown("paper", slug, names()))
    module = importlib.import_module(f"agent_tunix.papers.{slug}")
    text = inspect.cleandoc(module.__doc__ or "")
    recipe = getattr(module, "recipe", None)
    return Method(slug, module.PAPER, _sections(text), text.partition("\n")[0], module.reproduce, recipe)


def paper(slug: str, base: Recipe, numbers: Mapping[str, Any]) -> Recipe:
    """The recipe of a paper on top of another one.

    Args:
      slug: Its name.
      base: What it takes over where it has nothing of its own to say.
      numbers: Keyword arguments of its `recipe`.

    Raises:
      ConfigError: There is no such paper or number, or the paper is no way of training.
    """
    found = find(slug)
    if found.recipe is None:
        raise ConfigError(f"paper.name is {slug}, which is no way of training; see agent-tunix papers run {slug}")
    for name in numbers:
        if name not in found.numbers:
            raise ConfigError(unknown(f"number of paper {slug}", name, found.numbers))
    return found.recipe(base, **numbers)


def based_on(base: Recipe | None) -> Recipe:
    """The recipe that a paper starts from: the given one, or plain GRPO with the default reward."""
    if base is not None:
        return base
    return Recipe(
        rewards.default(),
        rewards.identity(),
        advantages.per_group(advantages.group_normalized),
        losses.policy_loss(losses.clipped(0.2)),
    )


def components(reward: Reward, *wanted: str) -> list[Reward]:
    """Parts of a reward as rewards of their own, to be combined in another way; its graders run once per batch.

    Args:
      reward: With named parts, such as the default reward's `format` and `correctness`.
      *wanted: Their names; the name of the reward itself is the whole of it.

    Raises:
      ConfigError: The reward has no such part.
    """
    for name in wanted:
        if name not in (reward.name, *reward.parts):
            raise ConfigError(unknown(f"part of reward {reward.name}, which the paper combines,", name, reward.parts))
    last: list[tuple[Rollouts, Score]] = []

    def graded(rollouts: Rollouts) -> Score:
        if not last or last[0][0] is not rollouts:
            last[:] = [(rollouts, reward(rollouts))]
        return last[0][1]

    whole = dataclasses.replace(reward, score=graded)
    single = {
        name: Reward(name, functools.partial(_component, graded, name), reward.parts[name]) for name in reward.parts
    }
    return [(single | {reward.name: whole})[name] for name in wanted]


def _component(graded: Callable[[Rollouts], Score], name: str, rollouts: Rollouts) -> Score:
    whole = graded(rollouts)
    value = np.asarray(whole.parts[name])
    valid = np.isfinite(value)
    outcomes = {name: whole.outcomes[name]} if name in whole.outcomes else {}
    failures = [failure for failure in whole.failures if failure.part == name]
    return Score(np.where(valid, value, 0), valid, {name: value}, outcomes, failures=failures)


def _sections(text: str) -> dict[str, str]:
    """The sections of a docstring by name, as they stand there."""
    pattern = rf"^({'|'.join(SECTIONS)}):(.*(?:\n(?:[ \t].*|[ \t]*$))*)"
    return {name: inspect.cleandoc(body) for name, body in re.findall(pattern, text, re.MULTILINE)}
