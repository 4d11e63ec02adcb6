"""How well health rules find illnesses in labelled runs, and how often they cry wolf.

    python benchmarks/diagnostics.py --half reporting --online --ablate --json docs/results/diagnostics.json

The runs come from generators that know nothing of the rules (`health_simulation.py`, `health_families.py`,
`health_runs.py`). Counted are runs whose first finding is the illness they were given, runs where it is among the
findings, and healthy runs with a finding of level warn or error. Thresholds are to be tuned on `--half tuning` only.
"""

import argparse
import collections
import datetime
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from health_families import FAMILIES, HEALTHY_FAMILIES, ILL_FAMILIES
from health_runs import REPORTING_FROM, Case, case, metric_rows, rescaled
from rich.progress import track

from agent_tunix.diagnostics.diagnosis import RULES, diagnose
from agent_tunix.diagnostics.findings import Finding
from agent_tunix.diagnostics.online import Monitor

ALARMING = ("warn", "error")
GOALS = {"first_finding": 0.97, "false_alarms": 0.005, "delay": 0.2, "without_its_rule": 0.5}
NOTED_SEEDS = 12
MILLION = 1_000_000

# --- One run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run to judge.

    Attributes:
      family: Of the run.
      seed: Of the run.
      online: Whether to watch it row by row, too.
      ablate: Whether to judge it without the rule of its illness, too.
      rescale: Whether to judge it in another unit of the reward, too.
    """

    family: str
    seed: int
    online: bool = False
    ablate: bool = False
    rescale: bool = True


@dataclass(frozen=True)
class Verdict:
    """What was found in one run.

    Attributes:
      job: The run.
      label: Its illness.
      form: Its functional form.
      findings: Rule and level of the findings, most important first.
      seconds: One diagnosis took.
      rescaled_same: Whether another unit of the reward gives the same findings; None without bounds.
      without: Rules found when the rule of the illness is left out; None if that was not asked.
      first_report: Step at which the illness, or in a healthy run anything alarming, was first reported online; None
        if it never was.
      reported: What was reported there.
      onset: Step at which the illness begins.
      ill_from: Step at which it has come half-way.
      total: Steps of the run.
    """

    job: Job
    label: str
    form: str
    findings: tuple[tuple[str, str], ...]
    seconds: float
    rescaled_same: bool | None
    without: tuple[str, ...] | None
    first_report: int | None
    reported: str
    onset: float
    ill_from: float
    total: int

    @property
    def alarms(self) -> tuple[str, ...]:
        """Rules whose findings are more than information."""
        return tuple(rule for rule, level in self.findings if level in ALARMING)

    @property
    def first(self) -> str:
        """The most important finding's rule, empty if nothing was found."""
        return self.findings[0][0] if self.findings else ""


def findings_of(given: Case, rules: Sequence[Any] = RULES) -> list[Finding]:
    """What `diagnose` says of a run."""
    return diagnose(
        given.series,
        steps=given.steps,
        bounds=given.bounds,
        eval_samples=given.eval_samples,
        roles=given.roles,
        rules=rules,
    )


def rule_id(rule: Any) -> str:
    """The id of a rule of `RULES`."""
    for attribute in ("id", "rule", "name", "__name__"):
        if isinstance(found := getattr(rule, attribute, None), str):
            return found
    raise TypeError(f"rule {rule!r} has no id")


def judge(job: Job) -> Verdict:
    """Draws a run and says what is found in it."""
    given = case(job.family, job.seed)
    started = time.perf_counter()
    found = findings_of(given)
    seconds = time.perf_counter() - started
    without = [rule for rule in RULES if rule_id(rule) != given.label]
    step, reported = watched(given) if job.online else (None, "")
    return Verdict(
        job=job,
        label=given.label,
        form=given.form,
        findings=_brief(found),
        seconds=seconds,
        rescaled_same=_same_when_rescaled(given, found) if job.rescale and given.bounds else None,
        without=tuple(finding.rule for finding in findings_of(given, without)) if job.ablate else None,
        first_report=step,
        reported=reported,
        onset=given.onset,
        ill_from=given.ill_from,
        total=given.total,
    )


