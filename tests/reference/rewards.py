"""Slow, obvious twins of the combinators of `agent_tunix.rewards`: one completion at a time, None where no value is.

They take and return Python numbers and know nothing of arrays, masks or parts.
"""

import math


def _all_there(combine):
    """Makes a function of a list of numbers give None where one of them is missing."""
    return lambda *values: None if None in values else combine(list(values))


def weighted_sum(weights, *values):
    used = [(weight, value) for weight, value in zip(weights, values) if weight != 0]
    if any(value is None for _, value in used):
        return None
    return sum(weight * value for weight, value in used)


product = _all_there(math.prod)
minimum = _all_there(min)
maximum = _all_there(max)


def geometric_mean(weights, *values):
    used = [(weight, value) for weight, value in zip(weights, values) if weight != 0]
    if any(value is None for _, value in used):
        return None
    if any(value == 0 for _, value in used):
        return 0.0
    return math.exp(sum(weight * math.log(value) for weight, value in used) / sum(weights))


def signed_geometric_mean(weights, *values):
    used = [value for weight, value in zip(weights, values) if weight != 0]
    size = geometric_mean(weights, *(None if value is None else abs(value) for value in values))
    return size if size is None or min(used) >= 0 else -size


def first_valid(*values):
    for value in values:
        if value is not None:
            return value
    return None


def gate(condition, value, threshold, otherwise):
    if condition is None:
        return None
    return value if condition >= threshold else otherwise


def hierarchy(levels):
    """Of `(weight, value, threshold)`; stops at the first level that misses its threshold."""
    total = 0.0
    for weight, value, threshold in levels:
        if value is None:
            return None
        total += weight * value
        if value < threshold:
            break
    return total


def route(task, routes):
    return routes[task]


def scale(value, by, offset):
    return None if value is None else by * value + offset


def clip(value, low, high):
    if value is None:
        return None
    return low if value < low else high if value > high else value


def difficulty_weights(columns, power=1.0, strata=None):
    """Of checks given as columns: for each, what the completions of one group got, None where nothing."""
    there = [[value for value in column if value is not None] for column in columns]
    rates = [sum(column) / len(column) if column else 0.0 for column in there]
    weights = [(1 - rate) ** power for rate in rates]
    if strata is not None:
        bands = [min(math.floor(rate * strata), strata - 1) for rate in rates]
        weights = [weight / bands.count(band) for weight, band in zip(weights, bands)]
    if sum(weights) == 0:
        return [1 / len(columns)] * len(columns)
    return [weight / sum(weights) for weight in weights]
