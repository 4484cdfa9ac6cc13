"""Odd and bad pictures: each is read rightly, or named with its reason in one line."""
import io

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
    'RGB': ('a.png', saved(two_colours()), [RED, GREEN]),
    'greyscale': ('a.png', saved(two_colours('L')), GREY),
    'palette with transparency': ('a.png', palette_with_transparency, [RED, (255, 255, 255)]),
    'RGBA': ('a.png', saved(clear('RGBA', (*RED, 255))), [RED, (255, 255, 255)]),
    'LA': ('a.png', saved(clear('LA', (90, 255))), [(90, 90, 90), (255, 255, 255)]),
    'CMYK': ('a.jpg', saved(two_colours('CMYK'), quality=95), [RED, GREEN]),
    '12 bits of grey in 16': ('a.png', saved(ramp(4095)), [(32, 32, 32), (223, 223, 223)]),
    'rotated by EXIF': ('a.jpg', rotated_by_exif, [RED, GREEN]),
    'animated WebP': ('a.webp', animated, [RED, GREEN]),
    'one pixel': ('a.png', saved(Image.new('RGB', (1, 1), RED)), [RED, RED]),
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


def test_floats_without_end_in_a_tiff(tmp_path):
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    values[3, 4] = np.inf
    Image.fromarray(values).save(tmp_path / 'a.tif')
    with pytest.raises(scripts('vgg').common.Refused, match='not finite'):
        seen(tmp_path / 'a.tif')


@pytest.mark.parametrize('values, low, high, options', [
    (np.uint16([[30, 100], [170, 240]]) * 257, 0, 65535, {}),
    (np.uint16([[30, 100], [170, 240]]) * 257, 65535, 0, {'tiffinfo': {262: 0}}),  # white is zero
    (np.float32([[0.1, 0.3], [0.4, 0.8]]), 0, 1, {}),
    (np.int32([[-1000, 20], [30, 1023]]), -1000, 1023, {})])
def test_grey_of_more_than_8_bits(tmp_path, values, low, high, options):
    """Means what it says; what was assumed is said."""
    Image.fromarray(values).save(tmp_path / 'a.tif', **options)
    image, note = whole(tmp_path / 'a.tif')
    expected = 255 * (np.float64(values) - low) / (high - low)
    np.testing.assert_allclose(np.asarray(image)[..., 0], expected, atol=1)
    assert note == ('' if values.dtype == np.uint16 else
                    f'{low} taken for black, {high} for white')


def test_pictures_of_phones_say_what_to_export(tmp_path):
    (tmp_path / 'phone.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(40))
    with pytest.raises(scripts('vgg').common.Refused, match='phone.heic: .*HEIC.*export it'):
        whole(tmp_path / 'phone.heic')


def test_every_pixel_of_any_shape_counts(tmp_path):
    """The whole picture squashed, not a square cut out of it."""
    image = Image.new('RGB', (3000, 10), RED)
    image.paste(GREEN, (0, 0, 300, 10))
    image.save(tmp_path / 'a.png')
    found, _ = seen(tmp_path / 'a.png')
    np.testing.assert_allclose(found[100, [5, 30, 220]], [GREEN, RED, RED], atol=6)


def encoded(form, keep=1.0):
    """The beginning of a picture file."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8))
    file = io.BytesIO()
    noise.save(file, form)
    return file.getvalue()[:int(keep * file.tell())]


BAD_PICTURES = {  # name: file name, contents or None for no file
    'missing': ('bad.jpg', None),
    'empty file': ('bad.jpg', b''),
    'text': ('bad.jpg', b'no picture at all'),
    'truncated JPEG': ('bad.jpg', encoded('JPEG', 0.5)),
    'truncated PNG': ('bad.png', encoded('PNG', 0.5)),
    'damaged PNG': ('bad.png', encoded('PNG').replace(b'IDAT', b'IDAX')),
}


@pytest.mark.parametrize('kind', BAD_PICTURES)
def test_bad_picture(tmp_path, kind):
    name, contents = BAD_PICTURES[kind]
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(scripts('vgg').common.Refused, match=name):
        seen(tmp_path / name)


def test_long_titles_are_legible():
    """On two lines rather than in small letters, none wider than its panel."""
    fitted = scripts('vgg').heatmaps.fitted
    lines, font = fitted('panda 1.00 rather than cougar (body) 0.00', 177)
    assert lines == 'panda 1.00 rather than\ncougar (body) 0.00' and font.size == 15
    assert max(map(font.getlength, lines.split('\n'))) <= 177
    assert fitted('kite 0.98', 177)[0] == 'kite 0.98' and fitted('kite 0.98', 177)[1].size == 24
