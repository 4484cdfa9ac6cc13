"""The rules that both folders have, against the oracle and against what the papers claim of them."""
import numpy as np
import oracle
import pytest

LAYERS = {  # layer, shape of its inputs
    'conv': (('layer', 'conv', [3, 3, 2, 3]), (2, 4, 5, 2)),
    'conv of 2x3 pixels': (('layer', 'conv', [3, 3, 3, 4]), (3, 2, 3, 3)),
    'conv of one pixel': (('layer', 'conv', [3, 3, 2, 4]), (3, 1, 1, 2)),
    '5x5 conv': (('layer', 'conv', [5, 5, 1, 2]), (2, 3, 4, 1)),
    'dense': (('layer', 'dense', [6, 5]), (4, 6)),
}
CONTENTS = ['mixed', 'weights <= 0', 'weights zero', 'inputs zero', 'one input', 'large', 'small']
BOUNDS = {'zero to one': (0.0, 1.0), 'nearly zero to one': (-1e-6, 1.0), 'around zero': (-0.5, 2.0),
          'per channel': None}


@pytest.fixture(params=LAYERS)
def place(request):
    """A layer and the shape of its inputs."""
    return LAYERS[request.param]


@pytest.fixture
def linear(folder, evaluate):
    """A function: the linear part of a layer, computed by the folder's model."""
    return lambda layer, a, w: evaluate(lambda a: folder.model.linear(layer, a, folder.lrp.tf.constant(w)), a)


@pytest.fixture
def propagate(lrp, evaluate):
    """A function: the relevance that the folder's rule of this name gives to a."""
    def relevance(rule, layer, a, w, b, r, *options):
        def op(a, r):
            return getattr(lrp, rule)(layer, a, lrp.tf.constant(w), lrp.tf.constant(b), r, *options)
        return evaluate(op, a, r)
    return relevance


@pytest.fixture
def pool(lrp, evaluate):
    """A function: relevance through 2x2 max-pooling."""
    def relevance(a, r):
        def op(a, r):
            return lrp.max_pool(a, lrp.tf.nn.max_pool2d(a, ksize=2, strides=2, padding='SAME'), r)
        return evaluate(op, np.float32(a), np.float32(r))
    return relevance


def numbers(place, content='mixed', signed=False):
    """Draws a, w, b and r of a layer: a >= 0 unless signed, r of both signs."""
    (_, _, shape), inputs = place
    rng = np.random.default_rng(sum(inputs))
    outputs = inputs[:-1] + (shape[-1],)
    a, w, b, r = (rng.normal(size=size).astype(np.float32) for size in (inputs, shape, shape[-1], outputs))
    a = a if signed else np.maximum(a, 0)
    if content == 'weights <= 0':
        w = -np.abs(w)
    if content == 'weights zero':
        w = np.zeros_like(w)
    if content == 'inputs zero':
        a = np.zeros_like(a)
    if content == 'one input':
        a = np.where(np.arange(a.size).reshape(a.shape) == a.size // 2, np.float32(0.7), np.float32(0))
    scale = np.float32({'large': 1e4, 'small': 1e-4}.get(content, 1))
    return scale * a, w, scale * b, scale * r


def bounded(a, bounds):
    """Squeezes inputs between bounds, None: others for each channel. Returns them with low and high."""
    channels = np.arange(a.shape[-1], dtype=np.float32)
    low, high = np.float32(bounds or (-0.25 - channels, 0.5 + 0.5 * channels))
    return np.float32(np.clip(low + (high - low) * (0.5 + 0.5 * np.tanh(a)), low, high)), low, high


def sums(r):
    """The sum of each image's relevance."""
    return r.reshape(len(r), -1).sum(1, dtype=np.float64)


def assert_close(found, expected, share=1e-5):
    """Equal up to float32 rounding: a share of the number itself and of the largest one of the layer."""
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=10 * share, atol=share * np.abs(expected).max())


@pytest.mark.parametrize('content', CONTENTS)
def test_zplus(propagate, place, content):
    arrays = numbers(place, content)
    assert_close(propagate('zplus', place[0], *arrays), oracle.zplus(place[0], *arrays))


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('bounds', BOUNDS)
def test_zbeta(propagate, place, content, bounds):
    a, w, b, r = numbers(place, content, signed=True)
    a, low, high = bounded(a, BOUNDS[bounds])
    found = propagate('zbeta', place[0], a, w, b, r, low, high)
    assert_close(found, oracle.zbeta(place[0], a, w, b, r, low, high))


