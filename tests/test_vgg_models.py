"""Networks that users bring along, saved whole by Keras: rebuilt, they compute what Keras computes,
and are explained as it is right.

The models are those of keras_models.py. What is expected of them is computed by Keras itself,
eagerly.
"""
import re

from conftest import ROOT, scripts
import keras
import keras_models
import numpy as np
import pytest
from small_vgg import photograph, run
import tensorflow as tf

CONSERVING = {'deep-taylor', 'zplus', 'wsquare', 'alpha1beta0'}


@pytest.fixture
def opened(tmp_path):
    """A function: saves a model and opens it as the script does. Returns the model and the
    explainer."""
    made = []

    def open_saved(name, composites, file='my.keras', precision='float32', lifted=True):
        model = keras_models.build(name, lifted)
        model.save(tmp_path / file)
        options = dict(re.findall(r'--(\w+) (\w+)', keras_models.MODELS[name][1]))
        explainer = scripts('vgg').lrp.open_explainer(str(tmp_path / file), composites,
                                                      preprocessing=options.get('preprocessing'),
                                                      precision=precision)
        made.append(explainer.session)
        return model, explainer
    yield open_saved
    for session in made:
        session.close()


def pictures(size, n=3):
    """Pictures as the network sees them: [n, height, width, channels] uint8, blocks of some
    pixels."""
    blocks = np.random.default_rng(1).integers(0, 256,
                                               (n, -(-size[0] // 5), -(-size[1] // 5), size[2]),
                                               np.uint8)
    return blocks.repeat(5, 1).repeat(5, 2)[:, :size[0], :size[1]]


def outputs(model, explainer, images):
    """What Keras gives to images: its outputs, after the preprocessing that stands before the
    model."""
    mode = explainer.network.prepare.mode
    x = np.float32(images)
    if mode == 'unit':
        x = x / 255
    elif mode != 'none':
        x = keras.applications.imagenet_utils.preprocess_input(x, mode=mode)
    for layer in keras_models.everything(model):
        layer.dtype_policy = 'float32'
    return model(tf.constant(x), training=False), x


def as_classes(found):
    """Keras's outputs, one sigmoid as two classes."""
    found = np.asarray(found, np.float64)
    return np.concatenate([1 - found, found], -1) if found.shape[-1] == 1 else found


@pytest.mark.parametrize('name', keras_models.MODELS)
def test_explained_as_keras_computes(opened, capsys, name):
    """Outputs are Keras's, epsilon is its gradient x input, and the first line of output says what
    was read."""
    model, explainer = opened(name, ['epsilon'], precision='float64')
    line, = capsys.readouterr().out.splitlines()
    assert line.startswith('my.keras: ') and line.endswith('; outputs match Keras')
    assert keras_models.MODELS[name][2] in line
    images = pictures(explainer.network.size)
    expected, _ = outputs(model, explainer, images)
    logits = explainer.classify(images)
    # alive: pictures differ
    assert logits.shape == (3, explainer.network.count) and np.ptp(logits, 0).max() > 1e-3
    last = model.layers[-1]
    if getattr(last, 'activation', None) is keras.activations.linear:
        assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    else:
        found = explainer.network.probabilities(logits)
        assert np.abs(found - as_classes(expected)).max() < 1e-4
    if explainer.pixels.shape[1:3] == explainer.network.size[:2]:  # else resized: other pixels
        assert_epsilon_is_gradient_times_input(model, explainer)


@pytest.mark.parametrize('file', ['my.keras', 'my.h5'])
@pytest.mark.parametrize('name',
                         ['vgg', 'rescaling around zero, augmentation', 'twice nested',
                          'batch normalisation after ReLU', 'one sigmoid'])
def test_both_files_that_keras_3_writes(opened, name, file):
    model, explainer = opened(name, [], file)
    images = pictures(explainer.network.size)
    expected, _ = outputs(model, explainer, images)
    assert np.abs(explainer.network.probabilities(explainer.classify(images))
                  - as_classes(expected)).max() < 1e-4


def assert_epsilon_is_gradient_times_input(model, explainer):
    """The gradient is Keras's own, at its logits, with regard to the picture that is given to the
    model; what the model makes of the picture before its first layer is affine in each pixel, so
    the gradient at that layer is that one over the slope."""
    network, images = explainer.network, pictures(explainer.network.size, 2)
    last = [layer for layer in model.layers if not isinstance(layer, keras.layers.Dropout)][-1]
    if getattr(last, 'activation', None) in (keras.activations.softmax, keras.activations.sigmoid):
        last.activation = keras.activations.linear
    if isinstance(last, (keras.layers.Softmax, keras.layers.Activation)):
        model = keras.Model(model.inputs, model.layers[-2].output)
    _, x = outputs(model, explainer, images)
    x = tf.Variable(x)
    results = explainer(images, [0, explainer.network.count - 1])
    with tf.GradientTape() as tape:
        z = model(x, training=False)
        z = tf.concat([-z, z], -1) if network.end == 'sigmoid' and z.shape[-1] == 1 else z
        chosen = z[0, 0] + z[1, -1]
    gradient = tape.gradient(chosen, x).numpy()
    at = network.prepare(np.float64(images))
    black, white = (network.prepare(np.full(images.shape, shade, np.float64)) for shade in (0, 255))
    outer = [scripts('vgg').preprocessing.Preparation(network.prepare.mode)(np.full(images.shape,
        shade, np.float64)) for shade in (0, 255)]
    slope = (white - black) / (outer[1] - outer[0]
                               if not network.bgr else (outer[1] - outer[0])[..., ::-1])
    if network.bgr and network.prepare.mode != 'caffe':  # reversed inside the model
        gradient = gradient[..., ::-1]
    if gradient.shape[-1] < at.shape[-1]:  # one channel given three times: compared in sum
        found, expected = results.relevance['epsilon'].sum(-1), (at[..., 0]
            / slope[..., 0]) * gradient[..., 0]
    else:
        expected = at / slope * gradient
        expected = expected[..., ::-1] if network.bgr else expected
        found = results.relevance['epsilon']
    assert np.abs(expected).max() > 1e-3
    # the stabiliser's share, where z is small
    assert np.abs(found - expected).max() < 3e-3 * np.abs(expected).max()


@pytest.mark.parametrize('name', list(keras_models.MODELS)[::3])  # each takes half a second
def test_rules_that_conserve_do(opened, name):
    """deep-taylor and wsquare, to the pixels, in a network without units that their bias alone
    lifts."""
    _, explainer = opened(name, ['deep-taylor', 'wsquare'], precision='float64', lifted=False)
    results = explainer(pictures(explainer.network.size, 2), [-1, -1])
    for composite in ('deep-taylor', 'wsquare'):
        start = results.started[composite][:, 0]
        if not (start > 0).any():  # one value, which nothing raises
            continue
        kept = (results.relevance[composite].reshape(2, -1).sum(1)[start > 0] / start[start > 0])
        # its shift takes some
        scaled = any(layer.kind == 'scale' for layer in explainer.network.layers)
        # windows with none but negative inputs have nothing that lifts them
        if name == 'linear maps, averaged' or scaled:
            assert (0 < kept).all() and (kept < 1).all()
        else:
            assert np.abs(kept - 1).max() < 1e-6


WHOLE = ['one sigmoid', 'resizing inside', 'grey', 'batch normalisation after ReLU',
         'linear layers', 'convolutions alone']


@pytest.mark.parametrize('name', WHOLE)
def test_all_that_is_written(tmp_path, capsys, name):
    """Every composite, --layers and --save-relevance, of the model's own size."""
    vgg, model = scripts('vgg'), keras_models.build(name)
    model.save(tmp_path / 'my.keras')
    end = run(vgg.lrp.main, capsys, photograph(tmp_path / 'a.png', seed=1),
              photograph(tmp_path / 'b.png', seed=2), '--weights',
              tmp_path / 'my.keras', '--rule', *vgg.rules.COMPOSITES, '--layers',
              '--save-relevance', '--results', tmp_path / 'out',
              *keras_models.MODELS[name][1].split())
    assert (end.status, end.err, len(end.out)) == (0, [], 2)
    assert end.network.endswith("outputs match Keras")
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'a.jpg', 'a.npz', 'a_layers.jpg', 'b.jpg', 'b.npz', 'b_layers.jpg']
    with np.load(tmp_path / 'out' / 'a.npz') as saved:
        assert saved['image'].shape == tuple(side or 224 for side in model.input_shape[1:])
        for composite in vgg.rules.COMPOSITES:
            r = saved[f'relevance/{composite}']
            size = (24, 24, 3) if name == 'resizing inside' else saved['image'].shape
            assert r.shape == (1, *size) and np.isfinite(r).all() and r.any()


@pytest.mark.parametrize('name', WHOLE[:3])
def test_evaluation_scripts(tmp_path, capsys, name):
    """Regions and random layers follow the model: its size, its layers, two logits -z and z that
    stay so."""
    vgg = scripts('vgg')
    keras_models.build(name).save(tmp_path / 'my.keras')
    pictures = [photograph(tmp_path / f'{seed}.png', seed=seed) for seed in (1, 2)]
    options = [*pictures, '--weights', tmp_path / 'my.keras', '--rule', 'deep-taylor', 'epsilon',
               '--results', tmp_path / 'out',
               *keras_models.MODELS[name][1].split()]
    flipped = run(vgg.flip.main, capsys, *options, '--steps', 2)
    assert (flipped.status, flipped.err) == (0, []) and (tmp_path / 'out' / 'flipping.png').exists()
    randomised = run(vgg.randomise.main, capsys, *options)
    assert (randomised.status, randomised.err) == (0, [])
    assert (tmp_path / 'out' / 'randomise.png').exists()
    stages = [line.split()[0]
              for line in (tmp_path / 'out' / 'randomise.txt').read_text().splitlines()]
    assert stages[-1] != 'intact' and 'nan' not in ''.join(randomised.out)


def test_permuting_a_mirrored_kernel_keeps_it_mirrored():
    kernel = np.random.default_rng(0).normal(size=(50, 1)) * [-1, 1]
    permuted, _ = scripts('vgg').randomise.randomised(kernel, kernel[0], 'permute',
                                                      np.random.default_rng(1))
    assert (permuted[:, 0] == -permuted[:, 1]).all() and (permuted != kernel).mean() > 0.5
    np.testing.assert_array_equal(np.sort(permuted, 0), np.sort(kernel, 0))


@pytest.mark.parametrize('name', ['vgg', 'grey', 'one logit, not prepared'])
def test_preprocessing_is_never_guessed(tmp_path, capsys, name):
    """Five lines say what the network sees in the first picture with each, then the run stops."""
    vgg = scripts('vgg')
    model = keras_models.chain(keras_models.convolutions(), keras_models.head(1, None)) \
        if 'one' in name else keras_models.build(name)
    keras_models.randomise(model).save(tmp_path / 'my.keras')
    options = [photograph(tmp_path / 'a.png'), '--weights', tmp_path / 'my.keras', '--results',
               tmp_path / 'r']
    end = run(vgg.lrp.main, capsys, *options)
    assert end.status == 2
    assert len(end.err) == 1
    assert '--preprocessing caffe|tf|torch|unit|none' in end.err[0]
    assert not list((tmp_path / 'r').iterdir())
    for mode in 'unit', 'none':
        seen, = [line for line in end.out if f'--preprocessing {mode}' in line]
        line, = run(vgg.lrp.main, capsys, *options, '--overwrite', '--preprocessing', mode).out
        words, found = (text.split('.png')[i].split() for text, i in ((seen, 0), (line, 1)))
        assert f"{words[-4]} {words[-3]}".removeprefix('output ') in ' '.join(found), (seen, line)
    if name == 'grey':
        end = run(vgg.lrp.main, capsys, *options, '--preprocessing', 'caffe')
        assert end.status == 2 and 'three colours' in end.err[0]


def test_one_linear_output_is_a_value(opened, capsys):
    """Explained as it is, of whatever sign: no class, no probability."""
    model, explainer = opened('one logit', ['epsilon', 'deep-taylor'])
    images = pictures(explainer.network.size)
    expected, _ = outputs(model, explainer, images)
    found = explainer(images)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.started['epsilon'][:, 0], np.ravel(expected), rtol=1e-4,
                               atol=1e-4)
    assert (found.started['deep-taylor'][:, 0] >= 0).all()


