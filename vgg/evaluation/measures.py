"""What experiments share: seeds, estimates with intervals, tables, measures and figures.

The same file stands in mnist/ and in vgg/evaluation/, so that each folder can be read alone.
"""
import itertools
from typing import NamedTuple
import zlib

import numpy as np

from heatmaps import add_key

DRAWS = 2000  # of the bootstrap


def generator(seed, *names):
    """Random numbers that depend on the seed and these names, not on what else is drawn."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


# Means with intervals

class Estimate(NamedTuple):
    """A mean, and the means [DRAWS] of pictures drawn again."""

    mean: float
    resampled: np.ndarray


def estimate(values, owners=None):
    """The Estimate of the mean of values, an array of any shape, by bootstrap (Efron 1979).

    NaN does not count. owners: [like values], the picture that each value comes from: those of one
    picture are drawn together. By default each value has a picture of its own. What is drawn
    depends on the number of pictures alone, so differences between Estimates are paired.
    """
    values = np.asarray(values, np.float64)
    owners = np.arange(values.size).reshape(values.shape) if owners is None else owners
    counted = np.isfinite(values)
    if not counted.any():
        return Estimate(np.nan, np.full(DRAWS, np.nan))
    _, pictures = np.unique(owners[counted], return_inverse=True)
    sums, numbers = np.bincount(pictures, values[counted]), np.bincount(pictures)
    n = len(sums)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)
    return Estimate(values[counted].mean(), draws @ sums / (draws @ numbers))


def estimates(values):
    """{name: Estimate} of {name: values}."""
    return {name: estimate(each) for name, each in values.items()}


def interval(means):
    """The 95% interval, low and high, of means [DRAWS]."""
    return np.percentile(means, [2.5, 97.5])


def in_words(found):
    """'0.62 [0.58, 0.66]': an Estimate's mean and its 95% interval; '' of no values."""
    words = '{:.2f} [{:.2f}, {:.2f}]'.format(found.mean, *interval(found.resampled))
    return '' if np.isnan(found.mean) else words


def ranked(found):
    """The names of {name: Estimate}, the largest mean first."""
    return sorted(found, key=lambda name: -found[name].mean)


def indistinguishable(found):
    """The pairs of {name: Estimate} whose difference has 0 in its 95% interval, as text."""
    pairs = [f'{one} ~ {other}' for one, other in itertools.combinations(found, 2)
             if np.prod(interval(found[one].resampled - found[other].resampled)) <= 0]
    return ', '.join(pairs) or 'none'


def table(corner, rows, columns):
    """A line for each of the rows, under heads. columns: {head: {row: Estimate, or text}}."""
    lines = [''] * (1 + len(rows))
    for head, column in {corner: dict(zip(rows, rows)), **columns}.items():
        cells = [head, *(column.get(row, '') for row in rows)]
        cells = [cell if isinstance(cell, str) else in_words(cell) for cell in cells]
        width = max(map(len, cells))
        lines = [f'{line}  {cell:>{width}}' for line, cell in zip(lines, cells)]
    return '\n'.join(line[2:].rstrip() for line in lines)


# Measures

def batches(items, size, bar=None):
    """Yields `size` items at a time, in order, and shows on a progress bar how many are done."""
    for start in range(0, len(items), size):
        yield items[start:start + size]
        if bar:
            bar.update(min(start + size, len(items)))


def joined(parts, axis=0):
    """Dicts of arrays, one dict for each batch, as a dict of whole arrays."""
    return {name: np.concatenate([part[name] for part in parts], axis) for name in parts[0]}


def share_within(r, place):
    """The share of the positive relevance r [..., h, w] at a place [..., h, w], True or False; NaN
    if there is none. Leading axes are broadcast."""
    positive = np.maximum(np.asarray(r, np.float64), 0)
    whole = positive.sum((-2, -1))
    return (positive * place).sum((-2, -1)) / np.where(whole, whole, np.nan)


def aopc(logits):
    """The mean over steps of the first logit minus the logit [steps + 1, n], for each picture: the
    area over the perturbation curve (Samek et al. 2017, Eq. 12)."""
    return (logits[0] - logits).mean(0, dtype=np.float64)


# Figures

def bars(axes, rows, series, chance):
    """A bar with its interval for each of the rows and each of the series {label: {row: Estimate}},
    and a line at chance."""
    width = 0.8 / len(series)
    for i, (label, found) in enumerate(series.items()):
        place, means = np.arange(len(rows)) - 0.4 + width / 2, [found[row].mean for row in rows]
        error = [abs(interval(found[row].resampled) - found[row].mean) for row in rows]
        axes.barh(place + i * width, means, 0.95 * width, label=label, capsize=2,
                  xerr=np.transpose(error))
    axes.axvline(chance, color='black', linestyle=':', label='chance')
    axes.set(yticks=range(len(rows)), yticklabels=rows, xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))


def curves(axes, x, lines, dotted):
    """Draws lines {name: values}, those whose names are `dotted` dotted."""
    for name, values in lines.items():
        axes.plot(x, values, ':' if name in dotted else '-', label=name)
    axes.grid(alpha=0.3)


def panels(figure, titles, rows):
    """Shows rows [(label, images)] under titles, and what the colours of heatmaps mean. Returns the
    axes, [rows, titles]."""
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, (label, images) in zip(grid, rows):
        line[0].set_ylabel(label)
        for axes, image in zip(line, images):
            axes.imshow(image, cmap='gray')
            axes.set(xticks=[], yticks=[])
    for axes, title in zip(grid[0], titles):
        axes.set_title(title, fontsize=10, parse_math=False)
    add_key(figure, grid)
    return grid
