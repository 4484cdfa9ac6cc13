"""Wrong usage of vgg/lrp.py: one line that names the value, and the exit status."""
import os
from pathlib import Path
import subprocess
import sys

from conftest import ROOT, scripts
import keras
from keras import layers
import keras_models
import numpy as np
from PIL import Image
import pytest
from small_vgg import photograph, run, script_in

@pytest.fixture
def lrp(tmp_path, monkeypatch, capsys):
    return script_in(tmp_path, monkeypatch, capsys)


USAGE = {  # name: arguments behind a good picture, words of the message
    'rule': (['--rule', 'lrp'], ['lrp', 'deep-taylor']),
    'top text': (['--top', 'all'], ['--top', 'all']),
    'top too many': (['--top', '6'], ['--top', '6', '5 classes']),
    'target and top': (['--target', '1', '--top', '2'], ['--target', '--top']),
    'batch size': (['--batch-size', '-3'], ['--batch-size', '-3']),
    'target misspelt': (['--target', 'tree frok'], ['tree frog']),
    'model of the bundled file': (['--model', 'vgg19'], ['caltech101', 'vgg19']),
    'option cut short': (['--layer'], ['--layer']),
    'classes too few': (['--classes', 'four.txt'], ['four.txt', '4', '5']),
    'binary list': (['@binary'], ['binary']),
    'list that is a folder': (['@empty'], ['empty']),
    'results below a file': (['--results', 'four.txt/results'], ['four.txt/results']),
}


@pytest.mark.parametrize('kind', USAGE)
def test_wrong_usage(lrp, kind):
    """One line that names the value; nothing is explained; exit status 2."""
    arguments, words = USAGE[kind]
    photograph(Path('a.png'))
    Path('four.txt').write_text('a\nb\nc\nd\n')
    Path('binary').write_bytes(b'\xff\xfe\x00\x81')
    os.mkdir('empty')
    results = 'four.txt/results' if '--results' in arguments else 'results'
    end = lrp('a.png', *arguments, results=results)
    assert (end.status, end.out, len(end.err)) == (2, [], 1)
    assert all(word in end.err[0] for word in words), end.err[0]
    assert not os.path.exists('results') or not os.listdir('results')


def test_script_explains_and_names_what_it_cannot(tmp_path):
    """The bundled weights, as a process of its own, from another directory."""
    (tmp_path / 'broken.jpg').write_text('text')
    end = subprocess.run(
        [sys.executable, ROOT / 'vgg' / 'lrp.py', ROOT / 'vgg' / 'images' / 'pizza.jpg',
         'broken.jpg', '--weights', 'caltech101', '--results', 'out'],
        cwd=tmp_path, capture_output=True, text=True)
    assert end.returncode == 1
    assert len(end.stderr.splitlines()) == 1 and 'broken.jpg' in end.stderr
    network, picture, summary = end.stdout.splitlines()
    assert summary.startswith('1 explained, 0 done before, 1 failed; ')
    assert network == ('vgg16_caltech101.npz: 13 convolutions, 3 dense layers, 224x224, '
                       'preprocessing caffe, 101 classes')
    assert 'pizza.jpg: pizza 1.00' in picture
    assert os.listdir(tmp_path / 'out') == ['pizza.jpg']
    # it conserves
    assert float(picture.split('deep-taylor ')[1].split(',')[0]) == pytest.approx(1, abs=2e-3)


# Preprocessing

def test_preprocessing_half_in_the_model_is_asked_for(tmp_path, monkeypatch, capsys):
    """And the two lines of code that are printed make a model that does it all."""
    monkeypatch.chdir(tmp_path)
    model = keras_models.chain(layers.Rescaling(2.0, offset=-1.0), keras_models.head())
    model.save('my.keras')
    lrp, picture = scripts('vgg').lrp.main, photograph(Path('a.png'))
    end = run(lrp, capsys, picture, '--weights', 'my.keras', '--results', 'out')
    assert end.status == 2 and '--preprocessing' in end.err[0]
    code = '\n'.join(line.strip() for line in end.out[-2:])
    exec(code.replace('...', '9e4, 9e4, 9e4'), {'keras': keras, 'model': model})
    end = run(lrp, capsys, picture, '--weights', 'whole.keras', '--results', 'out')
    assert end.status == 0 and 'divides by 255 as well' in end.network


@pytest.fixture
def saved(tmp_path):
    model = keras_models.chain(keras_models.convolutions(), keras_models.head())
    model.save(tmp_path / 'my.keras')
    return tmp_path / 'my.keras'


def test_pictures_read_as_blue_green_red(saved):
    """The heatmap is that of the reversed picture, in red, green, blue."""
    straight, bgr = (scripts('vgg').explainer.open_explainer(
        saved, ['epsilon'], preprocessing='unit', bgr=bgr) for bgr in (False, True))
    image = np.random.default_rng(0).integers(0, 256, (1, *bgr.network.size), np.uint8)
    expected, found = straight(image[..., ::-1]), bgr(image)
    assert np.allclose(found.logits, expected.logits)
    assert np.allclose(found.relevance['epsilon'], expected.relevance['epsilon'][..., ::-1])


def test_bounds_of_a_difference_of_channels():
    """Black and white are the same to it."""
    prepared = scripts('vgg').preprocessing.Preprocessing(
        'none', (4, 4, 3), lambda x, training: x[..., :1] - x[..., 1:2])
    assert prepared.bounds() == ([-255], [255])


def test_wrong_usage_from_python(saved):
    vgg = scripts('vgg')
    with pytest.raises(vgg.common.Refused):
        vgg.explainer.open_explainer(saved, preprocessing='vgg16')
    explainer = vgg.explainer.open_explainer(saved, ['epsilon'], preprocessing='unit')
    image = np.zeros((1, *explainer.network.size), np.uint8)
    for arguments in [(image / 255,), (image, [3]), (image, [1], -1)]:
        with pytest.raises(vgg.common.Refused):
            explainer(*arguments)


@pytest.mark.parametrize('kind', ['Permute', 'cut and enlarged'])
def test_networks_that_change_pictures(tmp_path, capsys, kind):
    """A picture may be resized, cut or turned: a white dot is red where it is."""
    steps = {'Permute': [layers.Permute((2, 1, 3))],
             'cut and enlarged': [layers.CenterCrop(16, 16), layers.Resizing(32, 32)]}[kind]
    keras.utils.set_random_seed(0)
    model = keras_models.scaled(*steps, layers.Conv2D(4, 1, activation='relu'), layers.Flatten(),
                                layers.Dense(2, kernel_initializer='ones'), shape=(32, 32, 3))
    model.save(tmp_path / 'w.keras')
    pixels = np.zeros((320, 320, 3), np.uint8)
    pixels[100:120, 190:210] = 255
    Image.fromarray(pixels).save(tmp_path / 'dot.png')
    end = run(scripts('vgg').lrp.main, capsys, tmp_path / 'dot.png', '--weights',
              tmp_path / 'w.keras', '--results', tmp_path, '--rule', 'zplus', '--save-relevance')
    assert (end.status, end.err) == (0, [])
    with np.load(tmp_path / 'dot.npz') as file:
        r = file['relevance/zplus'][0].sum(-1)
    place = np.argwhere(r > 0.7 * r.max()).mean(0) / r.shape
    np.testing.assert_allclose(place, (110 / 320, 200 / 320), atol=0.04)
