"""Pixel flipping, region perturbation and randomised weights, on networks whose relevant inputs are
known."""
import re
from types import SimpleNamespace

from conftest import scripts
import keras
import numpy as np
from PIL import Image
import pytest
from small_vgg import SHORT, photograph, random_weights, run, shrink


def width(path):
    with Image.open(path) as picture:
        return picture.size[0]


@pytest.fixture
def flip():
    return scripts('mnist').flip


def test_order_is_of_falling_score_with_ties_at_random(flip):
    score = np.zeros([2, 28, 28])
    score[0, 3, 5], score[0, 20, 1], score[1, 0, 0] = 2.0, 1.0, -1.0
    orders = [flip.order(score, range(2), seed) for seed in (0, 1)]
    for order in orders:
        assert all(sorted(row) == list(range(784)) for row in order)
        assert list(order[0, :2]) == [3 * 28 + 5, 20 * 28 + 1] and order[1, -1] == 0
    assert (orders[0] != orders[1]).mean() > 0.9


@pytest.mark.parametrize('way, value', [('to background', 0), ('inverted', 0.75)])
def test_flips_four_pixels_a_step_in_order(flip, monkeypatch, way, value):
    monkeypatch.setattr(flip, 'STEPS', 3)
    images = np.full([1, 28, 28], 0.25)
    pixels = np.arange(784)[None, ::-1]
    sums = [x.sum() for x in flip.flipped(images, pixels, way)]
    assert sums == [196 + 4 * k * (value - 0.25) for k in range(4)] and images.sum() == 196
    *_, last = flip.flipped(images, pixels, way)
    assert (last.reshape(-1)[-12:] == value).all() and (last.reshape(-1)[:-12] == 0.25).all()


def test_true_order_of_a_linear_network_is_first_and_random_last(flip, monkeypatch):
    """The logits of images are their products with w."""
    monkeypatch.setattr(flip, 'STEPS', 196)
    rng = np.random.default_rng(0)
    w, images = np.zeros([28, 28, 2]), rng.random([5, 28, 28])
    w[..., 0] = rng.normal(0.1, 1, [28, 28])
    network = SimpleNamespace(classify=lambda images: np.tensordot(images, w, 2))
    truth = images * w[..., 0]
    blurred = truth + rng.normal(0, 0.5, truth.shape)
    scores = {'true': truth, 'blurred': blurred, 'random': rng.random(truth.shape), 'worst': -truth}
    curves = {name: flip.followed(network, images, np.zeros(5), flip.order(score, range(5), 0),
                                  'to background')[0]
              for name, score in scores.items()}
    areas = {name: flip.aopc(logits).mean() for name, logits in curves.items()}
    assert areas['true'] > areas['blurred'] > areas['random'] > areas['worst']
    first = np.sort(truth.reshape(5, -1), 1)[:, ::-1]  # each step takes away its four largest terms
    expected = truth.sum((1, 2)) - np.cumsum(first, 1)[:, 3::4].T
    np.testing.assert_allclose(curves['true'][1:], expected, atol=1e-9)


def test_perturbation_replaces_whole_regions_by_the_given_noise():
    """Five of 196 regions at a step; in a small picture, one of 25."""
    flip, images = scripts('vgg').flip, np.zeros([1, 224, 224, 3], np.uint8)
    order, noise = np.array([[0, 15, 195, 1, 2, *range(3, 15), *range(16, 195)]]), images + 7
    state, *_ = flip.perturbed(images, order, noise)
    assert not images.any() and (state == 7).sum() == 5 * 16 * 16 * 3
    changed = [tuple(place) for place in np.argwhere(state[0, ::16, ::16, 0])]
    assert changed == [(0, 0), (0, 1), (0, 2), (1, 1), (13, 13)]
    state, *_ = flip.perturbed(images[:, :5, :5], np.arange(25)[None, ::-1], noise[:, :5, :5])
    assert (state == 7).sum() == 3 and (state[0, 4, 4] == 7).all()


