"""The numbers logged for every batch, from the host's arrays. Names as in the documentation's list of metrics."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from agent_tunix import batching
from agent_tunix.rewards import flat_groups
from agent_tunix.text import states_several
from agent_tunix.types import Outcome, Rollouts, Score

QUANTILES = (10, 50, 90)
LATENCY_QUANTILES = (50, 95)
OUTCOMES = {
    Outcome.ABSTAINED: "abstained_fraction",
    Outcome.FAILED: "failed_fraction",
    Outcome.TIMED_OUT: "timed_out_fraction",
}


def reward_measures(score: Score) -> dict[str, float]:
    """Mean, spread and range of the reward and of each part, and what became of each part's grader calls.

    Entries without a value enter no statistic; a statistic over nothing is nan.
    """
    valid = np.asarray(score.valid)
    value = np.asarray(score.value, np.float64)[valid]
    out = {f"reward/{name}": number for name, number in _spread(value).items()}
    out["reward/invalid_fraction"] = float(1.0 - valid.mean())
    for name, part in score.parts.items():
        part = np.asarray(part, np.float64)
        present = part[~np.isnan(part)]
        out[f"reward/part/{name}"] = _mean(present)
        out[f"reward/part/{name}/std"] = float(present.std()) if present.size else float("nan")
        outcomes = np.asarray(score.outcomes.get(name, np.zeros(part.shape, int)))
        out |= {f"reward/part/{name}/{label}": float((outcomes == kind).mean()) for kind, label in OUTCOMES.items()}
    return out


def latency_measures(score: Score) -> dict[str, float]:
    """How long the grader calls of each part took: median and 95th percentile, seconds."""
    return {
        f"reward/part/{name}/latency_p{q}_s": float(np.nanpercentile(seconds, q))
        for name, seconds in score.seconds.items()
        if not np.isnan(seconds).all()  # a part that none of the prompts was routed to was not called
        for q in LATENCY_QUANTILES
    }


def group_measures(score: Score) -> dict[str, float]:
    """How many groups carry a preference, and how far rewards spread within them."""
    value, valid = np.asarray(score.value, np.float64), np.asarray(score.valid)
    deviations = [row[keep].std(ddof=1) for row, keep in zip(value, valid, strict=True) if keep.sum() > 1]
    return {
        "group/flat_fraction": float(flat_groups(score).mean()),
        "group/std": _mean(np.asarray(deviations)),
    }


def completion_measures(rollouts: Rollouts) -> dict[str, float]:
    """Lengths in tokens, the share cut off by the budget, and what hedging and loops look like."""
    lengths, truncated = rollouts.lengths, np.asarray(rollouts.truncated)
    return {
        **_habits(rollouts),
        "completion/length": float(lengths.mean()),
        "completion/length_min": float(lengths.min()),
        "completion/length_max": float(lengths.max()),
        "completion/length_ended": _mean(lengths[~truncated]),
        "completion/truncated_fraction": float(truncated.mean()),
    }


def _habits(rollouts: Rollouts) -> dict[str, float]:
    references = [str(answer) for answer in rollouts.columns.get("answer", ("",) * len(rollouts.prompts))]
    texts = [(text, reference) for row, reference in zip(rollouts.completions, references, strict=True) for text in row]
    return {
        "completion/several_answers_fraction": float(np.mean([states_several(*pair) for pair in texts])),
        "completion/empty_fraction": float(np.mean([not text.strip() for text, _ in texts])),
        "completion/repetition": repetition(rollouts.completion_ids, rollouts.completion_mask),
    }


def repetition(
    ids: Int[np.ndarray, "prompts group tokens"], mask: Bool[np.ndarray, "prompts group tokens"], n: int = 4
) -> float:
    """Share of n-grams of tokens that repeat an earlier one of their completion, averaged over completions.

    Completions of fewer than `n` tokens do not count; nan where all are.
    """
    length = ids.shape[-1]
    if length < n:
        return float("nan")
    tokens = np.asarray(ids, np.uint64).reshape(-1, length)
    whole = np.asarray(mask, bool).reshape(-1, length)[:, n - 1 :]
    places = length - n + 1
    grams = np.zeros((len(tokens), places), np.uint64)
    for offset in range(n):  # a polynomial modulo 2**64 stands for the n-gram
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + tokens[:, offset : offset + places] + np.uint64(1)
    # What is padding sorts to the end as one value of its own, which is taken off again.
    grams = np.sort(np.where(whole, grams, np.iinfo(np.uint64).max), axis=-1)
    count = whole.sum(-1)
    distinct = 1 + (np.diff(grams, axis=-1) != 0).sum(-1) - (count < places)
    repeated = 1.0 - distinct[count > 0] / count[count > 0]
    return _mean(repeated)


def source_measures(rollouts: Rollouts, score: Score) -> Mapping[str, float]:
    """Mean reward of each task of a mixture; nothing for a single one."""
    tasks = np.asarray([str(task) for task in rollouts.columns.get("task", ())])
    names = sorted(set(tasks.tolist()))
    if len(names) < 2:
        return {}
    value, valid = np.asarray(score.value, np.float64), np.asarray(score.valid)
    return {f"reward/task/{name}": _mean(value[tasks == name][valid[tasks == name]]) for name in names}


def mixture_measures(rollouts: Rollouts, score: Score, solved: Float[np.ndarray, "prompts group"]) -> dict[str, float]:
    """What each source of a mixture contributed: its share of the prompts, reward, solve rate and groups.

    Args:
      rollouts: With the column `source`.
      score: Unshaped.
      solved: How far every completion solves its prompt; nan where that is not known.
    """
    sources, out = np.asarray(rollouts.columns["source"]), {}
    for name in sorted(set(sources.tolist())):
        index = np.flatnonzero(sources == name)
        own = batching.take(score, index.tolist())
        verdicts = solved[index][~np.isnan(solved[index])]
        numbers = {
            "share": len(index) / len(sources),
            "reward_mean": _mean(np.asarray(own.value, np.float64)[np.asarray(own.valid)]),
            "solve_rate": _mean(verdicts),
            "group_std": group_measures(own)["group/std"],
            "flat_fraction": group_measures(own)["group/flat_fraction"],
        }
        out |= {f"source/{name}/{label}": number for label, number in numbers.items()}
    return out


def _spread(value: np.ndarray) -> dict[str, float]:
    if not value.size:
        return dict.fromkeys(("mean", "std", "min", "max", *(f"p{q}" for q in QUANTILES)), float("nan"))
    return {
        "mean": float(value.mean()),
        "std": float(value.std()),
        "min": float(value.min()),
        "max": float(value.max()),
        **{f"p{q}": float(np.percentile(value, q)) for q in QUANTILES},
    }


def _mean(value: np.ndarray) -> float:
    return float(value.mean()) if value.size else float("nan")


def rollout_records(
    rollouts: Rollouts,
    raw: Score | None,
    shaped: Score | None,
    credit: Float[np.ndarray, "prompts group tokens"] | None,
    *,
    step: int,
    batch: int,
) -> list[dict[str, Any]]:
    """One JSON-serialisable record per completion, for the run's samples.

    Args:
      rollouts: The batch.
      raw: Its score before shaping; None if the reward failed, then only texts are recorded.
      shaped: Its score after shaping.
      credit: Its advantages; None for groups that were sampled but not trained on.
      step: Optimizer updates before this batch.
      batch: Index of the batch.
    """
    raw, shaped = _on_host(raw), _on_host(shaped)
    failures: dict[tuple[int, int], dict[str, str]] = {}
    for failure in raw.failures if raw else ():
        failures.setdefault((failure.prompt_index, failure.completion_index), {})[failure.part] = failure.reason
    lengths = rollouts.lengths
    out = []
    for p, g in np.ndindex(*rollouts.shape):
        record: dict[str, Any] = {
            "step": step,
            "batch": batch,
            "prompt_index": p,
            "completion_index": g,
            "prompt": rollouts.prompts[p],
            "completion": rollouts.completions[p][g],
            "columns": {name: column[p] for name, column in rollouts.columns.items()},
            "length": int(lengths[p, g]),
            "truncated": bool(rollouts.truncated[p, g]),
        }
        if raw is not None:
            record |= _scored_record(raw, p, g)
        if shaped is not None:
            record["shaped"] = _value(shaped, p, g)
        if credit is not None:
            record["advantage"] = float(credit[p, g, 0])
        if (p, g) in failures:
            record["failures"] = failures[p, g]
        out.append(record)
    return out


def _on_host(score: Score | None) -> Score | None:
    """In NumPy, at once: shaping may return JAX arrays, whose single entries are a transfer each."""
    if score is None:
        return None
    return dataclasses.replace(jax.tree.map(np.asarray, score), failures=score.failures)


def _scored_record(score: Score, p: int, g: int) -> dict[str, Any]:
    parts = {name: float(part[p, g]) for name, part in score.parts.items()}
    return {
        "reward": _value(score, p, g),
        "parts": {name: None if np.isnan(value) else value for name, value in parts.items()},
        "outcomes": {name: Outcome(int(codes[p, g])).name.lower() for name, codes in score.outcomes.items()},
    }


def _value(score: Score, p: int, g: int) -> float | None:
    return float(score.value[p, g]) if score.valid[p, g] else None
