"""All composites of vgg/lrp.py on a bundled photograph against the independent reference, pixel by
pixel, both in float64. Others, with the largest difference of each composite:

    python tests/test_vgg_reference.py airplane leopard panda

In double precision no unit lies within rounding of zero, and in a photograph without plain parts no
two inputs of a pooling window are equal: each side finds its own winners, and what is left of a
difference is the rounding itself.
"""
import sys

from conftest import ROOT, scripts
import numpy as np
import pytest
import reference

PHOTOGRAPH = 'airplane'
TOLERANCE = 1e-10  # of the largest relevance
vgg = scripts('vgg')


def both_sides(photograph):
    """Explains a bundled photograph: what vgg/lrp.py computes, the reference's logits, and a
    function: its relevance by a composite."""
    explainer = vgg.explainer.open_explainer('caltech101', list(reference.COMPOSITES),
                                             precision='float64')
    seen = vgg.pictures.open_picture(ROOT / f'vgg/images/{photograph}.jpg', (224, 224, 3)).seen
    weights, known = reference.read_weights(vgg.network.BUNDLED['caltech101']), {}
    activations = reference.forward(seen, weights)
    logits = activations['logits']

    def relevance(composite):
        return reference.relevance(composite, activations, weights, logits.argmax(), known)
    return explainer(seen[None]), logits, relevance


def difference(found, truth):
    """The largest, as a share of the largest value."""
    return np.abs(found - truth).max() / np.abs(truth).max()


@pytest.fixture(scope='module')
def computed():
    return both_sides(PHOTOGRAPH)


def test_reference_has_all_composites():
    assert set(reference.COMPOSITES) == set(vgg.rules.COMPOSITES)


def test_logits(computed):
    results, logits, _ = computed
    assert difference(results.logits, logits) < 1e-12
    assert results.targets == logits.argmax()


@pytest.mark.parametrize('composite', reference.COMPOSITES)
def test_composite(computed, composite):
    results, _, relevance = computed
    assert results.relevance[composite].dtype == np.float64
    assert difference(results.relevance[composite], relevance(composite)) < TOLERANCE


if __name__ == '__main__':
    for name in sys.argv[1:]:
        ours, _, by_reference = both_sides(name)
        for each in reference.COMPOSITES:
            print(f'{name} {each}: {difference(ours.relevance[each], by_reference(each)):.1e}')