def test_network_that_reads_its_middle(tmp_path, monkeypatch):
    """The regions there are the most relevant ones, and the logit falls with them. The numbers are
    the same whatever the batch and the number of draws."""
    vgg = shrink(monkeypatch, tmp_path / 'middle.npz')
    monkeypatch.setattr(vgg.opponents, 'STEPS', 2)
    arrays = {name: np.abs(values) for name, values in random_weights().items()}  # no dead units
    kernel = np.zeros([7, 7, 4, 6], np.float32)
    kernel[3, 3] = arrays['fc1/kernel'].reshape(7, 7, 4, 6)[3, 3]
    np.savez(tmp_path / 'middle.npz', **{**arrays, 'fc1/kernel': kernel.reshape(-1, 6)})
    explainer = vgg.explainer.open_explainer('caltech101', ['deep-taylor'], gradient=True)
    bright = np.random.default_rng(1).integers(200, 256, [3, 224, 224, 3], np.uint8)
    scores = vgg.flip.scores(explainer, bright, range(3))
    assert set(scores['centre'].argmax(1)) <= {6 * 14 + 6, 6 * 14 + 7, 7 * 14 + 6, 7 * 14 + 7}
    share = np.abs(scores['deep-taylor']).reshape(-1, 14, 14)
    assert (share[:, 6:8, 6:8].mean((1, 2)) > 5 * share.mean((1, 2))).all()
    results = vgg.flip.flip_all(explainer, bright, 2, 0)  # noise darkens
    areas = {key: vgg.flip.aopc(logits).mean() for key, logits in results.items()}
    assert areas['deep-taylor', 'most'] > 2 * areas['random', 'most'] > 0
    assert areas['random', 'most'] > 2 * areas['deep-taylor', 'least']
    twice = vgg.flip.flip_all(explainer, bright, 3, 0, repeats=2)
    for key, logits in twice.items():
        np.testing.assert_allclose(logits[..., :1], results[key], rtol=1e-5)
    assert np.abs(np.diff(twice['random', 'most'])).max() > 0


def test_gain_is_what_most_first_costs_more_than_least_first():
    """Logits that fall by 4, by 1 and by 2 at the one step, of 5: AOPC is half of that."""
    drop = {('rule', 'most'): 4.0, ('rule', 'least'): 1.0, ('random', 'most'): 2.0}
    table = scripts('vgg').flip.report({key: np.array([[[5.0]] * 6, [[5 - fall]] * 6])
                                        for key, fall in drop.items()})
    line, = [line for line in table.splitlines() if line.split()[0] == 'rule']
    assert [float(word) for word in line.split()[1::3]] == [2, 0.5, 1.5]


def test_mnist_script_puts_the_rules_ahead_of_random(printed, flip, small, logdir, tmp_path,
                                                     monkeypatch):
    monkeypatch.setattr(flip, 'STEPS', 8)
    printed = printed('mnist/flip.py', '--data', small, '--logdir', logdir, '--results',
                      tmp_path / 'r', '--digits', 6, '--seed', 3)
    lines = [line.split() for line in printed.splitlines() if line.endswith('%')]
    areas = {' '.join(words[:-15]): float(words[-15]) for words in lines}
    rules = list(scripts('mnist').rules.COMPOSITES)
    assert set(areas) == {*rules, 'gradient x input', 'gradient magnitude', 'random', 'random ink',
                          'brightness'}
    assert areas['random ink'] > 2 * areas['random']
    assert all(areas[rule] > 2 * areas['random'] for rule in rules)
    assert width(tmp_path / 'r' / 'flip.png') > 1000
    assert (tmp_path / 'r' / 'flip.txt').read_text() in printed


