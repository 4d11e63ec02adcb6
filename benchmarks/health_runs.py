"""One labelled run as a log would show it: in the names of one of four libraries, worn, and with only some quantities.

`case(family, seed)` is deterministic. Logs miss rows and values, are resumed with steps that come twice, scale and
shift the reward, and hold the held-out evaluations in arrays of their own or between rows of NaN. Seeds below 1,000,000
are for tuning rules, those from there on for reporting.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from health_families import FAMILIES, HEALTHY, Family
from health_simulation import Array, Generator, World, at_rows, draw_length, observe

REPORTING_FROM = 1_000_000
"""Seeds from here on are for reporting."""

Bounds = tuple[float, float] | dict[str, tuple[float, float]] | None

DIALECTS: Mapping[str, Mapping[str, str]] = {
    "ours": {
        "reward": "reward/mean",
        "reward_batch_std": "reward/std",
        "reward_max": "reward/max",
        "reward_min": "reward/min",
        "reward_std": "group/std",
        "frac_reward_zero_std": "group/flat_fraction",
        "part": "reward/part/{}",
        "part_std": "reward/part/{}/group_std",
        "failed": "reward/part/{}/failed_fraction",
        "completion_length": "completion/length",
        "terminated_length": "completion/length_ended",
        "clipped_ratio": "completion/truncated_fraction",
        "eval_accuracy": "eval/accuracy",
        "kl": "policy/kl",
        "approx_kl": "policy/old_kl",
        "entropy": "policy/entropy",
        "clip_ratio": "policy/clip_fraction",
        "importance_ratio": "policy/ratio",
        "loss": "policy/loss",
        "grad_norm": "policy/gradient_norm",
        "learning_rate": "policy/learning_rate",
        "answer_spam": "completion/several_answers_fraction",
        "repetition": "completion/repetition",
        "empty_completions": "completion/empty_fraction",
        "invalid_reward": "reward/invalid_fraction",
        "step_time": "time/step_s",
    },
    "trl": {
        "reward": "reward",
        "reward_std": "reward_std",
        "part": "rewards/{}/mean",
        "part_std": "rewards/{}/std",
        "completion_length": "completions/mean_length",
        "terminated_length": "completions/mean_terminated_length",
        "clipped_ratio": "completions/clipped_ratio",
        "eval_accuracy": "eval_accuracy",
        "clip_ratio": "clip_ratio/region_mean",
        "sampler_mismatch": "sampling/sampling_logp_difference/mean",
    },
    "verl": {
        "reward": "critic/rewards/mean",
        "reward_max": "critic/rewards/max",
        "reward_min": "critic/rewards/min",
        "completion_length": "response_length/mean",
        "clipped_ratio": "response_length/clip_ratio",
        "eval_accuracy": "val-core/openai/gsm8k/acc/mean@1",
        "kl": "actor/kl_loss",
        "approx_kl": "actor/ppo_kl",
        "entropy": "actor/entropy",
        "clip_ratio": "actor/pg_clipfrac",
        "loss": "actor/pg_loss",
        "grad_norm": "actor/grad_norm",
        "learning_rate": "actor/lr",
        "sampler_mismatch": "training/rollout_probs_diff_mean",
        "empty_completions": "response/aborted_ratio",
    },
    "tunix": {
        "reward": "rewards/train/score/mean",
        "reward_max": "rewards/train/score/max",
        "reward_min": "rewards/train/score/min",
        "part": "rewards/train/{}",
        "completion_length": "completions/train/mean_length",
        "kl": "actor/train/kl",
        "approx_kl": "actor/train/ppo_kl",
        "clip_ratio": "actor/train/pg_clipfrac",
        "importance_ratio": "actor/train/is_ratio/mean",
        "loss": "actor/train/loss",
        "grad_norm": "actor/train/grad_norm",
        "learning_rate": "actor/train/learning_rate",
        "eval_accuracy": "heldout_accuracy",
    },
}
"""What libraries call a quantity; a quantity that a library has no name for keeps its card's."""
_FALLBACK = {"part": "rewards/{}/mean", "part_std": "reward/part/{}/group_std", "failed": "failed_fraction"}
UNNAMED = ("reward_batch_std", "reward_max", "reward_min")
"""Logged only by libraries that have a name for them."""


def named(quantity: str, dialect: str) -> str | None:
    """What a library calls a quantity; None where it has nothing of the kind and no card's name fits."""
    kind, _, component = quantity.partition(" ")
    name = DIALECTS[dialect].get(kind) or _FALLBACK.get(kind) or (None if kind in UNNAMED else kind)
    return name.format(component) if name else None


ODD_NAMES = {"task": "solver_score", "format": "layout_check"}
"""Component names that say nothing, so that their roles have to be given."""


