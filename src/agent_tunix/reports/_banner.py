"""The head of the page: what to think of the run in a sentence, what to do, and its few most asked numbers."""

from collections.abc import Iterator, Sequence

import numpy as np

from agent_tunix.diagnostics.findings import severity
from agent_tunix.reports._gather import Series, Told
from agent_tunix.reports._series import blocks
from agent_tunix.reports._words import number, stretch_of_steps


def eyebrow(told: Sequence[Told]) -> str:
    """The line above the heading: which run, and whether it goes on."""
    if len(told) > 1:
        return "Reward report · " + ", ".join(one.name for one in told)
    (one,) = told
    return " · ".join(["Reward report", one.name, *_state(one)])


def _state(one: Told) -> list[str]:
    planned = (one.config or {}).get("training", {}).get("steps")
    if one.config is None:
        return [one.log.source]
    if one.summary is None:
        return [f"unfinished, step {number(one.last_step, 6)} of {planned or '?'}"]
    return [str(one.summary.get("reason", "finished"))]


def verdict(told: Sequence[Told]) -> dict[str, str]:
    """The banner: the most serious finding in one sentence, and what to do about it."""
    ranked = [(finding, one) for one in told for finding in one.findings if severity(finding) > 0]
    if not ranked:
        said = "Healthy: no rule found anything wrong" if len(told) == 1 else "All runs healthy"
        return {"level": "healthy", "verdict": said + ".", "advice": _remark(told)}
    finding, one = max(ranked, key=lambda pair: severity(pair[0]))  # the first of the most serious: causes come first
    others = len(ranked) - 1
    words = _title(finding.rule)
    where = stretch_of_steps(*finding.steps)
    return {
        "level": finding.level,
        "verdict": f"{words}, {where}" + (f", in {one.name}" if len(told) > 1 else ""),
        "advice": f"{sentence(finding.message)} {sentence(finding.remedy)}"
        + (f" {others} more {'finding' if others == 1 else 'findings'} below." if others else ""),
    }


def _title(rule: str) -> str:
    """Id of a rule as a heading."""
    words = ["KL" if word == "kl" else word for word in rule.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _remark(told: Sequence[Told]) -> str:
    remarks = [finding.message for one in told for finding in one.findings]
    if remarks:
        return sentence(remarks[0])
    return _what_is_unknown(told[0]) if len(told) == 1 else ""


def _what_is_unknown(one: Told) -> str:
    """What a clean bill of health does not cover."""
    missing = []
    if one.of("eval_accuracy") is None:
        missing.append("a held-out score")
    reward = one.of("rewards")
    if reward is None:
        missing.append("a reward")
    elif one.bounds(reward.name) is None:
        missing.append("the bounds of the reward")
    return f"Not in this log: {' and '.join(missing)}; a hacked reward may go unnoticed without." if missing else ""


def sentence(text: str) -> str:
    """With a capital, unless it begins with the name of a metric or a rule, and a full stop."""
    text = text.strip()
    begin = text[:1].upper() + text[1:] if text.partition(" ")[0].strip(",;:").isalpha() else text
    return begin + ("" if not text or text.endswith((".", "!", "?")) else ".")


def tiles(one: Told) -> list[dict[str, str]]:
    """The numbers at the top: name, value and a note each."""
    tiles = [{"name": "steps", "value": number(one.last_step, 6)}]
    reward, gold = one.of("rewards"), one.of("eval_accuracy")
    if reward is not None:
        bounds = one.bounds(reward.name)
        ends = f", range {number(bounds[0])} to {number(bounds[1])}" if bounds else ""
        value, _, error = end(reward).partition(" ")
        more = f"{error}, from {_start(reward)}{ends}".removeprefix(", ")
        tiles.append({"name": "reward at the end", "value": value, "more": more})
    if gold is not None:
        best = int(np.argmax(gold.values))
        more = f"best {number(gold.values[best])} at step {gold.steps[best]:g}"
        tiles.append({"name": "held-out accuracy", "value": number(float(gold.values[-1])), "more": more})
    counts = [sum(finding.level == level for finding in one.findings) for level in ("error", "warn")]
    words = [
        f"{count} {word}{'' if count == 1 else 's'}" for count, word in zip(counts, ("error", "warning"), strict=True)
    ]
    tiles.append({"name": "findings", "value": str(sum(counts)), "more": ", ".join(words)})
    tiles += [{"name": name, "value": value} for name, value in _costs(one)]
    return tiles


def _costs(one: Told) -> Iterator[tuple[str, str]]:
    summary = one.summary or {}
    if isinstance(summary.get("tokens"), int):
        yield "completion tokens", number(summary["tokens"])
    if isinstance(summary.get("seconds"), int | float):
        yield "duration", duration(summary["seconds"])


def duration(seconds: float) -> str:
    """Seconds in the unit a person would say.

    Examples:
      >>> duration(42.4), duration(190.0), duration(8040.0)
      ('42 s', '3 min 10 s', '2 h 14 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _start(series: Series) -> str:
    means = blocks(series.steps, series.values)
    return number(float(means.mean[0]))


def end(series: Series) -> str:
    """Mean of the last block with two standard errors."""
    means = blocks(series.steps, series.values)
    error = f" ± {number(2 * float(means.error[-1]), 1)}" if means.error[-1] > 0 else ""
    return number(float(means.mean[-1])) + error