def test_planted_marks_and_what_lies_on_them():
    """A map of the mark alone has all on it; one that is the same everywhere has chance on it."""
    planted, rng = scripts('mnist').planted, np.random.default_rng(0)
    digits, labels = rng.integers(0, 256, [40, 28, 28], np.uint8), rng.integers(0, 10, 40)
    within, patterns = planted.places(40, rng), planted.marks(0)
    pictures = planted.planted(digits, within, labels, patterns)
    np.testing.assert_array_equal(pictures[within].reshape(-1, 5, 5), patterns[labels])
    np.testing.assert_array_equal(pictures[~within], digits[~within])
    maps = {'right': 1.0 * within, 'wrong': 1.0 - within, 'even': np.ones(within.shape)}
    for found in planted.on_mark(maps, within).values():
        assert (found['right'].mean, found['wrong'].mean) == (1, 0)
    shares = planted.on_mark(maps, within)['positive relevance']
    assert shares['even'].mean == pytest.approx(planted.CHANCE)


def test_baselines_see_only_the_picture():
    """A white pixel in the dark by hand: its edges lie beside it, its Laplacian on it most."""
    picture = np.zeros((1, 28, 28), np.float32)
    picture[0, 10, 20] = 1
    found = {name: drawn(picture)[0, 9:12, 19:22] for name, drawn
             in scripts('mnist').planted.BLIND.items()}
    np.testing.assert_array_equal(found['brightness'], [[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found['edges'], [[0, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0]])
    np.testing.assert_array_equal(found['Laplacian'], [[0, 1, 0], [1, 4, 1], [0, 1, 0]])


def test_planted_from_its_command_to_its_files(printed, explainer, small, tmp_path, monkeypatch):
    """With a network that knows digits, not marks: it does not use them."""
    planted = scripts('mnist').planted
    monkeypatch.setattr(planted, 'trained', lambda args, condition: explainer)
    out = printed('mnist/planted.py', '--data', small, '--digits', 30, '--results', tmp_path)
    assert (tmp_path / 'planted.txt').read_text() in out and width(tmp_path / 'planted.png') > 1000
    for part in out.split('\n\n'):
        shares = {words[0]: float(words[1]) for words in map(str.split, part.splitlines())
                  if words[-1].endswith(']') and len(words) == 7}
        assert shares['deep-taylor'] < 0.2 < shares['Laplacian'] < 0.4


@pytest.fixture
def small_vgg(tmp_path, monkeypatch):
    """The scripts of vgg/ with a small network, and options: two photographs, a file that is none,
    the network."""
    vgg = shrink(monkeypatch, tmp_path / 'small.npz')
    monkeypatch.setitem(vgg.model.DEPTHS, 'vgg16', SHORT)
    np.savez(tmp_path / 'small.npz', **random_weights(model='short'))
    (tmp_path / 'broken.jpg').write_text('no picture')
    paths = [photograph(tmp_path / 'a.png', seed=1), photograph(tmp_path / 'b.png', seed=2),
             tmp_path / 'broken.jpg']
    return vgg, [*paths, '--weights', 'caltech101', '--results', tmp_path / 'r']


def test_flip_from_its_command_to_its_files(small_vgg, tmp_path, capsys):
    vgg, options = small_vgg
    end = run(vgg.evaluate.main, capsys, 'flip', *options, '--rule', 'deep-taylor', 'epsilon',
              'epsilon', '--seed', 5)
    assert end.status == 1 and len(end.err) == 1 and 'broken.jpg' in end.err[0]
    assert sum(line.endswith(']') for line in end.out) == 9  # methods
    assert (tmp_path / 'r' / 'flip.txt').read_text() in '\n'.join(end.out) + '\n'
    assert width(tmp_path / 'r' / 'flip.png')


def test_sentence_on_one_picture(tmp_path, capsys):
    """The logit is the sum of all pixels, of which nine are 1: noise takes the place of eight of
    them, or of 0.72 on average among eight at random."""
    model = keras.Sequential([keras.Input((10, 10, 1)), keras.layers.Flatten(),
                              keras.layers.Dense(2)])
    model.layers[-1].set_weights([np.ones((100, 1)) * [1, -1], np.zeros(2)])
    model.save(tmp_path / 'sum.keras')
    pixels = np.where(np.arange(100) % 12, 0, 255).reshape(10, 10)
    Image.fromarray(np.uint8(pixels)).save(tmp_path / 'a.png')
    end = run(scripts('vgg').evaluate.main, capsys, 'flip', tmp_path / 'a.png', '--weights',
              tmp_path / 'sum.keras', '--preprocessing', 'unit', '--rule', 'epsilon', 'zplus',
              '--results', tmp_path / 'r')
    pattern = re.compile(r'(\S+): without its 8 most relevant of 100 regions the logit of class 0 '
                         r'goes from 9.0 to (\S+); without 8 at random to (\S+) '
                         r'\[(\S+) to (\S+) in 10 draws\]')
    first, second = filter(None, map(pattern.fullmatch, end.out))
    assert (end.status, first[1], second[1]) == (0, 'epsilon', 'zplus')
    after, chance, low, high = map(float, first.groups()[1:])
    assert after == pytest.approx(9 - 8 + 4, abs=1)  # noise is 1/2 on average
    assert chance == pytest.approx(9 - 0.72 + 4, abs=1) and low < chance < high


def test_randomise_from_its_command_to_its_files(small_vgg, tmp_path, capsys):
    vgg, options = small_vgg
    end = run(vgg.evaluate.main, capsys, 'randomise', *options, '--draws', 2, '--rule',
              'deep-taylor', 'epsilon')
    assert end.status == 1 and 'broken.jpg' in end.err[0]
    lines = (tmp_path / 'r' / 'randomise.txt').read_text().splitlines()[1:]
    assert lines[::10] == vgg.randomise.KINDS
    for k, intact in (0, 1), (10, 1), (20, 0):
        table = {line.split()[0]: list(map(float, line.split()[1::4]))
                 for line in lines[k + 2:k + 10]}
        assert list(table)[:3] == ['intact', 'predictions', 'fc1']
        assert list(table)[-1] == 'block1_conv1' and table['intact'] == [intact, intact]
        assert k == 20 or abs(table['block1_conv1'][1]) < 0.5  # of epsilon
    assert width(tmp_path / 'r' / 'randomise.png')


def test_entropy_of_a_heatmap():
    """None if all values are alike; the logarithm of the number of bins if they spread evenly. Its
    rise is divided by where it started."""
    randomise = scripts('vgg').randomise
    flat, two, spread = np.zeros(100), np.repeat([-1.0, 1.0], 50), np.linspace(-1, 1, 100)
    assert randomise.entropy(flat + 3) == randomise.entropy(flat) == 0
    assert randomise.entropy(two) == pytest.approx(np.log(2))
    assert randomise.compared(two, spread)[2] == pytest.approx(np.log(100) / np.log(2) - 1)


def test_permuted_weights():
    """The same weights for each unit, in another place."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 50, 40))
    before = kernel.reshape(-1, 40)
    after = scripts('vgg').randomise.permuted(kernel, rng).reshape(-1, 40)
    assert (np.sort(before, 0) == np.sort(after, 0)).all() and (before != after).mean() > 0.9


def test_randomising_leaves_the_network_as_it_was(small_vgg):
    vgg, _ = small_vgg
    explainer = vgg.explainer.open_explainer('caltech101', ['deep-taylor', 'epsilon'])
    images = np.random.default_rng(0).integers(0, 256, [2, 224, 224, 3], np.uint8)
    before = explainer(images)
    found, shown = vgg.randomise.cascade(explainer, images, 2, 1, 0)
    after = explainer(images)
    for rule, r in before.relevance.items():
        np.testing.assert_array_equal(r, after.relevance[rule])
    assert {values['epsilon'].shape for values in found.values()} == {(1, 2, 3)}
    assert shown['fc1']['epsilon'].shape == (224, 224)
    last = found['block1_conv1']['deep-taylor']
    assert (last[..., 1] >= last[..., 0] - 1e-9).all()  # never negative: absolute is as it is
