"""A user's picture of one digit, a scan or a photograph, made to look like one of MNIST's."""
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common import Refused
from strokes import check_single, find, pieces_of, shrunk, trimmed

SMALL = 64  # pixels, longer side of pictures that are like MNIST's: no room for uneven light
WORK = 512  # pixels, the longer side of a picture in which a digit is searched for
Image.MAX_IMAGE_PIXELS = 250_000_000  # Pillow refuses pictures of twice as many


def digit(path):
    """Reads a picture of one digit (a path or an open file) of any size and mode.

    Returns it as MNIST would show it: [28, 28] float32 in [0, 1], light ink on a dark ground, the
    ink 20 pixels wide or high, its centre of mass at (14, 14) (LeCun et al. 1998). Raises Refused
    if it cannot be read, or if nothing in it looks like one digit.
    """
    grey = read(path)
    try:
        small = max(grey.shape) <= SMALL
        return centre(to_size(ink_of_small(grey) if small else find(shrunk(grey, WORK))))
    except Refused as error:
        raise Refused(f'{path}: nothing like one digit found ({error})') from None


def read(path):
    """The picture, upright, as `to_grey` returns it."""
    try:
        with warnings.catch_warnings(action='ignore'), Image.open(path) as image:  # odd metadata
            return to_grey(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise Refused(f'{path}: no such file') from None
    except UnidentifiedImageError:
        raise Refused(f'{path}: not a picture that can be read; export it as JPEG or PNG') from None
    except Exception as error:  # Pillow raises of all kinds
        raise Refused(f'{path}: not a picture that can be read ({error})') from None


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


def ink_of_small(grey):
    """The ink of a small picture [h, w]: what differs from its rim. Raises Refused if nothing."""
    ink = np.abs(grey - np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    if ink.max() < 0.1:
        raise Refused('the picture has one shade')
    ink = np.clip(1.25 * ink / ink.max() - 0.25, 0, 1)
    pieces = pieces_of(ink, 0.5)
    check_single(pieces, np.arange(len(pieces.mass)))
    return ink


def to_size(ink):
    """The ink, trimmed, its longer side scaled to MNIST's 20 pixels, its largest value to 1."""
    ink = trimmed(ink)
    size = [max(1, round(20 * side / max(ink.shape))) for side in ink.shape[::-1]]
    image = Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image) / np.asarray(image).max()


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
