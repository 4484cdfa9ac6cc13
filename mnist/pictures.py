"""Pictures: a user's own digit made to look like one of MNIST's; a digit drawn beside its heatmaps."""
import os
from typing import NamedTuple
import warnings

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from script import check_regular, fitted

SMALL = 64  # pixels, the longer side of pictures that are taken for MNIST's own or the like: no room for uneven light
FAINTEST = 0.08  # ink, as its difference from the paper where white is 1 and black 0
SPARSEST = 0.07  # of a digit, the share of its rectangle that is ink
WORK = 512  # pixels, the longer side of what a digit is looked for in


def digit(path):
    """Reads a picture of one digit (a path or an open file), a scan or a photograph of any size and mode, as MNIST would show it.

    Light ink on a dark ground, the ink 20 pixels wide or high, its centre of mass at (14, 14) (LeCun et al. 1998).
    Returns [28, 28] float32 in [0, 1]. Raises FileNotFoundError, or ValueError where there is no readable picture or nothing in it
    like one digit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # odd metadata, and large pictures: Pillow's error, at twice the size, stands
            if isinstance(path, (str, os.PathLike)):
                check_regular(path)
            with Image.open(path) as image:
                grey = to_grey(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file') from None
    except Exception as error:  # Pillow raises of all kinds
        raise ValueError(f'{path}: not a picture that can be read ({error})'.replace('\n', ' ')) from None
    try:
        return centre(to_size(ink_of_small(grey) if max(grey.shape) <= SMALL else find(shrunk(grey, WORK))))
    except ValueError as error:
        raise ValueError(f'{path}: nothing like one digit found ({error})') from None


def to_grey(image):
    """[h, w] float64 in [0, 1] (from -1, where the file has negative values); what is transparent becomes white paper, or black where
    the ink itself is white."""
    if image.mode.startswith('I') or image.mode == 'F':
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError('it holds values that are no finite numbers')
        return values / (np.abs(values).max() or 1)
    if not image.has_transparency_data:
        return np.asarray(image.convert('L'), np.float64) / 255
    image = image.convert('RGBA')
    for ground in 'white', 'black':
        paper = Image.new('RGBA', image.size, ground)
        paper.alpha_composite(image)
        grey = np.asarray(paper.convert('L'), np.float64) / 255
        if np.ptp(grey) >= 0.1:
            break
    return grey


def shrunk(grey, side):
    """A copy [h, w] float32 whose longer side is at most `side` pixels, each the mean of those it stands for."""
    image, scale = Image.fromarray(grey.astype(np.float32)), max(1, max(grey.shape) / side)
    return np.asarray(image.resize([max(1, round(n / scale)) for n in image.size], Image.Resampling.BOX))


def ink_of_small(grey):
    """The ink of a small picture [h, w]: what differs from its rim. Raises ValueError if nothing does."""
    ink = np.abs(grey - np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    if ink.max() < 0.1:
        raise ValueError('the picture is of one shade')
    return np.clip(1.25 * ink / ink.max() - 0.25, 0, 1)


def find(grey):
    """The ink of the digit in a picture [h, w], cut out: 1 on its strokes, 0 beside them. Raises ValueError: what is there instead.

    Looks for dark ink on a light ground and for light ink on a dark one, and takes what stands out more.
    """
    above, found = above_medians(grey), []
    for values, away in (grey, -above), (1 - grey, above):
        dark, ground = darkness(values)
        seed, free = strongest(dark)
        contrast = (dark * ground)[seed]
        grain = not contrast.size or np.quantile(contrast, 0.9) <= FAINTEST  # of the paper
        if not grain and away[seed].sum() > 0.3 * contrast.sum():  # else a space that strokes enclose
            found.append((free, np.sum(away[seed] ** 3), dark, seed))
    if not found:
        raise ValueError('the picture is of one shade' if np.ptp(above) < 0.1 else 'no strokes that stand free on even ground')
    free, _, dark, seed = max(found, key=lambda candidate: candidate[:2])
    ink = strokes(dark, seed) if free else cropped(dark, seed)
    if ink.mean() < SPARSEST:
        raise ValueError('only scattered specks, or the rules of the paper')
    return ink


def above_medians(grey):
    """How much lighter each pixel is than the median of those around it, over half the picture's side: [h, w]."""
    small = shrunk(grey, 64)
    reach = max(1, round(min(small.shape) / 4))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(small, reach, 'reflect', reflect_type='odd'), [2 * reach + 1] * 2)
    medians = Image.fromarray(np.median(windows, (2, 3)).astype(np.float32))
    return grey - np.asarray(medians.resize(grey.shape[::-1], Image.Resampling.BILINEAR))


