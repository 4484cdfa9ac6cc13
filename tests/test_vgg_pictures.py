"""Odd and bad pictures: each is read rightly, or named with its reason in one line."""
import io
import struct

from conftest import scripts
import numpy as np
from PIL import Image
import pytest

RED, GREEN = (230, 20, 30), (20, 200, 40)


def seen(path, size=(224, 224, 3)):
    """What the network sees of a picture, and the note."""
    picture = scripts('vgg').pictures.open_picture(path, size)
    return picture.seen, picture.note


def whole(path):
    """A picture at its own size, and the note."""
    return scripts('vgg').pictures.decoded(path, path.read_bytes())


def two_colours(mode='RGB', size=(64, 64)):
    """Red on the left, green on the right."""
    image = Image.new('RGB', size, RED)
    image.paste(GREEN, (size[0] // 2, 0, *size))
    return image.convert(mode)


def shades(dtype):
    """A ramp from the type's zero to its largest value, 255 for floats."""
    top = 255 if np.dtype(dtype).kind == 'f' else np.iinfo(dtype).max
    return Image.fromarray(np.tile(np.linspace(0, top, 64).astype(dtype), (64, 1)))


def ramp(end):
    """A ramp from 0 to `end`, kept in 16 bits."""
    return Image.fromarray(np.tile(np.linspace(0, end, 64).astype(np.uint16), (64, 1)))


def clear(mode, colour):
    """The right half is transparent."""
    image = Image.new(mode, (64, 64), colour)
    image.paste((*colour[:-1], 0), (32, 0, 64, 64))
    return image


def palette_with_transparency(path):
    image = Image.new('P', (64, 64), 0)
    image.putpalette([*RED, *GREEN])
    image.paste(1, (32, 0, 64, 64))
    image.save(path, transparency=1)


def rotated_by_exif(path):
    """Stored on its side; upright, red is on the left."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    two_colours().transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)


def animated(path):
    two_colours().save(path, save_all=True, append_images=[Image.new('RGB', (64, 64), 'blue')],
                       lossless=True)


def saved(image, **options):
    """A function that saves an image to a path."""
    return lambda path: image.save(path, **options)


GREY = [(84, 84, 84), (128, 128, 128)]
# Name: file name, function that writes it, colours on the left and on the right as the network sees
# them.
PICTURES = {
    'greyscale': ('a.png', saved(two_colours('L')), GREY),
    'palette with transparency': ('a.png', palette_with_transparency, [RED, (255, 255, 255)]),
    'RGBA': ('a.png', saved(clear('RGBA', (*RED, 255))), [RED, (255, 255, 255)]),
    'LA': ('a.png', saved(clear('LA', (90, 255))), [(90, 90, 90), (255, 255, 255)]),
    'CMYK': ('a.jpg', saved(two_colours('CMYK'), quality=95), [RED, GREEN]),
    '16 bits of grey': ('a.png', saved(shades(np.uint16)), [(32, 32, 32), (223, 223, 223)]),
    '12 bits of grey in 16': ('a.png', saved(ramp(4095)), [(32, 32, 32), (223, 223, 223)]),
    'dark 16 bits that say what is white': ('a.tif', saved(ramp(5000), tiffinfo={281: 10000}),
                                            [(16, 16, 16), (111, 111, 111)]),
    'float': ('a.tif', saved(shades(np.float32)), [(32, 32, 32), (223, 223, 223)]),
    'rotated by EXIF': ('a.jpg', rotated_by_exif, [RED, GREEN]),
    'animated WebP': ('a.webp', animated, [RED, GREEN]),
    'wide': ('a.png', saved(two_colours(size=(3000, 10))), [RED, GREEN]),  # not cut square
    'wrong extension': ('a.jpg', saved(two_colours(), format='PNG'), [RED, GREEN]),
}


@pytest.mark.parametrize('kind', PICTURES)
def test_odd_picture(tmp_path, kind):
    """Seen by the network in its colours, upright, transparency as white paper."""
    name, make, colours = PICTURES[kind]
    make(tmp_path / name)
    found, _ = seen(tmp_path / name)
    assert found.shape == (224, 224, 3)
    for column, colour in zip((28, 196), colours):
        np.testing.assert_allclose(found[112, column], colour, atol=6)


QUARTERS = np.float64([[30, 100], [170, 240]])  # grey as it is to be seen


def write_tiff(path, values, photometric=1):
    """An uncompressed TIFF of grey [h, w], or of colours in planes [3, h, w]."""
    planes = values if values.ndim == 3 else values[None]
    n, height, width = planes.shape
    kind = {'u': 1, 'i': 2, 'f': 3}[values.dtype.kind]
    tags = [(256, [width]), (257, [height]), (258, [8 * values.itemsize] * n), (259, [1]),
            (262, [2 if n > 1 else photometric]), (273, [0] * n), (277, [n]), (278, [height]),
            (279, [planes[0].nbytes] * n), (284, [1 + (n > 1)]), (339, [kind] * n)]
    data = 8 + 2 + 12 * len(tags) + 4
    pictures = data + 4 * sum(len(each) for _, each in tags if len(each) > 1)
    entries, extra = b'', b''
    for tag, numbers in tags:
        if tag == 273:  # where each plane begins
            numbers = [pictures + i * planes[0].nbytes for i in range(n)]
        packed = struct.pack(f'<{len(numbers)}I', *numbers)
        where = packed if len(numbers) == 1 else struct.pack('<I', data + len(extra))
        extra += packed if len(numbers) > 1 else b''
        entries += struct.pack('<HHI', tag, 4, len(numbers)) + where
    head = b'II*\0' + struct.pack('<IH', 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + extra + planes.tobytes())


@pytest.mark.parametrize('values, photometric, note', [
    (QUARTERS.astype('<u2') * 257, 1, ''),
    (65535 - QUARTERS.astype('<u2') * 257, 0, ''),  # white is zero
    ((QUARTERS * 128.5).astype('<i2'), 1, '32767 taken for white'),
    ((QUARTERS / 255).astype('<f4'), 1, '1 taken for white'),
    (np.array([[-1000, -200], [300, 1000]], '<i2'), 1,
     'from -1000, taken for black, to 1000, taken for white'),
    (np.array([[0, 2 ** 31], [3 << 30, 2 ** 32 - 1]], '<u4'), 1, 'taken for white')])
def test_grey_of_more_than_8_bits(tmp_path, values, photometric, note):
    """Means what it says; what was assumed is said."""
    write_tiff(tmp_path / 'a.tif', values, photometric)
    image, said = whole(tmp_path / 'a.tif')
    low, high = float(values.min()), float(values.max())
    expected = QUARTERS
    if values.min() < 0 or values.dtype == np.uint32:
        expected = 255 * (np.float64(values) - low) / (high - low)
    np.testing.assert_allclose(np.asarray(image)[..., 0], expected, atol=1)
    assert note in said and bool(note) == bool(said)


def test_transparent_value_in_16_bits_is_white(tmp_path):
    Image.fromarray((QUARTERS * 257).astype(np.uint16)).save(tmp_path / 'a.png',
                                                             transparency=100 * 257)
    image, _ = whole(tmp_path / 'a.png')
    assert np.asarray(image)[..., 0].tolist() == [[30, 255], [170, 240]]


KINDS = {  # contents of files that Pillow does not know, or only in part; what is said of them
    'phone.heic': (b'\0\0\0\x18ftypheic' + bytes(40), 'HEIC'),
    'scan.dcm': (bytes(128) + b'DICM\x02\0\0\0UL\x04\0' + bytes(40), 'DICOM'),
    'stream.jxl': (b'\xff\n\xfa\x1f\x01\x91\x08\x06\x01\0' + bytes(40), 'JPEG XL'),
    'boxed.jxl': (b'\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ' + bytes(40), 'JPEG XL'),
    'logo.svg': (b'<?xml version="1.0"?>\n<!-- by hand -->\n'
                 b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', 'SVG'),
    'paper.pdf': (b'%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\ntrailer\n<<>>\n%%EOF', 'PDF'),
    'page.jpg': (b'\xef\xbb\xbf\n<!DOCTYPE html>\n<html><svg/><img src="cat.jpg"></html>', 'HTML')}


@pytest.mark.parametrize('name', KINDS)
def test_kinds_of_files_that_are_known_by_name_only(tmp_path, name):
    content, word = KINDS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(scripts('vgg').common.Refused, match=f'{name}: .*{word}'):
        whole(tmp_path / name)


@pytest.mark.parametrize('values, word', [
    (np.zeros((3, 2, 2), '<u2'), 'plane after another'), (np.zeros((2, 2), '<f8'), 'a TIFF'),
    (np.full((2, 2), np.inf, '<f4'), 'not finite')])
def test_tiffs_that_are_not_read_rightly(tmp_path, values, word):
    write_tiff(tmp_path / 'a.tif', values)
    with pytest.raises(scripts('vgg').common.Refused, match=f'a.tif: .*{word}'):
        whole(tmp_path / 'a.tif')


def encoded(form, keep=1.0):
    """The beginning of a picture file."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8))
    file = io.BytesIO()
    noise.save(file, form)
    return file.getvalue()[:int(keep * file.tell())]


BAD_PICTURES = {  # name: contents
    'empty': b'',
    'text': b'no picture at all',
    'truncated JPEG': encoded('JPEG', 0.5),
    'truncated PNG': encoded('PNG', 0.5),
    'damaged PNG': encoded('PNG').replace(b'IDAT', b'IDAX'),
    'decompression bomb': struct.pack('<2s6I2H6I', b'BM', 54, 0, 54, 40, 30000, 30000, 1, 24,
                                      *[0] * 6)}


@pytest.mark.parametrize('kind', BAD_PICTURES)
def test_bad_picture(tmp_path, kind):
    (tmp_path / 'bad.jpg').write_bytes(BAD_PICTURES[kind])
    with pytest.raises(scripts('vgg').common.Refused, match='bad.jpg'):
        seen(tmp_path / 'bad.jpg')


@pytest.mark.parametrize('title, least', [
    ('kite 0.98', 24), ('panda 1.00 rather than cougar (body) 0.00', 14),
    ('great_white_shark_with_a_name 1.00', 10)])
def test_titles_are_legible(title, least):
    """All in letters of one size, none wider than its panel or higher than its bar."""
    font, shown = scripts('vgg').heatmaps.fitted([title, 'zplus'], 177, 44)
    lines = shown[title].split('\n')
    assert font.size >= least and max(map(font.getlength, lines)) <= 177
    assert len(lines) * 1.2 * font.size <= 44 and ' '.join(lines) == title


@pytest.mark.parametrize('panels, across, down', [(3, 3, 1), (7, 7, 1), (8, 4, 2), (13, 7, 2)])
def test_lines_of_a_sheet_are_about_as_long(panels, across, down):
    maps = {str(i): np.eye(5) for i in range(panels - 1)}
    sheet = scripts('vgg').heatmaps.sheet(two_colours(), [('title', maps)], 'seismic')
    assert sheet.size == (8 + across * (64 + 8), down * (44 + 64 + 8) + 36)
