"""Finds the strokes of a digit in a photograph of it: ink on paper, unevenly lit."""
from typing import NamedTuple

import numpy as np
from PIL import Image

from common import Refused

FAINTEST = 0.08  # ink, as its difference from the paper where white is 1 and black 0
DARK = 0.28  # strokes as dark as this cannot be the lines of the paper
SPARSEST, FAINT_SPARSEST = 0.02, 0.07  # share of ink in a digit's rectangle: dark, fainter strokes
THIN = 0.12  # the share below which strokes are drawn wider, like MNIST's
RUNS_OFF = 'only something that runs off the picture; leave some paper around the digit'


def find(grey):
    """The ink of the digit in a picture [h, w], cut out: 1 on its strokes, 0 beside them.

    Looks for dark ink on a light ground and for light ink on a dark one, and takes what stands out
    more. Raises Refused, which says what is there instead.
    """
    ink = filling(grey)
    if ink is not None:
        return ink
    above, found = above_medians(grey), []
    for values, away in (grey, -above), (1 - grey, above):
        dark, ground = darkness(values)
        seed, free = strongest(dark)
        contrast = (dark * ground)[seed]
        grain = not contrast.size or np.quantile(contrast, 0.9) <= FAINTEST  # of the paper
        if not grain and away[seed].sum() > 0.3 * contrast.sum():  # else a space inside strokes
            found.append((free, np.sum(away[seed] ** 3), dark, seed))
    if not found:
        raise Refused('the picture has one shade' if np.ptp(above) < 0.1
                      else 'no strokes that stand free on even ground')
    free, _, dark, seed = max(found, key=lambda candidate: candidate[:2])
    if not free:
        raise Refused(RUNS_OFF)
    ink = strokes(dark, seed)
    sparsest = SPARSEST if np.quantile(dark[seed], 0.9) > DARK else FAINT_SPARSEST
    if ink.mean() < sparsest:
        raise Refused('only scattered specks, or the lines of the paper')
    while ink.mean() < THIN:
        ink = running_max(np.pad(ink, 2), 3)
    return ink


def filling(grey):
    """The ink of a picture [h, w] that was cut to its digit: one piece, dark or light, that reaches
    all four sides, while the paper lies between. None if the picture is not like that."""
    low, high = np.quantile(grey, [0.02, 0.98])
    light = np.clip((grey - low) / max(high - low, 0.01), 0, 1)
    if high - low < 0.3 or ((light > 0.3) & (light < 0.7)).mean() > 0.15:
        return None  # not ink and paper alone
    slack, rim = 1 + max(grey.shape) // 50, np.ones(grey.shape, bool)
    rim[1:-1, 1:-1] = False
    for ink in 1 - light, light:
        pieces = pieces_of(ink, 0.5)
        largest = pieces.mass.argmax()
        low, high = pieces.low[largest], np.array(grey.shape) - pieces.high[largest]
        alone = pieces.mass[largest] > 0.9 * pieces.mass.sum()
        if alone and max(*low, *high) <= slack and ink[rim].mean() < 0.5:
            return ink
    return None


def above_medians(grey):
    """How much lighter each pixel is than the median around it, over half the picture's side."""
    small = shrunk(grey, 64)
    reach = max(1, round(min(small.shape) / 4))
    padded = np.pad(small, reach, 'reflect', reflect_type='odd')
    windows = np.lib.stride_tricks.sliding_window_view(padded, [2 * reach + 1] * 2)
    medians = Image.fromarray(np.median(windows, (2, 3)).astype(np.float32))
    return grey - np.asarray(medians.resize(grey.shape[::-1], Image.Resampling.BILINEAR))


