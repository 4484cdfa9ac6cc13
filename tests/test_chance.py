"""Seeds, intervals and what is not distinguishable: chance.py, on data whose answer is known."""
from conftest import scripts
import numpy as np
import pytest

chance = scripts('vgg').measures


def test_a_seed_and_names_fix_what_is_drawn():
    draws = [chance.generator(*names).random(3)
             for names in [(0, 'noise', 7), (0, 'noise', 7), (1, 'noise', 7), (0, 'other', 7),
                           (0, 'noise', 8)]]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert len({tuple(draw) for draw in draws}) == 4


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = chance.interval(chance.resampled(values))
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert [low, high] == pytest.approx([values.mean() - error, values.mean() + error],
                                        abs=0.15 * error)
    assert chance.mean_and_interval(values) == f'{values.mean():.2f} [{low:.2f}, {high:.2f}]'


def test_interval_holds_the_true_mean_in_95_of_100():
    rng = np.random.default_rng(1)
    held = [np.prod(chance.interval(chance.resampled(rng.exponential(3, 60))) - 3) <= 0
            for _ in range(400)]
    assert 0.90 < np.mean(held) < 0.98


def test_differences_are_paired():
    """A small advantage in every picture is one, however much pictures differ; noise as large as
    pictures differ is none."""
    rng = np.random.default_rng(2)
    pictures = rng.normal(10, 5, 30)
    values = {'a': pictures, 'b': pictures + 0.1 + rng.normal(0, 0.05, 30),
              'c': rng.normal(10, 5, 30), 'a again': pictures.copy()}
    lines = chance.indistinguishable(values).split(', ')
    assert 'a ~ a again' in lines and 'a ~ c' in lines and 'a ~ b' not in lines
    assert chance.indistinguishable({'a': pictures, 'b': pictures + 1}) == 'none'
    assert abs(pictures.mean()
               - values['b'].mean()) < 0.2 * np.diff(chance.interval(chance.resampled(pictures)))[0]
