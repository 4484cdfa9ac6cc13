"""mnist/lrp.py --image: a user's own digits, as files of all kinds and as photographs.

The photographs are rendered from MNIST's test digits: each is laid small and off-centre on paper,
lit unevenly, and given a sensor's noise. Only digits that the network is sure of in MNIST's own
form are taken, so that what is counted is the reading of the picture and not the network.
"""
import io
import shutil

from conftest import likeness, scripts, truncate
import numpy as np
from PIL import Image
import pytest

mnist = scripts('mnist')


def enlarged(image):
    """300x400, dark ink on light paper."""
    paper = Image.new('L', (300, 400), 255)
    paper.paste(Image.fromarray(255 - image).resize((280, 280), Image.Resampling.BICUBIC), (15, 90))
    return paper


def transparent(image, colour):
    ink = Image.new('RGBA', (300, 400), colour)
    ink.putalpha(Image.fromarray(255 - np.asarray(enlarged(image))))
    return ink


TURNED = Image.Exif()  # stored lying on its side, as cameras do; the file says which way is up
TURNED[0x0112] = 6
KINDS = {  # how a digit is saved: an image of it, the file's format, options
    "MNIST's own": (Image.fromarray, 'png', {}),
    'turned': (lambda image: enlarged(image).rotate(90, expand=True), 'jpeg', {'exif': TURNED}),
    'transparent': (lambda image: transparent(image, 'black'), 'png', {}),
    'transparent, white ink': (lambda image: transparent(image, 'white'), 'png', {}),
    'palette': (lambda image: enlarged(image).convert('P'), 'png', {'transparency': 255}),
    'sixteen bit': (lambda image: Image.fromarray(np.asarray(enlarged(image)) * np.uint16(257)),
                    'png', {}),
    'CMYK': (lambda image: enlarged(image).convert('RGB').convert('CMYK'), 'jpeg', {}),
    'black and white': (lambda image: enlarged(image).convert('1', dither=0), 'png', {}),
}


@pytest.mark.parametrize('kind', KINDS)
def test_picture_of_a_digit_becomes_what_mnist_shows(explainer, explained, digits, kind):
    """The same place, size and strokes as the original, and to the network the same digit."""
    drawn, form, options = KINDS[kind]
    images = []
    for original in digits[0][:10]:
        drawn(original).save(file := io.BytesIO(), form, **options)
        images.append(mnist.digit.digit(file))
        assert images[-1].shape == (28, 28) and images[-1].dtype == np.float32
        assert 0 <= images[-1].min() < 0.01 and 0.9 < images[-1].max() <= 1
    assert np.median(list(map(likeness, images, digits[0]))) > 0.9
    seen = explainer.classify(np.stack(images)).argmax(1)
    assert np.mean(seen == explained.logits[:10].argmax(1)) >= 0.9


def test_pictures_that_cannot_be_read_are_named_and_the_others_done(called, logdir, digits,
                                                                    tmp_path):
    """Two of one name keep their own results."""
    Image.new('L', (90, 90), 130).save(tmp_path / 'blank.png')
    (tmp_path / 'text.png').write_text('hello\n')
    (tmp_path / 'other').mkdir()
    enlarged(digits[0][0]).save(tmp_path / 'whole.png')
    enlarged(digits[0][1]).save(tmp_path / 'other' / 'whole.png')
    shutil.copy(tmp_path / 'whole.png', tmp_path / 'half.png')
    truncate(tmp_path / 'half.png')
    bad = [tmp_path / name for name in ('blank.png', 'text.png', 'none.png', 'half.png')]
    good, results = [tmp_path / 'whole.png', tmp_path / 'other' / 'whole.png'], tmp_path / 'results'
    end = called(mnist.lrp.main, '--image', *bad, *good, '--save-relevance', '--logdir',
                 logdir, '--results', results)
    lines = end.err.splitlines()
    assert end.status == 1 and len(lines) == len(bad)
    assert all(str(path) in line for path, line in zip(bad, lines)) and 'no ink' in lines[0]
    assert {path.name for path in results.iterdir()} == {'whole.jpg', 'whole_2.jpg',
                                                         'relevance.npz'}
    with np.load(results / 'relevance.npz') as saved:
        assert list(saved['digits']) == list(map(str, good))
        assert min(map(likeness, saved['images'], digits[0])) > 0.8


def test_names_are_unique():
    unique = mnist.lrp.unique
    assert unique(['a', 'b']) == ['a', 'b'] and unique(['a', 'A', 'a']) == ['a', 'A_2', 'a_3']
    for names in ['a', 'a', 'a_2'], ['a_2', 'a', 'a'], ['a', 'a_2', 'a', 'a_2', 'a']:
        assert len(set(unique(names))) == len(names)


