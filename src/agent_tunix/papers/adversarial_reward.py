"""Adv-GRPO: a discriminator of references and completions is the reward, and goes on learning beside the policy.

Claim: A frozen reward model is hacked: its score rises while quality falls. Trained on with references as positives and
  present completions as negatives it is hardly hacked, and other references move the policy to their distribution.
Method: On frozen features a head h is trained by the hinge max(0, 1 - h(real)) + max(0, 1 + h(fake)), on whole samples
  and, at 0.3 of that weight, on patches; nine updates of the head per update of the policy; the reward is h of a whole.
Here: Kept: hinge, patches and their weight, nine updates, groups of 16, no divergence penalty. Simplified: a sample is
  16 of 8 symbols, references are 512 samples of a chain of order two that seldom repeats a symbol, the policy a table
  over the last two symbols that starts uniform; features count symbols, pairs, triples. Ours: both are compared on weak
  features, single symbols; rates 0.01 and 0.05; 200 updates; quality is the log-likelihood under the chain. Left out:
  images, tuning the backbone, replay. `recipe`: a head on hashed triples of characters; answers in tags are real.
Run: `agent-tunix papers run adversarial_reward`; a policy: `python run_training.py paper=adversarial_reward`.
Seen: 2 cores (AMD EPYC), shared, 2026-12-01, five seeds: -3.1 nats per symbol against -5.2 of the frozen reward, which
  ends in one symbol. With rich features it is not hacked by this measure, but diverges by 0.87 nats in place of 0.12.
  A first toy, whose chain repeated symbols freely and whose features were random, showed no hacking and was given up.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from agent_tunix import reward_models as models
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on
from agent_tunix.types import Recipe, Score


def hinge(patches: Float[Any, "examples patches"], real: Float[Any, " examples"]) -> Float[Array, " examples"]:
    """The discriminator's loss of samples, whose score is the mean over their patches, and at 0.3 of their patches."""
    sign = 2.0 * real - 1.0
    return optax.hinge_loss(patches.mean(-1), sign) + 0.3 * optax.hinge_loss(patches, sign[:, None]).mean(-1)


SCORE, DISCRIMINATION = models.averaged(models.counted), models.labeled(models.counted, hinge)
SYMBOLS, LENGTH, SIZE, KINDS = 8, 16, 1 + 8 + 8**2 + 8**3, np.array([[1, 0, 0], [1, 1, 1]])  # symbols, pairs, triples
UNIFORM, WORLD = jnp.zeros((SYMBOLS**2, SYMBOLS)), lab.World(
    start=lambda key, prompt: jnp.stack([prompt % SYMBOLS, 3 * prompt % SYMBOLS]),
    step=lambda key, state, action: (jnp.stack([state[1], action]), jnp.zeros((), bool)),
    observe=lambda state: state[0] * SYMBOLS + state[1], horizon=LENGTH,
)  # fmt: skip
TOY = lab.tabular(WORLD, UNIFORM, prompts=8, group=16)


def _features(kinds: Array, sampled: lab.Sampled) -> Int[Array, "examples patches kinds"]:
    pair = SYMBOLS * sampled.trail[..., 1] + sampled.actions
    ids = [1 + sampled.actions, 1 + SYMBOLS + pair, 1 + SYMBOLS + SYMBOLS**2 * (1 + sampled.trail[..., 0]) + pair]
    return (jnp.stack(ids, -1) * kinds).reshape(-1, LENGTH, 3)


def _bank(key: Key[Array, ""], logits: Array, kinds: Any) -> Int[Array, "examples patches kinds"]:
    return jnp.concatenate([_features(kinds, TOY.sample(logits, own)) for own in jax.random.split(key, 4)])


def _discriminator(key: Key[Array, ""], logits: tuple[Array, Array], kinds: Any) -> tuple[Any, Array, Array]:
    """One that was trained on samples of two policies, those of the first, and its AUC on new ones."""
    banks = [_bank(own, logits[place % 2], kinds) for place, own in enumerate(jax.random.split(key, 4))]
    seen, new = models.against(*banks[:2]), models.against(*banks[2:])
    head = models.fit(key, seen, models.counted_params(SIZE), DISCRIMINATION, steps=300, learning_rate=0.02).params
    return head, banks[0], models.auc(SCORE(head, new.inputs), new.label)


