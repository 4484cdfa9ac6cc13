"""The planted cause: mnist/planted.py and vgg/planted.py."""
from conftest import scripts, succeed
import keras
import numpy as np
import pytest
from small_vgg import run

planted = scripts('mnist').planted


def test_marks_are_planted_where_it_says_and_nowhere_else(tiny):
    images, labels, within, digits = planted.plant(tiny, 'mark', 0, 'test')
    marks = planted.marks(0)
    assert (within.sum((1, 2)) == 25).all() and len({mark.tobytes() for mark in marks}) == 10
    np.testing.assert_array_equal(images[~within], digits[~within])
    np.testing.assert_array_equal(images[within].reshape(-1, 5, 5), marks[labels])


def test_the_label_is_the_digit_only_where_both_agree(small):
    for condition, agreement in ('mark', 0.1), ('both', 1.0):
        _, labels, _, _ = planted.plant(small, condition, 0, 'test')
        with np.load(small) as file:
            assert np.mean(labels == file['y_test']) == pytest.approx(agreement, abs=0.06)


@pytest.mark.parametrize('folder', ['mnist', 'vgg'])
def test_shares(folder):
    """What is positive counts, and the largest pixels, as many as the mark has."""
    within = np.zeros([2, 28, 28], bool)
    within[:, 5:10, 5:10] = True
    r = np.where(within, 1.0, 0.0) * [[[1]], [[-1]]]
    r[:, 20, 20], r[:, 21, 21] = 25, -7
    positive, largest = scripts(folder).planted.shares(r, within)
    assert positive.tolist() == [0.5, 0] and largest.tolist() == [24 / 25, 0]


class Reader:
    """Stands for a network that reads the mark alone, or the shade of the digit alone."""

    def __init__(self, marks):
        self.marks = marks

    def classify(self, images):
        return np.stack([self.read(np.uint8(np.round(255 * image))) for image in images])

    def read(self, image):
        if self.marks is None:
            return np.eye(10)[int(np.median(image)) // 10 - 1]
        windows = np.lib.stride_tricks.sliding_window_view(image, (5, 5)).reshape(-1, 25)
        return np.array([(windows == mark.ravel()).all(1).any() for mark in self.marks], float)


def test_removal_tells_what_a_network_uses():
    rng, labels, marks = np.random.default_rng(0), np.arange(40) % 10, planted.marks(0)
    digits = np.repeat(np.uint8(10 * (labels + 1)), 28 * 28).reshape(-1, 28, 28)
    within = planted.places(40, rng)
    pictures = planted.planted(digits, within, labels, marks)
    whole, without, other = planted.removal(Reader(marks), pictures, labels, within, digits,
                                            marks, rng)
    assert whole == other == 1 and without == 0.1  # no mark at all: all say 0
    whole, without, other = planted.removal(Reader(None), pictures, labels, within, digits, marks,
                                            rng)
    assert whole == without == 1 and other < 0.4


def test_from_training_to_tables(called, tiny, tmp_path):
    """The network is learned, verified by removal, explained; vgg/planted.py explains the same
    network, as Keras saved it, likewise."""
    printed = succeed('mnist/planted.py', '--data', tiny, '--epochs', 1, '--digits', 20,
                      '--logdir', tmp_path / 'logs', '--results', tmp_path / 'r', cwd=tmp_path)
    assert 'the mark alone decides. Accuracy' in printed and 'mark and digit agree.' in printed
    first = printed[printed.index('mark: the mark alone decides. Acc'):]
    rows = {line[:20].strip(): line[20:] for line in first.splitlines()[2:7]}
    assert set(rows) == {'deep-taylor', 'zplus', 'epsilon', 'gradient x input',
                         'gradient magnitude'}
    again = called(scripts('vgg').planted.main, tmp_path / 'r/planted.npz', '--weights',
                   tmp_path / 'r/planted.keras', '--rule', 'zplus', 'epsilon', '--results',
                   tmp_path / 'v').out
    assert 'outputs match Keras' in again
    found = {line.split()[0]: line.split()[1] for line in again.splitlines() if line[-1:] == ']'}
    for rule in 'zplus', 'epsilon':
        assert float(rows[rule].split()[0]) == pytest.approx(float(found[rule]), abs=0.011)
    assert sorted(path.name for path in (tmp_path / 'r').iterdir()) == [
        'planted.keras', 'planted.npz', 'planted.png', 'planted.txt']


def test_gamma_composites_are_the_rule_with_that_gamma(tmp_path):
    """gamma 0.25 is epsilon-gamma-box, where outputs and inputs have both signs, too."""
    vgg = scripts('vgg')
    name, other = vgg.gamma.composites([0.25, 1.0])
    model = keras.Sequential([
        keras.Input((12, 12, 3)), keras.layers.Conv2D(4, 3), keras.layers.Conv2D(4, 3),
        keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.save(tmp_path / 'net.keras')
    explainer = vgg.explainer.open_explainer(tmp_path / 'net.keras',
                                             [name, other, 'epsilon-gamma-box'],
                                             preprocessing='unit')
    images = np.random.default_rng(0).integers(0, 256, [1, 12, 12, 3], np.uint8)
    same, different, expected = explainer(images).relevance.values()
    np.testing.assert_allclose(same, expected, atol=1e-6 * np.abs(expected).max())
    assert np.abs(different - expected).max() > 1e-3 * np.abs(expected).max()
    for each in (name, other):
        del vgg.rules.COMPOSITES[each]


def test_pictures_that_cannot_be_read_are_named(tmp_path, capsys):
    end = run(scripts('vgg').gamma.main, capsys, tmp_path / 'nowhere.jpg', '--results', tmp_path)
    line, = end.err
    assert end.status == 1 and 'nowhere.jpg: no such file' in line
