"""A user's picture of one digit, a scan or a photograph, made to look like one of MNIST's."""
import warnings

import numpy as np
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from common import Refused

WORK, SMALL = 320, 64  # pixels, the longer side: where the digit is looked for; without shading
FAINTEST = 0.12  # ink, as a share of the paper's brightness
Image.MAX_IMAGE_PIXELS = 250_000_000  # Pillow refuses pictures of twice as many


def digit(path):
    """Reads a picture of one digit (a path or an open file) of any size and mode.

    Returns it as MNIST would show it: [28, 28] float32 in [0, 1], light ink on a dark ground, the
    ink 20 pixels wide or high, its centre of mass at (14, 14) (LeCun et al. 1998). Raises Refused
    if it cannot be read, or if nothing in it looks like one digit.
    """
    try:
        with warnings.catch_warnings(action='ignore'), Image.open(path) as image:  # odd metadata
            grey = to_grey(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise Refused(f'{path}: no such file') from None
    except UnidentifiedImageError:
        raise Refused(f'{path}: not a picture that can be read; export it as JPEG or PNG') from None
    except Exception as error:  # Pillow raises of all kinds
        raise Refused(f'{path}: not a picture that can be read ({error})') from None
    try:
        return centre(to_size(ink_of(shrunk(grey, WORK))))
    except Refused as error:
        raise Refused(f'{path}: nothing like one digit found ({error})') from None


def to_grey(image):
    """[h, w] float64 in [0, 1], or from -1 where the file has negative values.

    What is transparent becomes white paper, or black where the ink itself is white.
    """
    if image.mode.startswith('I') or image.mode == 'F':
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise Refused('some of its values are not finite')
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
    """[h, w] float32, the longer side at most `side` pixels, each the mean of those it covers."""
    scale = max(1, max(grey.shape) / side)
    size = [max(1, round(n / scale)) for n in grey.shape[::-1]]
    return resized(grey, size, Image.Resampling.BOX)


def resized(values, size, method=Image.Resampling.BILINEAR):
    """Values [h, w] at another size (width, height), float32."""
    return np.asarray(Image.fromarray(np.float32(values)).resize(size, method))


def filtered(values, *filters):
    """Values [h, w] after filters of Pillow, float32."""
    image = Image.fromarray(np.float32(values))
    for each in filters:
        image = image.filter(each)
    return np.asarray(image)


def ink_of(grey):
    """The ink of the digit in a picture [h, w], cut out: 1 on its strokes, 0 beside them."""
    rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    dark = np.abs(grey - np.median(rim))
    flat = max(grey.shape) <= SMALL or two_tones(dark)
    if not flat:
        dark = darkness(grey)
    level = np.quantile(dark[dark >= 0.5 * dark.max()], 0.5)
    if level < FAINTEST:
        raise Refused('no ink that stands out from its ground')
    numbers = pieces(dark > 0.5 * level)
    kept = chosen(numbers, flat)
    near = filtered(kept, ImageFilter.MaxFilter(3)) > 0
    ink = np.where(near, np.clip(1.5 * dark / level - 0.25, 0, 1), 0)
    rows, columns = np.flatnonzero(ink.max(1)), np.flatnonzero(ink.max(0))
    ink = ink[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    if ink.mean() < 0.015:
        raise Refused('hardly any ink')
    if ink.mean() > 0.95: raise Refused('ink everywhere')
    while ink.mean() < 0.12:  # thin strokes are drawn wider, like MNIST's
        ink = filtered(np.pad(ink, 1), ImageFilter.MaxFilter(3))
    return ink


def two_tones(dark):
    """Whether a picture has ink and paper alone, in even light."""
    share = dark / (dark.max() or 1)
    return ((share > 0.25) & (share < 0.75)).mean() < 0.15 and (share >= .75).mean() > .05


def darkness(grey):
    """How much darker each pixel is than the paper there, as a share of the paper's brightness."""
    small = shrunk(grey, SMALL)
    reach = SMALL // 4 | 1
    ground = filtered(small, ImageFilter.MedianFilter(2 * reach - 1))
    if ((small - ground) ** 3).sum() > 0:  # light ink on a dark ground
        grey, small = 1 - grey, 1 - small
    padded = np.pad(small, reach, 'reflect', reflect_type='odd')
    paper = filtered(padded, ImageFilter.MaxFilter(reach), ImageFilter.MinFilter(reach), ImageFilter.GaussianBlur(2))
    paper = resized(paper[reach:-reach, reach:-reach], grey.shape[::-1])
    dark = 1 - grey / np.maximum(paper, 0.02)
    return dark - np.median(dark)


def pieces(mask):
    """Numbers the connected pieces of a mask [h, w], diagonals included; 0 outside."""
    numbers = np.arange(1, mask.size + 1).reshape(mask.shape) * mask
    while True:
        image = Image.fromarray(numbers.astype(np.int32)).filter(ImageFilter.MaxFilter(3))
        spread = np.asarray(image) * mask
        if (spread == numbers).all():
            return numbers
        numbers = np.append(0, spread)[spread]  # each takes the number of the pixel it points to


def chosen(numbers, flat):
    """Which pixels belong to the digit: its largest piece and those near it."""
    boxes = []
    values, counts = np.unique(numbers[numbers > 0], return_counts=True)
    for number in values[np.argsort(-counts)[:50]]:
        y, x = np.nonzero(numbers == number)
        low, high = np.array([y.min(), x.min()]), np.array([y.max(), x.max()]) + 1
        if flat or (low.min() > 0 and (high < numbers.shape).all()):
            boxes.append((number, len(y), low, high))
    if not boxes:
        raise Refused('only something that runs off the picture; leave some paper around the digit')
    _, size, low, high = boxes[0]
    side = max(high - low)
    kept = []
    for number, pixels, other_low, other_high in boxes:
        gap = np.maximum(other_low - high, low - other_high).max()
        if number != boxes[0][0] and pixels > 0.25 * size and max(other_high - other_low) > 0.5 * side:
            raise Refused('two pieces of similar size')
        if gap < 0.35 * side and pixels > 0.02 * size:
            kept.append(number)
    return np.isin(numbers, kept)


def to_size(ink):
    """The ink, its longer side scaled to MNIST's 20 pixels, its largest value to 1."""
    size = [max(1, round(20 * side / max(ink.shape))) for side in ink.shape[::-1]]
    ink = resized(ink, size)
    return ink / ink.max()


def centre(ink):
    """The ink on 28x28 pixels, its centre of mass at (14, 14) as in MNIST, as far as it fits."""
    height, width = ink.shape
    y, x = (np.average(np.arange(side), weights=ink.sum(1 - axis))
            for axis, side in enumerate(ink.shape))
    top, left = (int(np.clip(round(14 - mass), 0, 28 - side))
                 for mass, side in ((y, height), (x, width)))
    image = np.zeros((28, 28), np.float32)
    image[top:top + height, left:left + width] = ink
    return image
