"""What is given to vgg/lrp.py and to its functions in Python: explained rightly, or refused in one
line that names the value."""
import os
from pathlib import Path

from conftest import ROOT, run as start, scripts
import keras
from keras import layers
import keras_models
import numpy as np
from PIL import Image
import pytest
from small_vgg import photograph, run, script_in

VGG, RULE = scripts('vgg'), 'epsilon-gamma-box'


def test_script_explains_and_names_what_it_cannot(tmp_path):
    """The bundled EfficientNet, as a process of its own, from another directory."""
    (tmp_path / 'broken.jpg').write_text('text')
    end = start('vgg/lrp.py', ROOT / 'vgg' / 'images' / 'panda.jpg', 'broken.jpg', '--weights',
                'lite0', '--rule', 'zplus', '--results', 'out', cwd=tmp_path)
    assert end.returncode == 1
    assert len(end.stderr.splitlines()) == 1 and 'broken.jpg' in end.stderr
    network, picture, summary = end.stdout.splitlines()
    assert network.endswith('preprocessing in the model, 1000 classes; outputs match Keras')
    assert 'panda.jpg: giant panda 0.8' in picture
    assert summary.startswith('1 explained, 0 done before, 1 failed; ')
    assert os.listdir(tmp_path / 'out') == ['panda.jpg']


def test_wrong_usage(tmp_path, monkeypatch, capsys):
    """One line that names the value; nothing is explained; exit status 2."""
    lrp, picture = script_in(tmp_path, monkeypatch, capsys), photograph(Path('a.png'))
    Path('four.txt').write_text('a\nb\nc\nd\n')
    for arguments, words in [
            ('--rule lrp', ['lrp', 'deep-taylor']), ('--top 6', ['--top', '6', '5 classes']),
            ('--target 1 --top 2', ['--target', '--top']), ('--target tree_frok', ['tree_frok']),
            ('--model vgg19', ['caltech101', 'vgg19']), ('--batch-size -3', ['--batch-size', '-3']),
            ('--layer', ['--layer']),  # not --layers
            ('--classes four.txt', ['four.txt', '4', '5'])]:
        end = lrp(picture, *arguments.split())
        assert (end.status, end.out, len(end.err)) == (2, [], 1)
        assert all(word in end.err[0] for word in words), end.err[0]
    assert not os.path.exists('results') or not os.listdir('results')
    assert 'four.txt/results' in lrp(picture, results='four.txt/results').err[0]


# Preprocessing

def test_preprocessing_half_in_the_model_is_asked_for(tmp_path, monkeypatch, capsys):
    """And the two lines of code that are printed make a model that does it all."""
    monkeypatch.chdir(tmp_path)
    model = keras_models.chain(layers.Rescaling(2.0, offset=-1.0), keras_models.head())
    model.save('my.keras')
    lrp, picture = VGG.lrp.main, photograph(Path('a.png'))
    end = run(lrp, capsys, picture, '--weights', 'my.keras', '--results', 'out')
    assert end.status == 2 and '--preprocessing' in end.err[0]
    code = '\n'.join(line.strip() for line in end.out[-2:])
    exec(code.replace('...', '9e4, 9e4, 9e4'), {'keras': keras, 'model': model})
    end = run(lrp, capsys, picture, '--weights', 'whole.keras', '--results', 'out')
    assert end.status == 0 and 'divides by 255 as well' in end.network


@pytest.fixture(scope='module')
def model():
    return keras_models.randomise(
        keras_models.chain(keras_models.convolutions(), keras_models.head(5)))


def test_pictures_read_as_blue_green_red(model):
    """The heatmap is that of the reversed picture, in red, green, blue."""
    straight, bgr = (VGG.explainer.open_explainer(model, ['epsilon'], preprocessing='unit', bgr=bgr)
                     for bgr in (False, True))
    image = np.random.default_rng(0).integers(0, 256, (1, *bgr.network.size), np.uint8)
    expected, found = straight(image[..., ::-1]), bgr(image)
    assert np.allclose(found.logits, expected.logits)
    assert np.allclose(found.relevance['epsilon'], expected.relevance['epsilon'][..., ::-1])


def test_bounds_of_a_difference_of_channels():
    """Black and white are the same to it."""
    prepared = VGG.preprocessing.Preprocessing(
        'none', (4, 4, 3), lambda x, training: x[..., :1] - x[..., 1:2])
    assert prepared.bounds() == ([-255], [255])


@pytest.mark.parametrize('steps', [
    [layers.Permute((2, 1, 3))], [layers.CenterCrop(16, 16), layers.Resizing(32, 32)]])
def test_networks_that_change_pictures(steps):
    """A picture may be resized, cut or turned: a white dot is red where it is."""
    keras.utils.set_random_seed(0)
    model = keras_models.scaled(*steps, layers.Conv2D(4, 1, activation='relu'), layers.Flatten(),
                                layers.Dense(2, kernel_initializer='ones'), shape=(32, 32, 3))
    pixels = np.zeros((320, 320, 3), np.uint8)
    pixels[100:120, 190:210] = 255
    r = VGG.explainer.open_explainer(model, ['zplus'])(pixels).relevance['zplus'][0].sum(-1)
    place = np.argwhere(r > 0.7 * r.max()).mean(0) / r.shape
    np.testing.assert_allclose(place, (110 / 320, 200 / 320), atol=0.04)


# From Python

@pytest.fixture(scope='module')
def explainer(model):
    return VGG.explainer.open_explainer(model, RULE, preprocessing='tf')


def test_one_picture_or_many_of_any_kind(explainer, tmp_path):
    path = photograph(tmp_path / 'a.png')
    image = Image.open(path)
    expected = explainer([path]).relevance[RULE]
    for pictures in (path, str(path), image, np.asarray(image), [str(path), image],
                     np.stack([np.asarray(image)] * 3)):
        found = explainer(pictures).relevance[RULE]
        several = isinstance(pictures, list) or getattr(pictures, 'ndim', 0) == 4
        assert found.shape == (len(pictures) if several else 1, *explainer.network.size)
        np.testing.assert_allclose(found[:1], expected, atol=1e-6 * np.abs(expected).max())


def test_grey_and_transparent_pictures_are_seen_as_their_files_are(explainer, tmp_path):
    for mode, channels in ('L', 1), ('RGBA', 4), ('I;16', 1):
        pixels = np.random.default_rng(0).integers(0, 256, (9, 9, channels), np.uint8).squeeze()
        image = Image.fromarray(pixels).convert(mode)
        image.save(tmp_path / 'a.png')
        np.testing.assert_array_equal(explainer.classify(image),
                                      explainer.classify(tmp_path / 'a.png'))


def test_one_target_or_many(explainer):
    images = np.random.default_rng(0).integers(0, 256, (2, *explainer.network.size), np.uint8)
    assert explainer(images, 3).targets.tolist() == [3, 3]
    assert explainer(images, [3, 1]).targets.tolist() == [3, 1]


def test_what_is_refused_from_python(explainer, model):
    """What is no picture, no class, no rule, no preprocessing."""
    image = np.zeros((1, *explainer.network.size), np.uint8)
    for arguments in [(image / 255,), (np.zeros(4, np.uint8),), ('nothing.png',), (image, [9]),
                      (image, [1], -1)]:
        with pytest.raises(VGG.common.Refused):
            explainer(*arguments)
    for arguments in [{'rules': 'gama'}, {'preprocessing': 'vgg16'}]:
        with pytest.raises(VGG.common.Refused, match='gama|vgg16'):
            VGG.explainer.open_explainer(model, **{'preprocessing': 'tf', **arguments})
