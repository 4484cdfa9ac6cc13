"""mnist/lrp.py: what is true of the relevance of a trained network, what is written, and how it
fails."""
import shutil

from conftest import RULES, likeness, other_network, scripts, succeed, truncate
import numpy as np
from PIL import Image
import pytest
from test_mnist_pictures import panels, seen_in

LAYERS = ['pixels', 'conv1', 'conv2', 'pool', 'flatten', 'dense1', 'dense2']


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


def test_deep_taylor_and_zplus_are_never_negative(explained):
    assert explained.relevance['deep-taylor'].min() >= 0 and explained.relevance['zplus'].min() >= 0
    assert explained.relevance['epsilon'].min() < 0


def test_relevance_of_black_pixels(explained, digits):
    """Black can speak for a class, says zB; the rules that weigh by the input give it nothing."""
    black = digits[0] == 0
    assert not explained.relevance['zplus'][black].any()
    assert not explained.relevance['epsilon'][black].any()
    found = explained.relevance['deep-taylor']
    assert found[black].sum() > 0.05 * found.sum()


def test_epsilon_is_gradient_times_input(logdir, digits):
    """Of the whole network with its biases, for any target."""
    images = digits[0][:50] / np.float32(255)
    explainer = scripts('mnist').explainer.Explainer(['epsilon'], logdir, gradient=True)
    expected = images * explainer.gradient(images, 4)
    wrong = np.abs(explainer(images, 4).relevance['epsilon'] - expected)
    assert (wrong.max((1, 2)) < 0.01 * np.abs(expected).max((1, 2))).all()


def test_target(explainer, explained, digits):
    results = explainer(digits[0][:20] / np.float32(255), 3)
    assert (results.targets == 3).all() and (explained.targets == explained.logits.argmax(1)).all()
    for rule in RULES:
        logits, starts = results.logits[:, 3], results.sums[rule][:, -1]
        at_logit = (logits > 0) | (rule == 'epsilon')  # else at the evidence
        np.testing.assert_allclose(starts[at_logit], logits[at_logit], rtol=1e-6)
        assert at_logit.all() == (rule == 'epsilon')
        assert rule == 'epsilon' or (starts > 0).all()
    np.testing.assert_allclose(results.sums['deep-taylor'][:, 0],
                               results.started['deep-taylor'][:, 0], rtol=1e-4)


def test_neighbours_in_the_batch_do_not_matter(explainer, explained, digits):
    """Nor is anything drawn at random, as dropout would be."""
    for batch, place in ([17], 0), ([3, 17, 99], 1), ([17] * 5, 4):
        found = explainer(digits[0][batch] / np.float32(255))
        for rule in RULES:
            expected = explained.relevance[rule][17]
            wrong = np.abs(found.relevance[rule][place] - expected).max()
            assert wrong < 1e-5 * np.abs(expected).max()


def test_graph_is_built_once_and_small(explainer, digits):
    graph = explainer.session.graph
    nodes = len(graph.get_operations())
    for count, target in (1, None), (7, 2):
        explainer(digits[0][:count] / np.float32(255), target)
        explainer.classify(digits[0][:count] / np.float32(255))
    assert len(graph.get_operations()) == nodes
    assert graph.as_graph_def().ByteSize() < 10e6


def rows(printed, rule):
    """The lines of a rule's table: [[digit, seen as, target, logit, shares ...], ...]."""
    title = f'{rule}: sum of relevance / what it started from, at each layer\n'
    table = printed.split(title)[1].split('\n\n')[0].split('\n')
    assert table[0].split()[-len(LAYERS):] == LAYERS
    return [[float(word) for word in line.split() if word not in ('logit', 'evidence')]
            for line in table[1:]]


def test_default_run(logdir, small, digits, tmp_path):
    """A digit of each class, in a table and a picture."""
    (tmp_path / 'elsewhere').mkdir()
    printed = succeed('mnist/lrp.py', '--rule', *RULES, '--data', small, '--logdir', logdir,
                      '--results', tmp_path / 'results', cwd=tmp_path / 'elsewhere')
    assert not list((tmp_path / 'elsewhere').iterdir())
    assert {path.name for path in (tmp_path / 'results').iterdir()} == {f'{i}.jpg'
        for i in range(10)}
    tables = [rows(printed, rule) for rule in RULES]
    assert len(tables[0]) == 10
    for i, (index, seen_as, target, logit, *found) in enumerate(tables[0]):
        assert digits[1][int(index)] == seen_as == target == i and logit > 0
        assert found == pytest.approx([1] * len(LAYERS), abs=1e-5)
        assert all(table[i][:4] == [index, seen_as, target, logit] for table in tables)
        assert_drawn(tmp_path / 'results' / f'{i}.jpg', digits[0][int(index)])


