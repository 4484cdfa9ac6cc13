"""Where relevance starts: at the logit or at the evidence for a class, for one class rather than
another, for several at once."""
from types import SimpleNamespace

from conftest import RULES, scripts
import keras
import numpy as np
from PIL import Image
import pytest
from small_vgg import CLASSES, photograph, random_weights, run, shrink

BOTH_SIGNS = {'epsilon', 'epsilon-plus', 'epsilon-plus-flat', 'epsilon-alpha2beta1',
              'epsilon-alpha2beta1-flat',
              'epsilon-gamma-box', 'montavon2019'}
ONE_SIGN = {'deep-taylor', 'zplus', 'wsquare', 'alpha1beta0', 'alpha2beta1'}


@pytest.fixture(scope='module')
def vgg(tmp_path_factory):
    """A small VGG in float64, with all composites and three targets in its graph; its logits have
    both signs."""
    patch, path = pytest.MonkeyPatch(), tmp_path_factory.mktemp('starts') / 'small.npz'
    scripted = shrink(patch)
    np.savez(path, **random_weights(seed=3))
    network = scripted.network.open_network(path, preprocessing='caffe')
    made = scripted.explainer.Explainer(network, list(scripted.rules.COMPOSITES), 'float64', 3,
                                        gradient=True)
    images = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    logits = made.classify(images)
    assert (logits.max(1) > 0).all() and (logits.min(1) < 0).all()
    yield SimpleNamespace(explainer=made, images=images, logits=logits, network=network, known={},
                          scripts=scripted, order=np.argsort(-logits, 1))
    patch.undo()


def total(r):
    return r.sum((-3, -2, -1))


def inputs_of(explainer, network, images, name):
    """The inputs, the kernel and the bias of a layer, float64."""
    model, tf = scripts('vgg').model, scripts('vgg').model.tf
    with tf.Graph().as_default(), tf.Session() as session:
        weights = {each: model.Weights(*map(tf.constant, explainer.read(each)))
                   for each in explainer.variables}
        ones = {layer.name: model.Weights(tf.ones([1, 1], 'float64'), tf.zeros([1], 'float64'))
                for layer in network.layers if layer.kind == 'mean'}
        a = model.forward(tf.constant(network.prepare(np.float64(images))), network.layers,
                          {**weights, **ones})
        layer, = [each for each in network.layers if each.name == name]
        return session.run(a[layer.inputs[0]]), *explainer.read(name)


def test_all_composites_are_of_one_kind(vgg):
    assert BOTH_SIGNS | ONE_SIGN == set(vgg.scripts.rules.COMPOSITES)


@pytest.mark.parametrize('rule', sorted(BOTH_SIGNS | ONE_SIGN))
def test_class_with_a_negative_logit(vgg, rule):
    """Rules of one sign start from the evidence for it and stay red."""
    worst = vgg.order[:, -1]
    if 'worst' not in vgg.known:
        vgg.known['worst'] = vgg.explainer(vgg.images, worst)
        vgg.known['inputs'] = inputs_of(vgg.explainer, vgg.network, vgg.images, 'predictions')
    found, logits = vgg.known['worst'], vgg.logits[[0, 1], worst]
    r, start = found.relevance[rule], found.started[rule]
    assert (logits < 0).all()
    if rule in BOTH_SIGNS:
        np.testing.assert_allclose(start, np.stack([logits, 0 * logits], 1), rtol=1e-9)
        return
    a, w, _ = vgg.known['inputs']
    evidence = (a @ np.maximum(w, 0))[[0, 1], worst]
    np.testing.assert_allclose(start, np.stack([evidence, 0 * evidence], 1), rtol=1e-9)
    assert (evidence > 0).all() and (total(r) > 0).all()
    if rule in ('deep-taylor', 'wsquare'):
        assert (r >= 0).all()
        np.testing.assert_allclose(total(r), evidence, rtol=1e-9)


def of_first(vgg, target, against=None):
    """The first image explained for a target, by all rules; run once for all tests."""
    if (target, against) not in vgg.known:
        vgg.known[target, against] = vgg.explainer(vgg.images[:1], [target], against)
    return vgg.known[target, against]


@pytest.mark.parametrize('rule', sorted(BOTH_SIGNS | ONE_SIGN))
@pytest.mark.parametrize('ranks', [(0, 1), (0, -1), (-1, -2)])
def test_contrast_is_the_difference_of_two_explanations(vgg, rule, ranks):
    """Scaled to the same sum for rules of one sign, whatever the signs of the two logits."""
    target, other = vgg.order[0][list(ranks)]
    found = of_first(vgg, target, other)
    r, s = (of_first(vgg, each).relevance[rule][0] for each in (target, other))
    one, two = (of_first(vgg, each).started[rule][0, 0] for each in (target, other))
    expected, due = (r - s, -two) if rule in BOTH_SIGNS else (r - s * one / two, -one)
    assert np.abs(found.relevance[rule][0] - expected).max() <= 1e-9 * np.abs(expected).max()
    np.testing.assert_allclose(found.started[rule][0], [one, due], rtol=1e-9)


