"""What single channels saw: vgg/concepts.py and vgg/evaluate.py concepts, on small networks."""
import functools
from pathlib import Path

from conftest import scripts
import keras
from keras import layers
import numpy as np
import oracle
import pytest
from small_vgg import photograph, run

vgg = scripts('vgg')
RULE, PICTURES = 'epsilon-gamma-box', ['a.png', 'b.png', 'c.png']
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    """A network with two convolutions in a row, then one that an addition bypasses."""
    keras.utils.set_random_seed(3)
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding='same', activation='relu', name='first')(pixels)
    x = layers.Conv2D(5, 3, strides=2, padding='same', activation='relu', name='second')(x)
    branch = layers.Conv2D(5, 3, padding='same', activation='relu', name='branch')(x)
    x = layers.Flatten()(layers.Add(name='sum')([x, branch]))
    model = keras.Model(pixels, layers.Dense(3, name='logits', bias_initializer='normal')(x))
    path = tmp_path_factory.mktemp('networks') / 'net.keras'
    model.save(path)
    return path


@pytest.fixture(scope='module')
def opened(path):
    """A function: the explainer of the network for the channels of a layer."""
    return functools.cache(lambda layer: vgg.explainer.open_explainer(
        path, [RULE], preprocessing='unit', precision='float64', gradient=True, channels_of=layer))


def by_channel(explainer):
    """The heatmaps of all five channels of the first image: [5, height, width, 3]."""
    return explainer.channels(IMAGES[:1].repeat(5, 0), np.eye(5)).heatmaps[RULE]


def test_a_channel_against_loops(opened):
    explainer, pixels = opened('second'), IMAGES[:1] / 255
    (first, second), (w, b) = explainer.table[:2], explainer.read('first')
    inside = oracle.positive(oracle.affine(first, pixels, w, b))
    r = np.array(explainer.channels(IMAGES[:1]).maps[RULE])
    r[..., [0, 1, 3, 4]] = 0
    r = oracle.gamma(second, inside, *explainer.read('second'), r)
    r = oracle.zbeta(first, pixels, w, b, r, -1e-6, 1 + 1e-6)
    np.testing.assert_allclose(by_channel(explainer)[2], r[0], atol=1e-12 * np.abs(r).max())


@pytest.mark.parametrize('layer', ['second', 'sum', 'branch'])
def test_channels_add_up(opened, layer):
    """To the walk begun anew from the layer; where nothing bypasses it, to the whole heatmap."""
    explainer = opened(layer)
    whole, added = explainer(IMAGES[:1]).relevance[RULE][0], by_channel(explainer).sum(0)
    anew = explainer.channels(IMAGES[:1], np.ones((1, 5))).heatmaps[RULE][0]
    least = 1e-12 * np.abs(whole).max()
    assert np.abs(added - anew).max() <= least
    assert (np.abs(anew - whole).max() <= least) == (layer != 'branch')
    assert (layer in explainer.passed) == (layer != 'branch')


def test_channels_set_to_zero(opened):
    """As if their weights were zero; and the gradient says what a little less of all would do."""
    explainer, left = opened('second'), np.array([1, 1, 0, 1, 0])
    (a, gradient), (w, b) = explainer.activations(IMAGES), explainer.read('second')
    found = explainer.classify(IMAGES, a * left)
    explainer.replace('second', w * left, b * left)
    np.testing.assert_allclose(found, explainer.classify(IMAGES), rtol=1e-10)
    explainer.replace('second', w, b)
    logits = explainer.classify(IMAGES)
    rise = (explainer.classify(IMAGES, a * (1 + 1e-6)) - logits)[[0, 1], logits.argmax(1)]
    np.testing.assert_allclose((a * gradient).sum((1, 2, 3)), rise / 1e-6, rtol=1e-4)


# The scripts

@pytest.fixture
def script(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(PICTURES):
        photograph(Path(name), seed=seed)
    return lambda main, *arguments: run(main, capsys, *arguments, '--weights', path,
                                        '--preprocessing', 'unit', '--results', 'results')


def test_sheet_is_written_once_and_never_replaces_anothers(script):
    options = [*PICTURES, '--save-relevance', '--channels', 2, '--layer', 'branch']
    end = script(vgg.concepts.main, *options)
    assert (end.status, end.err) == (0, [])
    assert any('branch: ' in line and '; 0.0%' not in line for line in end.out)
    with np.load('results/a_concepts.npz') as file, np.load('results/channels_branch.npz') as kept:
        sums = kept['relevance'][0]
        assert file['channels'].tolist() == np.argsort(-sums)[:2].tolist()
        np.testing.assert_allclose(file['shares'], np.sort(sums)[:-3:-1] / abs(sums.sum()), 1e-4)
        assert file['heatmaps'].shape == (2, 16, 16)
    Path('results/b_concepts.jpg').unlink()
    assert '2 done before, 1 to do' in script(vgg.concepts.main, *options).out[0]
    photograph(Path('other/a.png'), seed=9)
    end = script(vgg.concepts.main, 'other/a.png', '--layer', 'branch')
    assert end.status == 1 and 'a_concepts.jpg' in end.err[0]


def test_experiment(script):
    end = script(vgg.evaluate.main, 'concepts', *PICTURES, '--frame', 'a.png', '--margin', 2)
    assert (end.status, end.err) == (0, [])
    for start in 'channels set to 0', RULE, 'gradient x activation', 'activation', 'random', 'all':
        assert sum(line.strip().startswith(f'{start}  ') for line in end.out) == 1
    image = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    over = vgg.evaluate.EXPERIMENTS['concepts'].painted(image, 2)
    assert (over == 18).sum() == 32  # (14 + 15 + 20 + 21) / 4, rounded to even