def assert_drawn(path, image):
    """The picture shows the digit, and three heatmaps that differ and are not blank."""
    digit, *heatmaps = panels(path, 1 + len(RULES))
    assert likeness(seen_in(digit), image) > 0.99
    for heatmap in heatmaps:
        assert np.ptp(heatmap[5:-5, 5:-5], (0, 1)).max() > 100
    for one, other in (0, 1), (0, 2), (1, 2):
        assert np.abs(seen_in(heatmaps[one]) - seen_in(heatmaps[other])).max() > 0.1


def test_seed_decides_the_digits(explainer, digits):
    def picked(seed):
        return scripts('mnist').lrp.pick(explainer, [4, 4, 1], *digits, np.random.default_rng(seed))
    assert picked(0) == picked(0) != picked(1)
    assert len(set(picked(0))) == 3 and list(digits[1][picked(0)]) == [4, 4, 1]


def test_saved_relevance(printed, logdir, small, digits, tmp_path):
    indices = [141, 0, 7]
    options = ['--index', *indices, '--rule', *RULES, '--target', 3, '--save-relevance']
    tables = printed('mnist/lrp.py', *options, '--data', small, '--logdir', logdir, '--results',
                     tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'relevance.npz', 'index_141.jpg', 'index_0.jpg', 'index_7.jpg'}
    with np.load(tmp_path / 'relevance.npz', allow_pickle=False) as file:
        saved = dict(file)
    pictures = ['images', *(f'relevance/{rule}' for rule in RULES)]
    assert {name: (array.shape, array.dtype) for name,
            array in saved.items() if name != 'digits'} == {
        'targets': ((3,), np.int64), 'logits': ((3, 10), np.float32),
        **{name: ((3, 28, 28), np.float32) for name in pictures}}
    assert list(saved.pop('digits')) == [f'digit {i} of small.npz' for i in indices]
    assert list(saved['targets']) == [3, 3, 3]
    np.testing.assert_allclose(saved['images'], digits[0][indices] / 255, rtol=1e-6)
    assert not saved['relevance/zplus'][saved['images'] == 0].any()
    sums = {rule: saved[f'relevance/{rule}'].sum((1, 2), dtype=np.float64) for rule in RULES}
    for rule in RULES:
        for row, index, logit, total in zip(rows(tables, rule), indices, saved['logits'][:, 3],
                                            sums[rule]):
            start = logit if logit > 0 or rule == 'epsilon' else row[3]  # else the evidence for a 3
            assert row[0] == index and row[2] == 3 and (start > 0 or rule == 'epsilon')
            assert row[3:5] == pytest.approx([start, total / start], abs=1e-3)
            assert rule != 'deep-taylor' or row[4] == pytest.approx(1, abs=1e-4)