def test_against_alone_explains_what_was_seen_otherwise(vgg):
    best, second = vgg.order[0][:2]
    for against, expected in (second, best), (best, second):
        assert vgg.explainer(vgg.images[:1], [-1], against).targets == [expected]
    several = vgg.explainer(vgg.images[:1], [[-1, -2]], best)
    assert list(several.targets[0]) == list(vgg.order[0][1:3])


def test_several_targets_from_one_forward_pass_are_the_same(vgg):
    """Three walks in the graph, so four targets take a second run. Networks can be opened twice."""
    targets = vgg.order[:, :4]
    other = vgg.scripts.explainer.Explainer(vgg.network, ['deep-taylor', 'epsilon'], walks=3,
                                            layers=True)
    for explainer in vgg.explainer, other:
        together = explainer(vgg.images, targets)
        for k in range(4):
            alone = explainer(vgg.images, targets[:, k])
            for rule in alone.relevance:
                np.testing.assert_array_equal(alone.relevance[rule], together.relevance[rule][:, k])
            for rule, layers in alone.layers.items():
                for name in layers:
                    np.testing.assert_array_equal(layers[name], together.layers[rule][name][:, k])
    assert len(together.layers['epsilon']) == 6


def test_gradient_of_a_contrast(vgg):
    best, second = vgg.order[0][:2]
    one, other = (vgg.explainer.gradient_times_input(vgg.images[:1], [target])
                  for target in (best, second))
    found = vgg.explainer.gradient_times_input(vgg.images[:1], [best], against=second)
    np.testing.assert_allclose(found, one - other, rtol=1e-9, atol=1e-12)
    both = vgg.explainer.gradient_times_input(vgg.images[:1], [[best, second]])
    np.testing.assert_array_equal(both[:, 0], one)
    epsilon = of_first(vgg, best).relevance['epsilon'][..., ::-1]  # to BGR
    assert np.abs(epsilon - one).max() < 1e-4 * np.abs(one).max()


def test_the_graph_is_built_once(vgg):
    graph = vgg.explainer.session.graph
    assert graph.finalized and graph.as_graph_def().ByteSize() < 10e6  # weights are no constants


ENDS = {  # of networks of 6x6 pixels, three classes
    'convolution, global maximum': lambda layers: [layers.Conv2D(4, 3, activation='relu'),
        layers.Conv2D(3, 2), layers.GlobalMaxPooling2D()],
    'convolution, mean of a map': lambda layers: [layers.Conv2D(4, 3, activation='relu'),
                                                  layers.Conv2D(3, 2),
                                                  layers.GlobalAveragePooling2D()],
    'inputs of both signs': lambda layers: [layers.Conv2D(4, 3, activation='relu'),
                                            layers.Flatten(), layers.Dense(5), layers.Dense(3)],
}


@pytest.mark.parametrize('name', ENDS)
def test_evidence_whatever_the_end_of_the_network(tmp_path, name):
    """The sum of a+ w+ + a- w- in the last layer with weights, or of a+ in a mean; behind it the
    winner of a maximum, by hand."""
    lrp, rng = scripts('vgg').lrp, np.random.default_rng(0)
    model = keras.Sequential([keras.Input((6, 6, 3)), *ENDS[name](keras.layers)])
    for weights in model.weights:
        weights.assign(rng.normal(0, 0.5, weights.shape))
    model.save(tmp_path / 'my.keras')
    explainer = lrp.open_explainer(str(tmp_path / 'my.keras'), ['zplus'], preprocessing='unit',
                                   precision='float64')
    images = rng.integers(0, 256, (2, 6, 6, 3), np.uint8)
    found = explainer(images, [-3, -3])  # the least likely class
    target = found.targets
    assert (found.logits[[0, 1], target] < 0).all()
    network = explainer.network
    if 'mean' in name:
        mean, = [layer for layer in network.layers if layer.kind == 'mean']
        last = network.layers[network.layers.index(mean) - 1]
        x, w, b = inputs_of(explainer, network, images, last.name)
        windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), (1, 2))
        z = np.einsum('nyxcij,ijco->nyxo', windows, w) + b
        expected = np.maximum(z, 0).mean((1, 2))
    else:
        last = [layer.name for layer in network.layers if layer.name in explainer.variables][-1]
        x, w, b = inputs_of(explainer, network, images, last)
        if name.startswith('inputs'):
            expected = np.maximum(x, 0) @ np.maximum(w, 0) + np.minimum(x, 0) @ np.minimum(w, 0)
        else:
            windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), (1, 2))
            z, lifts = (np.einsum('nyxcij,ijco->nyxo', windows, each).reshape(2, -1, 3)
                        for each in (w, np.maximum(w, 0)))
            expected = np.take_along_axis(lifts, (z + b).argmax(1)[:, None], 1)[:, 0]
    np.testing.assert_allclose(found.started['zplus'][:, 0], expected[[0, 1], target], rtol=1e-9)