def darkness(grey):
    """How much darker each pixel is than the ground there, as a share of the ground, and the ground: [h, w] both.

    The ground is the picture closed with a square (Serra 1982): strokes narrower than the square are filled, while light that
    falls off and the edges of wide shadows stay. A share, because half the light halves both ink and paper.
    """
    smooth = grey
    for _ in range(max(grey.shape) // 200):
        smooth = binomial(smooth)
    size = max(3, round(min(grey.shape) / 4))
    ground = np.minimum(closing(smooth, size, 'edge'), closing(smooth, size, 'reflect', reflect_type='odd'))
    dark = 1 - np.clip(smooth, 0.02, 1) / np.clip(ground, 0.02, 1)
    return dark - np.quantile(dark, 0.25), ground  # noise lifts the closing


def binomial(x):
    """Blurs [h, w] a little: weights 1/4, 1/2, 1/4 each way."""
    for _ in range(2):
        x = np.pad(x, ((1, 1), (0, 0)), 'edge')
        x = (x[:-2] + 2 * x[1:-1] + x[2:]).T / 4
    return x


def closing(x, size, mode, **how):
    """Fills what is dark in x [h, w] unless a dark square of this size fits in. What lies beyond the rim: as np.pad says it."""
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
    return Pieces(numbers, mass, low, high, ((low > margin) & (high < np.array(dark.shape) - margin)).all(1))


def components(mask):
    """Numbers the connected pieces of a mask [h, w], diagonals included: [h, w] int from 0, -1 where there is none."""
    mask = np.pad(mask, 1)
    at = np.flatnonzero(mask)
    index = np.full(mask.size, -1)
    index[at] = parent = np.arange(len(at))
    width = mask.shape[1]
    one, other = np.concatenate([(parent, index[at - step]) for step in (1, width - 1, width, width + 1)], 1)
    one, other = one[other >= 0], other[other >= 0]
    while (parent[one] != parent[other]).any():
        np.minimum.at(parent, np.maximum(parent[one], parent[other]), np.minimum(parent[one], parent[other]))
        while (parent != parent[parent]).any():
            parent = parent[parent]
    index[at] = np.unique(parent, return_inverse=True)[1]
    return index.reshape(mask.shape)[1:-1, 1:-1]


def noise_of(dark):
    """The standard deviation of the ground, were its noise normal; ink and rules are darker than most of it."""
    return (np.quantile(dark, 0.4) - np.quantile(dark, 0.1)) / 1.03


def strongest(dark):
    """Where the darkest piece is that is large enough for a digit or a part of one, as a mask, and whether it keeps clear of the
    rim."""
    floor, threshold = max(0.1, 6 * noise_of(dark)), 0.85 * dark.max()
    while threshold > floor:
        pieces = pieces_of(dark, threshold)
        large = pieces.free & ((pieces.high - pieces.low).max(1) >= max(5, 0.05 * max(dark.shape)))
        if large.any():
            return pieces.numbers == np.argmax(pieces.mass * large), True
        threshold *= 0.85
    if dark.max() < floor:
        return np.zeros(dark.shape, bool), False
    pieces = pieces_of(dark, 0.5 * dark.max())
    return pieces.numbers == pieces.mass.argmax(), False


def strokes(dark, seed):
    """The ink of the digit that the piece `seed` belongs to: its strong strokes, the pieces near them, and then whatever weaker ink
    is connected to these, down to the texture of the paper around. Raises ValueError where that is not like one digit."""
    level = np.quantile(dark[seed], 0.9)
    for share in 0.5, 0.6, 0.7, 0.8:
        pieces = pieces_of(dark, share * level)
        chosen = group(pieces, np.bincount(pieces.numbers[seed & (pieces.numbers >= 0)]).argmax())
        if pieces.free[chosen].all():
            break
    else:
        raise ValueError('only what runs off the picture')
    strong = np.isin(pieces.numbers, chosen)
    lowest = max(1.25 * texture_around(dark, pieces, chosen), 4 * noise_of(dark))
    for weak in np.linspace(np.clip(lowest, 0.25 * level, share * level), share * level, 5):
        pieces = pieces_of(dark, weak)
        kept = np.setdiff1d(pieces.numbers[strong], -1)
        if pieces.free[kept].all():
            break
    return cut(dark, np.isin(pieces.numbers, kept), level, weak)


def texture_around(dark, pieces, chosen):
    """How dark the paper gets by itself away from the chosen pieces: rules, folds, specks."""
    top, left, bottom, right = *pieces.low[chosen].min(0), *pieces.high[chosen].max(0)
    margin = round(0.1 * max(bottom - top, right - left)) + 1
    outside = (pieces.numbers < 0) | np.isin(pieces.numbers, np.flatnonzero(pieces.free))
    outside[max(0, top - margin):bottom + margin, max(0, left - margin):right + margin] = False
    return np.quantile(dark[outside], 0.98) if outside.any() else 0


def group(pieces, main):
    """The numbers of the pieces that make one digit with the main one: those near it, as the bar of a 5 is. Raises ValueError where
    other pieces are like a second digit."""
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
    other = pieces.free & ~near & ((pieces.high - pieces.low).max(1) > 0.5 * side) & (pieces.mass > 0.25 * pieces.mass[main])
    if other.any():
        raise ValueError(f'{1 + other.sum()} pieces of similar size')
    tall = [i for i in chosen if (pieces.high - pieces.low)[i, 0] > 0.6 * (high - low)[0]]
    if any(pieces.low[j, 1] >= pieces.high[i, 1] for i in tall for j in tall):
        raise ValueError('two pieces side by side')
    return chosen


def cropped(dark, seed):
    """The ink of a digit that reaches the rim of its picture, as in a tight crop. Raises ValueError where it is rather a shadow, a
    rule or the edge of a sheet: touching in many places, along the rim, small, or long and thin."""
    edge = seed.copy()
    edge[1:-1, 1:-1] = False
    touches = components(edge).max() + 1
    rows, columns = np.flatnonzero(seed.any(1)), np.flatnonzero(seed.any(0))
    size = np.ptp(rows) + 1, np.ptp(columns) + 1
    if touches > 8 or edge.sum() > 0.6 * sum(dark.shape) or max(size) < 0.5 * max(dark.shape) or max(size) > 8 * min(size):
        raise ValueError('only what runs off the picture')
    level = np.quantile(dark[seed], 0.9)
    return cut(dark, dark > 0.25 * level, level, 0.25 * level)


def cut(dark, keep, level, weak):
    """Cuts out what is kept and a pixel around it, scaled from 0 below `weak` to 1 at `level`."""
    keep = running_max(np.pad(keep, 1), 3)
    return trimmed(np.where(keep, np.clip((dark - 0.8 * weak) / (level - 0.8 * weak), 0, 1), 0))


def trimmed(ink):
    """The ink without the empty rows and columns around it."""
    rows, columns = np.flatnonzero(ink.max(1)), np.flatnonzero(ink.max(0))
    return ink[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def to_size(ink):
    """The ink, trimmed, its longer side scaled to the 20 pixels of MNIST's; its largest value becomes 1."""
    ink = trimmed(ink)
    height, width = (max(1, round(20 * side / max(ink.shape))) for side in ink.shape)
    ink = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))
    return ink / ink.max()