# Photographs

def written(image):
    """A digit [28, 28] as ink [h, w] of 0 or 1, its longer side 160 pixels."""
    ys, xs = np.nonzero(image > 60)
    image = Image.fromarray(image[ys.min():ys.max() + 1, xs.min():xs.max() + 1])
    size = [round(160 / max(image.size) * side) for side in image.size]
    return np.float32(np.asarray(image.resize(size, Image.Resampling.BICUBIC)) > 100)


def photograph(images, rng, ink=0.12, paper=0.88, size=0.2, fall=0.0, shadow=0.0,
               lines=0.0, noise=0.015):
    """A photograph, as a file in memory, of digits [28, 28] side by side.

    size: the digit's, as a share of the picture; fall, shadow: how much darker the light becomes
    towards the lower right, and beyond a line.
    """
    y, x = np.mgrid[:480, :640] / 640
    light = 1 - fall * (x + y) / 1.75 - shadow * (x + 0.3 * y > 0.6)
    cover = np.zeros((480, 640))
    for i, image in enumerate(images):
        strokes = Image.fromarray(written(image))
        strokes = strokes.resize([round(size * 4 * side) for side in strokes.size],
                                 Image.Resampling.BOX).rotate(rng.uniform(-8, 8), expand=True)
        (width, height), top, left = strokes.size, rng.integers(20, 60), 40 + 250 * i
        cover[top:top + height, left:left + width] = strokes
    ground = paper * (1 - lines * (y * 640 % 32 < 1.5))
    picture = (ground + (ink - ground) * 0.92 * cover) * light + rng.normal(0, noise, x.shape)
    Image.fromarray(np.uint8(255 * np.clip(picture, 0, 1))).save(file := io.BytesIO(), 'jpeg')
    return file


CONDITIONS = {
    'light falls off': dict(fall=0.6), 'small': dict(size=0.12, fall=0.4),
    'large': dict(size=0.4, fall=0.45), 'pencil': dict(ink=0.55, fall=0.3),
    'shadow': dict(shadow=0.45), 'ruled': dict(lines=0.25, fall=0.3),
    'blackboard': dict(ink=0.8, paper=0.22, fall=0.45), 'noisy': dict(noise=0.06, fall=0.3),
}


@pytest.fixture(scope='module')
def seen(explained, digits):
    """4 test digits that the small network is sure of, and what it sees in them."""
    logits = np.sort(explained.logits, 1)
    sure = (explained.logits.argmax(1) == digits[1]) & (logits[:, -1] - logits[:, -2] > 2)
    return digits[0][sure][:4], digits[1][sure][:4]


def count_right(explainer, files, labels):
    """In how many of these files the network sees the right digit."""
    images = np.stack([mnist.digit.digit(file) for file in files])
    return np.sum(explainer.classify(images).argmax(1) == labels)


@pytest.mark.parametrize('name', CONDITIONS)
def test_digits_in_photographs_are_seen(explainer, seen, name):
    rng = np.random.default_rng(5)
    files = [photograph([image], rng, **CONDITIONS[name]) for image in seen[0]]
    assert count_right(explainer, files, seen[1]) >= 3


@pytest.mark.parametrize('paper, ink', [(235, 45), (40, 220)])
def test_digits_cut_to_their_ink_are_seen(explainer, seen, paper, ink):
    files = []
    for image in seen[0]:
        strokes = Image.fromarray(written(image))
        strokes = np.asarray(strokes.crop(strokes.getbbox()))
        Image.fromarray(np.uint8(paper + (ink - paper) * strokes)).save(file := io.BytesIO(), 'png')
        files.append(file)
    assert count_right(explainer, files, seen[1]) >= 3


@pytest.mark.parametrize('name, numbers', [
    ('light falls off', [1, 3]), ('noisy', []), ('ruled', []), ('shadow', [])])
def test_what_is_not_one_digit_is_refused(digits, name, numbers):
    """Two digits, or paper alone: neither a shadow's edge nor the paper's lines are ink."""
    file = photograph(digits[0][numbers], np.random.default_rng(0), **CONDITIONS[name])
    with pytest.raises(mnist.common.Refused):
        mnist.digit.digit(file)


def test_small_picture_of_several_digits_is_refused(digits):
    row = np.concatenate([image[:, 4:24] for image in digits[0][:3]], 1)
    Image.fromarray(255 - row).save(file := io.BytesIO(), 'png')
    with pytest.raises(mnist.common.Refused, match='side by side'):
        mnist.digit.digit(file)
