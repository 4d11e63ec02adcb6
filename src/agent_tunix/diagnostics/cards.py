"""Metric cards: what a metric is, how it looks in health and in illness, and what every library calls it."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from agent_tunix.diagnostics import names
from agent_tunix.diagnostics._card import (
    ALGORITHMS,
    LIBRARIES,
    RULE_IDS,
    Card,
    Key,
    catalogue,
    check_family,
    load,
    load_all,
    validate,
)
from agent_tunix.diagnostics._examples import Curve, generate
from agent_tunix.errors import ConfigError, unknown
from agent_tunix.sketch import curve as chart
from agent_tunix.sketch import number, sparkline

__all__ = [
    "ALGORITHMS",
    "LIBRARIES",
    "RULE_IDS",
    "Card",
    "Curve",
    "Key",
    "catalogue",
    "check_family",
    "find",
    "generate",
    "listing",
    "load",
    "load_all",
    "page",
    "render",
    "validate",
]

DIRECTIONS = {
    "up": "should rise",
    "down": "should fall",
    "band": "neither too high nor too low",
    "none": "no direction",
}
FILLED = 1 / 3
"""Share of a card's axis that a curve has to fill; on less it would look flat, so it gets an axis of its own."""


def find(name: str) -> Card:
    """The card of a metric, by its id or by any name that a library gives it.

    Raises:
      ConfigError: if no card knows the name; the message suggests the nearest one.

    Examples:
      >>> find("actor/ppo_kl").id
      'approx_kl'
    """
    if resolved := names.resolve(name):
        return catalogue()[resolved.card]
    aliases = {alias for card in catalogue().values() for alias in card.aliases}
    # The list of all names would fill the screen, so only the ids follow the suggestion.
    near = unknown("metric", name, aliases).partition(" Allowed")[0].partition("; allowed")[0]
    raise ConfigError(f"{near.rstrip('.?')}{'?' if 'did you mean' in near else '.'} Cards: {', '.join(catalogue())}.")


def listing() -> str:
    """All cards, one line each: id, a healthy curve in small, and what it is."""
    cards = catalogue().values()
    width = max(len(card.id) for card in cards)
    return "\n".join(f"{card.id:{width}}  {_thumbnail(card)}  {card.shortDescription}" for card in cards)


def _thumbnail(card: Card) -> str:
    curves = card.curves()
    return f"{sparkline(curves[0].values, 12, bounds=_domain(card)):12}" if curves else " " * 12


def _domain(card: Card) -> tuple[float, float] | None:
    """The axis that a card asks for; it keeps a level curve level."""
    low_high = card.visualizations.get("yDomain")
    return (float(low_high[0]), float(low_high[1])) if low_high else None


def _axis(card: Card, curves: Iterable[np.ndarray]) -> tuple[float, float] | None:
    """The card's axis if the curves of a picture fill enough of it; None leaves them the range of their own values."""
    domain = _domain(card)
    known = np.concatenate([values[np.isfinite(values)] for values in curves])
    return domain if domain and len(known) and np.ptp(known) >= FILLED * (domain[1] - domain[0]) else None


