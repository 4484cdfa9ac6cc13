"""Seeds, intervals, shares and curves: measures.py, on data whose answer is known."""
from conftest import scripts
import numpy as np
import pytest

measures = scripts('vgg').measures


def test_a_seed_and_names_fix_what_is_drawn():
    draws = [measures.generator(*names).random()
             for names in [(0, 'noise', 7), (0, 'noise', 7), (1, 'noise', 7), (0, 'other', 7),
                           (0, 'noise', 8)]]
    assert draws[0] == draws[1] and len(set(draws)) == 4


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = measures.estimate(values)
    low, high = measures.interval(found.resampled)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert [low, high] == pytest.approx([values.mean() - error, values.mean() + error],
                                        abs=0.15 * error)
    assert measures.in_words(found) == f'{values.mean():.2f} [{low:.2f}, {high:.2f}]'


def test_differences_are_paired():
    """A small advantage in every picture is one, however much pictures differ; noise as large as
    pictures differ is none."""
    rng = np.random.default_rng(2)
    pictures = rng.normal(10, 5, 30)
    found = measures.estimates({'a': pictures, 'b': pictures + 0.1 + rng.normal(0, 0.05, 30),
                                'c': rng.normal(10, 5, 30), 'a again': pictures.copy()})
    pairs = measures.indistinguishable(found).split(', ')
    assert 'a ~ a again' in pairs and 'a ~ c' in pairs and 'a ~ b' not in pairs


def test_intervals_are_over_owners():
    """What one photograph gives in many mosaics is no more certain for that; NaN does not count."""
    values, owners = np.array([[1.0, np.nan, 0.5, 0.0]]), np.array([[0, 1, 2, 3]])
    once, often = (measures.estimate(np.tile(values, (n, 1)), np.tile(owners, (n, 1)))
                   for n in (1, 50))
    assert once.mean == often.mean == 0.5 and list(measures.interval(once.resampled)) == [0, 1]
    np.testing.assert_allclose(once.resampled, often.resampled)
    assert measures.in_words(measures.estimate([np.nan, np.nan])) == ''


def test_share_by_hand():
    r = np.array([[[3, -9], [1, 0]], [[-1, -1], [-1, 0]]], float)
    place = np.array([[True, True], [False, False]])
    np.testing.assert_array_equal(measures.share_within(r, place), [0.75, np.nan])


def test_area_by_hand():
    # two images; drops 0 2 6 8 and 0 0 4 4
    logits = np.array([[8.0, 4.0], [6.0, 4.0], [2.0, 0.0], [0.0, 0.0]])
    assert list(measures.aopc(logits)) == [(0 + 2 + 6 + 8) / 4, (0 + 0 + 4 + 4) / 4]


def test_spearman_by_hand():
    spearman = scripts('vgg').randomise.spearman
    x = np.array([[1.0, 5.0], [2.0, 9.0]])
    assert spearman(x, x ** 3) == pytest.approx(1) and spearman(x, -x) == pytest.approx(-1)
    # 1 - 6 * 4 / (5 * 24)
    assert spearman(np.array([1, 2, 3, 4, 5]), np.array([2, 1, 4, 3, 5])) == pytest.approx(0.8)
    # ties share a rank: 1.5 1.5 3
    assert spearman(np.array([1, 1, 2]), np.array([1, 2, 3])) == pytest.approx(3 ** 0.5 / 2)
    assert spearman(x, np.zeros([2, 2])) == 0