@pytest.mark.parametrize('shade', [0.0, 1.0, np.float32(-1e-6)])
def test_zbeta_of_one_shade(propagate, place, shade):
    """All black, all white, all at the lowest value, where an output with positive weights only has z = 0."""
    _, w, b, r = numbers(place)
    w[..., 0] = np.abs(w[..., 0])
    a = np.full(place[1], shade, np.float32)
    found = propagate('zbeta', place[0], a, w, b, r, -1e-6, 1.0)
    assert_close(found, oracle.zbeta(place[0], a, w, b, r, np.float32(-1e-6), 1.0))


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('eps', [1e-6, 0.25])
def test_epsilon(propagate, place, content, eps):
    arrays = numbers(place, content, signed=True)
    assert_close(propagate('epsilon', place[0], *arrays, eps), oracle.epsilon(place[0], *arrays, eps), 1e-4)


def test_epsilon_is_1e_6_unless_given(propagate):
    """a = 2e-6 and weights 1 and -1: two thirds of the relevance arrive, of the negative output too."""
    layer, a, r = ('layer', 'dense', [1, 2]), np.float32([[2e-6]]), np.float32([[3.0, 6.0]])
    assert_close(propagate('epsilon', layer, a, np.float32([[1, -1]]), np.float32([0, 0]), r), [[2.0 + 4.0]])


def test_epsilon_takes_the_sign_of_zero_for_positive(propagate):
    """z = 1 * 2 - 2 * 1 = 0: each input gets what it gave, divided by +eps."""
    layer, a, r = ('layer', 'dense', [2, 1]), np.float32([[1, 2]]), np.float32([[3.0]])
    w, b = np.float32([[2], [-1]]), np.float32([0])
    assert_close(propagate('epsilon', layer, a, w, b, r, 0.5), [[12.0, -12.0]])


@pytest.mark.parametrize('rule', ['zplus', 'epsilon'])
def test_output_without_inputs_sends_nothing(propagate, place, rule):
    """It has nobody to give its relevance to, though its bias may have lifted it."""
    a, w, b, r = numbers(place, 'inputs zero')
    assert not propagate(rule, place[0], a, w, b + 1, 1e6 * r).any()


def test_dead_output_leaves_the_others_alone(propagate):
    """Outputs receive 2, nothing and 3; the second one's relevance of 1000 stays where it is."""
    layer, a, r = ('layer', 'dense', [2, 3]), np.float32([[1, 2]]), np.float32([[4.0, 1e3, 6.0]])
    w, b = np.float32([[1, -1, 3], [0.5, -2, 0]]), np.zeros(3, np.float32)
    assert_close(propagate('zplus', layer, a, w, b, r), [[2.0 + 6.0, 2.0]])


@pytest.mark.parametrize('content', ['mixed', 'one input', 'large', 'small'])
def test_zplus_conserves_where_z_is_positive(propagate, linear, place, content):
    a, w, b, r = numbers(place, content)
    z = linear(place[0], a, np.maximum(w, 0))
    assert (z > 0).any()
    expected = sums(np.where(z > 0, r, 0))
    found = sums(propagate('zplus', place[0], a, w, b, r))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(r).sum())


@pytest.mark.parametrize('bounds', ['nearly zero to one', 'around zero', 'per channel'])
@pytest.mark.parametrize('content', ['mixed', 'weights <= 0', 'inputs zero', 'one input'])
def test_zbeta_conserves(propagate, place, bounds, content):
    a, w, b, r = numbers(place, content, signed=True)
    a, low, high = bounded(a, BOUNDS[bounds])
    found = sums(propagate('zbeta', place[0], a, w, b, r, low, high))
    np.testing.assert_allclose(found, sums(r), rtol=0, atol=1e-6 * np.abs(r).sum())


def test_epsilon_loses_what_bias_and_eps_absorb(propagate, linear, place):
    a, w, b, r = numbers(place, signed=True)
    z = linear(place[0], a, w) + b
    absorbed = (b + 0.1 * np.sign(z)) / (z + 0.1 * np.sign(z)) * r
    found = sums(propagate('epsilon', place[0], a, w, b, r, 0.1))
    np.testing.assert_allclose(found, sums(r - absorbed), rtol=0, atol=1e-4 * np.abs(absorbed).max())


def test_epsilon_conserves_without_bias(propagate, place):
    a, w, b, r = numbers(place, signed=True)
    found = sums(propagate('epsilon', place[0], a, w, 0 * b, r, 1e-9))
    np.testing.assert_allclose(found, sums(r), rtol=0, atol=1e-3 * np.abs(r).max())