def test_what_biases_take_is_said(tmp_path, capsys):
    """A network whose logit is all bias: its line says that most relevance did not arrive."""
    model = keras_models.build('rescaling')
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 1e-3, bias + 50])
    model.save(tmp_path / 'my.keras')
    options = [photograph(tmp_path / 'a.png'), '--weights', tmp_path / 'my.keras', '--results',
               tmp_path / 'r']
    line, = run(scripts('vgg').lrp.main, capsys, *options, '--rule', 'epsilon', 'zplus').out
    assert line.endswith('biases took over nine tenths of the relevance: epsilon'), line


@pytest.mark.parametrize('family, activated', [('ResNet50V2', 'relu'), ('EfficientNetB0', 'swish')])
def test_networks_of_keras_applications(family, activated):
    """Branches, depthwise convolutions, gates, with random statistics: outputs are Keras's, and
    epsilon is gradient x input where all activations are ReLU."""
    keras.utils.clear_session()
    model = getattr(keras.applications, family)(weights=None, input_shape=(64, 64, 3), classes=5)
    rng = np.random.default_rng(0)
    for layer in keras_models.everything(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                positive = weight.name in ('gamma', 'moving_variance')
                values = rng.uniform(0.5, 1.5, weight.shape)
                weight.assign(values if positive else 0.2 * values - 0.2)
    vgg = scripts('vgg')
    network = vgg.network.of_model('my.keras', model, 'tf')
    explainer = vgg.explainer.Explainer(network, ['epsilon', 'epsilon-gamma-box', 'deep-taylor'],
                                        gradient=True)
    images = pictures(explainer.network.size, 1)
    found = explainer(images)
    vgg.network.compare(network, vgg.network.by_keras(network, images),
                        network.probabilities(found.logits), ['noise'], 'float32')
    assert all(np.isfinite(r).all() and r.any() for r in found.relevance.values())
    if activated == 'relu':
        expected = explainer.gradient_times_input(images, found.targets)
        assert np.corrcoef(found.relevance['epsilon'].ravel(), expected.ravel())[0, 1] > 0.999


def test_bundled_efficientnet_knows_a_panda(tmp_path, capsys):
    panda = ROOT / 'vgg' / 'images' / 'panda.jpg'
    end = run(scripts('vgg').lrp.main, capsys, panda, '--weights', 'lite0', '--results', tmp_path)
    assert end.status == 0 and end.network.endswith('1000 classes; outputs match Keras')
    assert ': giant panda 0.8' in end.out[0] and 'biases took over nine tenths' in end.out[0]
