"""Every rule of vgg/rules.py on every linear kind of layer, against NumPy loops; the backward pass
through branches."""
import functools
from functools import partial
import inspect

from conftest import scripts
import numpy as np
import oracle
import pytest

vgg = scripts('vgg')
Layer, rules, tf, placed = vgg.model.Layer, vgg.rules, vgg.model.tf, vgg.model.placed
keras = vgg.common.keras


def layer(kind, *kernel, **geometry):
    return Layer('layer', kind, ('pixels',), kernel, **geometry)


def mean(window, stride, padding='VALID'):
    """Average pooling. The window, stride and padding are for the loops alone."""
    function = keras.layers.AveragePooling2D(window, stride, padding.lower()).call
    return layer('sum', function=function, window=window, stride=stride, padding=padding)


LAYERS = {  # the layer, the shape of its inputs, the shape of w where that is not its kernel
    'conv': (layer('conv', 3, 3, 3, 4, padding='SAME'), (2, 4, 5, 3)),
    'conv of one pixel': (layer('conv', 3, 3, 2, 4, padding='SAME'), (3, 1, 1, 2)),
    'conv, strided': (layer('conv', 2, 3, 2, 3, stride=(2, 1), padding='SAME'), (2, 5, 4, 2)),
    'conv, not padded': (layer('conv', 3, 2, 2, 3, stride=(2, 2)), (2, 6, 5, 2)),
    'conv, padded otherwise': (layer('conv', 3, 3, 2, 3, stride=(2, 2), padding=((1, 2), (0, 2))),
                               (2, 4, 4, 2)),
    'conv, dilated': (layer('conv', 2, 3, 2, 3, padding='SAME', dilation=(2, 2)), (2, 5, 6, 2)),
    'conv, grouped': (layer('conv', 3, 3, 2, 6, padding='SAME', groups=3), (2, 4, 3, 6)),
    'depthwise': (layer('depthwise', 3, 3, 3, 1, stride=(2, 2), padding='SAME'), (2, 5, 4, 3)),
    'depthwise, multiplied': (layer('depthwise', 3, 2, 2, 2), (2, 4, 4, 2)),
    'depthwise, dilated': (layer('depthwise', 2, 2, 2, 1, padding='SAME', dilation=(2, 2)),
                           (2, 4, 5, 2)),
    'conv, transposed': (layer('conv', 3, 2, 2, 3, shape=(7, 8, 3), stride=(2, 2), padding='SAME'),
                         (2, 4, 4, 2)),
    'conv, transposed, not padded': (layer('conv', 3, 3, 3, 2, shape=(9, 7, 2), stride=(2, 1)),
                                     (2, 4, 5, 3)),
    'dense': (layer('dense', 6, 5), (4, 6)),
    'dense, tokens': (layer('dense', 4, 3), (2, 5, 4)),
    'mean': (mean((2, 3), (2, 2)), (2, 4, 7, 3), (1, 1)),
    'mean, padded': (mean((3, 3), (2, 2), 'SAME'), (2, 4, 5, 3), (1, 1)),
    'scale': (layer('scale', 1, 3), (2, 3, 2, 3)),
    'sum': (layer('sum', factors=(1.0, 1.0, 1.0)), (2, 3, 2, 6), (3, 1)),
    'difference': (layer('sum', factors=(1.0, -1.0)), (2, 3, 2, 4), (2, 1)),
}
LOW, HIGH = -1.0, 2.5
RULES = {  # ours, the oracle's, whether inputs may have both signs, whether outputs may
    'zplus': (rules.zplus, oracle.zplus, False, False),
    'zplus, signed': (rules.zplus, oracle.zplus, True, True),
    'zbeta': (partial(rules.zbeta, low=LOW, high=HIGH), partial(oracle.zbeta, low=LOW, high=HIGH),
              True, True),
    'wsquare': (rules.wsquare, oracle.wsquare, True, True),
    'flat': (rules.flat, oracle.flat, True, True),
    'epsilon': (partial(rules.epsilon, eps=0.1), partial(oracle.epsilon, eps=0.1), True, True),
    'gamma': (rules.gamma, oracle.gamma, False, False),
    'gamma, signed': (rules.gamma, oracle.gamma_signed, True, True),
    'gamma, signed outputs': (rules.gamma, oracle.gamma_signed, False, True),
    'gamma of one half': (partial(rules.gamma, gamma=0.5), partial(oracle.gamma, gamma=0.5), False,
                          False),
    'alpha1': (rules.ALPHA1, partial(oracle.alpha_beta, alpha=1, beta=0), False, False),
    'alpha2': (rules.ALPHA2, partial(oracle.alpha_beta, alpha=2, beta=1), False, False),
    'alpha1, signed': (rules.ALPHA1, partial(oracle.alpha_beta, alpha=1, beta=0), True, True),
    'alpha2, signed': (rules.ALPHA2, partial(oracle.alpha_beta, alpha=2, beta=1), True, True),
    'epsilon, rms': (rules.epsilon_rms, oracle.rms, True, True),
}


