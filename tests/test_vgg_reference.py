"""All composites of vgg/lrp.py on bundled photographs against the independent reference, pixel by
pixel, both in float64.

In double precision no unit lies within rounding of zero, and in photographs without plain parts no
two inputs of a pooling window are equal: each side finds its own winners, and what is left of a
difference is the rounding itself.
"""
import functools
from functools import partial
from types import SimpleNamespace

from conftest import ROOT, scripts
import numpy as np
import pytest
import reference

# without plain parts, where all inputs of a window are equal: one by all composites, one by three
PHOTOGRAPHS = ['airplane', 'flamingo']
CASES = [('airplane', composite) for composite in reference.COMPOSITES]
CASES += [('flamingo', composite) for composite in ('epsilon-gamma-box', 'deep-taylor', 'epsilon')]
TOLERANCE = 1e-8  # of the largest relevance


@pytest.fixture(scope='module')
def explainer():
    vgg = scripts('vgg')
    made = vgg.explainer.Explainer(vgg.network.open_network('caltech101'),
                                   list(reference.COMPOSITES), 'float64')
    yield made


@pytest.fixture(scope='module')
def compare(explainer):
    """A function: what the script computes of a photograph; the reference's activations, and a
    function: its relevance by a composite."""
    return functools.cache(partial(compared_by, explainer))


def compared_by(explainer, photograph):
    seen = scripts('vgg').pictures.open_picture(ROOT / 'vgg' / 'images' / f'{photograph}.jpg',
                                                (224, 224, 3)).seen
    results = explainer(seen[None])
    weights, known = reference.read_weights(scripts('vgg').network.BUNDLED['caltech101']), {}
    activations = reference.forward(seen, weights)
    winners = {name: reference.winners(a) for name,
               a in activations.items() if name.endswith('pool')}
    target = int(activations['logits'].argmax())

    def relevance(composite):
        return reference.relevance(composite, activations, winners, weights, target, known)
    return SimpleNamespace(results=results, activations=activations, relevance=relevance)


def test_reference_has_all_composites():
    assert set(reference.COMPOSITES) == set(scripts('vgg').rules.COMPOSITES)


@pytest.mark.parametrize('photograph', PHOTOGRAPHS)
def test_logits(compare, photograph):
    compared = compare(photograph)
    logits = compared.activations['logits']
    assert np.abs(compared.results.logits - logits).max() < 1e-12 * np.abs(logits).max()
    assert compared.results.targets == logits.argmax()


@pytest.mark.parametrize('photograph, composite', CASES)
def test_composite(compare, photograph, composite):
    compared = compare(photograph)
    found, truth = compared.results.relevance[composite], compared.relevance(composite)
    assert found.dtype == np.float64
    difference = np.abs(found - truth).max() / np.abs(truth).max()
    print(f'{composite}: largest difference {difference:.1e} of the largest relevance')
    assert difference < TOLERANCE
