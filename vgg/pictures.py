"""Pictures in: paths from the command line; any file that Pillow opens as a network's input."""
import contextlib
from functools import partial
import hashlib
import io
import itertools
import os
from pathlib import Path
import re
import sys
from typing import NamedTuple
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from common import Refused, collected

HEIGHT = 288  # pixels, of a photograph as it is drawn
Image.MAX_IMAGE_PIXELS = 250_000_000  # Pillow refuses pictures of twice as many
BY_OTHERS = {'EPS', 'HDF5'}  # formats that Pillow gives to other programs, such as Ghostscript
UNREADABLE = {  # how files begin that Pillow does not know, or only in part, and what they are
    b'....ftyp(hei|hev|mif|msf)': 'HEIC, as phones write it; export it as JPEG',
    b'II[*]|MM\0': 'a TIFF whose channels or bits Pillow does not read, such as 16 bits with alpha '
                  'or colours in floats; export it with 8 bits',
    b'.{128}DICM': 'DICOM; export it as PNG',
    b'\xff\x0a|\0\0\0\x0cJXL': 'JPEG XL; export it as JPEG',
    b'%PDF': 'PDF; export the page as PNG',
    b'.*(<!doctype html|<html)': 'HTML, a web page; save the picture itself',
    b'.*<svg': 'SVG; export it as PNG'}


def picture_paths(arguments):
    """The paths that folders, @lists of paths, '-' (a list on standard input) and paths stand for,
    in order; and a line for each folder without pictures. Raises Refused if a list cannot be read,
    or if there is no picture at all."""
    paths, failed = [], []
    for argument in arguments:
        if argument.lower().endswith(('.keras', '.h5', '.hdf5')):
            raise Refused(f'{argument} is a network: name it with --weights {argument}')
        if argument == '-' or argument.startswith('@'):
            paths += read_list(argument)
        elif os.path.isdir(argument):
            inside, refused = collected([partial(in_folder, Path(argument))])
            paths += itertools.chain(*inside)
            failed += refused
        else:
            paths.append(argument)
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
    """The files in a folder that are pictures by their names; says if folders in it are left out.
    Raises Refused if there are no pictures."""
    forms = Image.registered_extensions().items()
    endings = {ending for ending, form in forms if form in Image.OPEN and form not in BY_OTHERS}
    try:
        inside = [path for path in folder.iterdir() if not path.name.startswith('.')]
    except OSError as error:
        raise Refused(f'{folder} cannot be read ({error.strerror})') from None
    paths = [str(path) for path in inside if path.suffix.lower() in endings]
    folders = sum(path.is_dir() for path in inside)
    if not paths:
        hint = f', but {folders} folders; name those: {folder}/*' if folders else ''
        raise Refused(f'{folder}: no pictures in this folder{hint}')
    if folders:
        print(f'{folder}: folders inside are left out ({folders})', file=sys.stderr)
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
        with contextlib.suppress(Refused):
            return {str(path): open_picture(path, size).seen}
    return {}


def open_pictures(paths, size):
    """The Pictures for a network of this size, and a line for each that cannot be read."""
    return collected([partial(open_picture, path, size) for path in paths])


def squashed(image, size):
    """What a network of this size sees of an image: all of it, resized bilinearly, uint8."""
    height, width, channels = size
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image if channels == 3 else image.convert('L')).reshape(size)


def seen(picture, size):
    """What a network of this size sees of a picture, uint8: a path, an image of Pillow, or an array
    [h, w] or [h, w, channels] of uint8, RGB or grey. Raises Refused."""
    if isinstance(picture, (str, os.PathLike)):
        return open_picture(picture, size).seen
    if not isinstance(picture, Image.Image):
        picture = np.asarray(picture)
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
            raise Refused(f'an array {list(picture.shape)} of {picture.dtype} is no picture: '
                          'pictures are [height, width, channels], uint8')
        picture = Image.fromarray(picture[..., 0] if picture.shape[2:] == (1,) else picture)
    image, _ = to_rgb(ImageOps.exif_transpose(picture), tags_of(picture))
    return squashed(image, size)


