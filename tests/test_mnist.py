"""mnist/lrp.py: what is true of the relevance of a trained network, what is written, and how it
fails."""
import shutil

from conftest import RULES, main_of, other_network, scripts, succeed, truncate
import numpy as np
from PIL import Image
import pytest

LAYERS = ['pixels', 'conv1', 'conv2', 'pool', 'flatten', 'dense1', 'dense2']
ONE_SIGN = ['deep-taylor', 'zplus']


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


def test_deep_taylor_and_zplus_are_never_negative(explained):
    assert all(explained.relevance[rule].min() >= 0 for rule in ONE_SIGN)
    assert explained.relevance['epsilon'].min() < 0


def test_relevance_of_black_pixels(explained, digits):
    """Black can speak for a class, says zB; the rules that weigh by the input give it nothing."""
    black = digits[0] == 0
    assert not explained.relevance['zplus'][black].any()
    assert not explained.relevance['epsilon'][black].any()
    found = explained.relevance['deep-taylor']
    assert found[black].sum() > 0.05 * found.sum()


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


@pytest.mark.parametrize('rule', RULES)
def test_contrast_is_the_difference(explainer, digits, rule):
    """Of two explanations; scaled to the same size for rules of one sign."""
    images = digits[0][:40] / np.float32(255)
    found, one, other = explainer(images, 3, 8), explainer(images, 3), explainer(images, 8)
    scale = one.started[rule] / other.started[rule] if rule in ONE_SIGN else np.ones(40)
    expected = one.relevance[rule] - other.relevance[rule] * scale[:, None, None]
    assert np.abs(found.relevance[rule] - expected).max() < 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found.started[rule], one.started[rule], rtol=1e-5)
    if rule == 'deep-taylor':
        assert (np.abs(found.sums[rule]) < 1e-4 * found.started[rule][:, None]).all()


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
    drops = {(name, sign): [] for name in [*RULES, 'random'] for sign in (False, True)}
    for target in 3, 8:
        found = explainer(images, target)
        logits = found.logits[:, target]
        kept = np.flatnonzero((logits > -2) & ((images > 0).sum((1, 2)) > 80))
        scores = {**found.relevance, 'random': rng.random(images.shape) + (images > 0)}
        for name, score in scores.items():
            flipped = images[kept].reshape(len(kept), -1).copy()
            reddest = np.argsort(-score[kept].reshape(len(kept), -1), 1)[:, :20]
            np.put_along_axis(flipped, reddest, 0, 1)
            after = explainer.classify(flipped.reshape(-1, 28, 28))[:, target]
            for before, drop in zip(logits[kept], logits[kept] - after):
                drops[name, bool(before > 0)].append(drop)
    assert min(map(len, drops.values())) > 20
    for rule, sign in drops:
        assert rule == 'random' or (np.mean(drops[rule, sign])
                                    > np.mean(drops['random', sign]) + 0.1), (rule, sign)


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
    r, heatmaps = np.zeros([28, 28]), scripts('mnist').heatmaps
    r[4, 5], r[20, 21] = 1e-3, -0.5e-3
    red, blue = heatmaps.colour(r)[4, 5], heatmaps.colour(r)[20, 21]
    assert red[0] > 100 and not red[1:].any() and blue[2] > 200 and blue[0] == blue[1] < 60
    assert heatmaps.colour(-1e6 * r)[4, 5].argmax() == 2
    assert heatmaps.colour(r)[r == 0].min() > 250 and heatmaps.colour(0 * r).min() > 250


def test_seed_decides_the_digits(explainer, digits):
    def picked(seed):
        return scripts('mnist').lrp.pick(explainer, [4, 4, 1], *digits, np.random.default_rng(seed))
    assert picked(0) == picked(0) != picked(1)
    assert len(set(picked(0))) == 3 and list(digits[1][picked(0)]) == [4, 4, 1]


def test_saved_relevance(printed, logdir, small, digits, tmp_path):
    """And the table, which compares it with what it started from."""
    indices = [141, 0, 7]
    options = ['--index', *indices, '--rule', *RULES, '--target', 3, '--against', 8,
               '--save-relevance']
    tables = printed('mnist/lrp.py', *options, '--data', small, '--logdir', logdir, '--results',
                     tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'relevance.npz', 'index_141.jpg', 'index_0.jpg', 'index_7.jpg'}
    with np.load(tmp_path / 'relevance.npz', allow_pickle=False) as file:
        saved = dict(file)
    assert list(saved['digits']) == [f'digit {i} of small.npz' for i in indices]
    assert list(saved['targets']) == [3, 3, 3] and saved['against'] == 8
    np.testing.assert_allclose(saved['images'], digits[0][indices] / 255, rtol=1e-6)
    logits = saved['logits']
    for rule in RULES:
        values = np.abs(logits[:, 3]) if rule in ONE_SIGN else logits[:, 3] - logits[:, 8]
        sums = saved[f'relevance/{rule}'].sum((1, 2), dtype=np.float64)
        name = f'{rule} rather than 8'
        for row, index, value, total in zip(rows(tables, name), indices, values, sums):
            assert row[0] == index and row[2] == 3
            assert row[3:5] == pytest.approx([value, total / value], abs=1e-3)


