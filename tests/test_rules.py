"""The rules that both folders have, against the oracle and against what the papers claim of them."""
import inspect
import os
import subprocess
import sys

from conftest import ROOT, scripts
import numpy as np
import oracle
import pytest

LAYERS = {  # kind, shape of the weights, shape of the inputs
    'conv': ('conv', (3, 3, 2, 3), (2, 4, 5, 2)),
    'conv of 2x3 pixels': ('conv', (3, 3, 3, 4), (3, 2, 3, 3)),
    'conv of one pixel': ('conv', (3, 3, 2, 4), (3, 1, 1, 2)),
    '5x5 conv': ('conv', (5, 5, 1, 2), (2, 3, 4, 1)),
    'dense': ('dense', (6, 5), (4, 6)),
}
SHARED = ['tiny', 'stabilise', 'zplus', 'zbeta', 'epsilon', 'max_pool', 'unflatten', 'relevance']
CONTENTS = ['mixed', 'weights <= 0', 'weights zero', 'inputs zero', 'one input', 'large', 'small']
BOUNDS = {'zero to one': (0.0, 1.0), 'nearly zero to one': (-1e-6, 1.0), 'around zero': (-0.5, 2.0),
          'per channel': None}


@pytest.fixture(params=LAYERS)
def place(request, folder):
    """A layer, the shape of its weights and of its inputs."""
    kind, weights, inputs = LAYERS[request.param]
    return folder.model.Layer('layer', kind, weights), weights, inputs


@pytest.fixture
def linear(folder, evaluate):
    """A function: the linear part of a layer, computed by the folder's model."""
    return lambda layer, a, w: evaluate(lambda a: folder.model.linear(layer, a, folder.lrp.tf.constant(w)), a)


@pytest.fixture
def propagate(folder, evaluate):
    """A function: the relevance that the folder's rule of this name gives to a."""
    lrp, model = folder.lrp, folder.model

    def relevance(rule, layer, a, w, b, r, *options):
        def op(a, r):
            return getattr(lrp, rule)(layer, a, model.Weights('layer', lrp.tf.constant(w), lrp.tf.constant(b)), r, *options)
        return evaluate(op, a, r)
    return relevance


@pytest.fixture
def dense(folder):
    """A dense layer."""
    return folder.model.Layer('layer', 'dense')


def made(folder, name, kind, size, stride):
    """A layer as the folder's table states it: ReLU and strides by row and column are said in vgg/ alone."""
    if folder is scripts('mnist'):
        return folder.model.Layer(name, kind, size, stride)
    return folder.model.Layer(name, kind, size, (stride, stride))


@pytest.fixture
def pool(folder, evaluate):
    """A function: relevance through 2x2 max-pooling."""
    layer = made(folder, 'layer', 'max', (2, 2), 2)
    return lambda a, r: evaluate(lambda a, r: folder.lrp.max_pool(layer, a, None, r), np.float32(a), np.float32(r))


def numbers(place, content='mixed', signed=False):
    """Draws a, w, b and r of a layer: a >= 0 unless signed, r of both signs."""
    _, shape, inputs = place
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
    a = np.full(place[2], shade, np.float32)
    found = propagate('zbeta', place[0], a, w, b, r, -1e-6, 1.0)
    assert_close(found, oracle.zbeta(place[0], a, w, b, r, np.float32(-1e-6), 1.0))


@pytest.mark.parametrize('content', CONTENTS)
@pytest.mark.parametrize('eps', [1e-6, 0.25])
def test_epsilon(propagate, place, content, eps):
    arrays = numbers(place, content, signed=True)
    assert_close(propagate('epsilon', place[0], *arrays, eps), oracle.epsilon(place[0], *arrays, eps), 1e-4)


def test_epsilon_is_1e_6_unless_given(propagate, dense):
    """a = 2e-6 and weights 1 and -1: two thirds of the relevance arrive, of the negative output too."""
    a, r = np.float32([[2e-6]]), np.float32([[3.0, 6.0]])
    assert_close(propagate('epsilon', dense, a, np.float32([[1, -1]]), np.float32([0, 0]), r), [[2.0 + 4.0]])


def test_epsilon_takes_the_sign_of_zero_for_positive(propagate, dense):
    """z = 1 * 2 - 2 * 1 = 0: each input gets what it gave, divided by +eps."""
    a, r = np.float32([[1, 2]]), np.float32([[3.0]])
    w, b = np.float32([[2], [-1]]), np.float32([0])
    assert_close(propagate('epsilon', dense, a, w, b, r, 0.5), [[12.0, -12.0]])


@pytest.mark.parametrize('rule', ['zplus', 'epsilon'])
def test_output_without_inputs_sends_nothing(propagate, place, rule):
    """It has nobody to give its relevance to, though its bias may have lifted it."""
    a, w, b, r = numbers(place, 'inputs zero')
    assert not propagate(rule, place[0], a, w, b + 1, 1e6 * r).any()


