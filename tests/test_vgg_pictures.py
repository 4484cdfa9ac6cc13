"""Odd and bad pictures: each is read rightly, or named with its reason in one line."""
import struct

from conftest import scripts
import numpy as np
from PIL import Image
import pytest
from small_vgg import photograph

RED, GREEN, WHITE = (230, 20, 30), (20, 200, 40), (255, 255, 255)
PICTURES = scripts('vgg').pictures


def whole(path):
    """A picture at its own size, and the note."""
    return PICTURES.decoded(path, path.read_bytes())


def two_colours(mode='RGB', size=(64, 64)):
    """Red on the left, green on the right."""
    image = Image.new('RGB', size, RED)
    image.paste(GREEN, (size[0] // 2, 0, *size))
    return image.convert(mode)


def clear(mode, colour):
    """The right half is transparent."""
    image = Image.new(mode, (64, 64), colour)
    image.paste((*colour[:-1], 0), (32, 0, 64, 64))
    return image


PALETTE, TURNED = two_colours().quantize(2), Image.Exif()
TURNED[0x0112] = 6  # to be turned clockwise
ODD = {  # an image, how it is saved, colours on the left and on the right that the network sees
    'palette with transparency': (
        PALETTE, {'format': 'PNG', 'transparency': PALETTE.getpixel((60, 5))}, RED, WHITE),
    'RGBA': (clear('RGBA', (*RED, 255)), {'format': 'PNG'}, RED, WHITE),
    'LA': (clear('LA', (90, 255)), {'format': 'PNG'}, (90, 90, 90), WHITE),
    'CMYK': (two_colours('CMYK'), {'format': 'JPEG', 'quality': 95}, RED, GREEN),
    'turned': (two_colours().rotate(90), {'format': 'JPEG', 'exif': TURNED}, RED, GREEN),
    'animated': (two_colours(), {'format': 'WebP', 'lossless': True, 'save_all': True,
                                 'append_images': [two_colours().rotate(180)]}, RED, GREEN),
    'wide': (two_colours(size=(3000, 10)), {'format': 'PNG'}, RED, GREEN)}  # not cut square


@pytest.mark.parametrize('kind', ODD)
def test_odd_picture(tmp_path, kind):
    """Seen by the network in its colours, upright, transparency as white, whatever its suffix."""
    image, options, *colours = ODD[kind]
    image.save(tmp_path / 'a.bmp', **options)
    found = PICTURES.open_picture(tmp_path / 'a.bmp', (224, 224, 3)).seen
    assert found.shape == (224, 224, 3)
    np.testing.assert_allclose(found[112, [28, 196]], colours, atol=6)


QUARTERS = np.float64([[30, 100], [170, 240]])  # grey as it is to be seen


def write_tiff(path, values, others=()):
    """An uncompressed TIFF of grey [h, w], or of colours in planes [3, h, w], with other tags."""
    planes = values if values.ndim == 3 else values[None]
    n, height, width = planes.shape
    kind = {'u': 1, 'i': 2, 'f': 3}[values.dtype.kind]
    tags = {256: [width], 257: [height], 258: [8 * values.itemsize] * n, 259: [1],
            262: [2 if n > 1 else 1], 273: [0] * n, 277: [n], 278: [height],
            279: [planes[0].nbytes] * n, 284: [1 + (n > 1)], 339: [kind] * n, **dict(others)}
    data = 8 + 2 + 12 * len(tags) + 4
    pictures = data + 4 * sum(len(each) for each in tags.values() if len(each) > 1)
    tags[273] = [pictures + i * planes[0].nbytes for i in range(n)]  # where each plane begins
    entries, extra = b'', b''
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f'<{len(numbers)}I', *numbers)
        where = packed if len(numbers) == 1 else struct.pack('<I', data + len(extra))
        extra += packed if len(numbers) > 1 else b''
        entries += struct.pack('<HHI', tag, 4, len(numbers)) + where
    head = b'II*\0' + struct.pack('<IH', 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + extra + planes.tobytes())


@pytest.mark.parametrize('values, tags, expected, note', [
    ((QUARTERS * 257).astype('<u2'), {}, QUARTERS, ''),
    ((65535 - QUARTERS * 257).astype('<u2'), {262: [0]}, QUARTERS, ''),  # white is zero
    ((QUARTERS * 4095 / 255).astype('<u2'), {}, QUARTERS, '4095 taken for white'),  # 12 bits
    (QUARTERS.astype('<u2'), {281: [500]}, QUARTERS * 255 / 500, '500 taken for white'),  # stated
    ((QUARTERS * 128.5).astype('<i2'), {}, QUARTERS, '32767 taken for white'),
    (np.array([[-1000, -200], [600, 1000]], '<i2'), {}, [[0, 102], [204, 255]],
     'from -1000, taken for black, to 1000, taken for white'),
    ((QUARTERS / 255).astype('<f4'), {}, QUARTERS, '1 taken for white'),
    (np.array([[0, 2 ** 31], [3 << 30, 2 ** 32 - 1]], '<u4'), {}, [[0, 127], [191, 255]],
     'taken for white')])
def test_grey_of_more_than_8_bits(tmp_path, values, tags, expected, note):
    """Means what it says; what was assumed is said."""
    write_tiff(tmp_path / 'a.tif', values, tags)
    image, said = whole(tmp_path / 'a.tif')
    np.testing.assert_allclose(np.asarray(image)[..., 0], expected, atol=1)
    assert note in said and bool(note) == bool(said)


def test_transparent_value_in_16_bits_is_white(tmp_path):
    Image.fromarray((QUARTERS * 257).astype(np.uint16)).save(tmp_path / 'a.png',
                                                             transparency=100 * 257)
    image, _ = whole(tmp_path / 'a.png')
    assert np.asarray(image)[..., 0].tolist() == [[30, 255], [170, 240]]


@pytest.mark.parametrize('values, word', [
    (np.zeros((3, 2, 2), '<u2'), 'plane after another'), (np.zeros((2, 2), '<f8'), 'a TIFF'),
    (np.full((2, 2), np.inf, '<f4'), 'not finite')])
def test_tiffs_that_are_not_read_rightly(tmp_path, values, word):
    write_tiff(tmp_path / 'a.tif', values)
    with pytest.raises(scripts('vgg').common.Refused, match=f'a.tif: .*{word}'):
        whole(tmp_path / 'a.tif')


def test_bad_pictures(tmp_path):
    """Cut, damaged, too large, or of kinds that Pillow does not know or knows only in part."""
    jpeg, png = (photograph(tmp_path / f'a.{kind}', (200, 200)).read_bytes()
                 for kind in ('jpg', 'png'))
    bomb = struct.pack('<2s6I2H6I', b'BM', 54, 0, 54, 40, 30000, 30000, 1, 24, *[0] * 6)
    for content, word in [
            (jpeg[:-1000], ''), (png[:-1000], ''), (b'text', ''), (bomb, ''),
            (b'\0\0\0\x18ftypheic' + bytes(40), 'HEIC'), (bytes(128) + b'DICM\x02\0\0\0', 'DICOM'),
            (b'\xff\n\xfa\x1f\x01\x91', 'JPEG XL'), (b'%PDF-1.7\n1 0 obj', 'PDF'),
            (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', 'SVG'),
            (b'\xef\xbb\xbf\n<!DOCTYPE html>\n<html><svg/></html>', 'HTML')]:
        (tmp_path / 'bad.jpg').write_bytes(content)
        with pytest.raises(scripts('vgg').common.Refused, match=f'bad.jpg: .*{word}'):
            whole(tmp_path / 'bad.jpg')
