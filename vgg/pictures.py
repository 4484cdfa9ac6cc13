"""Photographs in and out: any file that Pillow opens becomes the network's input; heatmaps become panels beside the photograph."""
import json
import os
from pathlib import Path
import sys
from typing import NamedTuple
import warnings
import zipfile

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

from script import check_regular, encoded, fitted, write

HEIGHT, GAP, BAR = 288, 8, 28  # pixels: a panel, between panels, the line above each; gallery.html cuts sheets by the same
COLUMNS, LAYER_COLUMNS = 6, 7  # panels in a line; with VGG's five pooling layers, the pixels and the photograph
PERCENTILE = 99.5  # of |relevance| that gets the colour map's end: single pixels must not pale all others
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF
MAX_LIST = 2 ** 30  # bytes of a list of paths
MAX_SIDE = 65500  # pixels of a JPEG
RECORD = {'picture', 'weights', 'options', 'targets', 'classes', 'probabilities', 'logits', 'relevance'}  # what every result says


def find(arguments):
    """Expands folders, @lists of paths and '-' (a list on standard input) to paths, in order. Returns them, and a line for each folder
    without pictures.

    Raises ValueError or OSError for a list that cannot be read, or where there is no picture at all.
    """
    paths, broken = [], []
    for argument in arguments:
        if argument == '-':
            paths += lines(sys.stdin.buffer, 'standard input')
        elif argument.startswith('@'):
            check_regular(argument[1:])
            try:
                with open(argument[1:], 'rb') as file:
                    paths += lines(file, argument[1:])
            except OSError:
                raise OSError(f'{argument[1:]} is no readable list of paths') from None
        elif os.path.isdir(argument):
            try:
                paths += in_folder(Path(argument))
            except (ValueError, OSError) as error:
                broken.append(str(error) if isinstance(error, ValueError) else f'{argument}: cannot be read ({error.strerror})')
        else:
            paths.append(argument)
    if not paths:
        raise ValueError(broken[0])
    return paths, broken


def lines(file, source):
    """The paths in an open list, names in any encoding. Raises ValueError if there are none or the list does not end."""
    text = file.read(MAX_LIST)
    if len(text) == MAX_LIST or b'\0' in text:
        raise ValueError(f'{source} is no list of paths')
    text = text.removeprefix(b'\xef\xbb\xbf').decode('utf-8', 'surrogateescape')
    paths = [line for line in map(str.strip, text.replace('\r\n', '\n').split('\n')) if line]
    if not paths:
        raise ValueError(f'{source} lists no pictures')
    return paths


def in_folder(folder):
    """The files in a folder that are pictures by their names. Raises ValueError if there are none."""
    endings = {ending for ending, form in Image.registered_extensions().items() if form in Image.OPEN} - {'.h5', '.hdf'}
    paths = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in endings and not path.name.startswith('.'))
    if not paths:
        raise ValueError(f'{folder}: no pictures in this folder')
    return paths


class Picture(NamedTuple):
    """A picture that was read."""

    photograph: Image.Image  # for drawing: RGB, a panel high, a third of a panel to three wide
    seen: np.ndarray  # what the network sees, uint8: the whole picture, squashed to its size, bilinear, if it has another one
    note: str = ''  # what was assumed of it
    cut: bool = False  # whether the photograph is what the network's first layer sees, which is not the whole picture as it lies


def open_picture(path, size):
    """Reads a picture for a network of this size (height, width, channels). Raises FileNotFoundError, or ValueError with the reason."""
    image, note = open_whole(path)
    return Picture(panel(image), squashed(image, size), note)


