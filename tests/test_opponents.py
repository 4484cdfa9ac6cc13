"""What heatmaps are compared with, against its definition."""
from conftest import scripts
import keras
from keras import layers
import numpy as np
import pytest

vgg = scripts('vgg')
opponents = vgg.opponents
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
TARGETS = np.array([1, 2])


@pytest.fixture(scope='module')
def model():
    """A convolution of 1x1 pixels and stride 2, pooling, and logits: 4x4 maps of 5 channels."""
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(5, 1, strides=2, activation='relu'),
        layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(3, bias_initializer='normal')])


@pytest.fixture(scope='module')
def explainer(model, tmp_path_factory):
    path = tmp_path_factory.mktemp('networks') / 'net.keras'
    model.save(path)
    return vgg.explainer.open_explainer(path, ['epsilon'], preprocessing='unit', gradient=True,
                                        precision='float64')


def test_grad_cam_by_hand(model, explainer):
    """The mean gradient of each channel is a mean of its dense weights; twice as large maps by
    linear interpolation."""
    kernel, bias, dense, _ = (w.astype(np.float64) for w in model.get_weights())
    a = np.maximum((IMAGES / 255)[:, ::2, ::2] @ kernel[0, 0] + bias, 0)
    mean = dense.reshape(2, 2, 5, 3).mean((0, 1)).T[TARGETS] / 4  # each pools four places
    expected = np.maximum((a * mean[:, None, None]).sum(-1), 0)
    place = (np.arange(8) + 0.5) / 2 - 0.5
    for axis in (1, 2):
        expected = np.apply_along_axis(lambda row: np.interp(place, range(4), row), axis, expected)
    maps = opponents.class_maps(explainer, IMAGES, TARGETS)
    found = opponents.grad_cam(explainer, maps)
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.max())
    assert expected.any((1, 2)).all() and (maps < 0).any()


def test_integrated_gradients_are_complete(explainer):
    """They add up to the logit minus that of the black picture (Sundararajan et al., Prop. 1)."""
    found = opponents.integrated_gradients(explainer, IMAGES, TARGETS).sum((1, 2, 3))
    logits, black = explainer.classify(IMAGES), explainer.classify(np.zeros_like(IMAGES))
    np.testing.assert_allclose(found, (logits - black)[[0, 1], TARGETS], rtol=0.01)


def test_smooth_grad_is_a_mean_of_gradients(explainer):
    """Without noise, the gradient; with noise, something else, whatever the batch."""
    gradient = explainer.gradient_times_input(IMAGES, TARGETS)
    plain = opponents.smooth_grad(explainer, IMAGES, TARGETS, [0, 1], noise=0)
    np.testing.assert_allclose(plain * (IMAGES / 255), gradient, atol=1e-12)
    found = opponents.smooth_grad(explainer, IMAGES, TARGETS, [0, 1])
    alone = opponents.smooth_grad(explainer, IMAGES[1:], TARGETS[1:], [1])
    np.testing.assert_allclose(found[1:], alone, atol=1e-12)
    assert np.abs(found - plain).max() > 0.01 * np.abs(plain).max()


def test_edges_know_no_class():
    """The steepness of brightness, whatever its direction; a plain picture has none."""
    image = np.zeros((1, 6, 8, 3), np.uint8)
    image[:, :, 4:] = 90
    found, = opponents.edge_strength(image)
    assert (found[:, 3:5] == 45).all() and not found[:, :3].any() and not found[:, 5:].any()
