"""Metric cards as data: the file format, its checks, and the catalogue that comes with the package."""

import functools
import importlib.resources
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from agent_tunix.diagnostics._examples import Curve, curve_of
from agent_tunix.errors import ConfigError, unknown

DIRECTIONS = ("up", "down", "band", "none")
ALGORITHMS = ("grpo", "dr-grpo", "rloo", "ppo", "dpo", "kto")
LIBRARIES = {
    "agent_tunix": "agent_tunix",
    "trl": "TRL",
    "verl": "verl",
    "openrlhf": "OpenRLHF",
    "nemo-rl": "NeMo-RL",
    "tunix": "Tunix",
}
"""Key in a card to the name people use."""

RULE_IDS = (
    "stagnation",
    "exceeds_bound",
    "explosive_growth",
    "proxy_gold_divergence",
    "length_drift",
    "format_only",
    "answer_spam",
    "collapse",
    "variance_collapse",
    "saturated_high",
    "saturated_low",
    "too_noisy",
    "tradeoff",
    "kl_blowup",
    "entropy_collapse",
    "entropy_explosion",
    "grad_spike",
    "truncation",
    "sampler_mismatch",
    "dead_component",
    "failed_grader",
    "non_finite",
)
"""Health rules that a card may name."""


@dataclass(frozen=True)
class Key:
    """Name of a metric in a library.

    Attributes:
      text: As it is logged; `{name}` stands for a reward component, `{path}` for one with slashes, `{set}` for a data
        set, `{k}` for a number.
      statistic: `mean` is the quantity of the card.
      component: The reward component it always is about, if any.
      complement: Whether one minus the quantity is logged.
      fallback: Whether another name of the quantity, if it is in the same log, says it better.
    """

    text: str
    statistic: str = "mean"
    component: str = ""
    complement: bool = False
    fallback: bool = False


@dataclass(frozen=True)
class Card:
    """What a metric is, how it looks in health and in illness, and what libraries call it.

    Attributes are named as in the file.

    Attributes:
      id: Canonical name of the quantity.
      name: Title.
      shortDescription: One line.
      whatToLookFor: Sentences for the reader of a chart; a card that other cards name as their parent has none.
      keys: Names by library, the short ones people use under an empty library.
      visualizations: `yDomain`, `healthy` and `unhealthy` as in the file; `curves` gives them as numbers.
      variations: What is different under an algorithm: `description` and `whatToLookFor` by its name.
      unit: Of a value, empty for none.
      aggregation: Over what a value is a mean, or what else it is.
      direction: Where a good run goes: `up`, `down`, `band` (neither too high nor too low) or `none`.
      bounds: Lowest and highest possible value, None where there is none.
      rules: Health rules that read the metric.
      sources: Where the facts come from.
      parent: Id of the card this one refines, empty for most.
      lastReviewed: Date, or empty.
      body: Text below the front matter, Markdown.
      file: Where the card was read.
    """

    id: str
    name: str
    shortDescription: str
    whatToLookFor: tuple[str, ...] = ()
    keys: Mapping[str, tuple[Key, ...]] = field(default_factory=dict)
    visualizations: Mapping[str, Any] = field(default_factory=dict)
    variations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unit: str = ""
    aggregation: str = ""
    direction: str = "none"
    bounds: tuple[float | None, float | None] = (None, None)
    rules: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    parent: str = ""
    lastReviewed: str = ""
    body: str = ""
    file: str = ""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Every exact name of the metric, of any library, without patterns; the id is one of them."""
        texts = [key.text for keys in self.keys.values() for key in keys if "{" not in key.text]
        return tuple(dict.fromkeys([self.id, *texts]))

    def curves(self) -> list[Curve]:
        """The example curves as numbers, the healthy one first."""
        healthy = self.visualizations.get("healthy")
        specs = {"healthy": healthy} if healthy else {}
        return [_curve(self, key, spec) for key, spec in (specs | self.visualizations.get("unhealthy", {})).items()]


FRONT_MATTER = {entry.name for entry in fields(Card)} - {"keys", "body", "file"} | {"aliases", "libraries"}
REQUIRED = ("id", "name", "shortDescription")
CURVE_KEYS = {"label", "data", "gen", "analysis", "rule", "metric", "companions", "bounds"}


def load(path: Path | Traversable) -> Card:
    """Reads and checks one card.

    Args:
      path: A Markdown file whose front matter is YAML between two lines of dashes.

    Raises:
      ConfigError: naming the file and the key, if it is not a card.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the metric card {path}: {error}.") from error
    card = parse(text, path.name)
    validate(card)
    return card


def parse(text: str, file: str) -> Card:
    """A card from the text of its file; `validate` does the rest of the checks."""
    head, body = _split(text, file)
    if missing := [key for key in REQUIRED if not isinstance(head.get(key), str)]:
        raise ConfigError(
            f"{file}: `{missing[0]}` is missing or is no text; a metric card needs {', '.join(REQUIRED)}."
        )
    if strange := sorted(head.keys() - FRONT_MATTER):
        raise ConfigError(f"{file}: {unknown('key', strange[0], FRONT_MATTER)}")
    keys = {"": _keys(head, "aliases", head.pop("aliases", ()), file)}
    libraries = _typed(head, "libraries", dict, file)
    keys |= {name: _keys(head, f"libraries.{name}", entries, file) for name, entries in libraries.items()}
    head.pop("libraries", None)
    for name in ("whatToLookFor", "rules", "sources"):
        head[name] = tuple(_typed(head, name, list, file))
    for name in ("visualizations", "variations"):
        head[name] = _typed(head, name, dict, file)
    if "lastReviewed" in head:
        head["lastReviewed"] = str(head["lastReviewed"])
    head["bounds"] = _bounds(head, file)
    return Card(**head, keys=keys, body=body, file=file)


