"""Pictures in: paths from the command line; any file that Pillow opens as a network's input."""
from functools import partial
import hashlib
import io
import os
from pathlib import Path
import sys
from typing import NamedTuple
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common import Refused, collected

HEIGHT = 288  # pixels, of a photograph as it is drawn
Image.MAX_IMAGE_PIXELS = 250_000_000  # Pillow refuses pictures of twice as many
BY_OTHERS = {'EPS', 'HDF5'}  # formats that Pillow does not decode itself: EPS is Ghostscript's
WHITE_IS_ZERO = 262  # a tag of TIFF


def picture_paths(arguments):
    """The paths that folders, @lists of paths, '-' (a list on standard input) and paths stand for.

    Returns them in order, and a line for each folder without pictures. Raises Refused if a list
    cannot be read, or if there is no picture at all.
    """
    paths, failed = [], []
    for argument in arguments:
        if argument.lower().endswith(('.keras', '.h5', '.hdf5')):
            raise Refused(f'{argument} is a network: name it with --weights {argument}')
        if argument == '-' or argument.startswith('@'):
            paths += read_list(argument)
        elif not os.path.isdir(argument):
            paths.append(argument)
        else:
            try:
                paths += in_folder(Path(argument))
            except Refused as error:
                failed.append(str(error))
    if not paths:
        raise Refused(failed[0])
    return paths, failed


def read_list(argument):
    """The paths in a list, @file or '-'. Names may be in any encoding."""
    source = 'standard input' if argument == '-' else argument[1:]
    content = sys.stdin.buffer.read() if argument == '-' else read_file(source)
    lines = content.decode('utf-8-sig', 'surrogateescape').split('\n')
    paths = [line.strip() for line in lines if line.strip()]
    if not paths or b'\0' in content:
        raise Refused(f'{source} is not a list of paths')
    return paths


def in_folder(folder):
    """The files in a folder that are pictures by their names. Raises Refused if there are none."""
    endings = {ending for ending, form in Image.registered_extensions().items()
               if form in Image.OPEN and form not in BY_OTHERS}
    try:
        inside = [path for path in folder.iterdir() if not path.name.startswith('.')]
    except OSError as error:
        raise Refused(f'{folder} cannot be read ({error.strerror})') from None
    paths = [str(path) for path in inside if path.suffix.lower() in endings]
    if not paths:
        raise Refused(f'{folder}: no pictures in this folder; of folders inside it: {folder}/*')
    return sorted(paths)


class Picture(NamedTuple):
    """A picture that was read."""

    photograph: Image.Image  # to be drawn: RGB, HEIGHT high, a third of that to three times as wide
    seen: np.ndarray  # what the network sees, uint8: the whole picture at its size
    note: str = ''  # what was assumed
    digest: str = ''  # of the file's content


def open_picture(path, size):
    """Reads a picture for a network of this size (height, width, channels). Raises Refused."""
    content = read_file(path)
    image, note = decoded(path, content)
    width = min(max(round(HEIGHT * image.width / image.height), HEIGHT // 3), 3 * HEIGHT)
    photograph = image.resize((width, HEIGHT), Image.Resampling.LANCZOS)
    return Picture(photograph, squashed(image, size), note, digest_of(content))


def first_picture(paths, size):
    """{path: what the network sees} of the first picture that can be read, or of none."""
    for path in paths:
        for picture in open_pictures([path], size)[0]:
            return {str(path): picture.seen}
    return {}


def open_pictures(paths, size):
    """The Pictures for a network of this size, and a line for each that cannot be read."""
    return collected([partial(open_picture, path, size) for path in paths])


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


def read_file(path):
    """The content of a file. Raises Refused if the system cannot read it."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(f'{path}: cannot be read ({error.strerror})') from error


def digest_of(content):
    """The SHA-256 of a picture's content, cut."""
    return hashlib.sha256(content).hexdigest()[:16]


def decoded(path, content):
    """A picture in RGB at its own size: first frame, upright, transparency over white; and a note.

    Raises Refused if Pillow cannot read it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # odd metadata; of large pictures the error is enough
            Image.init()
            formats = [form for form in Image.ID if form not in BY_OTHERS]
            with Image.open(io.BytesIO(content), formats=formats) as image:
                inverted = getattr(image, 'tag_v2', {}).get(WHITE_IS_ZERO) == 0
                return to_rgb(ImageOps.exif_transpose(image), inverted)
    except UnidentifiedImageError:
        phone = content[4:11] in (b'ftyphei', b'ftypmif')
        reason = 'HEIC, as phones write it' if phone else 'of no kind that Pillow decodes'
        reason += '; export it as JPEG'
    except Exception as error:  # Pillow raises of all kinds
        reason = error
    raise Refused(f'{path}: not a picture that can be read ({reason})')


def to_rgb(image, inverted):
    """The picture in RGB, and a note on what was taken for white."""
    if image.mode.startswith('I') or image.mode == 'F':
        grey, note = grey_to_8_bits(np.asarray(image))
        return Image.fromarray(255 - grey if inverted else grey).convert('RGB'), note
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert('RGB'), ''


def grey_to_8_bits(values):
    """Grey of more than 8 bits [h, w] in 8 bits, and a note on what was taken for black and white.

    Scanners and cameras keep 10, 12 or 14 bits in 16. So white is the end of the narrowest of these
    ranges that holds all values. Black is zero, or the smallest value if that is negative.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError('it holds values that are not finite')
    ranges = (1, 255, 65535) if values.dtype.kind == 'f' else (255, 1023, 4095, 16383, 65535)
    black, white = min(low, 0), next((end for end in ranges if end >= high), high)
    grey = np.uint8(255 * (np.float32(values) - np.float32(black)) / np.float32(white - black))
    usual = (black, white) == (0, 65535)
    return grey, '' if usual else f'{black:g} taken for black, {white:g} for white'