def test_nothing_speaks_for_a_class(tmp_path, capsys):
    """One class by no weight above zero, another by some: said instead of a sum that is no number;
    nothing is taken off for it."""
    vgg, model = scripts('vgg'), keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten(),
                                                   keras.layers.Dense(3)])
    w = np.ones((108, 3), np.float32) * [0.01, -0.01, 0.02]
    model.layers[-1].set_weights([w, np.float32([-9, -9, 0])])
    model.save(tmp_path / 'my.keras')
    picture = photograph(tmp_path / 'a.png')
    options = [picture, '--weights', tmp_path / 'my.keras', '--preprocessing', 'unit', '--results',
               tmp_path / 'r', '--rule', 'zplus', 'epsilon', '--overwrite']
    line, = run(vgg.lrp.main, capsys, *options, '--target', '1').out
    assert ', nothing speaks for it: zplus; sum R / logit: epsilon ' in line and 'nan' not in line
    line, = run(vgg.lrp.main, capsys, *options, '--target', '2', '--against', '1').out
    assert 'sum R / logit, nothing to take off: zplus 1.0000' in line
    line, = run(vgg.lrp.main, capsys, *options, '--target', '1', '--against', '2').out
    assert 'nothing speaks for it: zplus' in line and 'nan' not in line


# The same in mnist/

@pytest.mark.parametrize('rule', RULES)
def test_digits_contrast_is_the_difference(explainer, digits, rule):
    images = digits[0][:40] / np.float32(255)
    found, one, other = explainer(images, 3, 8), explainer(images, 3), explainer(images, 8)
    v, u = one.started[rule][:, 0], other.started[rule][:, 0]
    scale, taken = (1, -u) if rule == 'epsilon' else ((v / u)[:, None, None], -v)
    expected = one.relevance[rule] - other.relevance[rule] * scale
    assert np.abs(found.relevance[rule] - expected).max() < 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found.started[rule], np.stack([v, taken], 1), rtol=1e-5)
    if rule == 'deep-taylor':
        assert np.abs(found.sums[rule]).max() < 1e-4 * v.max()


def test_digits_seen_as_the_other_class_are_held_against_the_second(explainer, digits):
    images = digits[0][:100] / np.float32(255)
    logits = explainer(images).logits
    targets = explainer(images, against=3).targets
    without = np.where(np.arange(10) == 3, -np.inf, logits)
    np.testing.assert_array_equal(targets, without.argmax(1))
    assert (logits.argmax(1) == 3).any() and not (targets == 3).any()


@pytest.fixture(scope='module')
def of_all_classes(explainer, digits):
    """What all rules say of all test digits, for each class as the target."""
    return [explainer(digits[0] / np.float32(255), target) for target in range(10)]


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize('low, high', [(0, 99), (-2, 0)])
def test_what_is_red_speaks_for_the_class(explainer, of_all_classes, digits, rule, low, high):
    """Taken away, the 20 reddest pixels lower the target's logit more than 20 of the ink at random;
    so where it is a little negative, too. (Of a class that the network rules out, at -10 say, there
    is nothing left to take away.)"""
    images, rng = digits[0] / np.float32(255), np.random.default_rng(0)
    drops = {'red': [], 'random': []}
    for target, results in enumerate(of_all_classes):
        logits = results.logits[:, target]
        kept = np.flatnonzero((low < logits) & (logits <= high) & ((images > 0).sum((1, 2)) > 80))
        orders = {'red': results.relevance[rule], 'random': rng.random(images.shape) + (images > 0)}
        for order, scores in orders.items():
            flipped = images[kept].reshape(len(kept), -1).copy()
            np.put_along_axis(flipped, np.argsort(-scores[kept].reshape(len(kept), -1), 1)[:, :20],
                              0, 1)
            drops[order] += list(logits[kept]
                                 - explainer.classify(flipped.reshape(-1, 28, 28))[:, target])
    assert len(drops['red']) > 200
    assert np.mean(drops['red']) > max(np.mean(drops['random']) + 0.1, 0)


# What is said of it

