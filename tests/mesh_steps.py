"""Two updates on one batch over meshes of simulated devices, compared with one device; a child of `test_mesh_steps`.

Prints for every mesh the largest difference of every result, and how much of the state a device holds.
"""

import dataclasses
import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
import optax

from agent_tunix import devices, losses, meshes, models, sampling, updates
from agent_tunix.tokenizers import CharacterTokenizer

GROUP, PROMPTS = 4, 8
SIZES = {"layers": 2, "width": 16, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp": 32}
LOCAL = {"window": 8, "local": (True, False)}
GEMMA4 = {"window": 8, "query_scale": 1.0, "softcap": 3.0, "global_head_dim": 12}
EXTRA = {
    "gemma2": LOCAL,
    "gemma3": LOCAL,
    "qwen3_moe": {"experts": models.Experts(4, 2, 16)},
    "gemma4": GEMMA4 | {"layers": 4, "local": (True, False) * 2, "shared": 2, "shared_mlp": 48, "layer_inputs": 64},
    "gemma4 of experts": GEMMA4
    | {"local": (True, False), "global_kv_heads": 1, "keys_are_values": True, "experts": models.Experts(4, 2, 16)},
}


def mesh_of(word):
    axes = meshes.mesh(word)
    if axes.devices == 1:
        return None
    there = np.array(jax.devices()[: axes.devices])
    if axes.devices == axes.data:
        return jax.sharding.Mesh(there, ("data",))
    return jax.sharding.Mesh(there.reshape(axes), axes._fields)


def started(architecture, rank, dtype):
    params = models.initial_params(architecture, 0)
    if not rank:
        return models.full(params)
    frozen = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    found = models.lora(architecture, frozen, rank=rank, alpha=8.0, seed=0)
    noise = jax.tree.map(lambda leaf: leaf + 0.01 * jnp.cos(jnp.arange(leaf.size).reshape(leaf.shape)), found.trainable)
    return dataclasses.replace(found, trainable=noise)


def step(word, architecture, rank, dtype, remat, known=None):
    mesh, tokenizer = mesh_of(word), CharacterTokenizer()
    policy = models.policy(architecture, dtype=dtype, remat=remat)
    parameters = started(architecture, rank, dtype)
    if mesh is not None:
        parameters = devices.placed(mesh, parameters, models.placements(architecture, parameters, dict(mesh.shape)))
    sample = sampling.sampler(policy, tokenizer, max_prompt_tokens=12, max_completion_tokens=80, mesh=mesh)
    rows = [{"prompt": f"{'sort 3 1 2'[: 4 + number % 5]}"} for number in range(PROMPTS)]
    drawn = rollouts = sample(parameters, rows, GROUP, jax.random.key(0))
    if known is not None and dtype != "float32":
        rollouts = known  # rounding may have led to other tokens
    shares = {"temperature": 1.0, "mesh": mesh}
    reference = updates.reference_logprobs(policy, parameters, parts=2, **shares)(rollouts)
    rollouts = dataclasses.replace(rollouts, ref_logprobs=reference)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3, eps=1e-2))
    loss = losses.policy_loss(losses.clipped(0.2), kl_coefficient=0.04)
    update = updates.updater(policy, loss, optimizer, microbatches=2, **shares)
    credit = np.random.default_rng(0).normal(size=rollouts.truncated.shape)
    valid = np.ones(credit.shape, bool)
    ((_, batch),) = updates.portions(rollouts, valid, updates.per_token(credit, rollouts), 1, 1)
    trainable = jax.tree.map(jnp.copy, parameters.trainable)
    state, found = updates.initial_state(optimizer, trainable, mesh), []
    for _ in range(2):
        trainable, state, stats = update(dataclasses.replace(parameters, trainable=trainable), state, batch)
        found.append({name: float(value) for name, value in stats.items()})
    held = {"trainable": share(trainable), "optimizer": share(state), "frozen": share(parameters.frozen)}
    host = jax.tree.map(np.asarray, (trainable, state))
    return {
        "completion_ids": drawn.completion_ids, "logprobs": drawn.logprobs, "reference": reference,
        "losses": np.array([one["policy/loss"] for one in found]),
        "norms": np.array([one["policy/gradient_norm"] for one in found]),
        "state": np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(host)]),
    }, held, drawn  # fmt: skip


def share(tree):
    """The part of a tree's numbers that the first device holds."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.addressable_shards[0].data.size for leaf in leaves) / max(1, sum(leaf.size for leaf in leaves))


def main(family, rank, dtype, remat, *words):
    architecture = models.tiny(**(SIZES | {"family": family.split()[0]} | EXTRA.get(family, {})))
    settings = architecture, int(rank), dtype, remat == "remat"
    one, _, drawn = step("data1", *settings)
    out = {}
    for word in words:
        found, held, _ = step(word, *settings, drawn)
        gaps = {name: float(np.abs(found[name].astype(float) - one[name]).max()) for name in one}
        out[word] = {"differences": gaps, "held": held}
    out["losses"] = one["losses"].tolist()
    sys.stdout.write(json.dumps(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
