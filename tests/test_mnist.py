"""mnist/lrp.py: what is true of the relevance of a trained network, what is written, and how it
fails."""
import shutil

from conftest import RULES, other_network, scripts, succeed, truncate
import numpy as np
from PIL import Image
import pytest

LAYERS = ['pixels', 'conv1', 'conv2', 'pool', 'flatten', 'dense1', 'dense2']
ONE_SIGN = ['deep-taylor', 'zplus']
mnist = scripts('mnist')


def shares(explained, rule):
    """Sum of relevance / logit of each digit at each layer: [n, 7]."""
    return explained.sums[rule] / explained.logits.max(1, keepdims=True)


def test_deep_taylor_conserves_down_to_the_pixels(explained):
    assert explained.sums['deep-taylor'].shape == (250, len(LAYERS))
    assert np.abs(shares(explained, 'deep-taylor') - 1).max() < 1e-5
    pixels = explained.relevance['deep-taylor'].sum((1, 2), dtype=np.float64)
    np.testing.assert_allclose(pixels, explained.logits.max(1), rtol=1e-5)


def test_zplus_conserves_above_the_pixels(explained):
    """At the pixels it loses what belongs to outputs that only their bias lifted."""
    found = shares(explained, 'zplus')
    assert np.abs(found[:, 1:] - 1).max() < 1e-5
    assert found[:, 0].max() < 1 + 1e-5 and found[:, 0].min() > 0.8


def test_the_default_composite_is_made_of_three_rules(explained):
    """Epsilon down to the convolutions; the box conserves what reaches the first of them."""
    found, epsilon = explained.sums['epsilon-gamma-box'], explained.sums['epsilon']
    np.testing.assert_allclose(found[:, 3:], epsilon[:, 3:], rtol=1e-5)
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-5)
    np.testing.assert_allclose(found[:, 2], epsilon[:, 2], rtol=1e-5)  # conv2 reads by gamma
    assert np.abs(found[:, 1] - epsilon[:, 1]).max() > 0.1


def test_signs_and_black_pixels(explained, digits):
    """Black can speak for a class, says zB; the rules that weigh by the input give it nothing."""
    black, found = digits[0] == 0, explained.relevance
    assert all(found[rule].min() >= 0 for rule in ONE_SIGN) and found['epsilon'].min() < 0
    assert not found['zplus'][black].any() and not found['epsilon'][black].any()
    assert found['deep-taylor'][black].sum() > 0.05 * found['deep-taylor'].sum()


def test_epsilon_is_gradient_times_input(explainer, digits):
    """Of the whole network with its biases, for any target."""
    images = digits[0][:50] / np.float32(255)
    expected = images * explainer.gradient(images, 4)
    wrong = np.abs(explainer(images, 4).relevance['epsilon'] - expected)
    assert (wrong.max((1, 2)) < 0.01 * np.abs(expected).max((1, 2))).all()


def test_target(explainer, explained, digits):
    """Relevance starts at its logit, or by rules of one sign at the logit's size."""
    found = explainer(digits[0][:20] / np.float32(255), 3)
    assert (found.targets == 3).all() and (explained.targets == explained.logits.argmax(1)).all()
    logits = found.logits[:, 3]
    assert logits.min() < 0 < logits.max()
    for rule in RULES:
        expected = np.abs(logits) if rule in ONE_SIGN else logits
        np.testing.assert_allclose(found.started[rule], expected, rtol=1e-6)
        np.testing.assert_allclose(found.sums[rule][:, -1], expected, rtol=1e-6)


def test_contrast_is_the_difference(explainer, digits):
    """Of two explanations; scaled to the same size for rules of one sign."""
    images = digits[0][:40] / np.float32(255)
    found, one, other = explainer(images, 3, 8), explainer(images, 3), explainer(images, 8)
    for rule in RULES:
        scale = one.started[rule] / other.started[rule] if rule in ONE_SIGN else np.ones(40)
        expected = one.relevance[rule] - other.relevance[rule] * scale[:, None, None]
        assert np.abs(found.relevance[rule] - expected).max() < 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(found.started[rule], one.started[rule], rtol=1e-5)
    sums, start = found.sums['deep-taylor'], found.started['deep-taylor'][:, None]
    assert (np.abs(sums) < 1e-4 * start).all()


def test_digits_seen_as_the_other_class_are_compared_with_the_second(explainer, digits):
    images = digits[0][:100] / np.float32(255)
    logits = explainer(images).logits
    targets = explainer(images, against=3).targets
    without = np.where(np.arange(10) == 3, -np.inf, logits)
    np.testing.assert_array_equal(targets, without.argmax(1))
    assert (logits.argmax(1) == 3).any() and not (targets == 3).any()


