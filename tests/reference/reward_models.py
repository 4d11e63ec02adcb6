"""Slow, obvious twins of `agent_tunix.reward_models`: float64, one example at a time."""

import math

import numpy as np


def bradley_terry(first, second, preference, weight):
    """Weighted mean of the cross-entropy of each comparison."""
    total = norm = 0.0
    for a, b, p, w in zip(first, second, preference, weight):
        chance = 1 / (1 + math.exp(-(float(a) - float(b))))
        if w > 0:
            total += w * -(p * math.log(chance) + (1 - p) * math.log(1 - chance))
            norm += w
    return total / norm if norm else 0.0


def triplet(anchors, positives, negatives, margin):
    """Mean hinge of squared distances, and its gradients by the three features."""
    losses, gradients = [], [np.zeros(np.shape(anchors)) for _ in range(3)]
    for i, (a, p, n) in enumerate(zip(*(np.asarray(x, float) for x in (anchors, positives, negatives)))):
        violation = ((a - p) ** 2).sum() - ((a - n) ** 2).sum() + margin
        losses.append(max(0.0, violation))
        if violation > 0:
            for gradient, value in zip(gradients, (2 * (n - p), 2 * (p - a), 2 * (a - n))):
                gradient[i] = value / len(anchors)
    return float(np.mean(losses)), gradients


def auc(scores, labels):
    """Share of pairs of a positive and a negative in which the positive scores higher; ties count half."""
    positives = [s for s, y in zip(scores, labels) if y]
    negatives = [s for s, y in zip(scores, labels) if not y]
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives]
    return sum(wins) / len(wins)


def calibration_error(probabilities, labels, bins):
    """Bin by bin, the distance between mean prediction and frequency, weighted by the bin's share."""
    total = 0.0
    for low in range(bins):
        members = [(p, y) for p, y in zip(probabilities, labels) if min(int(p * bins), bins - 1) == low]
        if members:
            predicted, observed = np.mean(members, axis=0)
            total += abs(observed - predicted) * len(members) / len(labels)
    return total