@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs vgg/lrp.py on the small network. Returns its lines and what it saved."""
    scripted = shrink(monkeypatch)
    np.savez(tmp_path / 'small.npz', **random_weights(seed=3), classes=CLASSES)
    picture = photograph(tmp_path / 'a.png')

    def explained(*options, status=0):
        end = run(scripted.lrp.main, capsys, picture, '--weights', tmp_path / 'small.npz',
                  '--preprocessing', 'caffe', '--results', tmp_path / 'r',
                  '--save-relevance', '--rule', 'deep-taylor', 'epsilon', *options)
        assert end.status == status, end
        if status:
            return end.err, None
        with np.load(tmp_path / 'r' / 'a.npz') as file:
            return end.out, dict(file)
    return explained


def test_line_of_a_contrast(command):
    (line,), saved = command()
    best, second = np.argsort(-saved['logits'])[:2]
    (line,), saved = command('--against', f'#{second}')
    shares = np.exp(saved['logits'] - saved['logits'].max())
    shares /= shares.sum()
    names = [f'{CLASSES[k]} {shares[k]:.2f}' for k in (best, second)]
    assert f': {names[0]} rather than {names[1]}, logit ' in line
    assert saved['against'] == second and list(saved['targets']) == [best]
    difference = saved['logits'][best] - saved['logits'][second]
    share = saved['relevance/epsilon'].sum(dtype=float) / difference
    assert f'sum R / difference of logits {difference:.3f}: epsilon {share:.4f}' in line
    assert 'sum R / logit, as much taken off: deep-taylor' in line
    assert abs(float(line.split('deep-taylor ')[1].split(';')[0])) < 1e-3


def test_line_of_a_negative_logit(command):
    (_,), saved = command()
    worst = saved['logits'].argmin()
    (line,), saved = command('--target', f'#{worst}')
    logit, sums = saved['logits'][worst], {rule: saved[f'relevance/{rule}'].sum(dtype=float)
                                           for rule in ('deep-taylor', 'epsilon')}
    assert logit < 0 < sums['deep-taylor']
    evidence = float(line.split('sum R / evidence ')[1].split(':')[0])
    # a unit that its bias alone lifts keeps its own
    assert f': deep-taylor {sums["deep-taylor"] / evidence:.3f}' in line
    assert f'; sum R / logit: epsilon {sums["epsilon"] / logit:.4f}' in line
    assert 0.9 < sums['deep-taylor'] / evidence < 1.001


def test_top_of_a_contrast(command):
    lines, saved = command('--top', 4, '--against', '#1')
    assert len(lines) == 4
    assert 1 not in saved['targets']
    assert all('rather than tree frog' in line for line in lines)


@pytest.mark.parametrize('options, words', [
    (['--target', 'kite', '--against', '3'], ['--against 3', 'target itself']),
    (['--against', 'crane'], ['--against crane', '0, 2']),
    (['--against', 'kit'], ['--against kit', 'did you mean kite']),
    (['--top', '5', '--against', 'kite'], ['--top 5', '5 classes'])])
def test_contrasts_that_cannot_be(command, options, words):
    (line,), _ = command(*options, status=2)
    assert all(word in line for word in words), line


def test_digits_say_what_they_started_with(explainer, digits, logdir, small, tmp_path, capsys):
    lrp = scripts('mnist').lrp
    logits = explainer(digits[0][:1] / np.float32(255)).logits[0]
    seen, worst = logits.argmax(), logits.argmin()
    options = ['--index', '0', '--data', str(small), '--logdir', str(logdir), '--results',
               str(tmp_path), '--save-relevance']
    lrp.main([*options, '--rule', 'deep-taylor', 'epsilon', '--target', str(worst)])
    printed = capsys.readouterr().out
    with np.load(tmp_path / 'relevance.npz') as saved:
        evidence = saved['relevance/deep-taylor'].sum()
    assert f'{seen:>7} {worst:>6} evidence {evidence:.3f}  1.000000' in printed
    assert f'{worst:>6} logit {logits[worst]:.3f}' in printed
    lrp.main([*options, '--overwrite', '--rule', 'deep-taylor', 'epsilon', '--against', str(worst)])
    printed = capsys.readouterr().out
    assert f'deep-taylor rather than {worst}: sum of relevance' in printed
    assert f'logit {logits[seen]:.3f}, as much taken off' in printed
    assert f'logit {logits[seen]:.3f} - {logits[worst]:.3f}' in printed
    with np.load(tmp_path / 'relevance.npz') as saved:
        assert saved['against'] == worst
    with Image.open(tmp_path / 'index_0.jpg') as sheet:
        assert sheet.size[0] == 8 + 3 * 260
    with pytest.raises(SystemExit) as stop:
        lrp.main([*options, '--target', '4', '--against', '4'])
    assert stop.value.code == 2 and '--against 4 is the target itself' in capsys.readouterr().err
