"""What stands in the page and in which order: texts, rows and pictures, ready for the template."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent_tunix.diagnostics.findings import Finding, severity
from agent_tunix.plain import flatten
from agent_tunix.reports import _pairs, _pictures, _samples, _strips
from agent_tunix.reports._banner import end, eyebrow, sentence, tiles, verdict
from agent_tunix.reports._gather import Told
from agent_tunix.reports._payload import charts_of
from agent_tunix.reports._words import cut, number, stretch_of_steps

Section = dict[str, Any]

PROMPT_SHOWN, COMPLETION_SHOWN = 600, 1600
"""Characters of a sample at most."""
EVIDENCE = 8
"""Numbers of a finding's evidence in the table; the download holds all."""
FOOT = "Written by agent_tunix. The page holds everything it shows; it asks the network for nothing."


def page_of(told: Sequence[Told]) -> dict[str, Any]:
    """Everything the template needs besides style and script."""
    wanted = _single(told[0]) if len(told) == 1 else _several(told)
    sections = [section for section in wanted if section is not None]
    for section in sections:
        section.setdefault("kind", "charts")
    drawn = {chart.key for section in sections for chart in charts_of(section)}
    _link(sections, drawn, {key for section in sections for key, _ in section.get("kinds", ())})
    return {
        "title": f"{told[0].name} · reward report" if len(told) == 1 else f"{len(told)} runs · reward report",
        "eyebrow": eyebrow(told),
        **verdict(told),
        "several": len(told) > 1,
        "tiles": tiles(told[0]) if len(told) == 1 else [],
        "sections": sections,
        "kinds": _samples.KINDS,
        "footer": FOOT,
    }


# --- Sections of one run ----------------------------------------------------------------------------------------------


def _single(one: Told) -> list[Section | None]:
    strips, constant = _strips.strips(one)
    return [
        _findings_section([one]),
        _reward_section(one),
        _parts_section(one),
        _tradeoff_section(one),
        _distance_section(one),
        _strips_section(strips, constant),
        _prompts_section(one),
        _examples_section(one),
        _setup_section([one]),
    ]


def _findings_section(told: Sequence[Told]) -> Section:
    groups = [
        {
            "name": one.name if len(told) > 1 else "",
            "findings": [_finding(finding, one.parts) for finding in one.findings],
        }
        for one in told
    ]
    return {"id": "findings", "name": "Findings", "kind": "findings", "groups": groups}


def _finding(finding: Finding, parts: Sequence[str]) -> dict[str, Any]:
    chart, kind = _pictures.PLACES.get(finding.rule, ("", ""))
    if chart == "parts":
        component = finding.evidence.get("component")
        chart = f"part-{parts.index(component) if component in parts else 0}"
    evidence = [
        f"{name.replace('_', ' ')} {value if isinstance(value, str) else number(float(value))}"
        for name, value in list(finding.evidence.items())[:EVIDENCE]
    ]
    return {
        "severity": severity(finding),
        "level": finding.level,
        "rule": finding.rule,
        "first": finding.steps[0],
        "steps": stretch_of_steps(*finding.steps).partition(" ")[2],
        "message": sentence(finding.message),
        "evidence": ", ".join(evidence),
        "remedy": finding.remedy,
        "chart": chart,
        "kind": kind,
    }


def _link(sections: Sequence[Section], drawn: set[str], kinds: set[str]) -> None:
    """Keeps only the links of findings that lead somewhere."""
    for section in sections:
        for finding in (finding for group in section.get("groups", ()) for finding in group.get("findings", ())):
            finding["chart"] = finding["chart"] if finding["chart"] in drawn else ""
            finding["kind"] = finding["kind"] if finding["kind"] in kinds else ""


def _reward_section(one: Told) -> Section:
    charts = _pictures.reward(one)
    missing = "" if charts else "This log has neither a reward nor a held-out score."
    if charts and one.of("eval_accuracy") is None:
        missing = "No held-out accuracy was logged, so nothing here can tell a better policy from a better exploit."
    lead = "Judge the block means, not single steps, and compare with the bounds and with held-out accuracy."
    return {"id": "reward", "name": "Reward", "lead": lead if charts else "", "wide": charts, "missing": missing}