def _split(text: str, file: str) -> tuple[dict[str, Any], str]:
    parts = text.replace("\r\n", "\n").removeprefix("\ufeff").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        raise ConfigError(f"{file}: a metric card begins with YAML between two lines of three dashes.")
    try:
        head = yaml.load(parts[1], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: the front matter is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(head, dict):
        raise ConfigError(f"{file}: the front matter must be a mapping of keys such as {', '.join(REQUIRED)}.")
    return head, parts[2].strip()


def _typed(head: Mapping[str, Any], key: str, kind: type, file: str) -> Any:
    value = head.get(key)
    value = kind() if value is None else value
    if not isinstance(value, kind):
        raise ConfigError(f"{file}: `{key}` must be a {'list' if kind is list else 'mapping'}, got {value!r}.")
    return value


def _keys(head: Mapping[str, Any], key: str, entries: Any, file: str) -> tuple[Key, ...]:
    try:
        return tuple(
            Key(str(entry))
            if not isinstance(entry, Mapping)
            else Key(entry["key"], **{k: entry[k] for k in entry if k != "key"})
            for entry in ([entries] if isinstance(entries, str) else entries or ())
        )
    except (TypeError, KeyError) as error:
        raise ConfigError(f"{file}: `{key}` must list names, or mappings with `key`; {error} does not fit.") from error


def _bounds(head: Mapping[str, Any], file: str) -> tuple[float | None, float | None]:
    bounds = head.get("bounds") or (None, None)
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise ConfigError(f"{file}: `bounds` must be [lowest, highest], with null for none, got {bounds!r}.")
    return bounds[0], bounds[1]


def _curve(card: Card, key: str, spec: Mapping[str, Any]) -> Curve:
    where = f"visualizations.{key}" if key == "healthy" else f"visualizations.unhealthy.{key}"
    if not isinstance(spec, Mapping) or spec.keys() - CURVE_KEYS:
        raise ConfigError(f"{card.file}: `{where}` must be a mapping with keys among {', '.join(sorted(CURVE_KEYS))}.")
    try:
        return curve_of(key, spec, card.id)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{card.file}: `{where}` gives no curve: {error}.") from error


def validate(card: Card) -> None:
    """Checks what a card says: known rules, algorithms and libraries, curves that can be drawn.

    Raises:
      ConfigError: naming the file and the key.
    """
    _one_of(card, "direction", [card.direction], DIRECTIONS)
    _one_of(card, "libraries", filter(None, card.keys), LIBRARIES)
    _one_of(card, "rules", card.rules, RULE_IDS)
    curves = card.curves()
    _one_of(card, "visualizations.unhealthy", [curve.rule for curve in curves if curve.rule], RULE_IDS)
    for curve in curves:
        if len(curve.steps) < 2 or not curve.analysis:
            raise ConfigError(f"{card.file}: curve `{curve.key}` needs two points and an `analysis`.")
    for name, variation in card.variations.items():
        if not isinstance(variation, Mapping) or "description" not in variation:
            raise ConfigError(f"{card.file}: `variations.{name}` needs a `description`.")


def _one_of(card: Card, key: str, got: Iterable[str], known: Iterable[str]) -> None:
    for name in got:
        if name not in known:
            raise ConfigError(f"{card.file}: `{key}`: {unknown('value', name, known)}")


def check_family(cards: Mapping[str, Card]) -> None:
    """Checks the relations between cards: parents exist and leave `whatToLookFor` to their children.

    Raises:
      ConfigError: naming the file and the key.
    """
    for card in cards.values():
        if card.parent and card.parent not in cards:
            raise ConfigError(f"{card.file}: `parent`: {unknown('card', card.parent, cards)}")
        if card.parent and cards[card.parent].whatToLookFor:
            file = cards[card.parent].file
            raise ConfigError(f"{file}: `whatToLookFor` belongs to the children of a card, such as {card.id}.")


def load_all(folder: Path | Traversable) -> dict[str, Card]:
    """Every card of a folder by id, in the order of the ids.

    Raises:
      ConfigError: naming the file, if two cards share an id or one is wrong.
    """
    cards: dict[str, Card] = {}
    for file in sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".md")), key=lambda entry: entry.name
    ):
        card = load(file)
        if card.id in cards:
            raise ConfigError(f"{card.file}: `id` {card.id} is also that of {cards[card.id].file}.")
        cards[card.id] = card
    check_family(cards)
    return dict(sorted(cards.items()))


@functools.cache
def catalogue() -> Mapping[str, Card]:
    """The cards that come with the package, by id."""
    return load_all(importlib.resources.files("agent_tunix.diagnostics") / "cards")
