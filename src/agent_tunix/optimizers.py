"""The optimizer and its learning rate, through optax."""

import optax


def learning_rate_schedule(
    *, learning_rate: float, warmup_steps: int, steps: int, schedule: str = "cosine", final_fraction: float = 0.1
) -> optax.Schedule:
    """Linear warm-up, then cosine decay or a constant.

    Args:
      learning_rate: Peak.
      warmup_steps: Updates until the peak; at least one is taken, so that the first update is not lost.
      steps: Updates of the whole run.
      schedule: `cosine` or `constant`.
      final_fraction: Rate at the end of the cosine as a fraction of the peak.
    """
    warmup_steps = max(1, min(warmup_steps, steps))
    if schedule == "constant":
        return optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)
    return optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_steps, max(steps, warmup_steps + 1), learning_rate * final_fraction
    )


def adamw(
    learning_rate: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    mu_dtype: str = "float32",
) -> optax.GradientTransformation:
    """AdamW behind a clip of the global gradient norm.

    The schedule is read one update ahead: optax counts from zero, where a warm-up that starts at zero would waste the
    first update. Where the first moment is kept in bfloat16, it is still added up in float32.
    """
    settings = {"b1": b1, "b2": b2, "eps": eps, "weight_decay": weight_decay, "mu_dtype": mu_dtype}
    return optax.chain(
        optax.clip_by_global_norm(clip_norm), optax.adamw(lambda count: learning_rate(count + 1), **settings)
    )
