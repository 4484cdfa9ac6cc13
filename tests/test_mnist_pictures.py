"""mnist/lrp.py --image: a user's own digits, and how results are drawn and written."""
import shutil

from conftest import likeness, main_of, scripts, truncate
import numpy as np
from PIL import Image
import pytest

PANEL, GAP, TITLE, KEY = 252, 8, 44, 36  # of a result, in pixels


def enlarged(image):
    """300x400, dark ink on light paper."""
    paper = Image.new('L', (300, 400), 255)
    paper.paste(Image.fromarray(255 - image).resize((280, 280), Image.Resampling.BICUBIC), (15, 90))
    return paper


def as_it_is(image, path):
    Image.fromarray(image).save(path.with_suffix('.png'))


def large(image, path):
    enlarged(image).save(path.with_suffix('.png'))


def photograph(image, path):
    """Not quite black on not quite white, with noise."""
    noise = np.random.default_rng(0).normal(0, 4, (400, 300))
    pixels = 60 + 0.6 * np.asarray(enlarged(image), float) + noise
    Image.fromarray(np.uint8(np.clip(pixels, 0, 255))).save(path.with_suffix('.jpg'), quality=95)


def turned(image, path):
    """Stored lying on its side, as cameras do, with a note which way is up."""
    exif = Image.Exif()
    exif[0x0112] = 6
    enlarged(image).rotate(90, expand=True).save(path.with_suffix('.jpg'), quality=95, exif=exif)


def transparent(image, path, colour='black'):
    ink = Image.new('RGBA', (300, 400), colour)
    ink.putalpha(Image.fromarray(255 - np.asarray(enlarged(image))))
    ink.save(path.with_suffix('.png'))


def transparent_white(image, path):
    transparent(image, path, 'white')


def palette(image, path):
    enlarged(image).convert('P').save(path.with_suffix('.png'))


def transparent_palette(image, path):
    picture = enlarged(image).convert('P', palette=Image.Palette.ADAPTIVE, colors=16)
    picture.save(path.with_suffix('.png'), transparency=picture.getpixel((0, 0)))


def sixteen_bit(image, path):
    Image.fromarray(np.uint16(257)
                    * np.asarray(enlarged(image), np.uint16)).save(path.with_suffix('.png'))


def cmyk(image, path):
    enlarged(image).convert('RGB').convert('CMYK').save(path.with_suffix('.jpg'), quality=95)


def black_and_white(image, path):
    enlarged(image).convert('1', dither=Image.Dither.NONE).save(path.with_suffix('.png'))


@pytest.mark.parametrize('save', [
    as_it_is, large, photograph, turned, transparent, transparent_white, palette,
    transparent_palette,
    sixteen_bit, cmyk, black_and_white])
def test_picture_of_a_digit_becomes_what_mnist_shows(explainer, explained, digits, tmp_path, save):
    """The same place, size and strokes as the original, and to the network the same digit."""
    originals, images = digits[0][:10], []
    for i, original in enumerate(originals):
        save(original, tmp_path / str(i))
        images.append(scripts('mnist').digit.digit(next(tmp_path.glob(f'{i}.*'))))
        assert images[-1].shape == (28, 28) and images[-1].dtype == np.float32
        assert 0 <= images[-1].min() < 0.01 and 0.9 < images[-1].max() <= 1
    assert np.median([likeness(image, original) for image,
                      original in zip(images, originals)]) > 0.9
    assert np.mean(explainer.classify(np.stack(images)).argmax(1)
                   == explained.logits[:10].argmax(1)) >= 0.9


def test_pictures_that_cannot_be_read_are_named_and_the_others_done(called, logdir, digits,
                                                                    tmp_path):
    Image.new('L', (50, 50), 130).save(tmp_path / 'blank.png')
    (tmp_path / 'text.png').write_text('hello\n')
    large(digits[0][0], tmp_path / 'whole')
    shutil.copy(tmp_path / 'whole.png', tmp_path / 'half.png')
    truncate(tmp_path / 'half.png')
    reasons = {'blank.png': 'one shade', 'text.png': 'not a picture', 'none.png': 'no such file',
               'half.png': 'not a picture'}
    paths, results = [tmp_path / name for name in [*reasons, 'whole.png']], tmp_path / 'results'
    end = called(main_of('mnist/lrp.py'), '--image', *paths, '--logdir', logdir, '--results',
                 results)
    assert end.status == 1
    lines = end.err.splitlines()
    assert len(lines) == len(reasons)
    for (name, reason), line in zip(reasons.items(), lines):
        assert str(tmp_path / name) in line and reason in line
    assert [path.name for path in results.iterdir()] == ['whole.jpg']
    assert 'whole.png' in end.out and 'blank.png' not in end.out