def test_dead_output_leaves_the_others_alone(propagate, dense):
    """Outputs receive 2, nothing and 3; the second one's relevance of 1000 stays where it is."""
    a, r = np.float32([[1, 2]]), np.float32([[4.0, 1e3, 6.0]])
    w, b = np.float32([[1, -1, 3], [0.5, -2, 0]]), np.zeros(3, np.float32)
    assert_close(propagate('zplus', dense, a, w, b, r), [[2.0 + 6.0, 2.0]])


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


def test_epsilon_equals_gradient_times_input(folder, evaluate):
    """Of a network with ReLU and max-pooling but without bias, as eps goes to 0 (Shrikumar et al. 2016)."""
    tf, lrp, model, rng = folder.lrp.tf, folder.lrp, folder.model, np.random.default_rng(5)
    layers = [made(folder, name, kind, size, stride) for name, kind, size, stride in [
        ('conv1', 'conv', (3, 3, 2, 4), 1), ('conv2', 'conv', (3, 3, 4, 5), 1), ('pool', 'max', (2, 2), 2),
        ('flatten', 'flatten', (), 1), ('dense1', 'dense', (30, 6), 1), ('dense2', 'dense', (6, 3), 1)]]
    kernels = {layer.name: np.float32(rng.normal(size=layer.size)) for layer in layers if layer.kind in ('conv', 'dense')}

    def both(x):
        weights = {name: model.Weights(name, tf.constant(w), tf.zeros(w.shape[-1])) for name, w in kernels.items()}
        a = [x]
        for layer in layers:
            a.append({'conv': lambda: tf.nn.relu(model.linear(layer, a[-1], weights[layer.name].w)),
                      'max': lambda: model.pool(layer, a[-1]), 'flatten': lambda: tf.reshape(a[-1], [-1, 30]),
                      'dense': lambda: model.linear(layer, a[-1], weights[layer.name].w)}[layer.kind]())
            a[-1] = tf.nn.relu(a[-1]) if layer.name == 'dense1' else a[-1]
        start = a[-1] * [0.0, 1.0, 0.0]
        return lrp.relevance('epsilon', layers, a, weights, start)[0], x * tf.gradients(start, x)[0]
    relevance, expected = evaluate(both, rng.normal(size=(3, 4, 6, 2)).astype(np.float32))
    assert (np.abs(expected).max((1, 2, 3)) > 1).all()
    assert_close(relevance, expected, 1e-3)


@pytest.mark.parametrize('name', SHARED)
def test_both_folders_state_a_rule_in_the_same_words(name):
    """Whoever compares the two lrp.py sees what differs: the table, the composites, the pictures. (`linear` and its transpose, in
    model.py, differ: VGG's know average pooling and bfloat16.)"""
    first, second = (inspect.getsource(getattr(scripts(folder).lrp, name)) for folder in ('mnist', 'vgg'))
    assert first == second


SCRIPTS = ['mnist/train.py', 'mnist/lrp.py', 'mnist/flip.py', 'vgg/lrp.py', 'vgg/flip.py', 'vgg/frame.py', 'vgg/mosaic.py',
           'vgg/randomise.py', 'vgg/gallery.py']


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_waits_for_no_tensorflow(script, tmp_path):
    """Nor does PYTHONSAFEPATH hide what stands beside the script."""
    end = subprocess.run([sys.executable, '-X', 'importtime', ROOT / script, '--help'], cwd=tmp_path, capture_output=True, text=True,
                         env=dict(os.environ, PYTHONSAFEPATH='1'))
    assert end.returncode == 0 and end.stdout.startswith('usage: ') and 'Traceback' not in end.stderr
    modules = {line.rsplit('|')[-1].strip() for line in end.stderr.splitlines()}
    assert 'numpy' in modules and not modules & {'tensorflow', 'keras'}


@pytest.mark.parametrize('script, options', [('mnist/train.py', []), ('vgg/lrp.py', ['a.png']), ('vgg/gallery.py', [])])
def test_broken_tensorflow_is_named(script, options, tmp_path):
    """And not the file that was read at that moment."""
    (tmp_path / 'tensorflow').mkdir()
    (tmp_path / 'tensorflow' / '__init__.py').write_text("raise ImportError('libfoo.so: cannot open\\nand more')")
    end = subprocess.run([sys.executable, ROOT / script, *options, '--results' if options or 'gallery' in script else '--logdir', 'r'],
                         cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=str(tmp_path)))
    assert (end.returncode, end.stdout) == (2, '')
    assert end.stderr == f'{os.path.basename(script)}: tensorflow cannot be imported (libfoo.so: cannot open): install requirements.txt anew\n'


def test_script_is_the_same_file_in_both_folders():
    assert (ROOT / 'mnist' / 'script.py').read_bytes() == (ROOT / 'vgg' / 'script.py').read_bytes()