@functools.cache
def numbers(place, odd, signed):
    """Draws a, w, b and r of a layer, float32: a of both signs or none negative.

    odd: the weights into the first output are negative and those into the last one are zero.
    Otherwise the batch holds usual inputs, none, a single one, large ones and small ones.
    """
    (kind, inputs, *shape), rng = LAYERS[place], np.random.default_rng(0)
    own = kind.kind != 'sum'
    w = rng.normal(size=kind.kernel) if own else np.reshape(kind.factors, *shape)
    a = rng.normal(size=inputs)
    a = np.clip(a, LOW, HIGH) if signed else np.maximum(a, 0)
    r = rng.normal(size=oracle.affine(kind, a, w, 0).shape)
    b = rng.normal(size=r.shape[-1]) if own else np.zeros(1)
    if odd and own:
        outputs = w.reshape(-1, w.shape[-1])
        outputs[:, 0], outputs[:, -1], b[-1] = -np.abs(outputs[:, 0]), 0, 0
        r[..., -1] *= 1e3
    if not odd:
        single = np.where(np.arange(a.size).reshape(a.shape) == a.size // 2, 0.7, 0)
        a = np.concatenate([a, 0 * a, single, 1e4 * a, 1e-4 * a])
        r = np.concatenate([r, r, r, 1e4 * r, 1e-4 * r])
    return tuple(np.float32(x) for x in (a, w, b, r))


def run(build, dtype='float32'):
    """The values of what build() makes in a graph of its own; dtype: of what it makes of arrays."""
    kept = []

    def weights(w, b):
        kept.append(vgg.model.Weights(tf.constant(w, dtype), tf.constant(b, dtype)))
        return kept[-1]
    with tf.Graph().as_default(), tf.Session() as session:
        made = build(lambda x: tf.placeholder_with_default(tf.constant(x, dtype),
                                                           [None, *np.shape(x)[1:]]), weights)
        for variable in (variable for each in kept for variable in each.kept):
            session.run(variable.initializer)
        return session.run(made)


def computed(rule, layer, a, w, b, r):
    """What a rule makes of arrays."""
    return run(lambda tensor, weights: rule(layer, tensor(a), weights(w, b), tensor(r)))


@functools.cache
def propagated(place, dtype='float32'):
    """{(rule, odd): relevance of a layer's inputs}, by all rules in one graph."""
    result, (a, *others) = {}, numbers(place, True, False)
    with tf.Graph().as_default(), tf.Session() as session:
        unsigned, signed, r = (tf.placeholder(dtype, [None, *x.shape[1:]])
                               for x in (a, a, others[-1]))
        w, b = (tf.placeholder(dtype, x.shape) for x in others[:2])
        found, weights = {}, vgg.model.Weights(w, b)  # shared, as the rules of a run share it
        for name, (rule, _, both, below_zero) in RULES.items():
            each = LAYERS[place][0]._replace(low=-np.inf if both else 0.0,
                                             activation='linear' if below_zero else 'relu')
            found[name] = rule(each, signed if both else unsigned, weights, r)
        for odd in False, True:
            feed = dict(zip((unsigned, w, b, r), numbers(place, odd, False)))
            feed[signed] = numbers(place, odd, True)[0]
            for variable in weights.kept:  # some need those before them
                session.run(variable.initializer, feed)
            result.update({(name, odd): x for name, x in session.run(found, feed).items()})
    return result


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('place', LAYERS)
def test_rule(place, rule):
    _, truth, signed, _ = RULES[rule]
    for odd in False, True:
        found = propagated(place)[rule, odd]
        assert np.isfinite(found).all()
        for one, other in zip(found, truth(LAYERS[place][0], *numbers(place, odd, signed))):
            np.testing.assert_allclose(one, other, rtol=1e-3,
                                       atol=1e-4 * np.abs(other).max() + 1e-30)


@pytest.mark.parametrize('rule', ['zplus, signed', 'gamma, signed', 'alpha2, signed', 'wsquare'])
@pytest.mark.parametrize('place', ['conv, dilated', 'conv, grouped', 'depthwise, dilated'])
def test_rule_in_double_precision(place, rule):
    expected = RULES[rule][1](LAYERS[place][0], *numbers(place, False, True))
    np.testing.assert_allclose(propagated(place, 'float64')[rule, False], expected, rtol=1e-9,
                               atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize('place', ['conv', 'dense'])
def test_large_products_of_the_reference(place):
    a, w, _, r = numbers(place, False, True)
    for found, expected in zip(*([oracle.linear(layer, a, w), oracle.transposed(layer, r, w, a)]
                                 for layer in (oracle.VGG, LAYERS[place][0]))):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-2)


def sums(r):
    return r.reshape(len(r), -1).sum(1, dtype=np.float64)


@pytest.mark.parametrize('place', LAYERS)
def test_conservation(place):
    """z+ wherever an input meets a weight of its sign, w^2 and flat everywhere."""
    (kind, *_), (a, w, _, r) = LAYERS[place], numbers(place, False, True)
    met = oracle.affine(kind, a > 0, w > 0, 0) + oracle.affine(kind, a < 0, w < 0, 0) > 0
    for rule, expected in ('zplus, signed', np.where(met, r, 0)), ('wsquare', r), ('flat', r):
        lost = sums(propagated(place)[rule, False]) - sums(expected)
        assert (np.abs(lost) <= 1e-5 * sums(np.abs(r))).all(), rule


def test_alpha_beta_by_hand():
    """Two denominators. Rising 2 + 2 with the bias, falling -3: R = 2 * 8 * 2/4 - 8 * 3/3; with a
    bias of -1 rising 2, falling -3 - 1: R = 2 * 8 * 2/2 - 8 * 3/4."""
    dense = layer('dense', 2, 1, low=-np.inf)
    for bias, expected in (2, [[8, -8]]), (-1, [[16, -6]]):
        found = computed(rules.ALPHA2, dense, [[1, -3]], [[2], [1]], [bias], [[8]])
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_flat_leaves_out_padding():
    """Of 2x3 outputs the four at the corners read 4 pixels, the middle ones 6."""
    conv, r = layer('conv', 3, 3, 1, 1, padding='SAME'), np.ones((1, 2, 3, 1))
    found = computed(rules.flat, conv, -7 * r, np.zeros((3, 3, 1, 1)), [1], r)
    np.testing.assert_allclose(found[0, ..., 0],
                               [[2 / 4 + 2 / 6, 4 / 4 + 2 / 6, 2 / 4 + 2 / 6]] * 2, rtol=1e-6)


@pytest.mark.parametrize('shade, sign', [('low', 1), ('high', -1)])
def test_box_loses_nothing_on_black_or_white_under_weights_of_one_sign(shade, sign):
    bounds = {'low': [-104, -117, -124], 'high': [151, 138, 131]}
    a, w, b, r = numbers('conv', False, True)
    found = computed(rules.box, LAYERS['conv'][0]._replace(**bounds),
                     np.broadcast_to(bounds[shade], a.shape), sign * np.abs(w), b, r)
    np.testing.assert_allclose(sums(found), sums(r), rtol=0, atol=1e-3 * np.abs(r).sum())


@pytest.mark.parametrize('rule', ['zplus', 'gamma', 'alpha2', 'epsilon, rms', 'flat'])
def test_neighbours_in_the_batch_do_not_matter(rule):
    a, w, b, r = numbers('conv', True, False)
    a = a * np.reshape([1000, 1], (2, 1, 1, 1))
    together, *alone = (computed(RULES[rule][0], LAYERS['conv'][0], a[part], w, b, r[part])
                        for part in (slice(0, 2), slice(0, 1), slice(1, 2)))
    for i in range(2):
        np.testing.assert_allclose(together[i], alone[i][0], rtol=1e-5,
                                   atol=1e-6 * np.abs(alone[i]).max())


# Pooling and what moves

POOL = layer('max', window=(2, 2), stride=(2, 2))


def test_max_pooling_takes_the_first_winner():
    rng = np.random.default_rng(0)
    a, r = rng.integers(0, 3, (2, 6, 8, 3)), rng.normal(size=(2, 3, 4, 3))
    found = computed(rules.max_pool, POOL, a, 0, 0, r)
    np.testing.assert_allclose(found, oracle.max_pool(a, r), rtol=1e-6)


@pytest.mark.parametrize('place, share', [('lower', 0.0), ('upper', 0.25)])
def test_mean_pooling(place, share):
    """As the rules explain a layer of average pooling."""
    rng = np.random.default_rng(8)
    a, r = np.maximum(rng.normal(size=(3, 4, 6, 2)), 0), rng.normal(size=(3, 2, 3, 2))
    a[:, 2:, :2] = 0  # a dead window
    found = computed(rules.mean_pool, POOL._replace(place=place), a, 0, 0, r)
    expected = oracle.rms(mean((2, 2), (2, 2)), a, np.ones((1, 1)), 0, r, share)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', sorted(vgg.model.POSITIVE))
def test_activations_that_are_never_negative(name):
    z = np.linspace(-50, 50, 1001, dtype=np.float32)
    assert np.min(getattr(keras.activations, name)(z)) >= 0


# The backward pass through branches

def moved(name, inputs, function):
    return Layer(name, 'move', inputs, function=function)


TABLE = [  # two convolutions that are added, a gate on their sum, and a concatenation
    Layer('one', 'conv', ('pixels',), (3, 3, 2, 4), padding='SAME', activation='relu'),
    Layer('two', 'conv', ('one',), (3, 3, 4, 4), padding='SAME'),
    Layer('sum', 'sum', ('one', 'two'), factors=(1.0, 1.0), activation='relu'),
    Layer('mean', 'sum', ('sum',), function=lambda x: keras.ops.mean(x, (1, 2), keepdims=True)),
    Layer('gate', 'conv', ('mean',), (1, 1, 4, 4), activation='sigmoid'),
    Layer('gated', 'gate', ('sum', 'gate')),
    moved('both', ('gated', 'one'), lambda *x: keras.ops.concatenate(x, -1)),
    Layer('pool', 'max', ('both',), window=(2, 2), stride=(2, 2)),
    moved('shuffled', ('pool',), lambda x: keras.ops.flip(keras.ops.swapaxes(x, 1, 2), -1)),
    moved('larger', ('shuffled', 'pool'), keras.ops.maximum),
    moved('padded', ('larger',), keras.layers.ZeroPadding2D(((1, 0), (0, 1))).call),
    moved('cropped', ('padded',), keras.layers.Cropping2D(((1, 1), (0, 1))).call),
    moved('flat', ('cropped',), keras.layers.Flatten().call),
    Layer('logits', 'dense', ('flat',), (48, 3)),
]


def backward(composites, table=TABLE, biased=True):
    """Activations, relevance by each composite started at the first logit, and gradient x input, in
    float64."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (2, 6, 6, 2))

    def build(tensor, weights):
        x, kept = tensor(pixels), {}
        for each in table:
            if each.kind in vgg.model.LINEAR:
                own = each.kind in vgg.model.WEIGHTED
                w = rng.normal(size=each.kernel) if own else np.reshape(each.factors, [-1, 1])
                kept[each.name] = weights(w, biased * rng.normal(0, 0.3, w.shape[-1]))
        a = vgg.model.forward(x, table, kept)
        r, located = a['logits'] * [1.0, 0, 0], placed(table, a, [-1.0, -1.0], [1.0, 1.0])
        found = {name: rules.relevance(rules.COMPOSITES[name], located, a, kept, r)
                 for name in composites}
        return a, found, tf.gradients(a['logits'][:, 0], x)[0] * x
    return run(build, 'float64')


def test_epsilon_is_gradient_times_input_through_branches():
    """Without the gate, which relevance passes without regard to what computes it."""
    table = [each for each in TABLE if each.name not in ('mean', 'gate', 'gated')]
    table = [each._replace(inputs=('sum', 'one')) if each.name == 'both' else each
             for each in table]
    _, found, expected = backward(['epsilon'], table)
    np.testing.assert_allclose(found['epsilon']['pixels'], expected, rtol=0,
                               atol=1e-4 * np.abs(expected).max())


def test_relevance_adds_up_where_branches_meet():
    a, found, _ = backward(list(rules.COMPOSITES))
    for name, r in found.items():
        assert set(r) == {'pixels', *(each.name for each in TABLE)} - {'mean', 'gate'}, name
        assert all(np.isfinite(each).all() for each in r.values()), name
        np.testing.assert_allclose(sums(r['gated']) + sums(r['both'][..., 4:]), sums(r['both']),
                                   rtol=1e-9)
        np.testing.assert_array_equal(r['sum'], r['gated'])
        won = a['shuffled'] >= a['pool']
        np.testing.assert_allclose(r['shuffled'], np.where(won, r['larger'], 0), rtol=1e-9)


@pytest.mark.parametrize('composite', ['deep-taylor', 'zplus', 'wsquare', 'alpha1beta0'])
def test_conserves_through_branches_without_biases(composite):
    """From the logits to where relevance leaves: a unit that is active has inputs that raise it."""
    _, found, _ = backward([composite], biased=False)
    r = found[composite]
    for name in 'flat', 'pool', 'both', 'pixels':
        np.testing.assert_allclose(sums(r[name]), sums(r['logits']), rtol=1e-6)


def test_places_and_bounds():
    """By the size of the maps that a layer reads; bounds follow what only moves the pixels."""
    table = [moved('padded', ('pixels',), keras.layers.ZeroPadding2D(1).call),
             Layer('first', 'conv', ('padded',), (3, 3, 3, 4), activation='relu'),
             Layer('large', 'conv', ('first',), (3, 3, 4, 4)),
             Layer('pool', 'max', ('large',), window=(8, 8), stride=(8, 8)),
             Layer('small', 'conv', ('pool',), (1, 1, 4, 4), activation='relu'),
             Layer('point', 'conv', ('small',), (4, 4, 4, 5), activation='relu'),
             moved('flat', ('point',), keras.layers.Flatten().call),
             Layer('logits', 'dense', ('flat',), (5, 2))]
    sides = dict(zip(['pixels'] + [each.name for each in table], (32, 34, 32, 32, 4, 4, 1)))
    a = {name: np.zeros((1, side, side, 3)) for name, side in sides.items()}
    a = {name: tf.constant(x) for name, x in {**a, 'flat': np.zeros((1, 5)),
                                              'logits': np.zeros((1, 2))}.items()}
    found = {each.name: each for each in placed(table, a, [5, -1, -1], [6, 2, -0.5])}
    assert [found[name].place for name in ('first', 'large', 'pool', 'small', 'point', 'logits')] \
        == ['pixels', 'lower', 'lower', 'upper', 'dense', 'dense']
    for bound, inside in (found['first'].low, [5, -1, -1]), (found['first'].high, [6, 2, -0.5]):
        assert bound.shape == (34, 34, 3) and not bound[0].any() and not bound[:, -1].any()
        assert (bound[1:-1, 1:-1] == inside).all()
    assert [name for name, each in found.items() if each.signed] == ['padded', 'first', 'pool',
                                                                     'small']


def test_digits_and_photographs_share_their_rules():
    """The rules for inputs that are not negative are the same text in both folders, and so are the
    measures of the experiments."""
    mnist = scripts('mnist')
    for name in ('stabilise', 'zplus', 'zbeta', 'epsilon', 'gamma', 'max_pool'):
        assert inspect.getsource(getattr(mnist.rules, name)) == inspect.getsource(
            inspect.unwrap(getattr(rules, name)))
    assert inspect.getsource(mnist.measures) == inspect.getsource(vgg.measures)
