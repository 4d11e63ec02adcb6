"""Figures of the bandit experiments (`agent_tunix.diagnostics.klasym`); needs the extra `plots`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agent_tunix.diagnostics import bandits
from agent_tunix.diagnostics.klasym import Explanation, coin
from agent_tunix.errors import AgentTunixError

ORANGE, BLUE, GREEN, RED = "#E69F00", "#0072B2", "#009E73", "#D55E00"
"""Of Okabe and Ito's palette, which colour-blind readers can tell apart."""


def write_figures(explanation: Explanation, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes ``klasym_divergence.png``, ``klasym_dips.png`` and ``klasym_weights.png``.

    Args:
      explanation: What was measured.
      folder: Made if it is not there.

    Returns:
      The files.

    Raises:
      AgentTunixError: If matplotlib is missing.
    """
    figure = _figures()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, tuple[Callable[[Any, Explanation], None], ...]] = {
        "klasym_divergence": (_ratio, _directions, _good_cases),
        "klasym_dips": (_training, _dip_map, _weights),
        "klasym_weights": (_correlated, _frontier, _noise),
    }
    return [_written(figure, panels, explanation, folder / f"{name}.png") for name, panels in figures.items()]


def _figures() -> Any:
    """The class of a figure, without the global state of pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AgentTunixError(
            "figures need matplotlib, which is not installed: pip install 'agent-tunix[plots]'"
        ) from error
    return Figure


def _written(figure: Any, panels: tuple[Callable[..., None], ...], explanation: Explanation, path: Path) -> Path:
    page = figure(figsize=(12, 3.9), dpi=110, layout="constrained")
    for axis, panel in zip(page.subplots(1, len(panels)), panels, strict=True):
        panel(axis, explanation)
        axis.title.set_fontsize(10)
        axis.spines[["top", "right"]].set_visible(False)
    page.savefig(path)
    return path


def _ratio(axis: Any, explanation: Explanation) -> None:
    """The asymmetry of a coin, with those of the sequences as points."""
    p = np.linspace(0.02, 0.98, 97)
    axis.plot(p, [coin(at).ratio for at in p], color=BLUE, label="one token")
    for row in (row for row in explanation.sequences if row.tokens > 1):
        axis.plot(row.success, row.ratio, "s", color=ORANGE, label=f"{row.tokens} tokens" if row.tokens == 20 else None)
        axis.annotate(
            f"{row.tokens} tokens", (row.success, row.ratio), (4, -11), textcoords="offset points", fontsize=8
        )
    axis.axhline(1, color="0.6", linewidth=0.8)
    axis.axvline(0.5, color="0.6", linewidth=0.8, linestyle=":")
    axis.text(0.04, 1.3, "raising is cheaper\nbelow 1/2", fontsize=8, color="0.3")
    axis.text(0.97, 0.6, "raising is dearer\nabove 1/2", fontsize=8, color="0.3", ha="right")
    axis.set(xlabel="how often the reward is given", ylabel="KL up / KL down", title="Equal changes, least divergence")


def _directions(axis: Any, explanation: Explanation) -> None:
    """Random directions against the prediction."""
    budgets = np.geomspace(0.005, 1.0, 60)
    for p, colour in ((0.95, ORANGE), (0.99, RED)):
        axis.plot(budgets, [bandits.random_fall_share(p, 50, budget) for budget in budgets], color=colour)
        rows = [row for row in explanation.directions if row.tokens == 20 and np.isclose(row.success, p**20)]
        marks = f"20 tokens, success {p**20:.2f}"
        axis.plot([row.budget for row in rows], [row.fell for row in rows], "o", color=colour, label=marks)
    rows = [row for row in explanation.directions if row.tokens == 1 and row.success == 0.9]
    axis.plot(
        [row.budget for row in rows], [row.fell for row in rows], "^--", color=BLUE, label="one of two tokens, 0.90"
    )
    axis.set(xscale="log", ylim=(0.4, 1.03), xlabel="divergence of the move, nats", ylabel="share that lowers success")
    axis.set_title("Random directions do break things")
    axis.legend(frameon=False, fontsize=8, loc="center right")


def _good_cases(axis: Any, explanation: Explanation) -> None:
    """Which case is commoner, and what varphi does."""
    p = np.linspace(0.05, 0.95, 91)
    policies = bandits.joint(0.3, p)
    table = bandits.quadrants(policies, 4)
    axis.plot(p, table.positive[:, 1], color=RED, linestyle="--", label="share of +u-v among the good")
    axis.plot(p, table.positive[:, 0], color=GREEN, linestyle="--", label="share of +u+v among the good")
    for way, colour in ((bandits.natural, BLUE), (bandits.vanilla, ORANGE)):
        axis.plot(p, bandits.change(policies, 4, way), color=colour, label=f"first change of varphi, {way.__name__}")
    axis.axhline(0, color="0.6", linewidth=0.8)
    axis.set(xlabel="P(varphi); P(phi) = 0.3, weight 4", ylim=(-0.05, 1.45), title="The commoner case decides neither")
    axis.legend(frameon=False, fontsize=8, loc="upper center")


def _training(axis: Any, explanation: Explanation) -> None:
    """Both gradients from one start."""
    start = bandits.joint(0.3, 0.3)
    for way, rate, line in ((bandits.vanilla, 0.2, "-"), (bandits.natural, 0.02, "--")):
        path = bandits.ascend(start, 4, way, steps=400, rate=rate)
        axis.plot(path.phi, line, color=BLUE, label=f"phi, {way.__name__}")
        axis.plot(path.varphi, line, color=ORANGE, label=f"varphi, {way.__name__}")
    axis.set(xlabel="step", ylabel="P", ylim=(0, 1.02), title="r = 4 phi + varphi, independent, both 0.3")
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def _dip_map(axis: Any, explanation: Explanation) -> None:
    """The greatest fall by start."""
    p, fall = explanation.dip_map.p, explanation.dip_map.fall
    mesh = axis.pcolormesh(p, p, fall.T, cmap="magma_r", vmin=0)
    axis.figure.colorbar(mesh, ax=axis, label="greatest fall of varphi")
    axis.axhline(0.5, color="0.3", linewidth=0.8, linestyle=":")
    axis.set(
        xlabel="P(phi) at the start", ylabel="P(varphi) at the start", title="Where varphi dips: vanilla, weight 4"
    )


def _weights(axis: Any, explanation: Explanation) -> None:
    """Ways through the plane of both rewards."""
    for index, weight in enumerate((1, 2, 4, 8)):
        path = bandits.ascend(bandits.joint(0.3, 0.3), weight, bandits.vanilla, steps=600, rate=0.8 / weight)
        colour = (GREEN, BLUE, ORANGE, RED)[index]
        axis.plot(path.phi, path.varphi, color=colour, label=f"weight {weight}")
    axis.set(xlabel="P(phi)", ylabel="P(varphi)", title="The later regime: varphi returns", xlim=(0.28, 1.01))
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def _correlated(axis: Any, explanation: Explanation) -> None:
    """The exact rule: falls where the weight is above the limit."""
    for row, colour in zip(explanation.correlated, ("0.5", GREEN, BLUE, ORANGE, RED), strict=True):
        path = bandits.ascend(bandits.joint(0.3, 0.8, row.correlation), 4, bandits.natural, steps=200, rate=0.02)
        limit = f"w* = {row.limit:.1f}" if np.isfinite(row.limit) else "no limit"
        axis.plot(path.varphi, color=colour, label=f"correlation {row.correlation:g}, {limit}")
    axis.set(xlabel="step", ylabel="P(varphi)", title="Natural gradient, weight 4: falls iff 4 > w*")
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def _frontier(axis: Any, explanation: Explanation) -> None:
    """What weights 1 to 8 buy."""
    budgets = sorted({row.budget for row in explanation.frontier})
    for budget, colour in zip(budgets, (GREEN, BLUE, ORANGE), strict=True):
        rows = [row for row in explanation.frontier if row.budget == budget]
        axis.plot([row.phi for row in rows], [row.varphi for row in rows], "o-", color=colour, label=f"{budget:g} nats")
        for row in (rows[0], rows[-1]):
            axis.annotate(f"w={row.weight}", (row.phi, row.varphi), (4, 3), textcoords="offset points", fontsize=8)
    axis.plot(0.3, 0.7, "k*", label="start")
    axis.set(xlabel="P(phi)", ylabel="P(varphi)", title="Best of weights 1 to 8 within a divergence", xlim=(0.25, 1.05))
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def _noise(axis: Any, explanation: Explanation) -> None:
    """The end of a skill under noise."""
    for rate, colour in ((0.3, BLUE), (3.0, RED)):
        rows = [row for row in explanation.noise if row.rate == rate]
        axis.plot(
            [row.weight for row in rows], [row.end for row in rows], "o-", color=colour, label=f"step size {rate:g}"
        )
    axis.axhline(explanation.noise[0].start, color="0.6", linewidth=0.8, linestyle=":", label="start")
    axis.set(xlabel="weight of an unrelated reward", ylabel="success at the end", ylim=(0, 1.02))
    axis.set_title("Noise: large weight and large steps")
    axis.legend(frameon=False, fontsize=8, loc="lower left")