def render(card: Card, width: int = 80) -> str:
    """A card as a page for the terminal, its curves drawn in text.

    Args:
      card: From `find`, or read by `load`.
      width: Characters per line.

    Returns:
      Lines without escape codes.
    """
    sections = [
        [f"{card.name} ({card.id})", *_wrap(card.shortDescription, width)],
        _facts(card, width),
        _titled("What to look for", _bullets(card.whatToLookFor, width)),
        *(_picture(card, example, width) for example in card.curves()),
        *([line for part in card.body.split("\n\n") for line in [*_wrap(part, width), ""]][:-1],),
        _titled("By algorithm", [line for name, text in _variations(card) for line in _entry(name, text, width)]),
        _titled("Names", [line for name, text in _library_names(card) for line in _entry(name, text, width)]),
        _titled("Health rules", _bullets(card.rules, width)),
        _titled("Sources", _bullets(card.sources, width)),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def _wrap(text: str, width: int, first: str = "", rest: str | None = None) -> list[str]:
    indent = first if rest is None else rest
    return textwrap.wrap(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _bullets(texts: Iterable[str], width: int) -> list[str]:
    return [line for text in texts for line in _wrap(text, width, "- ", "  ")]


def _entry(name: str, text: str, width: int) -> list[str]:
    return _wrap(f"{name}: {text}", width, "", "  ")


def _titled(title: str, lines: list[str]) -> list[str]:
    return [title, "-" * len(title), *lines] if lines else []


def _facts(card: Card, width: int) -> list[str]:
    return [line for name, text in _properties(card) for line in _entry(name, text, width)]


def _properties(card: Card) -> Iterator[tuple[str, str]]:
    """What a card says in a word or two, with the title of each."""
    if card.parent:
        yield "kind of", card.parent
    if card.unit:
        yield "unit", card.unit
    if card.aggregation:
        yield "value", card.aggregation
    if DIRECTIONS[card.direction]:
        yield "direction", DIRECTIONS[card.direction]
    low, high = card.bounds
    if low is not None or high is not None:
        yield "bounds", f"{'none' if low is None else number(low)} to {'none' if high is None else number(high)}"


def _picture(card: Card, example: Curve, width: int) -> list[str]:
    """One example: title, chart and analysis."""
    kind = "Healthy" if example.key == "healthy" else "Unhealthy"
    title = kind if example.label == kind else f"{kind}: {example.label}"
    sign = f" [{example.rule}]" if example.rule else ""
    shown = {_short(name): values for name, values in example.series.items() if _drawn_beside(name, example)}
    picture = chart(
        shown,
        min(width, 72),
        9,
        bounds=_axis(card, shown.values()),
        steps=(float(example.steps[0]), float(example.steps[-1])),
    )
    beside = [
        f"beside it: {name} {sparkline(v, 24)}" for name, v in example.companions.items() if _short(name) not in shown
    ]
    return [*_wrap(title + sign, width), picture, *beside, *_wrap(example.analysis, width)]


def _drawn_beside(name: str, example: Curve) -> bool:
    """Companions of the same kind share the chart; others have another scale."""
    if name == example.metric:
        return True
    own, other = names.resolve(example.metric), names.resolve(name)
    return bool(own and other and own.card == other.card)


def _short(name: str) -> str:
    resolved = names.resolve(name)
    return resolved.component or name if resolved else name


def _variations(card: Card) -> Iterator[tuple[str, str]]:
    for name, variation in card.variations.items():
        yield name, " ".join([variation["description"], *variation.get("whatToLookFor", ())])


def _library_names(card: Card) -> Iterator[tuple[str, str]]:
    """Names by library as they are written there."""
    for library, keys in card.keys.items():
        texts = [key.text + (f" ({_meaning(key)})" if _meaning(key) else "") for key in keys]
        if texts:
            yield LIBRARIES.get(library, "also"), ", ".join(texts)


def _meaning(key: Key) -> str:
    """What sets a name apart from the quantity of its card."""
    # `reward/max (max)` would say it twice.
    told = key.statistic == "mean" or key.text.lower().endswith(key.statistic)
    return ", ".join(([] if told else [key.statistic.replace("_", " ")]) + ["one minus it"] * key.complement)


def page() -> str:
    """The documentation page with every card, Markdown."""
    cards = catalogue().values()
    head = [
        "# Metric cards",
        "",
        *textwrap.wrap(
            "What each metric of a reinforcement learning run means, how it looks when things go well and when they do "
            "not, and what TRL, verl, OpenRLHF, NeMo-RL, Tunix and agent_tunix call it. `agent-tunix metrics NAME` "
            "shows a card in the terminal, with its example curves drawn; any of the names below will do.",
            120,
        ),
        "",
        "| card | what it is | direction |",
        "|---|---|---|",
        *(
            f"| [{card.id}](#{_anchor(card)}) | {card.shortDescription} | {DIRECTIONS[card.direction]} |"
            for card in cards
        ),
    ]
    return "\n".join([*head, *(line for card in cards for line in _card_page(card))]) + "\n"


def _anchor(card: Card) -> str:
    return card.name.lower().replace(" ", "-")


def _card_page(card: Card) -> list[str]:
    facts = "; ".join(f"{name}: {text}" for name, text in _properties(card))
    rules = ", ".join(f"`{rule}`" for rule in card.rules)
    names_of = [f"| {library} | {text} |" for library, text in _coded_names(card.keys)]
    lines = [
        f"\n## {card.name}\n",
        f"`{card.id}`: {card.shortDescription} ({facts}.)\n",
        *(f"- {text}" for text in card.whatToLookFor),
        "\n| library | names |\n|---|---|" if names_of else "",
        *names_of,
        "",
        *(f"- **{_title(example)}** {example.analysis}" for example in card.curves()),
        f"\n{card.body}" if card.body else "",
    ]
    lines += ["", *(f"- {name}: {text}" for name, text in _variations(card))] if card.variations else []
    lines += [f"\nHealth rules that read it: {rules}."] if rules else []
    lines += [f"\nSources: {'; '.join(card.sources)}."] if card.sources else []
    return lines


def _title(example: Curve) -> str:
    return f"{example.label}{f' (`{example.rule}`)' if example.rule else ''}."


def _coded_names(keys: Mapping[str, tuple[Key, ...]]) -> Iterator[tuple[str, str]]:
    for library, entries in keys.items():
        texts = [f"`{key.text}`" + (f" ({_meaning(key)})" if _meaning(key) else "") for key in entries]
        if texts:
            yield LIBRARIES.get(library, "also"), ", ".join(texts)
