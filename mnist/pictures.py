"""Pictures: a user's own digit made to look like one of MNIST's; a digit drawn beside its heatmaps; files written whole."""
import warnings

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

PICTURE_ERRORS = (OSError, ValueError, SyntaxError, RuntimeError, MemoryError, Image.DecompressionBombError)  # Pillow's own


def digit(path):
    """Reads a picture of one digit, of any size and mode, as MNIST would show it.

    Light ink on a dark ground, the ink 20 pixels wide or high, its centre of mass at (14, 14) (LeCun et al. 1998).
    Returns [28, 28] float32 in [0, 1]. Raises FileNotFoundError, or ValueError where there is no readable picture or no ink.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # odd metadata, and large pictures: Pillow's error, at twice the size, stands
            with Image.open(path) as image:
                grey = to_grey(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file') from None
    except PICTURE_ERRORS as error:
        raise ValueError(f'{path}: not a picture that can be read ({error})'.replace('\n', ' ')) from None
    ink = np.abs(grey - np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))  # the rim is ground
    if ink.max() < 0.1:
        raise ValueError(f'{path}: no digit found, the picture is of one shade')
    ink = np.clip(1.25 * ink / ink.max() - 0.25, 0, 1)  # paper grain and soft shadows are not ink
    return centre(shrink(ink))


def to_grey(image):
    """[h, w] float64 in [0, 1]; what is transparent becomes white paper, or black where the ink itself is white."""
    if image.mode.startswith('I') or image.mode == 'F':
        values = np.nan_to_num(np.asarray(image, np.float64))
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


def shrink(ink):
    """Cuts out the ink and scales its longer side to 20 pixels."""
    rows, columns = np.flatnonzero(ink.max(1)), np.flatnonzero(ink.max(0))
    ink = ink[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
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


def draw(image, heatmaps, title):
    """Draws a digit beside its heatmaps {rule: [28, 28]}, each scaled by its own largest absolute value, zero in the centre."""
    side, bar = 252, 28
    colours = matplotlib.colormaps['seismic'].resampled(255)  # an odd number: zero is exactly the centre
    panels = {title: np.repeat(np.uint8(255 * image)[..., None], 3, -1)}
    for rule, r in heatmaps.items():
        panels[rule] = colours(0.5 + 0.5 * r / (np.abs(r).max() or 1), bytes=True)[..., :3]
    sheet = Image.new('RGB', (len(panels) * (side + 8) + 8, side + bar + 8), 'white')
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (label, pixels) in enumerate(panels.items()):
        left = 8 + i * (side + 8)
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (left, bar))
        pen.text((left + side / 2, bar / 2), label, 'black', font, anchor='mm')
        pen.rectangle((left, bar, left + side - 1, bar + side - 1), outline='grey')
    return sheet