def centre(ink):
    """Lays the ink on 28x28 with its centre of mass at (14, 14), as MNIST has it, as far as it fits."""
    height, width = ink.shape
    y, x = (np.average(np.arange(side), weights=ink.sum(1 - axis)) for axis, side in enumerate(ink.shape))
    top, left = (int(np.clip(round(14 - mass), 0, 28 - side)) for mass, side in ((y, height), (x, width)))
    image = np.zeros((28, 28), np.float32)
    image[top:top + height, left:left + width] = ink
    return image


def colour(r):
    """Colours relevance r [28, 28], scaled by its largest absolute value: red above zero, blue below, zero white. RGB, uint8."""
    colours = matplotlib.colormaps['seismic'].resampled(255)  # an odd number: zero is exactly the centre
    return colours(0.5 + 0.5 * r / (np.abs(r).max() or 1), bytes=True)[..., :3]


def plain(image, r):
    """The heatmap alone, and laid over the digit in grey, the less transparent the stronger it is: {'': ..., '_over': ...}."""
    opacity = np.sqrt(np.abs(r) / (np.abs(r).max() or 1))[..., None]
    over = opacity * colour(r) + (1 - opacity) * 255 * image[..., None]
    return {'': Image.fromarray(colour(r)), '_over': Image.fromarray(np.uint8(np.rint(over)))}


def draw(image, heatmaps, title):
    """A digit under its title, beside its heatmaps {label: relevance [28, 28]}, as an image."""
    side, bar = 252, 28
    panels = {title: np.repeat(np.uint8(255 * image)[..., None], 3, -1), **{rule: colour(r) for rule, r in heatmaps.items()}}
    sheet = Image.new('RGB', (len(panels) * (side + 8) + 8, side + bar + 8), 'white')
    pen = ImageDraw.Draw(sheet)
    for i, (label, pixels) in enumerate(panels.items()):
        left = 8 + i * (side + 8)
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (left, bar))
        lines, font = fitted(label, side)
        pen.text((left + side / 2, bar / 2), lines, 'black', font, anchor='mm', align='center', spacing=1)
        pen.rectangle((left, bar, left + side - 1, bar + side - 1), outline='grey')
    return sheet