@pytest.mark.parametrize('rule', ['zplus', 'zbeta'])
def test_positive_relevance_stays_positive(propagate, place, rule):
    a, w, b, r = numbers(place)
    options = [-1e-6, float(a.max())] if rule == 'zbeta' else []
    assert (propagate(rule, place[0], a, w, b, np.abs(r), *options) >= 0).all()


@pytest.mark.parametrize('rule', ['zplus', 'zbeta', 'epsilon'])
def test_neighbours_in_the_batch_do_not_matter(propagate, place, rule):
    a, w, b, r = numbers(place)
    a[0] *= 1000
    options = [-1e-6, float(a.max())] if rule == 'zbeta' else []
    together = propagate(rule, place[0], a, w, b, r, *options)
    for i in range(len(a)):
        alone = propagate(rule, place[0], a[i:i + 1], w, b, r[i:i + 1], *options)
        assert_close(together[i:i + 1], alone, 1e-6)


def test_linear(linear, place):
    a, w, _, s = numbers(place, signed=True)
    expected = np.zeros(s.shape)
    for j, i, weight in oracle.connections(place[0], a.shape, w):
        expected[j] += a[i] * weight
    assert_close(linear(place[0], a, w), expected)


def test_transposed_is_the_transpose_of_linear(lrp, evaluate, linear, place):
    """Number by number, and <linear(a), s> = <a, transposed(s)>."""
    a, w, _, s = numbers(place, signed=True)
    back = evaluate(lambda s, a: lrp.transposed(place[0], s, lrp.tf.constant(w), a), s, a)
    expected = np.zeros(a.shape)
    for j, i, weight in oracle.connections(place[0], a.shape, w):
        expected[i] += s[j] * weight
    assert_close(back, expected)
    assert np.vdot(linear(place[0], a, w), s) == pytest.approx(np.vdot(a, back), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize('levels', [1, 2, 3, 1000])
def test_max_pool(pool, levels):
    """Few levels make many ties; with one level every window is all zero."""
    rng = np.random.default_rng(levels)
    a, r = np.float32(rng.integers(0, levels, (3, 4, 6, 2))), np.float32(rng.normal(size=(3, 2, 3, 2)))
    np.testing.assert_array_equal(pool(a, r), oracle.max_pool(a, r))


def test_max_pool_gives_ties_to_the_first(pool):
    a = [[[[0], [0], [2], [5]], [[0], [0], [5], [5]]]]
    np.testing.assert_array_equal(pool(a, [[[[3], [-4]]]]), [[[[3], [0], [0], [-4]], [[0], [0], [0], [0]]]])


def test_epsilon_equals_gradient_times_input(lrp, folder, evaluate):
    """Of a network with ReLU and max-pooling but without bias, as eps goes to 0 (Shrikumar et al. 2016)."""
    tf, linear, rng = lrp.tf, folder.model.linear, np.random.default_rng(5)
    conv1, conv2 = ('conv1', 'conv', [3, 3, 2, 4]), ('conv2', 'conv', [3, 3, 4, 5])
    dense1, dense2 = ('dense1', 'dense', [30, 6]), ('dense2', 'dense', [6, 3])
    w1, w2, w3, w4 = (np.float32(rng.normal(size=shape)) for _, _, shape in (conv1, conv2, dense1, dense2))

    def epsilon(layer, a, w, r):
        return lrp.epsilon(layer, a, tf.constant(w), tf.zeros(w.shape[-1]), r, 1e-9)

    def both(x):
        a1 = tf.nn.relu(linear(conv1, x, w1))
        a2 = tf.nn.relu(linear(conv2, a1, w2))
        pooled = tf.nn.max_pool2d(a2, ksize=2, strides=2, padding='SAME')
        a3 = tf.reshape(pooled, [-1, 30])
        a4 = tf.nn.relu(linear(dense1, a3, w3))
        start = linear(dense2, a4, w4) * [0.0, 1.0, 0.0]
        r = epsilon(dense1, a3, w3, epsilon(dense2, a4, w4, start))
        r = lrp.max_pool(a2, pooled, tf.reshape(r, tf.shape(pooled)))
        return epsilon(conv1, x, w1, epsilon(conv2, a1, w2, r)), x * tf.gradients(start, x)[0]
    relevance, expected = evaluate(both, rng.normal(size=(3, 4, 6, 2)).astype(np.float32))
    assert (np.abs(expected).max((1, 2, 3)) > 1).all()
    assert_close(relevance, expected, 1e-4)