@dataclass(frozen=True)
class Case:
    """One run: what `diagnose` takes, and what is true of it.

    Attributes:
      series: Values by metric name.
      steps: Steps of every series, one array for all of them, or None.
      bounds: As `diagnose` takes them.
      eval_samples: Questions per evaluation, None where there is none.
      roles: As `diagnose` takes them, or None.
      label: Id of the rule that should be found, or `healthy`.
      onset: Step at which the illness begins; NaN for healthy runs.
      ill_from: Step at which it has come half-way.
      total: Steps of the run.
      family: Name of the family.
      form: Functional form.
      seed: Of the run.
      reward_names: Series in units of the reward.
      deviation_names: Series in its units that a shift does not move.
      world: The truth.
    """

    series: dict[str, Array]
    steps: dict[str, Array] | Array | None
    bounds: Bounds
    eval_samples: int | None
    roles: dict[str, str] | None
    label: str
    onset: float
    ill_from: float
    total: int
    family: str
    form: str
    seed: int
    reward_names: tuple[str, ...]
    deviation_names: tuple[str, ...]
    world: World = field(repr=False)


def case(family: str, seed: int) -> Case:
    """One run of a family.

    Args:
      family: One of `FAMILIES`.
      seed: The same gives the same run.

    Examples:
      >>> case("kl_blowup", 1_000_000).label
      'kl_blowup'
    """
    kind, rng, form, world = _drawn(family, seed)
    rows = _rows(rng, world.steps)
    found = observe(at_rows(world, rows), rng)
    log = _Log(kind, world, rng, str(rng.choice(list(DIALECTS))), kind.needs if rng.random() < 0.15 else None)
    bounded = kind.bounds == "always" or (kind.bounds == "maybe" and rng.random() < 0.7)
    factor, shift = _units(rng, kind, bounded)
    for name in found:
        if name.startswith("reward"):
            found[name] = found[name] * factor + (0 if "std" in name else shift)
    roles = log.odd_roles()
    chosen = {quantity: name for quantity in found if (name := log.name_if_logged(quantity))}
    roles = _of_logged(roles, set(chosen.values()))
    values, steps, samples = _worn(log, {chosen[quantity]: found[quantity] for quantity in chosen}, rows)
    rewards = {quantity: name for quantity, name in chosen.items() if quantity.startswith("reward")}
    ill = np.flatnonzero(world.full(world.depth) >= 0.5)
    return Case(
        series=values,
        steps=steps,
        bounds=_bounds(rng, chosen, shift, factor) if bounded else None,
        eval_samples=samples,
        roles=roles,
        label=kind.label,
        onset=float(int(world.onset * world.steps)) if kind.label != HEALTHY else float("nan"),
        ill_from=float(ill[0]) if ill.size else float("nan"),
        total=world.steps,
        family=family,
        form=form,
        seed=seed,
        reward_names=tuple(name for quantity, name in rewards.items() if "std" not in quantity),
        deviation_names=tuple(name for quantity, name in rewards.items() if "std" in quantity),
        world=world,
    )


def _of_logged(roles: dict[str, str] | None, names: set[str]) -> dict[str, str] | None:
    """The roles of those series that are logged."""
    return {a: b for a, b in roles.items() if a in names or b in names} or None if roles else None


def world(family: str, seed: int) -> World:
    """The truth alone, without sampling a single completion: quick."""
    return _drawn(family, seed)[3]


def _drawn(family: str, seed: int) -> tuple[Family, Generator, str, World]:
    kind = FAMILIES[family]
    rng = np.random.default_rng([zlib.crc32(family.encode()), seed])
    steps = draw_length(rng)
    form = str(rng.choice(kind.forms))
    return kind, rng, form, kind.build(rng, steps, form)