def resized(pixels, height, width):
    """Pixels [h, w, channels], uint8, RGB or grey, at another size, bilinear."""
    return seen(pixels, (height, width, pixels.shape[-1]))


def read_file(path):
    """The content of a picture's file. Raises Refused if the system cannot read it."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        web = '://' in str(path)
        reason = 'a web address: download the picture first' if web else error.strerror
        raise Refused(f'{path} cannot be read ({reason})') from error


def digest_of(content):
    """The SHA-256 of a picture's content, cut."""
    return hashlib.sha256(content).hexdigest()[:16]


def decoded(path, content):
    """A picture in RGB at its own size: first frame, upright, transparency over white; and a note.
    Raises Refused if Pillow cannot read it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # odd metadata; of large pictures the error is enough
            Image.init()
            formats = [form for form in Image.ID if form not in BY_OTHERS]
            with Image.open(io.BytesIO(content), formats=formats) as image:
                return to_rgb(ImageOps.exif_transpose(image), tags_of(image))
    except Exception as error:  # Pillow raises of all kinds
        reason = error
        if isinstance(error, UnidentifiedImageError):
            reason = next((kind for start, kind in UNREADABLE.items()
                           if re.match(start, content[:1000], re.DOTALL | re.IGNORECASE)),
                          'of no format that Pillow decodes')
        raise Refused(f'{path}: not a picture that can be read ({reason})') from None


def tags_of(image):
    """The tags of a TIFF file; {} for other files. Raises ValueError for what is read wrongly."""
    tags = dict(getattr(image, 'tag_v2', {}))
    bits, planes = tags.get(Tag.BitsPerSample, (1,)), tags.get(Tag.PlanarConfiguration) == 2
    if len(bits) > 1 and max(bits) > 8 and planes and tags.get(Tag.Compression) == 1:
        raise ValueError('colours of 16 bits, one plane after another; export it with 8 bits')
    return tags


def to_rgb(image, tags):
    """The picture in RGB, and a note on what was taken for white."""
    if image.mode.startswith('I') or image.mode == 'F':
        grey, note = grey_to_8_bits(np.asarray(image), tags)
        if 'transparency' in image.info:
            grey[np.asarray(image) == image.info['transparency']] = 255
        return Image.fromarray(grey).convert('RGB'), note
    if image.has_transparency_data:
        paper = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(paper, image.convert('RGBA'))
    return image.convert('RGB'), ''


def grey_to_8_bits(values, tags):
    """Grey of more than 8 bits [h, w] in 8 bits, and a note on what was taken for black and white.

    Scanners and cameras keep 10, 12 or 14 bits in 16. Where the file does not say what is white, it
    is the end of the narrowest of these ranges that holds all values. Where there are negative
    values, the smallest is black and the largest white.
    """
    signed = tags.get(Tag.SampleFormat, (1,))[0] == 2
    if values.dtype == np.int32 and tags.get(Tag.BitsPerSample) == (32,) and not signed:
        values = values.view(np.uint32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError('it holds values that are not finite')
    black = min(low, 0)
    if low < 0:
        white, note = high, f'from {low:g}, taken for black, to {high:g}, taken for white'
    else:
        white, note = white_of(values, tags, signed, high)
    steps = np.clip(np.asarray(values, np.float32), black, white) - np.float32(black)
    grey = np.uint8(255 * steps / np.float32((white - black) or 1))
    return 255 - grey if tags.get(Tag.PhotometricInterpretation) == 0 else grey, note


def white_of(values, tags, signed, high):
    """The value of white in grey of more than 8 bits, and a note on what it was taken from."""
    bits = tags.get(Tag.BitsPerSample, (16,))[0]
    stated = tags.get(Tag.MaxSampleValue, None if bits in (16, 32) else 2 ** bits - 1)
    if stated is not None:
        white, reason = np.max(stated), 'as the file says'
    else:
        ranges = ((1, 255, 65535) if values.dtype.kind == 'f'
                  else (255, 1023, 4095, 16383, 32767 if signed else 65535))
        white = next((end for end in ranges if end >= high), high)
        reason = 'by its largest value'
    return white, '' if white == 65535 else f'{white:g} taken for white, {reason}'
