"""Whoever edits the layer table of mnist/model.py has edited the whole network: it trains, and its
digits are explained."""
import re
import shutil

from conftest import ROOT, imported
import numpy as np
import pytest

TABLES = {
    'three convolutions, two poolings, other widths': """
        Layer('first', 'conv', (5, 5, 8)), Layer('shrink', 'max', (2, 2), 2),
        Layer('second', 'conv', (3, 3, 12)), Layer('third', 'conv', (1, 1, 6)),
        Layer('again', 'max', (3, 3), 2), Layer('flat', 'flatten'),
        Layer('out', 'dense', (10,)),""",
    'strides and no padding instead of pooling': """
        Layer('conv1', 'conv', (4, 4, 9), 2, 'VALID'), Layer('conv2', 'conv', (3, 3, 8), 2),
        Layer('flatten', 'flatten'), Layer('dense1', 'dense', (30,)),
        Layer('dense2', 'dense', (20,)), Layer('dense3', 'dense', (10,)),""",
    'dense layers alone': """
        Layer('flatten', 'flatten'), Layer('hidden', 'dense', (40,)),
        Layer('logits', 'dense', (10,)),""",
}
WRONG = {  # name: table, words of the message
    'eleven logits': ("Layer('f', 'flatten'), Layer('b', 'dense', (11,)),", ['11', '10']),
    'no dense layer': ("Layer('a', 'conv', (3, 3, 10)),", ['conv', 'last layer']),
    'one name twice': ("Layer('f', 'flatten'), Layer('b', 'dense', (20,)), "
                       "Layer('b', 'dense', (10,)),",
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


@pytest.mark.parametrize('name', TABLES)
def test_edited_table_is_all_there_is_to_edit(called, edited, small, tmp_path, name):
    mnist = edited(TABLES[name])
    trained = called(mnist.train.main, '--epochs', 3, '--batch-size', 30, '--data', small)
    assert (trained.status, trained.err) == (0, '')
    accuracy = float(trained.out.split('test accuracy ')[1].split('%')[0])
    assert accuracy > 50
    explained = called(mnist.lrp.main, '--index', 'all', '--data', small, '--rule', 'deep-taylor',
                       'zplus', 'epsilon', '--save-relevance')
    assert (explained.status, explained.err) == (0, '')
    lines = explained.out.splitlines()[1:]  # after what was written
    layers = re.findall(r"Layer\('(\w+)'", TABLES[name])
    assert lines[2].split() == ['pixels', *layers]
    losses = {line.split()[0]: list(map(float, line.split()[1:])) for line in lines[3:]}
    # a unit that its bias alone lifts keeps its own
    assert max(losses['deep-taylor']) < 0.01 and losses['deep-taylor'][-2] < 1e-4
    with np.load(tmp_path / 'mnist' / 'results' / 'relevance.npz') as saved:
        assert np.mean(saved['logits'].argmax(1)
                       == np.load(small)['y_test']) == pytest.approx(accuracy / 100, abs=1e-4)
        for rule in ('deep-taylor', 'zplus', 'epsilon'):
            assert saved[f'relevance/{rule}'].shape == (250, 28, 28)
            assert saved[f'relevance/{rule}'].any()


@pytest.mark.parametrize('name', WRONG)
def test_table_that_cannot_be_is_named(called, edited, small, name):
    table, words = WRONG[name]
    end = called(edited(table).train.main, '--data', small)
    assert end.status == 2 and len(end.err.splitlines()) == 1, end.err
    assert all(word in end.err for word in ['LAYERS', *words]), end.err
