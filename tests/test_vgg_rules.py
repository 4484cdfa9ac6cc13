"""The rules that only vgg/ has, against the oracle and what the papers claim, and which rule each composite gives a layer."""
from functools import partial

from conftest import scripts
import numpy as np
import oracle
import pytest

Layer = scripts('vgg').model.Layer
LAYERS = {  # layer, shape of its inputs
    'conv': (Layer('layer', 'conv', (3, 3, 3, 4)), (2, 4, 5, 3)),
    'conv of 2x3 pixels': (Layer('layer', 'conv', (3, 3, 2, 3)), (3, 2, 3, 2)),
    'conv of one pixel': (Layer('layer', 'conv', (3, 3, 2, 4)), (3, 1, 1, 2)),
    'strided conv': (Layer('layer', 'conv', (2, 3, 2, 3), (2, 1), 'SAME'), (2, 5, 4, 2)),
    'conv without padding': (Layer('layer', 'conv', (3, 2, 2, 3), (2, 2), 'VALID'), (2, 6, 5, 2)),
    'conv with padding of its own': (Layer('layer', 'conv', (3, 3, 2, 3), (2, 2), ((1, 2), (0, 2))), (2, 4, 4, 2)),
    'dense': (Layer('layer', 'dense', (6, 5)), (4, 6)),
}
MEANS = {
    'mean': (Layer('layer', 'mean', (2, 3), (2, 2), 'VALID'), (2, 4, 7, 3)),
    'mean with padding': (Layer('layer', 'mean', (3, 3), (2, 2), 'SAME'), (2, 4, 5, 3)),
    'global mean': (Layer('layer', 'mean', (3, 4), (1, 1), 'VALID'), (3, 3, 4, 2)),
}
DENSE = Layer('layer', 'dense')
CONTENTS = ['mixed', 'weights <= 0', 'weights zero', 'inputs zero', 'one input', 'one dead output', 'large', 'small']
POOL = Layer('layer', 'max', (2, 2), (2, 2), 'VALID')
VGG16 = [f'block{block}_{part}' for block, convolutions in enumerate([2, 2, 3, 3, 3], 1)
         for part in [f'conv{i + 1}' for i in range(convolutions)] + ['pool']] + ['flatten', 'fc1', 'fc2', 'predictions']
BOX = {'low': [-103.939, -116.779, -123.68], 'high': [151.061, 138.221, 131.32]}  # black and white: BGR, mean subtracted
ALPHA1, ALPHA2 = ('alpha_beta', {'alpha': 1.0}), ('alpha_beta', {'alpha': 2.0})
RULES = {  # of each composite: first convolution, the others in blocks 1-3, those in blocks 4-5, dense layers
    'deep-taylor': [('box', {}), ('zplus', {}), ('zplus', {}), ('zplus', {})],
    'zplus': [('zplus_signed', {}), ('zplus', {}), ('zplus', {}), ('zplus', {})],
    'wsquare': [('wsquare', {}), ('zplus', {}), ('zplus', {}), ('zplus', {})],
    'epsilon': [('epsilon', {})] * 4,
    'alpha1beta0': [ALPHA1] * 4,
    'alpha2beta1': [ALPHA2] * 4,
    'epsilon-plus': [ALPHA1, ALPHA1, ALPHA1, ('epsilon', {})],
    'epsilon-plus-flat': [('flat', {}), ALPHA1, ALPHA1, ('epsilon', {})],
    'epsilon-alpha2beta1': [ALPHA2, ALPHA2, ALPHA2, ('epsilon', {})],
    'epsilon-gamma-box': [('box', {}), ('gamma', {}), ('gamma', {}), ('epsilon', {})],
    'montavon2019': [('box', {}), ('gamma', {}), ('lifted', {'share': 0.25}), ('lifted', {'share': 0.0})],
}


@pytest.fixture
def folder():
    """The scripts of vgg/ alone: conftest's fixtures `lrp` and `evaluate` follow."""
    return scripts('vgg')


@pytest.fixture(params=LAYERS)
def place(request):
    """A layer and the shape of its inputs."""
    return LAYERS[request.param]


@pytest.fixture(params=LAYERS | MEANS)
def any_place(request):
    """The same, average pooling among them."""
    return (LAYERS | MEANS)[request.param]


@pytest.fixture
def propagate(lrp, evaluate):
    """A function: the relevance that a rule gives to a."""
    def relevance(rule, layer, a, w, b, r, signed=False, **options):
        layer = layer._replace(low=-np.inf) if signed else layer

        def op(a, r):
            weights = scripts('vgg').model.Weights('layer', lrp.tf.constant(w), lrp.tf.constant(b))
            return getattr(lrp, rule)(layer, a, weights, r, **options)
        found = evaluate(op, a, r)
        assert np.isfinite(found).all()
        return found
    return relevance