def panel(image):
    """The image as high as a panel, a third of that to three times as wide."""
    width = min(max(round(HEIGHT * image.width / image.height), HEIGHT // 3), 3 * HEIGHT)
    return image.resize((width, HEIGHT), Image.Resampling.LANCZOS)


def drawn(network, picture):
    """The picture as it is drawn: where the network's own layers cut or turn it, what the first layer that is explained sees of it."""
    if network.whole:
        return picture
    image = image_of(network.first_sees(picture.seen)).convert('RGB')
    note = '; '.join(filter(None, [picture.note, 'drawn as the network sees it']))
    return picture._replace(photograph=panel(image), note=note, cut=True)


def image_of(pixels):
    """Pixels [h, w, channels], uint8, RGB or grey, as one of Pillow's images."""
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


def resized(pixels, height, width):
    """Pixels [h, w, channels], uint8, at another size, bilinear."""
    return np.asarray(image_of(pixels).resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, -1)


def squashed(image, size):
    """What a network of this size sees of an image, uint8."""
    height, width, channels = size
    seen = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(seen if channels == 3 else seen.convert('L')).reshape(size)


def open_whole(path):
    """A picture in RGB, at its own size: the first frame, upright, transparency over white; and a note on what was assumed of it.

    Raises FileNotFoundError, or ValueError with the reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # odd metadata, and large pictures: Pillow's error, at twice the size, stands
            check_regular(path)
            with Image.open(path) as image:
                return to_rgb(ImageOps.exif_transpose(image), stated_white(image))
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file') from None
    except Exception as error:  # Pillow raises of all kinds
        known = isinstance(error, OSError) and str(error).startswith(f'{path} is ')
        raise ValueError(str(error) if known else f'{path}: not a picture that can be read ({error})') from None


def stated_white(image):
    """The value of white that a TIFF file gives for its grey, or None."""
    tags = getattr(image, 'tag_v2', {})
    (bits, *_), stated = tags.get(BITS_PER_SAMPLE, (16,)), tags.get(MAX_SAMPLE_VALUE)
    if stated is not None:
        return np.max(stated)
    return None if bits in (16, 32) else 2 ** bits - 1


def to_rgb(image, stated):
    """The picture in RGB, and a note where grey of more than 8 bits is scaled by something else than the range of its type.

    Scanners and cameras keep 10, 12 or 14 bits in 16: where the file does not state what is white, it is the end of the narrowest
    of these ranges that holds all values.
    """
    if image.mode.startswith('I') or image.mode == 'F':
        values = np.asarray(image)
        largest = float(values.max())
        if not (np.isfinite(largest) and np.isfinite(values.min())):
            raise ValueError('it holds values that are no finite numbers')
        ranges = (1, 255, 65535) if image.mode == 'F' else (255, 1023, 4095, 16383, 65535)
        white = stated or next((end for end in ranges if end >= largest), largest)
        note = '' if white in (1, 65535) else f'{white:g} taken for white, {"as the file says" if stated else "by its largest value"}'
        grey = np.empty(values.shape, np.uint8)
        for row in range(0, len(values), 256):  # in parts: as floats, all of a large picture would take eight times its memory
            grey[row:row + 256] = 255 * np.clip(np.float64(values[row:row + 256]), 0, white) / white
        return Image.fromarray(grey).convert('RGB'), note
    if image.has_transparency_data:
        image = image.convert('RGBA')
        paper = Image.new('RGBA', image.size, 'white')
        paper.alpha_composite(image)
        image = paper
    return image.convert('RGB'), ''


def share_within(r, place):
    """The share of the positive relevance r [h, w] that lies at a place, given by slices or a mask; NaN where nothing is positive."""
    positive = np.maximum(r, 0)
    return positive[place].sum() / (positive.sum() or np.nan)


def edge_strength(image):
    """How steep the brightness of an image [h, w, channels] is at each pixel: [h, w]. A map that knows of no network and no class."""
    return np.hypot(*np.gradient(image.mean(-1, dtype=np.float64)))


def colour(r, size, cmap):
    """Colours relevance r [h, w]: zero at the centre of the colour map, symmetric, its ends at the 99.5th percentile of |r|."""
    return coloured(strength(r, size), cmap)


def coloured(values, cmap):
    """The colours of values [h, w] within [-1, 1]."""
    colours = matplotlib.colormaps[cmap].resampled(255)  # an odd number: zero is exactly the centre
    return Image.fromarray(colours(0.5 + 0.5 * values, bytes=True)[..., :3])


def strength(r, size):
    """Relevance r [h, w] at another size (width, height), as a share of the 99.5th percentile of |r|, within [-1, 1]."""
    scale = np.percentile(np.abs(r), PERCENTILE) or np.abs(r).max() or 1.0
    return np.clip(np.asarray(Image.fromarray(np.float32(r / scale)).resize(size, Image.Resampling.BICUBIC)), -1, 1)


def laid_over(photograph, r, cmap):
    """The photograph in grey, and over it the colours of relevance r [h, w], the less transparent the stronger it is."""
    values = strength(r, photograph.size)
    opacity = Image.fromarray(np.uint8(255 * np.sqrt(np.abs(values))))
    return Image.composite(coloured(values, cmap), photograph.convert('L').convert('RGB'), opacity)


def panels(photograph, rows, cmap, columns=COLUMNS):
    """Draws the photograph beside its heatmaps, for each target in turn: rows of (title, {label: relevance [h, w]}).

    A row of more panels than columns goes on in the next line.
    """
    width, height = photograph.size
    cells = [[(title, photograph)] + [(label, colour(r, photograph.size, cmap)) for label, r in heatmaps.items()]
             for title, heatmaps in rows]
    lines = [row[start:start + columns] for row in cells for start in range(0, len(row), columns)]
    sheet = Image.new('RGB', (GAP + max(map(len, lines)) * (width + GAP), len(lines) * (BAR + height + GAP)), 'white')
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        top = i * (BAR + height + GAP) + BAR
        for j, (label, image) in enumerate(line):
            left = GAP + j * (width + GAP)
            sheet.paste(image, (left, top))
            lines, font = fitted(label, width)
            pen.text((left + width / 2, top - BAR / 2), lines, 'black', font, anchor='mm', align='center', spacing=1)
            if image is not photograph:
                pen.rectangle((left, top, left + width - 1, top + height - 1), outline='lightgrey')
    return sheet


def sheet_height(rows, heatmaps, columns=COLUMNS):
    """How high the sheet of so many rows of heatmaps becomes, in pixels."""
    return rows * -(-(1 + heatmaps) // columns) * (BAR + HEIGHT + GAP)


def write_plain(path, image, rule):
    """Writes a PNG, which says that it is a heatmap."""
    text = PngImagePlugin.PngInfo()
    text.add_text('relevance', rule)
    write(path, encoded(image.save, 'PNG', pnginfo=text))


def write_picture(path, image, record):
    """Writes a JPEG; its comment is the record, as JSON."""
    comment = json.dumps(record, separators=(',', ':')).encode()
    write(path, encoded(image.save, 'JPEG', quality=92, subsampling=0, comment=comment))


def is_result(path):
    """Whether a file is a result of lrp.py, of any of its kinds."""
    try:
        if path.suffix == '.npz':
            with zipfile.ZipFile(path) as archive:
                return any(name.startswith('relevance/') for name in archive.namelist())
        with Image.open(path, formats=['JPEG', 'PNG']) as image:
            return 'relevance' in (json.loads(image.info['comment']) if image.format == 'JPEG' else image.info)
    except Exception:  # whatever else may stand there
        return False


def recorded(path):
    """The record in a result, or None where there is none."""
    try:
        with Image.open(path, formats=['JPEG']) as image:
            record = json.loads(image.info.get('comment', b''))
        return record if isinstance(record, dict) and RECORD <= record.keys() else None
    except Exception:  # whatever else may stand there
        return None
