"""Whoever edits the layer table of mnist/model.py has edited the whole network: it trains, and its
digits are explained."""
import re
import shutil

from conftest import ROOT, imported
import numpy as np
import pytest

TABLE = """
    Layer('first', 'conv', 8, (5, 5), 2, 'VALID'), Layer('second', 'conv', 12, (3, 3)),
    Layer('shrink', 'max', window=(2, 2), stride=2), Layer('third', 'conv', 6, (1, 1)),
    Layer('flat', 'flatten'), Layer('between', 'dense', 30), Layer('out', 'dense', 10),"""
WRONG = {
    'eleven logits': ("Layer('f', 'flatten'), Layer('b', 'dense', 11),", ['11', '10']),
    'no dense layer': ("Layer('a', 'conv', 10, (3, 3)),", ['conv', 'last layer']),
    'one name twice': ("Layer('f', 'flatten'), Layer('b', 'dense', 20), Layer('b', 'dense', 10),",
                       ['same name']),
}


@pytest.fixture
def edited(tmp_path):
    """A function: copies mnist/ and replaces the entries of its LAYERS. Returns its modules."""
    def copy(table):
        shutil.copytree(ROOT / 'mnist', tmp_path / 'mnist',
                        ignore=shutil.ignore_patterns('logs', 'results', '*.npz', '__pycache__'))
        model = tmp_path / 'mnist' / 'model.py'
        text, count = re.subn(r'(?s)(LAYERS = \[).*?\n\]', lambda found: f'{found[1]}{table}\n]',
                              model.read_text(), count=1)
        assert count == 1
        model.write_text(text)
        return imported(tmp_path / 'mnist')
    return copy


def test_edited_table_is_all_there_is_to_edit(called, edited, small, digits, tmp_path):
    mnist = edited(TABLE)
    trained = called(mnist.train.main, '--epochs', 3, '--batch-size', 30, '--data', small)
    assert (trained.status, trained.err) == (0, '')
    accuracy = float(trained.out.split('test accuracy ')[1].split('%')[0])
    assert accuracy > 50
    explainer = mnist.explainer.Explainer(mnist.rules.COMPOSITES, tmp_path / 'mnist' / 'logs')
    found = mnist.explainer.explain_all(explainer, digits[0] / np.float32(255))
    assert np.mean(found.logits.argmax(1) == digits[1]) == pytest.approx(accuracy / 100, abs=1e-4)
    shares = found.sums['deep-taylor'] / found.started['deep-taylor'][:, None]
    assert shares.shape == (250, 8)
    # a unit that its bias alone lifts keeps its own
    assert shares.max() < 1 + 1e-5 and shares.min() > 0.8 and shares.mean() > 0.98
    assert all(r.any() for r in found.relevance.values())


@pytest.mark.parametrize('name', WRONG)
def test_table_that_cannot_be_is_named(called, edited, small, name):
    table, words = WRONG[name]
    end = called(edited(table).train.main, '--data', small)
    assert end.status == 2 and len(end.err.splitlines()) == 1, end.err
    assert all(word in end.err for word in ['LAYERS', *words]), end.err
