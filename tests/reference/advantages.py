"""Slow, obvious twins of `agent_tunix.advantages`: lists of the valid rewards, float64, loops, textbook formulas.

They remove invalid entries instead of masking them and shift nothing, so they share no trick with what they check.
"""

import itertools

import numpy as np


def _on_valid(estimate):
    """Lifts a function of the list of valid rewards to `(rewards, valid)`, 0 elsewhere and for fewer than two."""

    def estimator(rewards, valid, **arguments):
        advantages = np.zeros(len(rewards))
        members = np.flatnonzero(valid)
        kept = [float(rewards[i]) for i in members]
        if len(kept) > 1 and max(kept) > min(kept):
            advantages[members] = estimate(kept, **arguments)
        return advantages

    return estimator


def _std(values, ddof):
    mean = sum(values) / len(values)
    return np.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - ddof))


@_on_valid
def centered(kept):
    return [r - sum(kept) / len(kept) for r in kept]


@_on_valid
def group_normalized(kept, ddof=1, eps=1e-6):
    return [(r - sum(kept) / len(kept)) / (_std(kept, ddof) + eps) for r in kept]


@_on_valid
def leave_one_out(kept):
    return [r - (sum(kept) - r) / (len(kept) - 1) for r in kept]


@_on_valid
def leave_one_out_normalized(kept, eps=1e-6):
    advantages = []
    for i, r in enumerate(kept):
        others = kept[:i] + kept[i + 1 :]
        lead = r - sum(others) / len(others)
        advantages.append(lead / (_std(others, 1) + eps) if max(others) > min(others) else lead)
    return advantages


@_on_valid
def mean_normalized(kept, eps=1e-6):
    mean, magnitude = sum(kept) / len(kept), sum(abs(r) for r in kept) / len(kept)
    return [(r - mean) / (magnitude + eps) for r in kept]


@_on_valid
def pass_at_k(kept, k=4, normalized=False, eps=1e-6):
    advantages = []
    for i, r in enumerate(kept):
        others = kept[:i] + kept[i + 1 :]
        gains = [max(r, *subset) - max(subset) for subset in itertools.combinations(others, min(k, len(kept)) - 1)]
        advantages.append(sum(gains) / len(gains) / ((_std(kept, 1) + eps) if normalized else 1.0))
    return advantages


@_on_valid
def log_mean_gain(kept):
    powers = [np.exp(r - max(kept)) for r in kept]
    whole = np.log(sum(powers) / len(kept))
    rest = [np.logaddexp.reduce([o - max(kept) for o in kept[:i] + kept[i + 1 :]]) for i in range(len(kept))]
    return [whole - (other - np.log(len(kept) - 1)) for other in rest]


@_on_valid
def rank(kept):
    return [(sum(o < r for o in kept) - sum(o > r for o in kept)) / (len(kept) - 1) for r in kept]


def _rows(estimator, rewards, valid, **arguments):
    return np.stack([estimator(r, v, **arguments) for r, v in zip(rewards, valid)])


def batch_normalized(rewards, valid, ddof=1, eps=1e-6):
    kept = [float(r) for r in np.asarray(rewards)[np.asarray(valid)]]
    if len(kept) < 2 or max(kept) == min(kept):
        return np.zeros(np.shape(rewards))
    return _rows(centered, rewards, valid) / (_std(kept, ddof) + eps)


def reinforce_plus_plus_baseline(rewards, valid, lengths=None, recentre=False, ddof=1, eps=1e-6):
    differences = _rows(centered, rewards, valid)
    lengths = np.ones(np.shape(rewards), int) if lengths is None else np.asarray(lengths)
    # One entry per token, as the token-level implementations see it.
    tokens = [differences[at] for at in np.ndindex(differences.shape) if valid[at] for _ in range(lengths[at])]
    if not tokens or (not recentre and not np.any(differences)):
        return np.zeros(np.shape(rewards))
    mean = sum(tokens) / len(tokens)
    deviation = np.sqrt(sum((t - mean) ** 2 for t in tokens) / max(len(tokens) - ddof, 1))
    return np.where(valid, (differences - (mean if recentre else 0.0)) / (deviation + eps), 0.0)


def decoupled(parts, valid, weights, ddof=1, eps=1e-6):
    total, exact, size = (np.zeros(np.shape(parts)[1:]) for _ in range(3))
    for part, part_valid, weight in zip(parts, valid, weights):
        total += weight * _rows(group_normalized, part, part_valid, ddof=ddof, eps=eps)
        exact += weight * _rows(group_normalized, part, part_valid, ddof=ddof, eps=0.0)
        size += np.abs(weight * _rows(group_normalized, part, part_valid, ddof=ddof, eps=0.0))
    total[np.abs(exact) <= 1e-9 * size] = 0.0  # opposed parts cancel but for rounding and eps
    kept = [float(t) for t in total[np.any(valid, axis=0)]]
    return total / (_std(kept, ddof) + eps) if len(kept) > 1 else np.zeros(total.shape)


def discriminative(rewards, valid, scores, preference=None, temperature=0.1, tau=10.0, threshold=0.5):
    members = np.flatnonzero(valid)
    right = [i for i in members if rewards[i] >= threshold]
    wrong = [i for i in members if rewards[i] < threshold]
    advantages = np.zeros(len(rewards))
    if not right or not wrong:
        return advantages
    # Beside a far likelier one a wrong completion counts nothing: one over infinity.
    with np.errstate(over="ignore"):
        return _weighed(advantages, len(members), right, wrong, scores, preference, temperature, tau)


def _weighed(advantages, count, right, wrong, scores, preference, temperature, tau):
    for i in right:
        wanted = {j: 0.0 if preference is None else preference[j] / temperature for j in right}
        advantages[i] = count / sum(np.exp(wanted[j] - wanted[i]) for j in right)
    for i in wrong:
        advantages[i] = -count / sum(np.exp((scores[j] - scores[i]) / tau) for j in wrong)
    return advantages