def _parts_section(one: Told) -> Section | None:
    charts, shares = _pictures.parts(one), _pictures.shares(one)
    if not charts:
        return None
    lead = "Mean of every component before its weight, with its bounds where they are known."
    section = {
        "id": "components",
        "name": "Components",
        "lead": lead,
        "charts": charts,
        "after": [shares] if shares else [],
    }
    if len(charts) == 1:
        section["missing"] = "The reward has a single component, so there is no trade-off between components to show."
    return section


def _tradeoff_section(one: Told) -> Section | None:
    if len(one.parts) < 2:
        return None
    pairs = _pairs.pairs(one)
    lead = (
        "Whether raising one component lowers another: it does where their covariance within groups is negative and "
        "the weight of the one is over w*."
    )
    missing = "" if pairs else "This log has no statistics of pairs of components, and no samples to compute them from."
    left_out = len(one.pairs) - len(pairs)
    if left_out > 0:
        lead += f" Shown are the {len(pairs)} pairs that go together least, of {len(one.pairs)}."
    return {
        "id": "tradeoff",
        "name": "Trade-off",
        "kind": "pairs",
        "lead": lead,
        "missing": missing,
        "pairs": pairs,
    }


def _distance_section(one: Told) -> Section:
    chart = _pictures.distance(one)
    missing = "" if chart else "No divergence from a reference policy was logged; a KL coefficient above 0 makes one."
    lead = "How much reward and held-out accuracy each stretch of distance from the reference policy buys."
    return {
        "id": "distance",
        "name": "Over-optimisation",
        "lead": lead if chart else "",
        "wide": [chart] if chart else [],
        "missing": missing,
    }


def _strips_section(strips: Sequence[_strips.Strip], constant: Sequence[tuple[str, float]]) -> Section:
    same = ", ".join(f"{label} {number(round(value, 9))}" for label, value in constant)
    return {
        "id": "policy",
        "name": "Policy, lengths and groups",
        "kind": "strips",
        "strips": strips,
        "lead": "Every metric with what its card says about it. The small pictures are examples, not this run.",
        "missing": f"The same at every step, so without a chart: {same}." if same else "",
    }


def _prompts_section(one: Told) -> Section:
    section: Section = {"id": "prompts", "name": "Prompts and rewards", "wide": [], "missing": ""}
    if not one.batches:
        return section | {"missing": "No samples were stored with this log."}
    rates, spread = _pictures.solve_map(one.batches), _pictures.reward_map(one.batches)
    known = [chart for chart in (rates, spread) if chart]
    return section | {"wide": known, "missing": "" if known else "All completions have the same reward."}


def _examples_section(one: Told) -> Section:
    section: Section = {"id": "samples", "name": "Samples", "kind": "samples", "samples": [], "kinds": []}
    if not one.batches:
        return section | {"kind": "charts", "missing": "No samples were stored with this log."}
    chosen = _samples.choose(one.batches)
    kinds = {kind for sample in chosen for kind in sample.kinds}
    lead = (
        f"Chosen from {sum(map(len, one.batches)):,} completions of {len(one.batches)} batches. "
        "Right and wrong are by the strict grader, whatever the reward says."
    )
    return section | {
        "lead": lead,
        "samples": [_sample(sample) for sample in chosen],
        "kinds": [(key, name) for key, name in _samples.KINDS.items() if key in kinds],
    }


def _sample(sample: _samples.Sample) -> dict[str, Any]:
    record = sample.record
    labels = []
    if sample.correct is not None:
        labels.append({"text": "right", "level": ""} if sample.correct else {"text": "wrong", "level": "warn"})
    labels += [{"text": _samples.KINDS[kind], "level": "info"} for kind in sample.kinds]
    fields = [(name, _field(value)) for name, value in _samples.shown_fields(record).items()]
    texts = [
        _text("prompt", record["prompt"], PROMPT_SHOWN),
        _text("completion", record["completion"], COMPLETION_SHOWN),
    ]
    if (answer := record.get("columns", {}).get("answer")) is not None:
        texts.append(_text("answer of the data", answer, 300))
    texts += [_text(f"{part} failed", why, 300) for part, why in record.get("failures", {}).items()]
    return {"kinds": " ".join(sample.kinds), "labels": labels, "fields": fields, "texts": texts}


def _field(value: Any) -> str:
    if value is None:
        return "none"
    return number(float(value), 4) if isinstance(value, int | float) else cut(value, 40)[0]


