"""All composites of vgg/lrp.py on a bundled photograph against the independent reference, pixel by
pixel, both in float64.

In double precision no unit lies within rounding of zero, and in a photograph without plain parts no
two inputs of a pooling window are equal: each side finds its own winners, and what is left of a
difference is the rounding itself.
"""
from types import SimpleNamespace

from conftest import ROOT, scripts
import numpy as np
import pytest
import reference

PHOTOGRAPH = 'airplane.jpg'
TOLERANCE = 1e-8  # of the largest relevance


@pytest.fixture(scope='module')
def computed():
    """What the script computes of the photograph; the reference's activations, and a function: its
    relevance by a composite."""
    vgg = scripts('vgg')
    explainer = vgg.explainer.Explainer(vgg.network.open_network('caltech101'),
                                        list(reference.COMPOSITES), 'float64')
    seen = vgg.pictures.open_picture(ROOT / 'vgg' / 'images' / PHOTOGRAPH, (224, 224, 3)).seen
    weights, known = reference.read_weights(vgg.network.BUNDLED['caltech101']), {}
    activations = reference.forward(seen, weights)
    winners = {name: reference.winners(a) for name, a in activations.items()
               if name.endswith('pool')}
    target = int(activations['logits'].argmax())

    def relevance(composite):
        return reference.relevance(composite, activations, winners, weights, target, known)
    return SimpleNamespace(results=explainer(seen[None]), activations=activations,
                           relevance=relevance)


def test_reference_has_all_composites():
    assert set(reference.COMPOSITES) == set(scripts('vgg').rules.COMPOSITES)


def test_logits(computed):
    logits = computed.activations['logits']
    assert np.abs(computed.results.logits - logits).max() < 1e-12 * np.abs(logits).max()
    assert computed.results.targets == logits.argmax()


@pytest.mark.parametrize('composite', reference.COMPOSITES)
def test_composite(computed, composite):
    found, truth = computed.results.relevance[composite], computed.relevance(composite)
    assert found.dtype == np.float64
    difference = np.abs(found - truth).max() / np.abs(truth).max()
    print(f'{composite}: largest difference {difference:.1e} of the largest relevance')
    assert difference < TOLERANCE
