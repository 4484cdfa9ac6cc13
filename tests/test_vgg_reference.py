"""All eleven composites of vgg/lrp.py on a bundled photograph against the float64 reference, pixel by pixel.

Where two inputs of a pooling window are equal up to float32 rounding, either may take all: the reference then follows the script,
and test_winners checks that it does so nowhere else.
"""
from types import SimpleNamespace

from conftest import ROOT, scripts
import numpy as np
import pytest
import reference

PHOTOGRAPH = ROOT / 'vgg' / 'images' / 'airplane.jpg'
TOLERANCES = {'epsilon': 5e-3}  # all others: 1e-4 of the largest relevance. A unit within rounding of z = 0 is cut off by ReLU in
# one of the two and not in the other; with the epsilon rule, whose shares z_ij / z_j have no bound, that shows


@pytest.fixture(scope='module')
def found():
    """What the script computes of the photograph: the pixels, its results, and the winners of the pooling layers."""
    vgg = scripts('vgg')
    explainer = vgg.lrp.Explainer(list(reference.COMPOSITES), 'vgg16', vgg.model.BUNDLED)
    seen = vgg.pictures.open_picture(PHOTOGRAPH)[1]
    pooled = {layer[0]: a for layer, a in zip(explainer.layers, explainer.activations) if layer[1] == 'pool'}
    feed = {explainer.pixels: np.float32(seen)[None, ..., ::-1] - np.float32(reference.MEAN)}
    inputs = explainer.session.run(pooled, feed)
    results = {key: value[0] for key, value in explainer(seen[None], [-1]).items()}
    explainer.session.close()
    return SimpleNamespace(seen=seen, results=results, winners={name: reference.winners(a[0]) for name, a in inputs.items()})


@pytest.fixture(scope='module')
def expected(found):
    """The reference's activations, and a function: its relevance by the name of a composite."""
    weights, known = reference.read_weights(scripts('vgg').model.BUNDLED), {}
    activations = reference.forward(found.seen, weights)
    target = int(activations['logits'].argmax())

    def relevance(composite):
        return reference.relevance(composite, activations, found.winners, weights, target, known)
    return SimpleNamespace(activations=activations, relevance=relevance)


def test_reference_has_all_composites():
    assert set(reference.COMPOSITES) == set(scripts('vgg').lrp.COMPOSITES)


def test_logits(found, expected):
    logits = expected.activations['logits']
    assert np.abs(found.results['logits'] - logits).max() < 1e-5 * np.abs(logits).max()
    assert found.results['targets'] == logits.argmax()


def test_winners(found, expected):
    """The script's winner of every window is the largest input, up to rounding, and nearly everywhere the very same."""
    for name, winner in found.winners.items():
        windows = reference.windows(expected.activations[name])
        won = np.take_along_axis(windows, winner[..., None], -1)[..., 0]
        assert (windows.max(-1) - won).max() < 1e-5 * windows.max()
        assert (winner != windows.argmax(-1)).mean() < 1e-4


@pytest.mark.parametrize('composite', reference.COMPOSITES)
def test_composite(found, expected, composite):
    truth = expected.relevance(composite)
    difference = np.abs(found.results[f'relevance/{composite}'] - truth).max() / np.abs(truth).max()
    print(f'{composite}: largest difference {difference:.1e} of the largest relevance')
    assert difference < TOLERANCES.get(composite, 1e-4)
