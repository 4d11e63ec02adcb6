"""Draws what each length reward pays for a completion of a given length, right or wrong.

    python benchmarks/draw_lengths.py --image docs/images/length_rewards.png

Needs the extra `plots`. The curves are the rewards themselves, called on rollouts of every length.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from agent_tunix import rewards
from agent_tunix.batching import text_rollouts
from agent_tunix.types import Reward

BUDGET = 400
LENGTHS = np.arange(1, BUDGET + 1)
GRADED = rewards.per_completion(lambda response: float(response == "right"), name="correct", bounds=(0, 1))
LINES = {"right": "-", "wrong": "--"}

PANELS: dict[str, tuple[str, Callable[[], Reward]]] = {
    "cosine_length": ("right before wrong, short before long", lambda: rewards.cosine_length(GRADED, BUDGET)),
    "concise": ("only right answers, against their group", lambda: rewards.concise(GRADED)),
    "relative_length": ("against the group", lambda: rewards.relative_length(GRADED)),
    "soft_overlong": ("the last 100 of 400 tokens", lambda: rewards.soft_overlong(BUDGET, 100)),
    "length_budget": ("a budget of 200 tokens", lambda: rewards.length_budget(BUDGET // 2, slope=0.005)),
}


def curves(reward: Reward) -> dict[str, np.ndarray]:
    """What right and wrong completions of every length get, all of them in one group."""
    texts = [[text for text in LINES for _ in LENGTHS]]
    score = reward(text_rollouts(["a prompt"], texts, {}, lengths=np.tile(LENGTHS, len(LINES))[None]))
    return dict(zip(LINES, np.split(np.asarray(score.value)[0], len(LINES)), strict=True))


def draw(image: Path) -> None:
    """Writes the figure."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharex=True)
    *panels, rest = axes.flat
    for axis, (name, (words, made)) in zip(panels, PANELS.items(), strict=True):
        for text, values in curves(made()).items():
            axis.plot(LENGTHS, values, LINES[text], label=text, linewidth=2)
        axis.set_title(f"{name}\n{words}", fontsize=10)
        axis.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.tick_params(labelbottom=True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("reward")
    axes[1, 0].set_ylabel("reward")
    axes[1, 0].set_xlabel("tokens")
    axes[1, 1].set_xlabel("tokens")
    rest.axis("off")
    rest.legend(*axes[0, 0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=12)
    figure.tight_layout()
    figure.savefig(image, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and draws."""
    parser = argparse.ArgumentParser(description="Draws what length rewards pay.")
    parser.add_argument("--image", type=Path, required=True, metavar="PATH", help="where to write the figure")
    draw(parser.parse_args(argv).image)


if __name__ == "__main__":
    main()