def _same_when_rescaled(given: Case, found: Iterable[Finding]) -> bool:
    return _brief(findings_of(rescaled(given, 100.0, -50.0))) == _brief(found)


def _brief(findings: Iterable[Finding]) -> tuple[tuple[str, str], ...]:
    return tuple((finding.rule, finding.level) for finding in findings)


def watched(given: Case) -> tuple[int | None, str]:
    """Feeds a run to a monitor row by row; returns when it first reported the illness, and the rule.

    A report before the onset counts as well. In a healthy run any alarm counts. Where a report of saturation is
    information only, it counts as a report, too.
    """
    monitor = Monitor(given.total, bounds=given.bounds, eval_samples=given.eval_samples, roles=given.roles)
    healthy = given.family in HEALTHY_FAMILIES
    for row in metric_rows(given):
        if monitor.see(row):
            for finding in monitor.findings:
                if (healthy and finding.level in ALARMING) or finding.rule == given.label:
                    return int(row["step"]), finding.rule
    return None, ""


# --- All runs ---------------------------------------------------------------------------------------------------------


def jobs(runs: int, healthy: int, half: str, online: int = 0, ablate: bool = False, rescale: bool = True) -> list[Job]:
    """The runs of a benchmark.

    Args:
      runs: Of every ill family.
      healthy: In all, in turn over the healthy families.
      half: `tuning` or `reporting`.
      online: How many runs of every family are watched row by row, too.
      ablate: Whether ill runs are judged without their rule, too.
      rescale: Whether runs are judged in another unit of the reward, too.
    """
    first = REPORTING_FROM if half == "reporting" else 0
    ill = [Job(name, first + k, k < online, ablate, rescale) for name in ILL_FAMILIES for k in range(runs)]
    turns = [(HEALTHY_FAMILIES[k % len(HEALTHY_FAMILIES)], k // len(HEALTHY_FAMILIES)) for k in range(healthy)]
    return ill + [Job(name, first + k, k < online, False, rescale) for name, k in turns]


def judged(given: Sequence[Job], processes: int = 2, show: bool = False) -> list[Verdict]:
    """Judges runs in several processes; the order is that of the jobs."""
    if processes < 2:
        return [judge(job) for job in _shown(given, len(given), show)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return list(_shown(pool.imap(judge, given, chunksize=8), len(given), show))


def _shown(items: Iterable[Any], total: int, show: bool) -> Iterator[Any]:
    return iter(track(items, description="diagnosing", total=total)) if show else iter(items)


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson, 1927, JASA 22).

    Examples:
      >>> tuple(round(limit, 4) for limit in wilson(0, 100))
      (0.0, 0.037)
    """
    if not total:
        return 0.0, 1.0
    share, weight = hits / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def share_of(hits: int, total: int) -> dict[str, Any]:
    """A share with its count and interval."""
    low, high = wilson(hits, total)
    return {"share": round(hits / max(total, 1), 4), "of": total, "low": round(low, 4), "high": round(high, 4)}


def of_families(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Detection per ill family, and the seeds of what was missed."""
    found = {}
    for family in ILL_FAMILIES:
        mine = [verdict for verdict in verdicts if verdict.job.family == family]
        if not mine:
            continue
        missed = [verdict for verdict in mine if verdict.first != verdict.label]
        found[family] = {
            "rule": FAMILIES[family].label,
            "first_finding": share_of(len(mine) - len(missed), len(mine)),
            "among_findings": share_of(sum(v.label in dict(v.findings) for v in mine), len(mine)),
            "missed": [
                {"seed": v.job.seed, "form": v.form, "found": [":".join(pair) for pair in v.findings]}
                for v in missed[:NOTED_SEEDS]
            ],
        }
    return found


def confusion(verdicts: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    """First findings by family; `nothing` where there was none."""
    table = {}
    for family in FAMILIES:
        first = [verdict.first or "nothing" for verdict in verdicts if verdict.job.family == family]
        if first:
            table[family] = dict(collections.Counter(first).most_common())
    return table


def of_healthy(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """False alarms over healthy runs, in all, by family and by rule."""
    mine = [verdict for verdict in verdicts if verdict.job.family in HEALTHY_FAMILIES]
    alarmed = [verdict for verdict in mine if verdict.alarms]
    told = [verdict for verdict in mine if verdict.findings and not verdict.alarms]
    per_family = collections.Counter(verdict.job.family for verdict in mine)
    alarmed_families = collections.Counter(verdict.job.family for verdict in alarmed)
    return {
        "runs": len(mine),
        "false_alarms": share_of(len(alarmed), len(mine)),
        "information_only": share_of(len(told), len(mine)),
        "by_family": {family: share_of(alarmed_families[family], per_family[family]) for family in per_family},
        "by_rule": dict(collections.Counter(rule for verdict in alarmed for rule in set(verdict.alarms))),
        "alarmed": [
            {"family": v.job.family, "seed": v.job.seed, "form": v.form, "found": v.alarms}
            for v in alarmed[: 4 * NOTED_SEEDS]
        ],
    }


def of_online(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Delay from the onset to the first report, as a share of the run, and false alarms while runs go on."""
    families: dict[str, Any] = {}
    watched_runs = [verdict for verdict in verdicts if verdict.job.online]
    for family in ILL_FAMILIES:
        mine = [verdict for verdict in watched_runs if verdict.job.family == family]
        if not mine:
            continue
        told = [verdict for verdict in mine if verdict.first_report is not None]
        late = [verdict for verdict in told if (verdict.first_report or 0) >= verdict.onset]
        families[family] = {
            "reported": share_of(len(told), len(mine)),
            "before_onset": len(told) - len(late),
            "median_delay": _median(_since(verdict, verdict.onset) for verdict in late),
            "median_delay_from_half_way": _median(_since(verdict, verdict.ill_from) for verdict in late),
        }
    healthy = [verdict for verdict in watched_runs if verdict.job.family in HEALTHY_FAMILIES]
    alarmed = [verdict for verdict in healthy if verdict.first_report is not None]
    delays = [row["median_delay"] for row in families.values() if row["median_delay"] is not None]
    return {
        "median_of_families": _median(delays),
        "families": families,
        "false_alarms": share_of(len(alarmed), len(healthy)),
        "by_rule": dict(collections.Counter(verdict.reported for verdict in alarmed)),
        "alarmed": [
            {"family": v.job.family, "seed": v.job.seed, "form": v.form, "rule": v.reported, "step": v.first_report}
            for v in alarmed[: 2 * NOTED_SEEDS]
        ],
    }


def _since(verdict: Verdict, step: float) -> float:
    return ((verdict.first_report or 0) - step) / verdict.total


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return round(statistics.median(known), 4) if known else None


def of_ablation(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How often an illness is still found by name when its rule is left out."""
    found = {}
    for family in ILL_FAMILIES:
        mine = [verdict for verdict in verdicts if verdict.job.family == family and verdict.without is not None]
        if mine:
            found[family] = share_of(sum(verdict.label in (verdict.without or ()) for verdict in mine), len(mine))
    return found


def speed(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Seconds per diagnosis, and of a log of a million rows."""
    steps = np.arange(MILLION)
    rng = np.random.default_rng(0)
    reward = 0.2 + 0.5 * steps / MILLION + 0.05 * rng.normal(size=MILLION)
    rows = {"reward": reward, "kl": 0.05 * steps / MILLION, "entropy": 1 - 0.3 * steps / MILLION}
    started = time.perf_counter()
    diagnose(rows, steps=steps, bounds=(0, 1))
    return {
        "median_ms_per_run": round(1000 * statistics.median(verdict.seconds for verdict in verdicts), 2),
        "million_rows_s": round(time.perf_counter() - started, 3),
    }


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Everything that was measured."""
    scaled = [verdict.rescaled_same for verdict in verdicts if verdict.rescaled_same is not None]
    ill = [verdict for verdict in verdicts if verdict.job.family in ILL_FAMILIES]
    result = {
        "goals": GOALS,
        "all_families": share_of(sum(verdict.first == verdict.label for verdict in ill), len(ill)),
        "families": of_families(verdicts),
        "healthy": of_healthy(verdicts),
        "confusion": confusion(verdicts),
        "same_verdict_when_rescaled": share_of(sum(scaled), len(scaled)),
        "speed": speed(verdicts),
    }
    if any(verdict.job.online for verdict in verdicts):
        result["online"] = of_online(verdicts)
    if any(verdict.job.ablate for verdict in verdicts):
        result["without_its_rule"] = of_ablation(verdicts)
    return result


# --- The report -------------------------------------------------------------------------------------------------------


def table(result: Mapping[str, Any]) -> str:
    """The result for people; its tables are Markdown."""
    lines = [
        "| illness | runs | first finding | 95 % interval | among findings | online delay | without its rule |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *(_family_line(family, result) for family in result["families"]),
        "",
        "| healthy runs | runs | false alarms | 95 % interval |",
        "|---|--:|--:|--:|",
    ]
    healthy, online = result["healthy"], result.get("online", {})
    shares = {"all": healthy["false_alarms"]} | healthy["by_family"]
    shares |= {"all, while they go on": online["false_alarms"]} if online else {}
    lines += [f"| {name} | {row['of']} | {row['share']:.2%} | {_interval(row)} |" for name, row in shares.items()]
    return "\n".join(lines)


def _family_line(family: str, result: Mapping[str, Any]) -> str:
    row = result["families"][family]
    first, among = row["first_finding"], row["among_findings"]
    delay = result.get("online", {}).get("families", {}).get(family, {}).get("median_delay")
    without = result.get("without_its_rule", {}).get(family)
    cells = [
        f"`{family}`",
        f"{first['of']}",
        f"{first['share']:.1%}",
        _interval(first),
        f"{among['share']:.1%}",
        "" if delay is None else f"{delay:.1%}",
        "" if without is None else f"{without['share']:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def _interval(row: Mapping[str, float]) -> str:
    return f"{row['low']:.1%} to {row['high']:.1%}"


def renewed(page: str, result: Mapping[str, Any]) -> str:
    """A page whose tables, known by their first line, are those of a result."""
    blocks = {block.partition("\n")[0]: block for block in table(result).split("\n\n")}
    return "\n\n".join(blocks.get(text.partition("\n")[0], text.rstrip("\n")) for text in page.split("\n\n")) + "\n"


def machine() -> dict[str, Any]:
    """Date, processor, usable cores, versions, and how busy the machine was."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("agent-tunix", "numpy")},
    }


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description="Measures health rules on labelled runs; prints tables.")
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="runs of every ill family (100)")
    parser.add_argument("--healthy", type=int, default=2000, metavar="N", help="healthy runs in all (2000)")
    parser.add_argument("--half", choices=("tuning", "reporting"), default="tuning", help="of the seeds (tuning)")
    parser.add_argument(
        "--online",
        type=int,
        nargs="?",
        const=sys.maxsize,
        default=0,
        metavar="N",
        help="also watch runs row by row: all, or N of every family (0)",
    )
    parser.add_argument("--ablate", action="store_true", help="also judge ill runs without the rule of their illness")
    parser.add_argument("--only", choices=FAMILIES, nargs="+", metavar="FAMILY", help="only these families")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="worker processes (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also renew the tables of this page")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and reports; returns the exit code."""
    chosen = arguments(argv)
    before = machine()
    given = jobs(chosen.runs, chosen.healthy, chosen.half, chosen.online, chosen.ablate)
    given = [job for job in given if not chosen.only or job.family in chosen.only]
    verdicts = judged(given, chosen.processes, show=sys.stderr.isatty())
    words = [word for word in sys.argv[1:] if argv is None]
    result = {
        "command": " ".join(["python benchmarks/diagnostics.py", *words]),
        "half": chosen.half,
        "machine": before,
    } | summary(verdicts)
    print(table(result))
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if chosen.page:
        page = chosen.page.read_text(encoding="utf-8")
        chosen.page.write_text(renewed(page, result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