def test_what_is_red_speaks_for_the_class(explainer, digits):
    """Taken away, the 20 reddest pixels lower the target's logit more than 20 of the ink at random;
    so where it is a little negative, too. (Of a class that the network rules out, at -10 say, there
    is nothing left to take away.)"""
    images, rng = digits[0] / np.float32(255), np.random.default_rng(0)
    inked, drops = (images > 0).sum((1, 2)) > 80, {name: [] for name in [*RULES, 'random']}
    for target in 3, 8:
        found = explainer(images, target)
        kept = inked & (found.logits[:, target] > -2)
        before = found.logits[kept, target]
        scores = {**found.relevance, 'random': rng.random(images.shape) + (images > 0)}
        for name, score in scores.items():
            flipped = images[kept].reshape(len(before), -1)
            reddest = np.argsort(-score[kept].reshape(len(before), -1), 1)[:, :20]
            np.put_along_axis(flipped, reddest, 0, 1)
            after = explainer.classify(flipped.reshape(-1, 28, 28))[:, target]
            drops[name].extend(zip(before > 0, before - after))
    for sign in False, True:
        means = {name: np.mean([drop for positive, drop in found if positive == sign])
                 for name, found in drops.items()}
        assert all(means[rule] > means['random'] + 0.1 for rule in RULES), means
    assert 20 < sum(positive for positive, _ in drops['random']) < len(drops['random']) - 20


def test_neighbours_in_the_batch_do_not_matter(explainer, explained, digits):
    """Nor is anything drawn at random, as dropout would be."""
    for batch, place in ([17], 0), ([3, 17, 99], 1), ([17] * 5, 4):
        found = explainer(digits[0][batch] / np.float32(255))
        for rule in RULES:
            expected = explained.relevance[rule][17]
            wrong = np.abs(found.relevance[rule][place] - expected).max()
            assert wrong < 1e-5 * np.abs(expected).max()


def test_graph_is_built_once_and_small(explainer):
    graph = explainer.session.graph
    assert graph.finalized and graph.as_graph_def().ByteSize() < 10e6  # weights are no constants


# What is written

def rows(printed, rule):
    """The lines of a rule's table: [[digit, seen as, target, value, shares ...], ...]."""
    lines = printed.split(f'\n{rule}: sum of relevance')[1].split('\n\n')[0].split('\n')
    assert lines[1].split()[-len(LAYERS):] == LAYERS
    return [list(map(float, line.split()[1:])) for line in lines[2:]]  # after 'digit'


def test_default_run(logdir, small, digits, tmp_path):
    """A digit of each class, in a table and a picture, by two rules."""
    (tmp_path / 'elsewhere').mkdir()
    printed = succeed('mnist/lrp.py', '--data', small, '--logdir', logdir, '--results',
                      tmp_path / 'results', cwd=tmp_path / 'elsewhere')
    assert not list((tmp_path / 'elsewhere').iterdir())
    tables = [rows(printed, rule) for rule in ('epsilon-gamma-box', 'deep-taylor')]
    for i, (one, other) in enumerate(zip(*tables)):
        assert one[:4] == other[:4] and digits[1][int(one[0])] == one[1] == one[2] == i
        assert one[3] > 0 and other[4:] == pytest.approx([1] * len(LAYERS), abs=1e-5)
        with Image.open(tmp_path / 'results' / f'{i}.jpg') as picture:
            assert picture.format == 'JPEG' and picture.size[0] > 2 * picture.size[1]
            assert len(picture.getcolors(10 ** 6)) > 100
    assert len(list((tmp_path / 'results').iterdir())) == len(tables[0]) == 10


def test_colours():
    """Red for, blue against, white for nothing; each heatmap is scaled by its own largest value."""
    r, colour = np.zeros([28, 28]), mnist.heatmaps.colour
    r[4, 5], r[20, 21] = 1e-3, -0.5e-3
    red, blue = colour(r)[4, 5], colour(r)[20, 21]
    assert red[0] > 100 and not red[1:].any() and blue[2] > 200 and blue[0] == blue[1] < 60
    assert colour(-1e6 * r)[4, 5].argmax() == 2
    assert colour(r)[r == 0].min() > 250 and colour(0 * r).min() > 250


def test_seed_decides_the_digits(explainer, digits):
    def picked(seed):
        return mnist.lrp.pick(explainer, [4, 4, 1], *digits, np.random.default_rng(seed))
    assert picked(0) == picked(0) != picked(1)
    assert len(set(picked(0))) == 3 and list(digits[1][picked(0)]) == [4, 4, 1]


@pytest.fixture
def lrp(called, explainer, small, tmp_path, monkeypatch):
    """A function: runs lrp.py with the network that is there, by all rules, into tmp_path."""
    monkeypatch.setattr(mnist.lrp, 'Explainer', lambda *_: explainer)
    return lambda *options: called(mnist.lrp.main, *options, '--data', small, '--results', tmp_path)


