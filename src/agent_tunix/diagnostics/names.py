"""Which quantity a metric name of any library stands for: exact names and documented patterns, never substrings."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agent_tunix.diagnostics._card import catalogue

Patterns = tuple[tuple[re.Pattern[str], "Resolved"], ...]
SEGMENTS = ("train", "eval", "val", "global")
"""Path segments that libraries and loggers insert; they say where a number was taken, not what it is."""

HELD_OUT = ("eval", "val")
NEVER_MISSING = frozenset({"loss", "grad_norm", "kl", "approx_kl", "entropy"})
"""Cards of what every step has a value of; nan there is a number that was not finite."""
PATH = "{path}"
PLACEHOLDERS = {
    "{name}": r"(?P<name>[^/]+)",
    PATH: r"(?P<name>[^/]+(?:/[^/]+)*)",
    "{set}": r".+",
    "{k}": r"\d+",
}
"""A reward component, a component by its path in a combination, a data set (whose name may hold slashes), a number."""


@dataclass(frozen=True)
class Resolved:
    """What a metric name stands for.

    Attributes:
      card: Id of the metric card, the canonical quantity.
      component: The reward component, empty for what is not per component.
      statistic: `mean` is the quantity the card is about; others, such as `max`, go beside it. What was measured on
        held-out rows has `eval`, or starts with `eval_`.
      complement: Whether the library logs one minus the quantity.
      fallback: Whether another name with the same meaning comes first where a log has both. Tunix's `rewards/mean` is
        the total over the number of functions, and its `rewards/score/mean` is the total. Not compared.
    """

    card: str
    component: str = ""
    statistic: str = "mean"
    complement: bool = False
    fallback: bool = field(default=False, compare=False)


def resolve(name: str) -> Resolved | None:
    """The quantity behind a metric name.

    Letters are compared without their case. The whole name comes first, then the name without the path segments that
    libraries insert, then patterns with one placeholder. Nothing is guessed. Where a name can be read in two ways, the
    longer ending wins: `reward/part/style/std` is the deviation of the part `style`, not a part `std` of `style`.

    Args:
      name: As a library logs it.

    Returns:
      None if no card knows the name.

    Examples:
      >>> resolve("actor/ppo_kl").card, resolve("rewards/train/score/mean").card
      ('approx_kl', 'rewards')
      >>> resolve("rewards/format_reward/mean").component, resolve("reward/part/style/format/std").component
      ('format_reward', 'style/format')
      >>> resolve("reward_std_of_something") is None
      True
    """
    return _resolve(name.strip())


@functools.lru_cache(maxsize=4096)
def _resolve(name: str) -> Resolved | None:
    return _looked_up(name) or _with_prefix(name)


def _looked_up(name: str) -> Resolved | None:
    exact, patterns, paths = _tables()
    # A path keeps all of its segments: `eval` in `reward/part/eval/std` is a part.
    if found := exact.get(name.lower()) or _match(name, paths):
        return found
    bare = _without_segments(name)
    # Patterns see the bare name first: in `rewards/train/mean`, `train` is no reward component.
    if found := exact.get(bare.lower()) or _match(bare, patterns):
        return _held_out(found) if _is_held_out(name) else found
    return _match(name, patterns)


def _with_prefix(name: str) -> Resolved | None:
    """Transformers' trainer puts `eval_` before every metric of an evaluation."""
    found = _looked_up(name[5:]) if name.lower().startswith("eval_") else None
    return _held_out(found) if found else None


def _without_segments(name: str) -> str:
    return "/".join(part for part in name.split("/") if part.lower() not in SEGMENTS)


def _is_held_out(name: str) -> bool:
    return any(part.lower() in HELD_OUT for part in name.split("/"))


def _held_out(found: Resolved) -> Resolved:
    """Marks a training quantity that was measured on held-out rows, so that it is not taken for the training one."""
    if found.card == "eval_accuracy" or found.statistic.startswith("eval"):
        return found
    return replace(found, statistic="eval" if found.statistic == "mean" else f"eval_{found.statistic}")


def _match(name: str, patterns: Patterns) -> Resolved | None:
    for pattern, found in patterns:
        if match := pattern.fullmatch(name):
            component = match.groupdict().get("name") or found.component
            return replace(found, component=component)
    return None


def _compiled(key: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\})", key)
    return re.compile("".join(PLACEHOLDERS.get(part) or re.escape(part) for part in parts), re.IGNORECASE)


@functools.cache
def _tables() -> tuple[dict[str, Resolved], Patterns, Patterns]:
    """Exact names, patterns with the most literal characters first, and those of them that are about paths."""
    entries = {key.lower(): found for key, found in _entries()}
    exact = {key: found for key, found in entries.items() if "{" not in key}
    shorter = {_without_segments(key): found for key, found in exact.items() if not _is_held_out(key)}
    keys = sorted((key for key in entries if "{" in key), key=lambda key: -len(re.sub(r"\{\w+\}", "", key)))
    patterns = {key: (_compiled(key), entries[key]) for key in keys}
    paths = tuple(pattern for key, pattern in patterns.items() if PATH in key)
    return shorter | exact, tuple(patterns.values()), paths


def _entries() -> Iterator[tuple[str, Resolved]]:
    """Every name on the cards, patterns included."""
    for card in catalogue().values():
        yield card.id, Resolved(card.id)
        for key in (key for keys in card.keys.values() for key in keys):
            yield key.text, Resolved(card.id, key.component, key.statistic, key.complement, key.fallback)