@functools.cache
def _trained(adversarial: bool, estimator: str) -> Any:
    def run(key: Key[Array, ""], kinds: Array) -> dict[str, Array]:
        keys = jax.random.split(key, 6)
        again, fake = jnp.tile(jnp.eye(SYMBOLS), (SYMBOLS, 1)), functools.partial(_features, kinds)
        chains = [jax.nn.log_softmax(1.5 * jax.random.normal(own, UNIFORM.shape) - 3.0 * again) for own in keys[:2]]
        first, bank, _ = _discriminator(keys[2], (chains[0], UNIFORM), kinds)
        frozen = lambda key, sampled: lab.score(SCORE(first, fake(sampled)).reshape(sampled.shape))  # noqa: E731

        def measure(params: Any, sampled: lab.Sampled, raw: Score) -> dict[str, Array]:
            logs = jax.nn.log_softmax(params)[sampled.states]
            far = [jnp.sum(jnp.exp(logs) * (logs - chain[sampled.states]), -1).mean() for chain in chains]
            gold = chains[0][sampled.states, sampled.actions].mean()
            return {"gold": gold, "frozen": raw.value.mean(), "to_first": far[0], "nearer": far[0] - far[1]}

        def phase(key: Any, bank: Array, head: Any, start: Any) -> lab.Learned:
            given = {"real": lambda sampled: bank, "fake": fake, "steps": 9, "learning_rate": 0.01}
            shaping = models.discriminator(SCORE, DISCRIMINATION, head, **given) if adversarial else None
            given = {"advantage": lab.GROUPED[estimator], "measure": measure, "optimizer": optax.adam(0.05)}
            return lab.learn(TOY, frozen, key=key, steps=200, shaping=shaping, start=start, **given)

        before, same = phase(keys[3], bank, first, UNIFORM), _discriminator(keys[5], (chains[0], chains[0]), kinds)[2]
        head, second = before.shaping.params if adversarial else first, _bank(keys[4], chains[1], kinds)
        after = phase(keys[3], second, head, before.params).history["nearer"] if adversarial else jnp.zeros(200)
        return before.history | {"nearer_after": after, "auc": jnp.full(200, same)}

    return jax.jit(jax.vmap(run, (None, 0)))


def reproduce(seed: int) -> Measured:
    """Quality, frozen score and divergence of every arm at the end, and how near it comes to new references."""
    found: dict[str, Any] = {}
    for estimator, kind in [(one, kind) for one in lab.GROUPED for kind in ("frozen", "adversarial")]:
        measured = jax.device_get(_trained(kind == "adversarial", estimator)(jax.random.key(seed), KINDS))
        for row, features in enumerate(("weak", "rich")):
            name = f"{kind}_{features}" + ("" if estimator == "group_normalized" else f"_{estimator}")
            curves = {part: values[row] for part, values in measured.items()}
            found |= {f"{name}/{part}": curve[-20:].mean() for part, curve in curves.items()}
            smooth = np.convolve(curves["gold"], np.full(10, 0.1), "valid")
            hacked = (smooth.max() - smooth[-1]) * (curves["frozen"][-1] > curves["frozen"][0])
            found |= {f"{name}/curve": curves["gold"], f"{name}/hacked": hacked}
    return found


def recipe(base: Recipe | None = None, *, weight: float = 0.3, steps: int = 9, rate: float = 0.01) -> Recipe:
    """Adds to the reward a bounded score of how alike completions and tagged answers look."""
    base, read = based_on(base), functools.partial(models.ngrams, places=256, buckets=512)
    given: dict[str, Any] = {"params": models.counted_params(512), "steps": steps, "learning_rate": rate}
    given["combine"] = lambda value, learned: value + weight * jnp.tanh(learned)
    given["real"] = lambda rollouts: read(f"<answer>{answer}</answer>" for answer in rollouts.columns["answer"])
    given["fake"] = lambda rollouts: read(text for group in rollouts.completions for text in group)
    return base._replace(shaping=models.discriminator(SCORE, DISCRIMINATION, **given))


def satisfied_margins_cost_nothing(rng: np.random.Generator) -> bool:
    """The hinge is exactly 0 where patches are beyond 1 on their side, and positive where one is not."""
    real = rng.integers(0, 2, 8).astype(float)
    found = (1.0 + rng.exponential(size=(8, 4))) * (2 * real - 1)[:, None]
    return bool((hinge(found, real) == 0).all() and (hinge(found * [1, 1, 1, 0], real) > 0).all())


PAPER = Paper(
    title="The Image as Its Own Reward: Reinforcement Learning with Adversarial Reward for Image Generation",
    authors="Mao, Chen, Yang, and Shou",
    year=2025,
    arxiv="2511.20256",
    checked="the authors' code",
    comparisons=(
        Comparison("quality, nats per symbol", "frozen_weak/gold", "adversarial_weak/gold"),
        Comparison(
            "divergence from references, rich features, nats", "frozen_rich/to_first", "adversarial_rich/to_first"
        ),
        Comparison("quality, leave-one-out", "frozen_weak_leave_one_out/gold", "adversarial_weak_leave_one_out/gold"),
    ),
    checks=(
        Check("0.3 nats better", lambda m: m["adversarial_weak/gold"] - m["frozen_weak/gold"], at_least=0.3),
        Check("0.1 nats lost while a frozen score rises", lambda m: m["frozen_weak/hacked"], at_least=0.1),
        Check("nearer to new references than to old", lambda m: m["adversarial_rich/nearer_after"], at_least=0.0),
        Check("AUC between equal sources near 0.5", lambda m: abs(m["frozen_rich/auc"] - 0.5), at_most=0.05),
    ),
    laws=(satisfied_margins_cost_nothing,),
    curves={"frozen_weak/curve": "frozen", "adversarial_weak/curve": "adversarial"},
)