def test_saved_relevance(lrp, digits, tmp_path):
    """And the table, which compares it with what it started from."""
    indices = [141, 0, 7]
    end = lrp('--index', *indices, '--target', 3, '--against', 8, '--save-relevance')
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'relevance.npz', 'index_141.jpg', 'index_0.jpg', 'index_7.jpg'}
    with np.load(tmp_path / 'relevance.npz', allow_pickle=False) as file:
        saved = dict(file)
    assert list(saved['digits']) == [f'digit {i} of small.npz' for i in indices]
    assert list(saved['targets']) == [3, 3, 3] and saved['against'] == 8
    np.testing.assert_allclose(saved['images'], digits[0][indices] / 255, rtol=1e-6)
    for rule in RULES:
        three, eight = saved['logits'][:, 3], saved['logits'][:, 8]
        start = np.abs(three) if rule in ONE_SIGN else three - eight
        sums = saved[f'relevance/{rule}'].sum((1, 2), dtype=np.float64)
        for row, index, one, total in zip(rows(end.out, f'{rule} rather than 8'), indices, start,
                                          sums):
            assert row[0] == index and row[2] == 3
            assert row[3:5] == pytest.approx([one, total / one], abs=1e-3)


def test_logit_of_zero_is_told():
    """Its heatmap is empty."""
    found = mnist.explainer.Explanation(np.zeros((1, 10)), [4], {}, {'zplus': np.zeros(1)},
                                        {'zplus': np.zeros((1, 7))})
    line = mnist.lrp.table('zplus', [mnist.lrp.Digit(None, 'digit 5', '', '')], found, None)
    assert 'an empty heatmap' in line and 'nan' not in line


def test_all_digits(lrp, digits, explained, tmp_path):
    """No pictures, one file, a summary."""
    summary = lrp('--index', 'all', '--save-relevance').out
    assert [path.name for path in tmp_path.iterdir()] == ['relevance.npz']
    accuracy = np.mean(explained.logits.argmax(1) == digits[1])
    assert f'250 digits, accuracy {accuracy:.2%}' in summary
    losses = {name: list(map(float, rest)) for name, *rest in map(str.split,
                                                                  summary.splitlines()[-4:])}
    assert len(losses['epsilon']) == len(LAYERS) and max(losses['deep-taylor']) < 1e-5


# What fails

def test_no_trained_network_is_told(refused, tiny, tmp_path):
    line = refused('mnist/lrp.py', '--data', tiny, '--logdir', tmp_path, '--results', tmp_path)
    assert str(tmp_path) in line and 'train.py' in line


@pytest.mark.parametrize('part', ['.index', '.data-00000-of-00001'])
def test_damaged_network_is_refused(logdir, tmp_path, part):
    for path in logdir.glob('best*'):
        shutil.copy(path, tmp_path)
    truncate(next(tmp_path.glob(f'best-*{part}')))
    with pytest.raises(mnist.common.Refused, match='best-.*cannot be read'):
        mnist.explainer.Explainer({}, tmp_path)


def test_another_network_is_refused(tmp_path):
    other_network(tmp_path, 'best_checkpoint')
    with pytest.raises(mnist.common.Refused, match='another network: conv1/kernel'):
        mnist.explainer.Explainer({}, tmp_path)


def test_digits_that_are_not_there_are_named(explainer, digits, lrp):
    with pytest.raises(mnist.common.Refused, match='digit 5'):
        mnist.lrp.pick(explainer, 50 * [5], *digits, np.random.default_rng(0))
    for options, words in [('--index 250', '--index 250: the test set has digits 0 to 249'),
                           ('--index x', 'x is neither'), ('--target 4 --against 4', 'itself')]:
        end = lrp(*options.split())
        assert end.status == 2 and words in end.err


def test_other_files_are_never_replaced(lrp, tmp_path):
    """Not even by --overwrite: that replaces results of other digits."""
    Image.new('RGB', (9, 9)).save(tmp_path / '3.jpg', comment=b'holiday')
    (tmp_path / '4.jpg').write_text('no picture')
    before = (tmp_path / '3.jpg').read_bytes()
    for digit in 3, 4:
        end = lrp('--digit', digit, 5, '--overwrite')
        assert end.status == 2 and f'{digit}.jpg is no result of this script' in end.err
    assert (tmp_path / '3.jpg').read_bytes() == before and not (tmp_path / '5.jpg').exists()
    assert not lrp('--index', 5, '--save-relevance').status
    assert lrp('--index', 6, '--save-relevance').status == 2  # relevance.npz is of another digit
    Image.fromarray(np.uint8(np.pad(np.ones((8, 3)) * 255, 10))).save(tmp_path / 'index_5.png')
    end = lrp('--image', tmp_path / 'index_5.png')
    assert end.status == 2 and 'index_5.jpg is the result of digit 5 of small.npz' in end.err
    assert not lrp('--image', tmp_path / 'index_5.png', '--overwrite').status


def test_numbers_that_are_not_finite_are_refused(explainer, digits):
    with pytest.raises(mnist.common.Refused, match='not finite'):
        mnist.explainer.explain_all(explainer, digits[0][:3] * np.float32(np.nan))