def numbers(place, content='mixed', signed=False):
    """Draws a, w, b and r of a layer: a >= 0 unless signed, b and r of both signs."""
    layer, inputs = place
    shape, rng = (1, inputs[-1]) if layer.kind == 'mean' else layer.size, np.random.default_rng(sum(inputs) + 1)
    sizes = inputs, shape, shape[-1], oracle.output_shape(layer, inputs, np.empty(shape))
    a, w, b, r = (rng.normal(size=size).astype(np.float32) for size in sizes)
    b = np.where(np.arange(len(b)) % 2, -1, 1).astype(np.float32) * np.abs(b)
    a = a if signed else np.maximum(a, 0)
    if content == 'weights <= 0':
        w = -np.abs(w)
    if content == 'weights zero':
        w = np.zeros_like(w)
    if content == 'inputs zero':
        a = np.zeros_like(a)
    if content == 'one input':
        a = np.where(np.arange(a.size).reshape(a.shape) == a.size // 2, np.float32(0.7), np.float32(0))
    if content == 'one dead output':
        w[..., 1], b[1] = 0, 0
        r[..., 1] *= 1e3
    scale = np.float32({'large': 1e4, 'small': 1e-4}.get(content, 1))
    return scale * a, w, scale * b, scale * r


def sums(r):
    """The sum of each image's relevance."""
    return r.reshape(len(r), -1).sum(1, dtype=np.float64)


def assert_close(found, expected, share=1e-5):
    """Equal up to float32 rounding: a share of the number itself and of the largest one of the layer."""
    np.testing.assert_allclose(found, expected, rtol=10 * share, atol=share * np.abs(expected).max())


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('signed', [True, False])
def test_zplus_signed(propagate, any_place, content, signed):
    a, w, b, r = numbers(any_place, content, signed)
    assert_close(propagate('zplus_signed', any_place[0], a, w, b, r), oracle.zplus(any_place[0], a, w, b, r))


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('signed', [True, False])
@pytest.mark.parametrize('rule', ['wsquare', 'flat'])
def test_rules_that_conserve(propagate, place, rule, content, signed):
    a, w, b, r = numbers(place, content, signed)
    assert_close(propagate(rule, place[0], a, w, b, r), getattr(oracle, rule)(place[0], a, w, b, r))


@pytest.mark.parametrize('content', ['mixed', 'weights <= 0', 'one dead output'])
def test_zplus_counts_positive_weights_only(propagate, any_place, content):
    a, w, b, r = numbers(any_place, content)
    assert_close(propagate('zplus', any_place[0], a, w, b, r), oracle.zplus(any_place[0], a, np.maximum(w, 0), b, r))


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('signed', [True, False])
def test_epsilon(propagate, any_place, content, signed):
    a, w, b, r = numbers(any_place, content, signed)
    assert_close(propagate('epsilon', any_place[0], a, w, b, r, eps=0.1), oracle.epsilon(any_place[0], a, w, b, r, 0.1), 1e-4)


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('signed', [True, False])
def test_gamma_signed(propagate, any_place, content, signed):
    a, w, b, r = numbers(any_place, content, signed)
    expected = oracle.gamma_signed(any_place[0], a, w, b, r)
    assert_close(propagate('gamma_signed', any_place[0], a, w, b, r), expected, 1e-4)


def test_gamma_signed_is_gamma_where_nothing_is_negative(propagate, place):
    a, w, b, r = numbers(place)
    w, b = np.abs(w), np.abs(b)
    assert_close(propagate('gamma_signed', place[0], a, w, b, r), propagate('gamma', place[0], a, w, b, r), 1e-5)


@pytest.mark.parametrize('content', ['mixed', 'one dead output'])
def test_zplus_signed_is_zplus_of_inputs_above_zero(propagate, place, content):
    layer, *inputs = place[0], *numbers(place, content)
    assert_close(propagate('zplus_signed', layer, *inputs), propagate('zplus', layer, *inputs), 1e-6)


@pytest.mark.parametrize('content', CONTENTS)
def test_gamma(propagate, any_place, content):
    a, w, b, r = numbers(any_place, content)
    assert_close(propagate('gamma', any_place[0], a, w, b, r), oracle.gamma(any_place[0], a, w, b, r), 1e-4)
    assert_close(propagate('gamma', any_place[0], a, w, b, r, gamma=0.5), oracle.gamma(any_place[0], a, w, b, r, 0.5), 1e-4)


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('alpha', [1.0, 2.0])
def test_alpha_beta(propagate, any_place, content, alpha):
    a, w, b, r = numbers(any_place, content, signed=True)
    expected = oracle.alpha_beta(any_place[0], a, w, b, r, alpha, alpha - 1)
    assert_close(propagate('alpha_beta', any_place[0], a, w, b, r, signed=True, alpha=alpha), expected)


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('alpha', [1.0, 2.0])
@pytest.mark.parametrize('signed', [True, False])
def test_alpha_beta_of_inputs_above_zero(propagate, any_place, content, alpha, signed):
    a, w, b, r = numbers(any_place, content)
    expected = oracle.alpha_beta(any_place[0], a, w, b, r, alpha, alpha - 1)
    assert_close(propagate('alpha_beta', any_place[0], a, w, b, r, alpha=alpha, signed=signed), expected)


@pytest.mark.parametrize('content', ['mixed', 'one dead output'])
def test_alpha_beta_with_a_beta_of_its_own(propagate, place, content):
    a, w, b, r = numbers(place, content, signed=True)
    expected = oracle.alpha_beta(place[0], a, w, b, r, 1.5, 0.25)
    assert_close(propagate('alpha_beta', place[0], a, w, b, r, signed=True, alpha=1.5, beta=0.25), expected)


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('share', [0.0, 0.25])
def test_lifted(propagate, any_place, content, share):
    a, w, b, r = numbers(any_place, content)
    assert_close(propagate('lifted', any_place[0], a, w, b, r, share=share), oracle.rms(any_place[0], a, w, b, r, share), 1e-4)


@pytest.mark.parametrize('share', [0.0, 0.25])
@pytest.mark.parametrize('content', ['mixed', 'a dead window', 'zero'])
def test_mean_pooling(evaluate, lrp, share, content):
    rng = np.random.default_rng(8)
    a = np.float32(np.maximum(rng.normal(size=(3, 4, 6, 2)), 0))
    r = np.float32(rng.normal(size=(3, 2, 3, 2)))
    a[:, 2:, :2] *= content == 'mixed'
    a *= content != 'zero'
    found = evaluate(lambda a, r: lrp.mean_pool(POOL, a, None, r, share), a, r)
    assert_close(found, oracle.average_pool(a, r, share=share))


@pytest.mark.parametrize('content', ['mixed', 'one input', 'large', 'small', 'one dead output'])
@pytest.mark.parametrize('rule', ['zplus_signed', 'alpha_beta'])
def test_conserves_where_z_is_positive(propagate, place, rule, content):
    """alpha_beta with alpha = 1 and no bias is the z+ rule for inputs of any sign."""
    a, w, b, r = numbers(place, content, signed=True)
    options = {'alpha': 1.0, 'signed': True} if rule == 'alpha_beta' else {}
    positive = np.zeros(r.shape, bool)
    for j, i, weight in oracle.connections(place[0], a.shape, w):
        positive[j] |= a[i] * weight > 0
    found = sums(propagate(rule, place[0], a, w, 0 * b, r, **options))
    np.testing.assert_allclose(found, sums(np.where(positive, r, 0)), rtol=0, atol=1e-6 * np.abs(r).sum())


@pytest.mark.parametrize('content', ['mixed', 'inputs zero', 'weights <= 0', 'large', 'small'])
@pytest.mark.parametrize('rule', ['wsquare', 'flat'])
def test_conserves_always(propagate, place, rule, content):
    a, w, b, r = numbers(place, content, signed=True)
    found = sums(propagate(rule, place[0], a, w, b, r))
    np.testing.assert_allclose(found, sums(r), rtol=0, atol=1e-6 * np.abs(r).sum())


def test_gamma_conserves_without_bias(propagate, place):
    a, w, b, r = numbers(place)
    a = a + 0.1  # no output without inputs
    found = sums(propagate('gamma', place[0], a, w, 0 * b, r))
    np.testing.assert_allclose(found, sums(r), rtol=0, atol=1e-4 * np.abs(r).max())


def test_alpha_beta_loses_what_the_biases_absorb(propagate):
    """Excitation 2 + 2 with bias, inhibition -3 - 1: R_in = 2 * 8 * 2/4 - 8 * 3/4."""
    r, a, w = np.float32([[8.0]]), np.float32([[1, -3]]), np.float32([[2], [1]])
    lifting = propagate('alpha_beta', DENSE, a, w, np.float32([2]), r, signed=True, alpha=2.0)
    assert_close(lifting, [[8.0, -8.0]])
    lowering = propagate('alpha_beta', DENSE, a, w, np.float32([-1]), r, signed=True, alpha=2.0)
    assert_close(lowering, [[16.0, -6.0]])


def test_flat_leaves_out_padding(propagate):
    """A corner of 2x3 pixels has 4 neighbours, itself among them, the middle ones 6: the corner gets 4/4 and 2/6."""
    layer, r = Layer('layer', 'conv', (3, 3, 1, 1)), np.ones((1, 2, 3, 1), np.float32)
    found = propagate('flat', layer, -7 * r, np.zeros((3, 3, 1, 1), np.float32), np.float32([1]), r)
    corner, middle = 2 / 4 + 2 / 6, 4 / 4 + 2 / 6
    assert_close(found[0, ..., 0], [[corner, middle, corner]] * 2)


@pytest.mark.parametrize('rule, options', [
    ('zplus_signed', {}), ('wsquare', {}), ('flat', {}), ('gamma', {}), ('lifted', {'share': 0.25}),
    ('alpha_beta', {'alpha': 2.0}), ('alpha_beta', {'alpha': 2.0, 'signed': True})])
def test_neighbours_in_the_batch_do_not_matter(propagate, place, rule, options):
    a, w, b, r = numbers(place)
    a[0] *= 1000
    together = propagate(rule, place[0], a, w, b, r, **options)
    for i in range(len(a)):
        alone = propagate(rule, place[0], a[i:i + 1], w, b, r[i:i + 1], **options)
        assert_close(together[i:i + 1], alone, 1e-6)


def test_every_composite_is_there(lrp):
    assert set(lrp.COMPOSITES) == set(RULES)


@pytest.fixture
def vgg16(folder):
    """The layer table of VGG16 for pixels as Keras's preprocessing leaves them."""
    weights = folder.weights
    return weights.with_pixels(folder.model.layer_table('vgg16', [8, 7, 6]), weights.Preparation('caffe'), (224, 224, 3))


def test_layers_of_vgg16(vgg16):
    layers = vgg16
    assert [layer.name for layer in layers] == VGG16
    assert [layer.name for layer in layers if layer.signed] == ['block1_conv1']
    assert [layer.name for layer in layers if layer.kind in ('conv', 'dense') and not layer.relu] == ['predictions']
    for key, value in BOX.items():
        np.testing.assert_allclose(getattr(layers[0], key), value, rtol=1e-6)


@pytest.mark.parametrize('composite', RULES)
def test_rule_of_each_layer(lrp, vgg16, composite):
    """Each layer has the rule of the table above; the pixels, which may be negative, the form for inputs of any sign."""
    for layer in vgg16:
        rule, name = lrp.rule_of(composite, layer), layer.name
        function, options = (rule.func.__name__, rule.keywords) if isinstance(rule, partial) else (rule.__name__, {})
        place = 0 if name == 'block1_conv1' else 1 if 'block1' <= name < 'block4' else 2 if name.startswith('block') else 3
        expected = RULES[composite][place]
        if layer.kind == 'max':
            expected = ('mean_pool', {'share': 0.25 * (place == 2)}) if composite == 'montavon2019' else ('max_pool', {})
        if layer.kind == 'flatten':
            expected = 'unflatten', {}
        assert (function, dict(options)) == expected, name


@pytest.mark.parametrize('composite', RULES)
def test_pooling_follows_its_block_in_montavon2019_only(lrp, evaluate, composite):
    """Elsewhere the winner of each window takes all."""
    rng = np.random.default_rng(3)
    a, r = np.float32(rng.uniform(0.1, 1, (2, 4, 4, 3))), np.float32(rng.normal(size=(2, 2, 2, 3)))
    pool = POOL._replace(name='block3_pool')
    found = evaluate(lambda a, r: lrp.relevance(composite, [pool], [a, None], {}, r)[0], a, r)
    assert_close(found, oracle.average_pool(a, r) if composite == 'montavon2019' else oracle.max_pool(a, r))


def test_box_takes_the_bounds_of_the_layer(propagate):
    layer, low, high = LAYERS['conv'][0], np.float32([-1, -2, -0.5]), np.float32([1, 0.5, 2])
    a, w, b, r = numbers(LAYERS['conv'], signed=True)
    a = np.clip(a, low, high)
    found = propagate('box', layer._replace(low=low, high=high), a, w, b, r)
    assert_close(found, oracle.zbeta(layer, a, w, b, r, low, high))


@pytest.mark.parametrize('shade, sign', [('low', 1), ('high', -1)])
def test_box_loses_nothing_on_black_or_white_under_weights_of_one_sign(propagate, shade, sign):
    layer = LAYERS['conv'][0]._replace(**BOX)
    _, w, b, r = numbers(LAYERS['conv'], signed=True)
    a = np.broadcast_to(np.float32(BOX[shade]), LAYERS['conv'][1])
    found = sums(propagate('box', layer, a, sign * np.abs(w), b, np.abs(r)))
    np.testing.assert_allclose(found, sums(np.abs(r)), rtol=1e-3)