def test_logit_of_zero_is_told():
    """Its heatmap is empty."""
    mnist, zeros = scripts('mnist'), np.zeros((1, 7))
    digit = mnist.lrp.Digit(None, 'digit 5', '', '')
    for rule in RULES:
        found = mnist.explainer.Explanation(np.zeros((1, 10)), [4], {}, {rule: np.zeros(1)},
                                            {rule: zeros})
        line = mnist.lrp.table(rule, [digit], found, None).splitlines()[-1]
        assert 'an empty heatmap' in line and 'nan' not in line


def test_all_digits(printed, logdir, small, digits, explained, tmp_path):
    """No pictures, one file, a summary."""
    summary = printed('mnist/lrp.py', '--index', 'all', '--save-relevance', '--data', small,
                      '--logdir', logdir, '--results', tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['relevance.npz']
    accuracy = np.mean(explained.logits.argmax(1) == digits[1])
    assert f'250 digits, accuracy {accuracy:.2%}' in summary
    name, *losses = summary.splitlines()[-1].split()
    assert name == 'deep-taylor' and len(losses) == len(LAYERS) and max(map(float, losses)) < 1e-5


# What fails

def test_no_trained_network_is_told(refused, tiny, tmp_path):
    line = refused('mnist/lrp.py', '--data', tiny, '--logdir', tmp_path, '--results', tmp_path)
    assert str(tmp_path) in line and 'train.py' in line


@pytest.mark.parametrize('part', ['.index', '.data-00000-of-00001'])
def test_damaged_network_is_refused(logdir, tmp_path, part):
    for path in logdir.glob('best*'):
        shutil.copy(path, tmp_path)
    truncate(next(tmp_path.glob(f'best-*{part}')))
    with pytest.raises(scripts('mnist').common.Refused, match='best-.*cannot be read'):
        scripts('mnist').explainer.Explainer(['zplus'], tmp_path)


def test_another_network_is_refused(tmp_path):
    other_network(tmp_path, 'best_checkpoint')
    with pytest.raises(scripts('mnist').common.Refused, match='another network: conv1/kernel'):
        scripts('mnist').explainer.Explainer(['zplus'], tmp_path)


@pytest.mark.parametrize('options, words', [
    ('--rule lrp', ["'lrp'", *RULES]), ('--digit 11', ['--digit', '11', '9']),
    ('--digit' + 20 * ' 5', ['digit 5']), ('--target x', ['--target', "'x'"]),
    ('--index 20', ['--index 20', '0 to 19']), ('--index x', ['--index', 'x is neither']),
    ('--index 1 --digit 1', ['--index', '--digit']),
    ('--target 4 --against 4', ['--against 4 is the target itself'])])
def test_bad_options_are_named(refused, logdir, tiny, tmp_path, options, words):
    options = [*options.split(), '--data', tiny, '--logdir', logdir, '--results', tmp_path]
    line = refused('mnist/lrp.py', *options)
    assert all(word in line for word in words)


def test_other_files_are_never_replaced(called, logdir, small, tmp_path):
    """Not even by --overwrite: that replaces results of other digits."""
    def lrp(*options):
        return called(main_of('mnist/lrp.py'), *options, '--data', small, '--logdir', logdir,
                      '--results', tmp_path, '--rule', 'zplus')
    Image.new('RGB', (9, 9)).save(tmp_path / '3.jpg', comment=b'holiday')
    before = (tmp_path / '3.jpg').read_bytes()
    end = lrp('--digit', 3, 4, '--overwrite')
    assert end.status == 2 and '3.jpg is no result of this script' in end.err
    assert (tmp_path / '3.jpg').read_bytes() == before and not (tmp_path / '4.jpg').exists()
    assert not lrp('--index', 5, '--save-relevance').status
    assert lrp('--index', 6, '--save-relevance').status == 2  # relevance.npz is of another digit
    Image.fromarray(np.uint8(np.pad(np.ones((8, 3)) * 255, 10))).save(tmp_path / 'index_5.png')
    end = lrp('--image', tmp_path / 'index_5.png')
    assert end.status == 2 and 'index_5.jpg is the result of digit 5 of small.npz' in end.err
    assert not lrp('--image', tmp_path / 'index_5.png', '--overwrite').status


def test_numbers_that_are_not_finite_are_refused(explainer, digits):
    mnist = scripts('mnist')
    with pytest.raises(mnist.common.Refused, match='not finite'):
        mnist.explainer.explain_all(explainer, digits[0][:3] * np.float32(np.nan))