def test_all_digits(printed, logdir, small, digits, explained, tmp_path):
    """More than 100: no pictures, one file, a summary."""
    summary = printed('mnist/lrp.py', '--index', 'all', '--save-relevance', '--data', small,
                      '--logdir', logdir, '--results', tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['relevance.npz']
    with np.load(tmp_path / 'relevance.npz', allow_pickle=False) as saved:
        assert len(saved['digits']) == 250
        assert saved['digits'][7] == 'digit 7 of small.npz'
        np.testing.assert_allclose(saved['images'], digits[0] / 255, rtol=1e-6)
        for name, expected in [('logits', explained.logits),
                               ('relevance/deep-taylor', explained.relevance['deep-taylor'])]:
            np.testing.assert_allclose(saved[name], expected, rtol=0, atol=1e-4)
    accuracy = np.mean(explained.logits.argmax(1) == digits[1])
    assert f'250 digits, accuracy {accuracy:.2%}' in summary
    name, *worst = summary.splitlines()[-1].split()
    assert name == 'deep-taylor' and len(worst) == len(LAYERS) and max(map(float, worst)) < 1e-5


def test_no_trained_network_is_told(refused, tiny, tmp_path):
    logdir = tmp_path / 'logs'
    line = refused('mnist/lrp.py', '--data', tiny, '--logdir', logdir, '--results', tmp_path)
    assert str(logdir) in line and 'train.py' in line


@pytest.mark.parametrize('part', ['.index', '.data-00000-of-00001'])
def test_damaged_network_is_refused(refused, logdir, tiny, tmp_path, part):
    for path in logdir.glob('best*'):
        shutil.copy(path, tmp_path)
    truncate(next(tmp_path.glob(f'best-*{part}')))
    line = refused('mnist/lrp.py', '--data', tiny, '--logdir', tmp_path, '--results',
                   tmp_path / 'results')
    assert str(tmp_path / 'best-') in line and 'damaged' in line


def test_network_whose_files_are_gone_is_refused(refused, logdir, tiny, tmp_path):
    shutil.copy(logdir / 'best_checkpoint', tmp_path)
    line = refused('mnist/lrp.py', '--data', tiny, '--logdir', tmp_path, '--results',
                   tmp_path / 'results')
    assert str(tmp_path) in line


def test_another_network_is_refused(refused, tiny, tmp_path):
    other_network(tmp_path, 'best_checkpoint')
    line = refused('mnist/lrp.py', '--data', tiny, '--logdir', tmp_path, '--results',
                   tmp_path / 'results')
    assert 'another network' in line and 'conv1/kernel' in line


def test_results_that_cannot_be_written_are_refused(refused, logdir, tiny, tmp_path):
    (tmp_path / 'file').write_text('')
    results = tmp_path / 'file' / 'results'
    line = refused('mnist/lrp.py', '--data', tiny, '--logdir', logdir, '--results', results)
    assert f'cannot write to {results}' in line


@pytest.mark.parametrize('options, words', [
    ('--rule lrp', ['--rule', "'lrp'", 'deep-taylor', 'zplus', 'epsilon']),
    ('--digit 11', ['--digit', '11', '9']), ('--digit -1', ['--digit', '-1']),
    ('--digit' + 20 * ' 5', ['digit 5']),
    ('--target 10', ['--target', '10', '9']), ('--target x', ['--target', "'x'"]),
    ('--index 20', ['--index 20', '0 to 19']), ('--index -1', ['--index', '-1']),
    ('--index x', ['--index', 'x is neither']), ('--index all 3', ['--index all']),
    ('--index 1 --digit 1', ['--index', '--digit']), ('--seed -1', ['--seed', '-1']),
    ('--nonsense', ['--nonsense'])])
def test_bad_options_are_named(refused, logdir, tiny, tmp_path, options, words):
    options = [*options.split(), '--data', tiny, '--logdir', logdir, '--results', tmp_path]
    line = refused('mnist/lrp.py', *options)
    assert all(word in line for word in words)


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        scripts('mnist').lrp.main(['--help'])
    printed = capsys.readouterr().out
    assert not stop.value.code
    for option in [*RULES, '--rule', '--digit', '--index', '--image', '--target', '--seed',
                   '--save-relevance', '--data', '--logdir', '--results']:
        assert option in printed


def test_other_files_are_never_replaced(logdir, small, tmp_path, capsys):
    """Neither a photograph nor the result of another digit; the same digit's result is."""
    options = ['--data', str(small), '--logdir', str(logdir), '--results', str(tmp_path)]
    lrp = scripts('mnist').lrp

    def status(*more):
        try:
            lrp.main([*options, *more])
        except SystemExit as stop:
            return stop.code
    photograph = Image.new('RGB', (9, 9))
    photograph.save(tmp_path / '3.jpg', comment=b'holiday')
    before = (tmp_path / '3.jpg').read_bytes()
    assert status('--digit', '3', '4') == 1
    out, err = capsys.readouterr()
    assert '3.jpg is no result of this script' in err and '--overwrite' in err and '4.jpg' in out
    assert (tmp_path / '3.jpg').read_bytes() == before and len(err.splitlines()) == 1
    assert not status('--digit', '4', '--seed', '2') and not status('--digit', '3', '--overwrite')
    assert (tmp_path / '3.jpg').read_bytes() != before
    photograph.save(tmp_path / 'index_5.png')
    assert not status('--index', '5', '--save-relevance')
    Image.fromarray(np.uint8(np.pad(np.ones((8, 3)) * 255, 10))).save(tmp_path / 'index_5.png')
    assert status('--image', str(tmp_path / 'index_5.png')) == 1
    assert 'index_5.jpg is the result of digit 5 of small.npz' in capsys.readouterr().err
    assert status('--index', '6', '--save-relevance') == 2  # relevance.npz is of another digit


@pytest.mark.parametrize('options, name', [(['--image', 'own/7.jpg', '--results', 'own'], '7.jpg'),
                                           (['--index', '0', '--save-relevance', '--data',
                                             'own/relevance.npz', '--results', 'own'],
                                             'relevance.npz')])
def test_inputs_are_never_overwritten(refused, logdir, small, tmp_path, monkeypatch, options, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'own').mkdir()
    shutil.copy(small, 'own/relevance.npz')
    (tmp_path / 'own' / '7.jpg').write_bytes(b'a photograph')
    before = {path.name: path.read_bytes() for path in (tmp_path / 'own').iterdir()}
    line = refused('mnist/lrp.py', '--logdir', logdir, *options)
    assert name in line and 'would be overwritten' in line
    assert {path.name: path.read_bytes() for path in (tmp_path / 'own').iterdir()} == before


def test_numbers_that_are_not_finite_are_not_drawn(refused, logdir, small, tmp_path, monkeypatch):
    explainer = scripts('mnist').explainer.Explainer
    explain = explainer.__call__
    monkeypatch.setattr(explainer, '__call__', lambda *arguments: (
        found := explain(*arguments))._replace(logits=found.logits * np.nan))
    line = refused('mnist/lrp.py', '--index', '3', '--data', small, '--logdir', logdir,
                   '--results', tmp_path / 'r')
    assert 'not finite' in line and not list((tmp_path / 'r').iterdir())
