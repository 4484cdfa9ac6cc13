"""Networks that users bring along: rebuilt, they compute what Keras computes, and are explained as
it is right. The models are those of keras_models.py."""
from functools import partial

from conftest import scripts
import keras
import keras_models
import numpy as np
import oracle
import pytest
from small_vgg import photograph, run
import tensorflow as tf

VGG = scripts('vgg')


def opened(source, composites, mode=None):
    """A model or a file, opened as the script does."""
    return VGG.explainer.open_explainer(source, composites, preprocessing=mode,
                                        precision='float64', gradient=True)


def pictures(size, n=3):
    """Pictures of blocks, as the network sees them: [n, height, width, channels] uint8."""
    shape = n, -(-size[0] // 5), -(-size[1] // 5), size[2]
    blocks = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    return blocks.repeat(5, 1).repeat(5, 2)[:, :size[0], :size[1]]


def assert_outputs(explainer, model, mode):
    """Outputs are those of Keras itself in float32; one sigmoid makes two classes."""
    network, images = explainer.network, pictures(explainer.network.size)
    x = np.float32(images) / (255 if mode == 'unit' else 1)
    if mode in ('caffe', 'tf', 'torch'):
        x = keras.applications.imagenet_utils.preprocess_input(x, mode=mode)
    for layer in model._flatten_layers():
        layer.dtype_policy = 'float32'
    expected, logits = model(x, training=False), explainer.classify(images)
    expected = np.float64(keras.tree.flatten(expected)[0])  # it may be in a dict
    if network.end == 'sigmoid' and expected.shape[-1] == 1:
        expected = np.concatenate([1 - expected, expected], -1)
    expected = network.probabilities(expected) if network.gives_logits else expected
    assert np.ptp(logits, 0).max() > 1e-3  # it is alive: pictures differ
    apart = np.abs(network.probabilities(logits) - expected).max()
    assert apart < 1e-4 * max(1, np.abs(expected).max())


def attributed(monkeypatch):
    """Lets gradients see gates, and what an activation makes of each number, as constants."""
    model, tf1 = VGG.model, VGG.common.tf
    activate, computed = model.activate, model.computed

    def constant_slope(activation, z):
        y = activate(activation, z)
        return y if activation == 'linear' else z * tf1.stop_gradient(tf1.div_no_nan(y, z))

    def constant_gate(layer, inputs, weights):
        if layer.kind == 'gate':
            return inputs[0] * tf1.stop_gradient(inputs[1])
        return computed(layer, inputs, weights)
    monkeypatch.setattr(model, 'activate', constant_slope)
    monkeypatch.setattr(model, 'computed', constant_gate)


@pytest.mark.parametrize('name', keras_models.MODELS)
def test_explained_as_keras_computes(monkeypatch, capsys, name):
    """Outputs are Keras's, and epsilon is gradient x input."""
    mode, model, rules = keras_models.MODES.get(name), keras_models.build(name), VGG.rules
    attributed(monkeypatch)
    monkeypatch.setattr(rules, 'epsilon', partial(rules.epsilon, eps=1e-12))
    explainer = opened(model, {'epsilon': rules.Composite(*[rules.epsilon] * 4)}, mode)
    assert capsys.readouterr().out.endswith('; outputs match Keras\n')
    assert_outputs(explainer, model, mode)
    images, targets = pictures(explainer.network.size, 2), [0, explainer.network.count - 1]
    found = explainer(images, targets).relevance['epsilon'].sum(-1)
    expected = explainer.gradient_times_input(images, targets).sum(-1)
    assert np.abs(expected).max() > 1e-3
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_live_model_is_left_as_it_is(tmp_path):
    """Its logits are those of its file, .keras or .h5."""
    model, images = keras_models.build('fine-tuned'), pictures(keras_models.POOLED)

    def state():
        arrays = model(np.float32(images), training=False).numpy(), *model.get_weights()
        return [model.get_config(), [len(each._inbound_nodes) for each in model.layers],
                *map(np.ndarray.tolist, arrays)]
    before, found = state(), opened(model, []).classify(images)
    assert state() == before
    for name in 'my.keras', 'my.h5':
        model.save(tmp_path / name)
        np.testing.assert_array_equal(opened(tmp_path / name, []).classify(images), found)
    with pytest.raises(VGG.common.Refused, match='--preprocessing'):
        opened(keras_models.build('vgg'), [])


# One sigmoid

def test_one_sigmoid_is_two_classes_with_a_row_of_weights_each():
    """z+ on -w is not minus z+ on w: against loops over a dense layer with two rows."""
    keras.utils.set_random_seed(0)
    model = keras_models.chain(
        keras.layers.Conv2D(3, 3, activation='relu'), keras.layers.Flatten(),
        keras.layers.Dense(1, activation='sigmoid'), shape=(5, 5, 3))
    explainer = opened(keras_models.randomise(model), ['deep-taylor', 'alpha2beta1'], 'unit')
    (w, b), (row, shift) = (layer.get_weights() for layer in model.layers if layer.weights)
    rows, shifts = np.concatenate([-row, row], 1), np.concatenate([-shift, shift])
    images = np.random.default_rng(0).integers(0, 256, (1, 5, 5, 3), np.uint8)
    conv, _, dense = explainer.network.layers
    maps = tf.nn.relu(tf.nn.conv2d(images / 255, np.float64(w), 1, 'VALID') + b).numpy()
    units = maps.reshape(1, -1)
    for target in 0, 1:
        found = explainer(images, [target])
        logits = units @ rows + shifts
        np.testing.assert_allclose(found.logits, logits, rtol=1e-6)
        r = np.abs(logits) * np.eye(2)[target]
        by_hand = oracle.zplus(dense, units, rows, shifts, r).reshape(maps.shape)
        by_hand = oracle.zbeta(conv, images / 255, w, b, by_hand, 0.0, 1.0)
        np.testing.assert_allclose(found.relevance['deep-taylor'], by_hand, atol=1e-4)
        by_hand = oracle.alpha_beta(dense, units, rows, shifts, r, 2.0, 1.0).reshape(maps.shape)
        by_hand = oracle.alpha_beta(conv, images / 255, w, b, by_hand, 2.0, 1.0)
        np.testing.assert_allclose(found.relevance['alpha2beta1'], by_hand, atol=1e-6)


def test_preprocessing_is_never_guessed(tmp_path, capsys):
    """Five lines say what the network sees in the first picture with each, then the run stops."""
    main, modes = VGG.lrp.main, VGG.preprocessing.MODES
    keras_models.build('grey').save(tmp_path / 'my.keras')
    options = [photograph(tmp_path / 'a.png'), '--weights', tmp_path / 'my.keras', '--results',
               tmp_path / 'out']
    end = run(main, capsys, *options)
    assert end.status == 2 and len(end.err) == 1
    assert '--preprocessing caffe|tf|torch|unit|none' in end.err[0]
    assert not list((tmp_path / 'out').glob('*'))
    seen = {mode: line for line in end.out for mode in modes if f'--preprocessing {mode}' in line}
    assert 'not for grey' in seen['caffe'] and 'not for grey' in seen['torch']
    line = run(main, capsys, *options, '--preprocessing', 'unit').out[0]
    assert seen['unit'].split(' in ')[0].split('class ')[1] in line, (seen, line)
    end = run(main, capsys, *options, '--preprocessing', 'caffe')
    assert end.status == 2 and 'three colours' in end.err[0]
