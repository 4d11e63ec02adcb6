"""What a run's stored rollouts say of its reward: distribution, which completions it likes, how they fail."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agent_tunix import text

EXAMPLES = 3
SHOWN = 200
"""Characters of a completion in an example."""


def analyse(samples: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Distribution of the reward and its parts, and the completions by kind.

    Args:
      samples: Records of rollouts, as a run stores them; those without a reward are only counted.

    Returns:
      Nested plain values: `completions`, `unscored`, `reward` and `parts` (moments and quantiles), `kinds`
      (how many, mean reward, examples), and the `highest` and `lowest` rewarded completions.
    """
    samples = list(samples)
    scored = [sample for sample in samples if sample.get("reward") is not None]
    names = sorted({name for sample in scored for name in sample["parts"]})
    parts = {name: [s["parts"][name] for s in scored if s["parts"].get(name) is not None] for name in names}
    ranked = sorted(scored, key=lambda sample: sample["reward"])
    return {
        "completions": len(samples),
        "unscored": len(samples) - len(scored),
        "reward": distribution([sample["reward"] for sample in scored]),
        "parts": {name: distribution(values) for name, values in parts.items()},
        "kinds": _kinds(scored),
        "highest": _examples(ranked[::-1]),
        "lowest": _examples(ranked),
    }


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Moments and quantiles; skewness is the third standardised moment, 0 where nothing varies.

    Examples:
      >>> distribution([0.0, 0.0, 0.0, 1.0])["mean"], round(distribution([0.0, 0.0, 0.0, 1.0])["skewness"], 3)
      (0.25, 1.155)
    """
    if not values:
        return {"count": 0}
    array = np.asarray(values, np.float64)
    deviation = array.std()
    skewness = ((array - array.mean()) ** 3).mean() / deviation**3 if deviation > 1e-12 else 0.0
    quantiles = {f"p{q}": float(np.percentile(array, q)) for q in (0, 10, 25, 50, 75, 90, 100)}
    moments = {"mean": array.mean(), "variance": array.var(), "skewness": skewness}
    return {"count": len(values)} | {name: float(value) for name, value in moments.items()} | quantiles


def kind(sample: Mapping[str, Any]) -> str:
    """The kind of a completion, by what went wrong first."""
    completion = sample["completion"]
    if sample["truncated"]:
        return "cut off by the token budget"
    if text.stated_answer(completion) is None:
        return "states no answer"
    right = sample["parts"].get("correctness", sample["reward"]) == 1.0
    if not text.is_tagged(completion):
        return "right answer, format not kept" if right else "wrong answer, format not kept"
    return "right answer in format" if right else "wrong answer in format"


def table(analysis: Mapping[str, Any]) -> str:
    """The analysis as plain text."""
    lines = [f"{'reward':<28} {'mean':>7} {'variance':>9} {'skewness':>9} {'min':>7} {'median':>7} {'max':>7}"]
    for name, row in {"total": analysis["reward"], **analysis["parts"]}.items():
        if row["count"]:
            numbers = (row[key] for key in ("mean", "variance", "skewness", "p0", "p50", "p100"))
            mean, variance, skewness, low, median, high = numbers
            lines.append(f"{name:<28} {mean:7.3f} {variance:9.4f} {skewness:9.3f} {low:7.3f} {median:7.3f} {high:7.3f}")
    lines.append(f"{'completions by kind':<34} {'share':>7} {'mean reward':>12}")
    for name, row in analysis["kinds"].items():
        lines.append(f"{name:<34} {row['fraction']:7.3f} {row['mean_reward']:12.3f}")
    return "\n".join(lines)


def _kinds(scored: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for sample in scored:
        groups.setdefault(kind(sample), []).append(sample)
    return {
        name: {
            "count": len(members),
            "fraction": len(members) / len(scored),
            "mean_reward": float(np.mean([sample["reward"] for sample in members])),
            "examples": _examples(members[::-1]),
        }
        for name, members in sorted(groups.items(), key=lambda item: -len(item[1]))
    }


def _examples(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first few different completions."""
    chosen = {sample["completion"]: sample for sample in reversed(samples[: 20 * EXAMPLES])}
    return [
        {
            "step": sample["step"],
            "prompt": sample["prompt"][:SHOWN],
            "completion": sample["completion"][:SHOWN],
            "reward": sample["reward"],
            "parts": sample["parts"],
        }
        for sample in list(chosen.values())[::-1][:EXAMPLES]
    ]
