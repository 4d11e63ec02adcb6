"""Slow, obvious twins of `agent_tunix.losses`: float64, one token at a time, gradients written out by hand."""

import numpy as np

LOG_RATIO_BOUND = 20.0


def ratios(logprobs, old_logprobs, mask, sequence=False):
    """1 outside the mask; for `sequence`, the geometric mean of the completion's token ratios at each of its tokens."""
    out = np.ones(np.shape(mask))
    for p, g in np.ndindex(out.shape[:2]):
        members = np.flatnonzero(mask[p, g])
        logs = [float(logprobs[p, g, t]) - float(old_logprobs[p, g, t]) for t in members]
        if sequence and logs:
            logs = [sum(logs) / len(logs)] * len(logs)
        for t, log in zip(members, logs):
            out[p, g, t] = np.exp(np.clip(log, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))
    return out


def clipped(ratio, advantage, logprob, epsilon=0.2, epsilon_high=None, dual_clip=None):
    """Loss of one token and its derivative by the log-probability, whose ratio it is."""
    high = epsilon if epsilon_high is None else epsilon_high
    objective = min(ratio * advantage, min(max(ratio, 1 - epsilon), 1 + high) * advantage)
    if dual_clip is not None and advantage < 0:
        objective = max(objective, dual_clip * advantage)
    moves = objective == ratio * advantage
    return -objective, -ratio * advantage if moves else 0.0


def truncated(ratio, advantage, logprob, epsilon=0.2, epsilon_high=None):
    """Loss of one token and its derivative by the log-probability; the weight is a constant."""
    weight = min(max(ratio, 1 - epsilon), 1 + (epsilon if epsilon_high is None else epsilon_high))
    return -weight * advantage * logprob, -weight * advantage


def k1(logprob, ref):
    return logprob - ref, 1.0


def k2(logprob, ref):
    return 0.5 * (logprob - ref) ** 2, logprob - ref


def k3(logprob, ref):
    if abs(ref - logprob) > LOG_RATIO_BOUND:
        d = np.clip(ref - logprob, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        return np.exp(d) - d - 1, 0.0
    return np.exp(ref - logprob) - (ref - logprob) - 1, 1 - np.exp(ref - logprob)


def weights(kind, mask, length=None):
    """Weight of every token; `kind` is the name of an aggregation."""
    out = np.zeros(np.shape(mask))
    sequences = sum(bool(np.any(row)) for prompt in mask for row in prompt)
    for p, g, t in np.argwhere(mask):
        own = int(np.sum(mask[p, g]))
        divisor = {
            "token_mean": int(np.sum(mask)),
            "sequence_mean_token_mean": sequences * own,
            "sequence_mean_token_sum": sequences,
            "constant": sequences * (length or 1),
        }
        out[p, g, t] = 1 / divisor[kind]
    return out


def policy_loss(
    batch, surrogate, sequence=False, kl_coefficient=0.0, kl_estimator=k3, entropy_coefficient=0.0, mismatch_cap=None
):
    """Losses and their derivatives by each token's log-probability, `[prompts group tokens]`, 0 outside the mask.

    With `sequence`, the derivative of GSPO-token: that of the ratio by its own token's log-probability is the ratio.
    """
    losses, gradients = np.zeros(batch.mask.shape), np.zeros(batch.mask.shape)
    ratio = ratios(batch.logprobs, batch.old_logprobs, batch.mask, sequence)
    for p, g, t in np.argwhere(batch.mask):
        at = (p, g, t)
        logprob = float(batch.logprobs[at])
        loss, gradient = surrogate(ratio[at], float(batch.advantages[at]), logprob)
        if mismatch_cap is not None:
            weight = min(np.exp(float(batch.old_logprobs[at]) - float(batch.sampler_logprobs[at])), mismatch_cap)
            loss, gradient = loss * weight, gradient * weight
        if kl_coefficient:
            divergence, slope = kl_estimator(logprob, float(batch.ref_logprobs[at]))
            loss, gradient = loss + kl_coefficient * divergence, gradient + kl_coefficient * slope
        losses[at] = loss - entropy_coefficient * float(batch.entropy[at])
        gradients[at] = gradient
    return losses, gradients
