"""Slow, obvious twins of the shapings: lists of what is valid, float64, loops, textbook formulas.

They take batches `[prompts][group]` with None where an entry is not valid, and give such lists back.
"""

import itertools
import math


def _present(values):
    return [float(value) for value in values if value is not None]


def _mapped(batch, function):
    return [[None if value is None else function(float(value)) for value in group] for group in batch]


def _mean(values):
    return sum(values) / len(values)


def _deviation(values, ddof):
    mean = _mean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - ddof))


def _pools(batch, over):
    """Pairs of the groups to change together and the values their statistics come from."""
    if over == "group":
        return [([group], _present(group)) for group in batch]
    return [(batch, [value for group in batch for value in _present(group)])]


def center(batch, over):
    shaped = []
    for groups, values in _pools(batch, over):
        flat = len(set(values)) < 2
        shaped += _mapped(groups, lambda value, values=values, flat=flat: 0 if flat else value - _mean(values))
    return shaped


def standardize(batch, over, eps):
    shaped = []
    for groups, values in _pools(batch, over):
        if len(set(values)) < 2:
            shaped += _mapped(groups, lambda value: 0)
        else:
            scale = _deviation(values, 1) + eps
            shaped += _mapped(groups, lambda value, values=values, scale=scale: (value - _mean(values)) / scale)
    return shaped


def standardize_running(batches, eps, decay):
    """Moments of one long list in which a value of an older batch weighs less, and every batch weighs as one."""
    shaped, seen = [], []
    for batch in batches:
        values = [value for group in batch for value in _present(group)]
        if values:
            seen.append(values)
        if not seen:
            shaped.append(batch)
            continue
        weighted = [(decay ** (len(seen) - 1 - age) / len(old), value) for age, old in enumerate(seen) for value in old]
        total = sum(weight for weight, _ in weighted)
        mean = sum(weight * value for weight, value in weighted) / total
        deviation = math.sqrt(sum(weight * (value - mean) ** 2 for weight, value in weighted) / total)
        shaped.append(_mapped(batch, lambda value, m=mean, d=deviation: (value - m) / (d + eps) if d else 0))
    return shaped


def rank(batch):
    """Mean position among the sorted values of the group, 0 to 1, less a half."""
    shaped = []
    for group in batch:
        ordered = sorted(_present(group))
        places = {value: _mean([i for i, v in enumerate(ordered) if v == value]) for value in ordered}
        last = len(ordered) - 1
        shaped += _mapped([group], lambda value, places=places, last=last: places[value] / last - 0.5 if last else 0)
    return shaped


def flip(batch, coins, low, high):
    """Coins as `[prompts][group]`."""
    return [
        [None if value is None else low + high - value if coin else value for value, coin in zip(*pair)]
        for pair in zip(batch, coins)
    ]


def weighed(parts, weights):
    """Sum of parts, `{name: [prompts][group]}`; None where one of non-zero weight is None."""
    first = next(iter(parts.values()))
    shaped = [[0.0 for _ in group] for group in first]
    for p, group in enumerate(first):
        for i in range(len(group)):
            terms = [(weight, parts[name][p][i]) for name, weight in weights.items() if weight]
            shaped[p][i] = None if any(value is None for _, value in terms) else sum(w * v for w, v in terms)
    return shaped


def curriculum(batches, stages):
    """Batches of parts; stages as `(weights, until, length)`."""
    shaped, stage, age = [], 0, 0
    for parts in batches:
        weights, until, length = stages[stage]
        shaped.append(weighed(parts, weights))
        age += 1
        values = [value for group in parts[until[0]] for value in _present(group)] if until else []
        if (values and _mean(values) >= until[1]) or (length and age >= length):
            stage, age = stage + 1, 0
    return shaped


def ema_weights(batches, weights, decay, eps):
    shaped, history = [], {name: [] for name in weights}
    for parts in batches:
        scaled = {}
        for name, weight in weights.items():
            groups = [_present(group) for group in parts[name]]
            deviations = [_deviation(group, 1) for group in groups if len(group) > 1]
            if deviations:
                history[name].append(_mean(deviations))
            past = history[name]
            total = sum(decay ** (len(past) - 1 - age) for age in range(len(past)))
            scale = sum(decay ** (len(past) - 1 - age) * s for age, s in enumerate(past)) / total if past else 0
            scaled[name] = weight / (scale + eps) if scale else weight
        shaped.append(weighed(parts, scaled))
    return shaped


def potential_difference(rewards, potentials, gamma):
    """One completion: rewards and potentials of its tokens, in order."""
    states = [0.0, *potentials[:-1], 0.0]
    return [reward + gamma * states[t + 1] - states[t] for t, reward in enumerate(rewards)]


def step_differences(steps):
    """Scores of tokens, None where no step ends; the last step gets nothing, and the one before it keeps its own."""
    places = [place for place, step in enumerate(steps) if step is not None]
    differences = [None] * len(steps)
    for place, following in itertools.pairwise(places):
        differences[place] = steps[place] - (0.0 if following == places[-1] else steps[following])
    if places:
        differences[places[-1]] = 0.0
    return differences
