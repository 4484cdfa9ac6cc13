"""A user's picture of one digit, a scan or a photograph, made to look like one of MNIST's."""
import warnings

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFilter import MaxFilter, MedianFilter, MinFilter

from common import Refused

WORK, SMALL = 256, 64  # pixels, longer side: where digits are looked for; where light is even
FAINTEST = 0.18  # ink, as a share of the paper's brightness
SHORTEST = 0.05  # a digit, as a share of the picture's side
THINNEST = 0.12  # strokes that cover less of the digit's box are drawn wider, like MNIST's
Image.MAX_IMAGE_PIXELS = 250_000_000  # Pillow refuses pictures of twice as many


def digit(path):
    """Reads a picture of one digit (a path or an open file) of any size and mode.

    Returns it as MNIST would show it (LeCun et al. 1998): [28, 28] float32 in [0, 1], light ink on
    a dark ground, 20 pixels wide or high, its centre of mass at (14, 14). Raises Refused if it
    cannot be read, or if nothing in it looks like one digit.
    """
    try:
        with warnings.catch_warnings(action='ignore'), Image.open(path) as image:  # odd metadata
            grey = to_grey(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow raises of all kinds
        raise Refused(f'not a picture that can be read ({error})') from None
    grey.thumbnail((WORK, WORK), Image.Resampling.BOX)
    return framed(find_ink(np.asarray(grey)))


def to_grey(image):
    """An image of floats up to 1. What is transparent becomes white, or black if ink is white."""
    if image.mode.startswith('I') or image.mode == 'F':
        grey = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        return Image.fromarray(np.float32(grey / (np.abs(grey).max() or 1)))
    for ground in 'white', 'black':
        paper = Image.new('RGBA', image.size, ground)
        paper.alpha_composite(image.convert('RGBA'))
        grey = np.asarray(paper.convert('L')) / np.float32(255)
        if np.ptp(grey) >= 0.1:
            break
    return Image.fromarray(grey)


def filtered(values, margin, *filters):
    """Values [h, w] after filters of Pillow; beyond its rim the picture goes on as it was."""
    image = Image.fromarray(np.pad(values, margin, 'reflect', reflect_type='odd'))
    for each in filters:
        image = image.filter(each)
    return np.asarray(image)[margin:-margin, margin:-margin]


def find_ink(grey):
    """The ink of the digit in a picture [h, w], an image: 1 on its strokes, 0 beside them."""
    rim = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    even = max(grey.shape) <= SMALL or has_two_tones(grey)
    dark = np.abs(grey - np.median(rim)) if even else darkness(grey)
    level = np.median(dark[dark >= dark.max() / 2])
    if level < max(FAINTEST, 6 * np.std(dark[dark <= level / 2])):
        raise Refused('no ink that stands out from the paper')
    strokes = one_digit(pieces(dark > level / 2), even)
    ink = np.where(strokes.filter(MaxFilter(3)), 1.5 * dark / level - 0.25, 0)
    ink = Image.fromarray(np.clip(ink, 0, 1)).crop(strokes.getbbox())
    while np.mean(ink) < THINNEST:
        ink = ImageOps.expand(ink, 1).filter(MaxFilter(3))
    return ink


def has_two_tones(grey):
    """Whether a picture is ink and paper in even light: two tones, one much darker, little else."""
    above = grey - (grey.min() + grey.max()) / 2
    dark, light = np.median(grey[above <= 0]), np.median(grey[above >= 0])
    return np.mean(np.abs(above) < np.ptp(grey) / 4) < 0.15 and dark < 0.4 * light


def darkness(grey):
    """How much darker each pixel is than the paper there, as a share of the paper's brightness: of
    the picture closed with a square (Serra 1982), without strokes but with shadows."""
    small, steps = grey[::4, ::4], 1 + min(grey.shape) // 16
    if np.sum((small - filtered(small, 16, MedianFilter(33))) ** 3) > 0:  # light ink on dark
        grey = 1 - grey
    paper = filtered(grey, 2 * steps, *[MaxFilter(5)] * steps, *[MinFilter(5)] * steps)
    dark = (paper - grey) / np.maximum(paper, 0.3)
    return dark - np.median(dark)


def pieces(mask):
    """Numbers the connected pieces of a mask [h, w], diagonals included; 0 outside."""
    numbers = np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape) * mask
    while True:
        spread = np.asarray(Image.fromarray(numbers).filter(MaxFilter(3))) * mask
        if (spread == numbers).all():
            return numbers
        numbers = np.append(np.int32(0), spread)[spread]  # the number of the pixel with that number


def one_digit(numbers, even):
    """The largest of numbered pieces [h, w], with those near it: an image, white on black.

    In uneven light, what touches the rim is left out. Raises Refused unless there is one digit.
    """
    values, sizes = np.unique(numbers[numbers > 0], return_counts=True)
    places = [np.argwhere(numbers == value) for value in values]
    low, high = (np.array([bound(place, 0) for place in places]) for bound in (np.min, np.max))
    free = even | ((low > 0) & (high < np.array(numbers.shape) - 1)).all(1)
    height, width = (high - low + 1).T
    tall = free & (height >= SHORTEST * max(numbers.shape)) & (width < 2 * height)  # no line
    main = np.argmax(sizes * tall)
    if not tall[main]:
        raise Refused('specks, lines, or what runs off the picture: leave some paper around')
    gaps = np.maximum(low - high[main], low[main] - high)
    near = gaps.max(1) < 0.35 * max(height[main], width[main])
    like = tall & (sizes > sizes[main] / 4) & (height > height[main] / 2)
    if (like & (~near | (gaps[:, 1] > 0))).any():
        raise Refused('two pieces side by side')
    chosen = values[near & free & (sizes > sizes[main] / 50)]  # no specks
    return Image.fromarray(np.uint8(255 * np.isin(numbers, chosen)))


def framed(ink):
    """The ink of the digit, an image, as MNIST would show it: [28, 28]."""
    size = [max(1, round(20 * side / max(ink.size))) for side in ink.size]
    ink = np.asarray(ink.resize(size, Image.Resampling.BILINEAR))
    mass = (np.indices(ink.shape) * ink).sum((1, 2)) / ink.sum()
    room = 28 - np.array(ink.shape)
    before = np.int64(np.clip(np.round(14 - mass), 0, room))
    return np.pad(ink / ink.max(), np.transpose([before, room - before]))
