"""Chance: generators with a seed, bootstrap intervals, rank correlation.

The same file stands in mnist/ and in vgg/, so that each folder can be read and copied alone.
"""
import itertools
import zlib

import numpy as np


def generator(seed, *names):
    """Random numbers that depend on the seed and these names, not on what else is drawn."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def resampled(values):
    """Bootstrap (Efron 1979): means [2000, ...] of n draws with replacement from values [n, ...].

    The draws depend on n alone, so differences between the means of equally long arrays are paired.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 2000)
    return np.tensordot(draws / n, values, 1)


def interval(means):
    """The 95% interval, low and high, of resampled means [2000, ...]."""
    return np.percentile(means, [2.5, 97.5], 0)


def indistinguishable(values):
    """The pairs of values {name: [n]} whose mean difference has 0 in its 95% interval."""
    return not_apart({name: resampled(each) for name, each in values.items()})


def not_apart(means):
    """The pairs of resampled means {name: [2000]} whose difference has 0 in its 95% interval."""
    pairs = [f'{one} ~ {other}' for one, other in itertools.combinations(means, 2)
             if np.prod(interval(means[one] - means[other])) <= 0]
    return ', '.join(pairs) or 'none'


def mean_and_interval(values, digits=2):
    """'0.62 [0.58, 0.66]': the mean of values [n] and its 95% interval."""
    low, high = interval(resampled(values))
    return f'{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]'


def spearman(x, y):
    """Spearman's rank correlation of two arrays of one size, in [-1, 1]; 0 if one is constant."""
    x, y = (ranks(values) - (values.size + 1) / 2 for values in (x, y))  # minus their mean
    return float((x * y).sum() / (np.sqrt((x * x).sum() * (y * y).sum()) or 1))


def ranks(values):
    """The rank of each value; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()]