def _rows(rng: Generator, steps: int) -> Array:
    """Index of the step of every row: all in turn, or some twice after resuming from a checkpoint, or with gaps."""
    rows = np.arange(steps)
    if rng.random() < 0.2:
        at = int(rng.integers(steps // 4, steps))
        rows = np.concatenate([rows[:at], rows[max(0, at - int(rng.integers(2, max(3, steps // 15)))) :]])
    if rng.random() < 0.35:
        rows = rows[(rng.random(rows.size) >= rng.uniform(0, 0.08)) | (rows == 0)]
    return rows


def _units(rng: Generator, kind: Family, bounded: bool) -> tuple[float, float]:
    """Factor and shift of the reward; without bounds a shift would hide how large the changes are."""
    if kind.bounds == "never":
        return float(rng.choice([1, 10])), 0.0
    if not bounded:
        return 1.0, 0.0
    factor = float(rng.choice([1, 1, 1, 10, 100, 0.1]))
    return factor, factor * float(rng.choice([0, 0, 0, -0.5, -1, 2]))


def _bounds(rng: Generator, chosen: Mapping[str, str], low: float, span: float) -> Bounds:
    bounds = (low, low + span)
    if rng.random() < 0.7:
        return bounds
    return {chosen["reward"]: bounds} | {
        name: (0.0, 1.0) for quantity, name in chosen.items() if quantity.startswith("part ")
    }


@dataclass
class _Log:
    """Which quantities a log holds, and under which names."""

    kind: Family
    world: World
    rng: Generator
    dialect: str
    only: tuple[str, ...] | None
    renamed: dict[str, str] = field(default_factory=dict)

    def odd_roles(self) -> dict[str, str] | None:
        """Gives the components odd names now and then, and says then what they are for, in either orientation."""
        truth = {"task": self.world.task, "format": self.world.format}
        if self.rng.random() > 0.2 or not self.world.task:
            return None
        self.renamed = {name: ODD_NAMES[role] for role, name in truth.items() if name}
        roles = {str(named(f"part {self.renamed[name]}", self.dialect)): role for role, name in truth.items() if name}
        return roles if self.rng.random() < 0.6 else {role: name for name, role in roles.items()}

    def name_if_logged(self, quantity: str) -> str | None:
        """The series' name, None if this log does not hold it."""
        kind, _, component = quantity.partition(" ")
        needed = self.needed(quantity)
        if not needed and (kind in self.kind.never or self.only is not None or self.rng.random() < 0.25):
            return None
        return named(f"{kind} {self.renamed.get(component, component)}".strip(), self.dialect)

    def needed(self, quantity: str) -> bool:
        """Whether the illness cannot be seen without it; the reward is always there."""
        kind, _, component = quantity.partition(" ")
        roles = {f"{kind} task": self.world.task, f"{kind} format": self.world.format, f"{kind} *": component}
        wanted = {f"{kind} {roles[need]}" if need in roles else need for need in self.kind.needs}
        return quantity == "reward" or quantity in wanted


def _worn(
    log: _Log, values: dict[str, Array], rows: Array
) -> tuple[dict[str, Array], dict[str, Array] | Array | None, int | None]:
    """Leaves values out and adds the evaluations; returns the series, their steps and the questions per evaluation."""
    rng = log.rng
    if rng.random() < 0.25:
        lost = rng.uniform(0, 0.08)
        values = {name: np.where(rng.random(rows.size) < lost, np.nan, value) for name, value in values.items()}
    steps = rows + 1
    wanted = "eval_accuracy" in log.kind.needs
    if not wanted and ("eval_accuracy" in log.kind.never or log.only is not None or rng.random() < 0.4):
        bare = rows.size == log.world.steps and np.all(np.diff(rows) == 1) and rng.random() < 0.2
        return values, None if bare else steps if rng.random() < 0.6 else dict.fromkeys(values, steps), None
    name = str(named("eval_accuracy", log.dialect))
    samples = int(rng.choice([100, 200, 300, 500, 1000]))
    total = log.world.steps
    count = min(int(rng.integers(12 if wanted else 8, 41)), total // 4)
    at = np.unique(np.linspace(0, total - 1, count).round().astype(int))
    accuracy = rng.binomial(samples, np.clip(log.world.gold[at], 0, 1)) / samples
    if rng.random() < 0.5:
        return values | {name: accuracy}, dict.fromkeys(values, steps) | {name: at + 1}, samples
    if np.all(np.diff(rows) > 0):
        wide = np.full(rows.size, np.nan)
        kept = np.isin(at, rows)
        wide[np.searchsorted(rows, at[kept])] = accuracy[kept]
        return values | {name: wide}, steps, samples
    return values | {name: accuracy}, dict.fromkeys(values, steps) | {name: at + 1}, samples


def rescaled(given: Case, factor: float, shift: float) -> Case:
    """The same run with another unit and zero of the reward."""
    series = dict(given.series)
    for name in given.reward_names:
        series[name] = series[name] * factor + shift
    for name in given.deviation_names:
        series[name] = series[name] * factor
    return replace(given, series=series, bounds=_rescaled_bounds(given, factor, shift))


def _rescaled_bounds(given: Case, factor: float, shift: float) -> Bounds:
    def moved(bounds: tuple[float, float]) -> tuple[float, float]:
        return bounds[0] * factor + shift, bounds[1] * factor + shift

    if isinstance(given.bounds, dict):
        return {n: moved(b) if n in given.reward_names else b for n, b in given.bounds.items()}
    return moved(given.bounds) if given.bounds else None


def metric_rows(given: Case) -> Iterator[dict[str, float | str]]:
    """The run as rows of metrics in the order of the log; evaluations in rows of their own, before their step's."""
    steps = np.arange(given.total) + 1 if given.steps is None else given.steps
    by_name = steps if isinstance(steps, dict) else dict.fromkeys(given.series, steps)
    main = given.reward_names[0]
    sparse = {name for name in given.series if by_name[name].size != by_name[main].size}
    pending = {name: list(zip(by_name[name], given.series[name], strict=True)) for name in sparse}
    for k, step in enumerate(by_name[main].tolist()):
        for name in sparse:
            while pending[name] and pending[name][0][0] <= step:
                at, value = pending[name].pop(0)
                yield {"step": int(at), "kind": "eval", name: float(value)}
        values = {name: float(series[k]) for name, series in given.series.items() if name not in sparse}
        yield {"step": step, "kind": "train"} | {name: value for name, value in values.items() if value == value}
