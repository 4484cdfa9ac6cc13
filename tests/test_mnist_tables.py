"""Whoever edits the layer table of mnist/model.py has edited the whole network: it trains, and its
digits are explained."""
import re
import shutil

from conftest import ROOT, imported, scripts
import numpy as np
import pytest

TABLE = """
    Layer('first', 'conv', 8, (5, 5), 2, 'VALID'), Layer('second', 'conv', 12, (3, 3)),
    Layer('shrink', 'max', window=(2, 2), stride=2), Layer('third', 'conv', 6, (1, 1)),
    Layer('flat', 'flatten'), Layer('between', 'dense', 30), Layer('out', 'dense', 10),"""
model = scripts('mnist').model
FLAT = model.Layer('flat', 'flatten')


def test_edited_table_is_all_there_is_to_edit(called, small, digits, tmp_path):
    shutil.copytree(ROOT / 'mnist', tmp_path / 'mnist',
                    ignore=shutil.ignore_patterns('logs', 'results', '*.npz', '__pycache__'))
    file = tmp_path / 'mnist' / 'model.py'
    file.write_text(re.sub(r'(?s)(LAYERS = \[).*?\n\]', lambda found: f'{found[1]}{TABLE}\n]',
                           file.read_text(), count=1))
    mnist = imported(tmp_path / 'mnist')
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


@pytest.mark.parametrize('table, words', [
    ([FLAT, model.Layer('out', 'dense', 11)], 'dense and gives .*11'),
    ([model.Layer('out', 'conv', 10, (3, 3))], 'conv and gives'),
    ([FLAT, model.Layer('out', 'dense', 20), model.Layer('out', 'dense', 10)], 'same name')])
def test_table_that_cannot_be_is_named(monkeypatch, table, words):
    monkeypatch.setattr(model, 'LAYERS', table)
    with pytest.raises(scripts('mnist').common.Refused, match=f'LAYERS.*{words}'):
        model.weight_shapes()
