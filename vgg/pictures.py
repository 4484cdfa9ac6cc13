"""Photographs in and out: any file that Pillow opens becomes the network's input; heatmaps become panels beside the photograph."""
from pathlib import Path
import sys
from typing import NamedTuple
import warnings

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from script import write

HEIGHT = 288  # of a panel, in pixels
COLUMNS = 6  # panels in a line
PERCENTILE = 99.5  # of |relevance| that gets the colour map's end: single pixels must not pale all others
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF
PICTURE_ERRORS = (OSError, ValueError, SyntaxError, RuntimeError, MemoryError, Image.DecompressionBombError)  # Pillow's own


def find(arguments):
    """Expands folders, @lists of paths and '-' (a list on standard input) to paths, in order.

    Raises OSError for a list that cannot be read.
    """
    paths = []
    for argument in arguments:
        if argument == '-':
            paths += lines(sys.stdin.read(), 'standard input')
        elif argument.startswith('@'):
            try:
                text = Path(argument[1:]).read_text(encoding='utf-8')
            except (OSError, UnicodeDecodeError):
                raise OSError(f'{argument[1:]} is no readable list of paths') from None
            paths += lines(text, argument[1:])
        elif Path(argument).is_dir():
            paths += in_folder(Path(argument))
        else:
            paths.append(Path(argument))
    return paths


def lines(text, source):
    """The paths in a list. Raises ValueError if there are none."""
    paths = [Path(line.strip()) for line in text.splitlines() if line.strip()]
    if not paths:
        raise ValueError(f'{source} lists no pictures')
    return paths


def in_folder(folder):
    """The files in a folder that are pictures by their names. Raises ValueError if there are none."""
    endings = {ending for ending, form in Image.registered_extensions().items() if form in Image.OPEN} - {'.h5', '.hdf'}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)
    if not paths:
        raise ValueError(f'{folder}: no pictures in this folder')
    return paths


class Picture(NamedTuple):
    """A picture that was read."""

    photograph: Image.Image  # for drawing: RGB, a panel high, a third of a panel to three wide
    seen: np.ndarray  # what the network sees, uint8, of its size: the whole picture, squashed, bilinear; of that size as it is
    note: str = ''  # what was assumed of it


def open_picture(path, size):
    """Reads a picture for a network of this size (height, width, channels): the first frame, upright, transparency over white.

    Raises FileNotFoundError, or ValueError with the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # odd metadata, and large pictures: Pillow's error, at twice the size, stands
            with Image.open(path) as image:
                image, note = to_rgb(ImageOps.exif_transpose(image), stated_white(image))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file') from None
    except PICTURE_ERRORS as error:
        reason = 'is a folder' if Path(path).is_dir() else f'not a picture that can be read ({error})'
        raise ValueError(f'{path}: {reason}'.replace('\n', ' ')) from None
    height, width, channels = size
    seen = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
    seen = np.asarray(seen if channels == 3 else seen.convert('L')).reshape(size)
    width = min(max(round(HEIGHT * image.width / image.height), HEIGHT // 3), 3 * HEIGHT)
    return Picture(image.resize((width, HEIGHT), Image.Resampling.LANCZOS), seen, note)


def stated_white(image):
    """The value of white that a TIFF file gives for its grey, or None."""
    tags = getattr(image, 'tag_v2', {})
    (bits, *_), stated = tags.get(BITS_PER_SAMPLE, (16,)), tags.get(MAX_SAMPLE_VALUE)
    return np.max(stated) if stated is not None else None if bits in (16, 32) else 2 ** bits - 1


def to_rgb(image, stated):
    """The picture in RGB, and a note where grey of more than 8 bits is scaled by something else than the range of its type.

    Scanners and cameras keep 10, 12 or 14 bits in 16: where the file does not state what is white, it is the end of the narrowest
    of these ranges that holds all values.
    """
    if image.mode.startswith('I') or image.mode == 'F':
        values = np.nan_to_num(np.asarray(image, np.float64))
        ranges = (1, 255, 65535) if image.mode == 'F' else (255, 1023, 4095, 16383, 65535)
        white = stated or next((end for end in ranges if end >= values.max()), values.max())
        note = '' if white in (1, 65535) else f'{white:g} taken for white, {"as the file says" if stated else "by its largest value"}'
        return Image.fromarray(np.uint8(255 * np.clip(values, 0, white) / white)).convert('RGB'), note
    if image.has_transparency_data:
        image = image.convert('RGBA')
        paper = Image.new('RGBA', image.size, 'white')
        paper.alpha_composite(image)
        image = paper
    return image.convert('RGB'), ''


def colour(r, size, cmap):
    """Colours relevance r [h, w]: zero at the centre of the colour map, symmetric, its ends at the 99.5th percentile of |r|."""
    scale = np.percentile(np.abs(r), PERCENTILE) or np.abs(r).max() or 1.0
    smooth = Image.fromarray(np.float32(r / scale)).resize(size, Image.Resampling.BICUBIC)
    colours = matplotlib.colormaps[cmap].resampled(255)  # an odd number: zero is exactly the centre
    return Image.fromarray(colours(0.5 + 0.5 * np.clip(np.asarray(smooth), -1, 1), bytes=True)[..., :3])


def panels(photograph, rows, cmap):
    """Draws the photograph beside its heatmaps, for each target in turn: rows of (title, {label: relevance [h, w]}).

    A row of more than six panels goes on in the next line.
    """
    gap, bar = 8, 28
    width, height = photograph.size
    cells = [[(title, photograph)] + [(label, colour(r, photograph.size, cmap)) for label, r in heatmaps.items()]
             for title, heatmaps in rows]
    lines = [row[start:start + COLUMNS] for row in cells for start in range(0, len(row), COLUMNS)]
    sheet = Image.new('RGB', (gap + max(map(len, lines)) * (width + gap), len(lines) * (bar + height + gap)), 'white')
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        top = i * (bar + height + gap) + bar
        for j, (label, image) in enumerate(line):
            left = gap + j * (width + gap)
            sheet.paste(image, (left, top))
            pen.text((left + width / 2, top - bar / 2), label, 'black', fitting_font(label, width), anchor='mm')
            if image is not photograph:
                pen.rectangle((left, top, left + width - 1, top + height - 1), outline='lightgrey')
    return sheet


def fitting_font(text, width):
    """The largest font, up to 17 pixels, in which the text is no wider than `width`."""
    for size in range(17, 8, -1):
        font = ImageFont.load_default(size)
        if font.getlength(text) <= width:
            break
    return font


def write_picture(path, image):
    write(path, lambda temporary: image.save(temporary, quality=92, subsampling=0))