def test_pictures_of_the_same_name_keep_their_own_results(printed, logdir, digits, tmp_path):
    paths, results = [tmp_path / name / 'digit.png'
                      for name in ('one', 'two')], tmp_path / 'results'
    for path, image in zip(paths, digits[0]):
        path.parent.mkdir()
        as_it_is(image, path)
    printed('mnist/lrp.py', '--image', *paths, '--save-relevance', '--logdir', logdir, '--results',
            results)
    assert {path.name for path in results.iterdir()} == {'digit.jpg', 'digit_2.jpg',
        'relevance.npz'}
    with np.load(results / 'relevance.npz', allow_pickle=False) as saved:
        assert set(saved) == {'digits', 'images', 'logits', 'targets', 'relevance/deep-taylor'}
        assert list(saved['digits']) == list(map(str, paths))
        for name, image in zip(('digit.jpg', 'digit_2.jpg'), saved['images']):
            assert likeness(seen_in(panels(results / name, 2)[0]), image) > 0.99


def test_pictures_asked_for_by_name_are_always_drawn(logdir, digits, tmp_path):
    """Of the whole test set there is a summary instead, above 100."""
    as_it_is(digits[0][0], tmp_path / 'digit')
    paths = [str(tmp_path / 'digit.png')] * 101
    scripts('mnist').lrp.main(['--image', *paths, '--logdir', str(logdir), '--results',
                               str(tmp_path / 'r')])
    assert len(list((tmp_path / 'r').iterdir())) == 101


def panels(path, count):
    """The panels of a result, [252, 252, 3] each: the digit and count - 1 heatmaps."""
    with Image.open(path) as picture:
        assert picture.format == 'JPEG' and picture.mode == 'RGB'
        pixels = np.asarray(picture)
    assert pixels.shape == (PANEL + TITLE + GAP + KEY, count * (PANEL + GAP) + GAP, 3)
    lefts = [GAP + i * (PANEL + GAP) for i in range(count)]
    return [pixels[TITLE:TITLE + PANEL, left:left + PANEL] for left in lefts]


def seen_in(panel):
    """The 28x28 picture that a panel shows, its brightness in [0, 1]."""
    return panel.reshape(28, 9, 28, 9, 3).mean((1, 3, 4)) / 255


def test_colours():
    """Red for, blue against, white for nothing; each heatmap is scaled by its own largest value."""
    heatmap = np.zeros([28, 28])
    heatmap[4, 5], heatmap[20, 21] = 1e-3, -0.5e-3
    heatmaps = {'a': heatmap, 'b': np.zeros([28, 28]), 'c': -1e6 * heatmap}
    sheet = np.asarray(scripts('mnist').heatmaps.sheet(np.eye(28), 'title', heatmaps), int)
    centres = sheet[TITLE:TITLE + PANEL][4::9]
    digit, a, b, c = (centres[:, left + 4:left + PANEL:9]
                      for left in range(GAP, sheet.shape[1], PANEL + GAP))
    np.testing.assert_array_equal(digit, np.repeat(255 * np.eye(28)[..., None], 3, -1))
    assert a[4, 5, 0] > 100 and a[4, 5, 1] == a[4, 5, 2] == 0
    assert a[20, 21, 2] > 200 and a[20, 21, 0] == a[20, 21, 1] < 60
    assert c[4, 5].argmax() == 2 and c[20, 21, 0] > 200 and c[20, 21, 1] == c[20, 21, 2] < 60
    assert min(panel[heatmap == 0].min() for panel in (a, b, c)) > 250


def test_names_are_unique():
    unique = scripts('mnist').lrp.unique
    assert unique(['a', 'b']) == ['a', 'b'] and unique(['a', 'A', 'a']) == ['a', 'A_2', 'a_3']
    for names in ['a', 'a', 'a_2'], ['a_2', 'a', 'a'], ['a', 'a_2', 'a', 'a_2', 'a']:
        assert len(set(unique(names))) == len(names)


def test_picture_with_a_value_that_is_not_finite(tmp_path):
    values = np.zeros((30, 30), np.float32)
    values[10:20, 14:16], values[3, 4] = 1, np.inf
    Image.fromarray(values).save(tmp_path / 'a.tif')
    mnist = scripts('mnist')
    with pytest.raises(mnist.common.Refused, match='not finite'):
        mnist.digit.digit(tmp_path / 'a.tif')