def _text(name: str, text: object, most: int) -> dict[str, Any]:
    shown, left_out = cut(text, most)
    return {"name": cut(name, 60)[0], "shown": shown or "(empty)", "left_out": left_out}


def _setup_section(told: Sequence[Told]) -> Section:
    groups = []
    for one in told:
        before = f"{one.name}: " if len(told) > 1 else ""
        rows = _facts(one)
        groups.append({"name": f"{before}run", "rows": rows, "open": True})
        if one.config is not None:
            config = [(key, _setting(value)) for key, value in flatten(one.config).items()]
            groups.append({"name": f"{before}config, {len(config)} settings", "rows": config})
        packages = (one.environment or {}).get("packages") or {}
        if packages:
            groups.append({"name": f"{before}versions of {len(packages)} packages", "rows": list(packages.items())})
        if one.log.unknown:
            rows = [(name, "no metric card knows it") for name in one.log.unknown]
            groups.append({"name": f"{before}{len(rows)} columns without a card", "rows": rows})
    return {
        "id": "setup",
        "name": "Setup and data",
        "kind": "setup",
        "groups": groups,
        "downloads": [one.name for one in told],
    }


def _setting(value: Any) -> str:
    shown, left_out = cut("null" if value is None else value, 300)
    return f"{shown} … ({left_out} more characters)" if left_out else shown


def _facts(one: Told) -> list[tuple[str, str]]:
    environment, config = one.environment or {}, one.config or {}
    packages = environment.get("packages") or {}
    facts = [("read from", one.log.source), *(("note", note) for note in one.log.notes)]
    if "seed" in config:
        facts.append(("seed", str(config["seed"])))
    facts += [(key, str(environment[key])) for key in ("python", "platform", "cpus", "commit") if environment.get(key)]
    key_packages = ("agent-tunix", "jax", "google-tunix", "optax", "numpy")
    versions = ", ".join(f"{name} {packages[name]}" for name in key_packages if name in packages)
    facts += [("versions", versions)] if versions else []
    for start in environment.get("starts", ()):
        facts.append((f"started {start.get('time', '')}", " ".join(map(str, start.get("argv", ())))))
    checksum = (one.summary or {}).get("params_sha256")
    return facts + ([("parameters, SHA-256", checksum)] if checksum else [])


# --- Several runs -----------------------------------------------------------------------------------------------------


def _several(told: Sequence[Told]) -> list[Section | None]:
    charts = _strips.overlay(told)
    return [
        _comparison_section(told),
        _findings_section(told),
        {"id": "curves", "name": "Curves", "wide": charts[:2], "charts": charts[2:]},
        _differences_section(told),
        _setup_section(told),
    ]


def _comparison_section(told: Sequence[Told]) -> Section:
    head = ["run", "verdict", "steps", "reward at the end", "held-out accuracy", "best", "at step"]
    rows = []
    for one in told:
        reward, gold = one.of("rewards"), one.of("eval_accuracy")
        best = int(np.argmax(gold.values)) if gold is not None else 0
        rows.append(
            [
                one.name,
                one.level,
                number(one.last_step, 6),
                end(reward) if reward is not None else "–",
                number(float(gold.values[-1])) if gold is not None else "–",
                number(float(gold.values[best])) if gold is not None else "–",
                f"{gold.steps[best]:g}" if gold is not None else "–",
            ]
        )
    return {"id": "comparison", "name": "Comparison", "kind": "table", "head": head, "rows": rows}


def _differences_section(told: Sequence[Told]) -> Section | None:
    """Settings in which the runs differ."""
    if any(one.config is None for one in told):
        return None
    flat = [flatten(one.config or {}) for one in told]
    keys = [key for key in dict.fromkeys(key for config in flat for key in config) if not key.startswith("run_dir")]
    rows = [[key, *(_setting(config.get(key)) for config in flat)] for key in keys if _varies(key, flat)]
    section = {
        "id": "settings",
        "name": "Settings that differ",
        "kind": "table",
        "head": ["setting", *(one.name for one in told)],
    }
    return section | {"rows": rows} if rows else section | {"kind": "charts", "missing": "All settings are the same."}


def _varies(key: str, flat: Sequence[Mapping[str, Any]]) -> bool:
    return len({str(config.get(key)) for config in flat}) > 1
