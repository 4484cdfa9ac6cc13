"""Pictures in: paths from the command line; any file that Pillow opens as a network's input."""
import os
from pathlib import Path
import sys
from typing import NamedTuple
import warnings

import numpy as np
from PIL import Image, ImageOps

from common import Refused

HEIGHT = 288  # pixels, of a photograph as it is drawn
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281  # tags of TIFF


def find(arguments):
    """The paths that folders, @lists of paths, '-' (a list on standard input) and paths stand for.

    Returns them in order, and a line for each folder without pictures. Raises Refused if a list
    cannot be read, or if there is no picture at all.
    """
    paths, failed = [], []
    for argument in arguments:
        try:
            if argument == '-' or argument.startswith('@'):
                paths += listed(argument)
            else:
                paths += in_folder(Path(argument)) if os.path.isdir(argument) else [argument]
        except Refused as error:
            if argument == '-' or argument.startswith('@'):
                raise
            failed.append(str(error))
    if not paths:
        raise Refused(failed[0])
    return paths, failed


def listed(argument):
    """The paths in a list, @file or '-'. Names may be in any encoding."""
    source = 'standard input' if argument == '-' else argument[1:]
    try:
        text = sys.stdin.buffer.read() if argument == '-' else Path(source).read_bytes()
    except OSError:
        raise Refused(f'{source} is not a readable list of paths') from None
    if b'\0' in text:
        raise Refused(f'{source} is not a list of paths')
    text = text.removeprefix(b'\xef\xbb\xbf').decode('utf-8', 'surrogateescape')
    paths = [line.strip() for line in text.replace('\r\n', '\n').split('\n') if line.strip()]
    if not paths:
        raise Refused(f'{source} lists no pictures')
    return paths


def in_folder(folder):
    """The files in a folder that are pictures by their names. Raises Refused if there are none."""
    forms = Image.registered_extensions().items()
    endings = {ending for ending, form in forms if form in Image.OPEN} - {'.h5', '.hdf'}
    try:
        paths = [str(path) for path in folder.iterdir()
                 if path.suffix.lower() in endings and not path.name.startswith('.')]
    except OSError as error:
        raise Refused(f'{folder} cannot be read ({error.strerror})') from None
    if not paths:
        raise Refused(f'{folder}: no pictures in this folder')
    return sorted(paths)


class Picture(NamedTuple):
    """A picture that was read."""

    photograph: Image.Image  # to be drawn: RGB, HEIGHT high, a third of that to three times as wide
    seen: np.ndarray  # what the network sees, uint8: the whole picture at its size
    note: str = ''  # what was assumed


def open_picture(path, size):
    """Reads a picture for a network of this size (height, width, channels). Raises Refused."""
    image, note = open_whole(path)
    width = min(max(round(HEIGHT * image.width / image.height), HEIGHT // 3), 3 * HEIGHT)
    photograph = image.resize((width, HEIGHT), Image.Resampling.LANCZOS)
    return Picture(photograph, squashed(image, size), note)


def first_picture(paths, size):
    """{path: what the network sees} of the first picture that can be read, or of none."""
    for path in paths:
        try:
            return {str(path): open_picture(path, size).seen}
        except Refused:
            continue
    return {}


def squashed(image, size):
    """What a network of this size sees of an image: all of it, resized bilinearly, uint8."""
    height, width, channels = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image if channels == 3 else image.convert('L')).reshape(size)


def resized(pixels, height, width):
    """Pixels [h, w, channels], uint8, RGB or grey, at another size, bilinear."""
    image = Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, -1)


def open_whole(path):
    """A picture in RGB at its own size: first frame, upright, transparency over white; and a note.

    Raises Refused if there is no such file or Pillow cannot read it.
    """
    if not os.path.isfile(path):
        kind = 'a folder' if os.path.isdir(path) else 'not a regular file'
        kind = kind if os.path.exists(path) else 'no such file'
        raise Refused(f'{path}: {kind}')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # odd metadata; of large pictures the error is enough
            with Image.open(path) as image:
                return to_rgb(ImageOps.exif_transpose(image), stated_white(image))
    except Exception as error:  # Pillow raises of all kinds
        raise Refused(f'{path}: not a picture that can be read ({error})') from None


def stated_white(image):
    """The value of white that a TIFF file gives for its grey, or None."""
    tags = getattr(image, 'tag_v2', {})
    (bits, *_), stated = tags.get(BITS_PER_SAMPLE, (16,)), tags.get(MAX_SAMPLE_VALUE)
    if stated is not None:
        return np.max(stated)
    return None if bits in (16, 32) else 2 ** bits - 1


def to_rgb(image, stated):
    """The picture in RGB, and a note on what was taken for white."""
    if image.mode.startswith('I') or image.mode == 'F':
        return grey_to_rgb(np.asarray(image), stated)
    if image.has_transparency_data:
        image = image.convert('RGBA')
        paper = Image.new('RGBA', image.size, 'white')
        paper.alpha_composite(image)
        image = paper
    return image.convert('RGB'), ''


def grey_to_rgb(values, stated):
    """Grey of more than 8 bits [h, w] in RGB, and a note on what was taken for white.

    Scanners and cameras keep 10, 12 or 14 bits in 16. Where the file does not say what is white, it
    is the end of the narrowest of these ranges that holds all values.
    """
    largest = float(values.max())
    if not (np.isfinite(largest) and np.isfinite(values.min())):
        raise ValueError('it holds values that are not finite')
    ranges = (1, 255, 65535) if values.dtype.kind == 'f' else (255, 1023, 4095, 16383, 65535)
    white = stated or next((end for end in ranges if end >= largest), largest)
    reason = 'as the file says' if stated else 'by its largest value'
    note = '' if white in (1, 65535) else f'{white:g} taken for white, {reason}'
    grey = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 256):  # in parts, for floats take 8 times the memory
        grey[row:row + 256] = 255 * np.clip(np.float64(values[row:row + 256]), 0, white) / white
    return Image.fromarray(grey).convert('RGB'), note