def darkness(grey):
    """How much darker each pixel is than the ground there, as a share of the ground, and the
    ground: [h, w] both.

    The ground is the picture closed with a square (Serra 1982): strokes narrower than the square
    are filled, while light that falls off and the edges of wide shadows stay. A share, because half
    the light halves both ink and paper.
    """
    smooth = grey
    for _ in range(max(grey.shape) // 200):
        smooth = binomial(smooth)
    size = max(3, round(min(grey.shape) / 4))
    ground = np.minimum(closing(smooth, size, 'edge'),
                        closing(smooth, size, 'reflect', reflect_type='odd'))
    dark = 1 - np.clip(smooth, 0.02, 1) / np.clip(ground, 0.02, 1)
    return dark - np.quantile(dark, 0.25), ground  # noise lifts the closing


def binomial(x):
    """Blurs [h, w] a little: weights 1/4, 1/2, 1/4 each way."""
    for _ in range(2):
        x = np.pad(x, ((1, 1), (0, 0)), 'edge')
        x = (x[:-2] + 2 * x[1:-1] + x[2:]).T / 4
    return x


def closing(x, size, mode, **how):
    """Fills what is dark in x [h, w] unless a dark square of this size fits in.

    mode, how: as np.pad takes them, for what lies beyond the rim.
    """
    return -running_max(-running_max(np.pad(x, size - 1, mode, **how), size), size)


def running_max(x, size):
    """The largest value of each window [size, size]: [h, w] to [h - size + 1, w - size + 1]."""
    for _ in range(2):
        width = 1
        while width < size:
            step = min(width, size - width)
            x, width = np.maximum(x[:-step], x[step:]), width + step
        x = x.T
    return x


class Pieces(NamedTuple):
    """The connected pieces of what is darker than a threshold."""

    numbers: np.ndarray  # [h, w] of each pixel's piece, -1 where there is none
    mass: np.ndarray  # [n]
    low: np.ndarray  # [n, 2]: upper left corner
    high: np.ndarray  # [n, 2]: the one beyond the lower right
    free: np.ndarray  # [n] whether it keeps clear of the picture's rim


def pieces_of(dark, threshold):
    """The Pieces of a picture [h, w] above a threshold."""
    numbers = components(dark > threshold)
    y, x = np.nonzero(numbers >= 0)
    n = numbers[y, x]
    mass = np.bincount(n, dark[y, x])
    low, high = np.full((len(mass), 2), max(dark.shape)), np.zeros((len(mass), 2), int)
    for axis, at in enumerate((y, x)):
        np.minimum.at(low[:, axis], n, at)
        np.maximum.at(high[:, axis], n, at + 1)
    margin = max(dark.shape) // 100
    free = ((low > margin) & (high < np.array(dark.shape) - margin)).all(1)
    return Pieces(numbers, mass, low, high, free)


def components(mask):
    """Numbers the connected pieces of a mask [h, w], diagonals included: from 0, -1 for none."""
    mask = np.pad(mask, 1)
    at = np.flatnonzero(mask)
    index = np.full(mask.size, -1)
    index[at] = parent = np.arange(len(at))
    steps = 1, mask.shape[1] - 1, mask.shape[1], mask.shape[1] + 1
    one, other = np.concatenate([(parent, index[at - step]) for step in steps], 1)
    one, other = one[other >= 0], other[other >= 0]
    while (parent[one] != parent[other]).any():
        smaller = np.minimum(parent[one], parent[other])
        np.minimum.at(parent, np.maximum(parent[one], parent[other]), smaller)
        while (parent != parent[parent]).any():
            parent = parent[parent]
    index[at] = np.unique(parent, return_inverse=True)[1]
    return index.reshape(mask.shape)[1:-1, 1:-1]


def noise_of(dark):
    """The standard deviation of the ground, were its noise normal; most of it is not ink."""
    return (np.quantile(dark, 0.4) - np.quantile(dark, 0.1)) / 1.03


def strongest(dark):
    """Where the darkest piece is that is large enough for a digit or a part of one, as a mask; and
    whether it keeps clear of the rim."""
    floor, threshold = max(0.1, 6 * noise_of(dark)), 0.85 * dark.max()
    while threshold > floor:
        pieces = pieces_of(dark, threshold)
        extent = (pieces.high - pieces.low).max(1)
        large = pieces.free & (extent >= max(5, 0.05 * max(dark.shape)))
        if large.any():
            return pieces.numbers == np.argmax(pieces.mass * large), True
        threshold *= 0.85
    if dark.max() < floor:
        return np.zeros(dark.shape, bool), False
    pieces = pieces_of(dark, 0.5 * dark.max())
    return pieces.numbers == pieces.mass.argmax(), False


def strokes(dark, seed):
    """The ink of the digit that the piece `seed` belongs to: its strong strokes, the pieces near
    them, and whatever weaker ink is connected to these, down to the texture of the paper.

    Raises Refused if that is not like one digit.
    """
    level = np.quantile(dark[seed], 0.9)
    for share in 0.5, 0.6, 0.7, 0.8:
        pieces = pieces_of(dark, share * level)
        chosen = group(pieces, np.bincount(pieces.numbers[seed & (pieces.numbers >= 0)]).argmax())
        if pieces.free[chosen].all():
            break
    else:
        raise Refused(RUNS_OFF)
    strong = np.isin(pieces.numbers, chosen)
    lowest = max(1.25 * texture_around(dark, pieces, chosen), 4 * noise_of(dark))
    lowest = np.clip(lowest, 0.25 * level, share * level)
    for weak in np.linspace(lowest, share * level, 5):
        pieces = pieces_of(dark, weak)
        kept = np.setdiff1d(pieces.numbers[strong], -1)
        if pieces.free[kept].all():
            break
    return cut(dark, np.isin(pieces.numbers, kept), level, weak)


def texture_around(dark, pieces, chosen):
    """How dark the paper is away from the chosen pieces: lines, folds, specks."""
    top, left, bottom, right = *pieces.low[chosen].min(0), *pieces.high[chosen].max(0)
    margin = round(0.1 * max(bottom - top, right - left)) + 1
    outside = (pieces.numbers < 0) | np.isin(pieces.numbers, np.flatnonzero(pieces.free))
    outside[max(0, top - margin):bottom + margin, max(0, left - margin):right + margin] = False
    return np.quantile(dark[outside], 0.98) if outside.any() else 0


def group(pieces, main):
    """The numbers of the pieces that make one digit with the main one: those near it, like the bar
    of a 5. Raises Refused if other pieces look like a second digit."""
    chosen = np.array([main])
    while True:
        low, high = pieces.low[chosen].min(0), pieces.high[chosen].max(0)
        side = (high - low).max()
        gap = np.maximum(pieces.low - high, low - pieces.high).max(1)
        near = (gap < 0.35 * side) & pieces.free & (pieces.mass > 0.02 * pieces.mass[main])
        near[chosen] = True
        if near.sum() == len(chosen):
            break
        chosen = np.flatnonzero(near)
    extent = pieces.high - pieces.low
    other = (pieces.free & ~near & (extent.max(1) > 0.5 * side)
             & (pieces.mass > 0.25 * pieces.mass[main]))
    if other.any():
        raise Refused(f'{1 + other.sum()} pieces of similar size')
    check_single(pieces, chosen)
    return chosen


def check_single(pieces, chosen):
    """Refuses chosen pieces of which two are tall and stand side by side, as two digits do."""
    height = pieces.high[chosen, 0].max() - pieces.low[chosen, 0].min()
    tall = [i for i in chosen if pieces.high[i, 0] - pieces.low[i, 0] > 0.6 * height]
    if any(pieces.low[j, 1] >= pieces.high[i, 1] for i in tall for j in tall):
        raise Refused('two pieces side by side')


def cut(dark, keep, level, weak):
    """Cuts out what is kept and a pixel around it, scaled from 0 below `weak` to 1 at `level`."""
    keep = running_max(np.pad(keep, 1), 3)
    ink = np.clip((dark - 0.8 * weak) / (level - 0.8 * weak), 0, 1)
    return trimmed(np.where(keep, ink, 0))


def trimmed(ink):
    """The ink without the empty rows and columns around it."""
    rows, columns = np.flatnonzero(ink.max(1)), np.flatnonzero(ink.max(0))
    return ink[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def shrunk(grey, side):
    """[h, w] float32, the longer side at most `side` pixels, each the mean of those it covers."""
    image, scale = Image.fromarray(grey.astype(np.float32)), max(1, max(grey.shape) / side)
    size = [max(1, round(n / scale)) for n in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BOX))
