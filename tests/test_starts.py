"""Where relevance starts: at the logit of a class or at its size, for one class rather than
another."""
from types import SimpleNamespace

from conftest import scripts
import keras_models
import numpy as np
import pytest

BOTH_SIGNS = ['epsilon', 'epsilon-plus', 'epsilon-plus-flat', 'epsilon-alpha2beta1',
              'epsilon-alpha2beta1-flat', 'epsilon-gamma-box', 'montavon2019']
ONE_SIGN = ['deep-taylor', 'zplus', 'wsquare', 'alpha1beta0', 'alpha2beta1']


def network_in(folder):
    """Saves a network of two blocks and five classes, whose logits have both signs."""
    rng = np.random.default_rng(0)
    model = keras_models.chain(keras_models.convolutions(), keras_models.head(5, None))
    for weights in model.weights:
        weights.assign(rng.normal(0, 0.2, weights.shape))
    model.save(folder / 'my.keras')
    return folder / 'my.keras'


@pytest.fixture(scope='module')
def vgg(tmp_path_factory):
    """The network in float64, with all composites, what it explains and its logits."""
    vgg = scripts('vgg')
    made = vgg.explainer.open_explainer(
        network_in(tmp_path_factory.mktemp('starts')), vgg.rules.COMPOSITES,
        preprocessing='tf', precision='float64', gradient=True)
    images = np.random.default_rng(1).integers(0, 256, (2, *made.network.size), np.uint8)
    logits = made.classify(images)
    assert (logits.max(1) > 0).all() and (logits.min(1) < 0).all()
    assert {*BOTH_SIGNS, *ONE_SIGN} == set(vgg.rules.COMPOSITES)
    return SimpleNamespace(explainer=made, images=images, logits=logits, rules=vgg.rules,
                           order=np.argsort(-logits, 1))


def total(r):
    return r.sum((-3, -2, -1))


def test_class_with_a_negative_logit(vgg):
    """Rules of one sign start at the logit's size: what speaks for the class stays red."""
    worst = vgg.order[:, -1]
    found, logits = vgg.explainer(vgg.images, worst), vgg.logits[[0, 1], worst]
    for rule in BOTH_SIGNS:
        np.testing.assert_allclose(found.started[rule], logits, rtol=1e-9)
    for rule in ONE_SIGN:
        np.testing.assert_allclose(found.started[rule], -logits, rtol=1e-9)
        assert (total(found.relevance[rule]) > 0).all()
    for rule in 'deep-taylor', 'wsquare':
        assert (found.relevance[rule] >= 0).all()


@pytest.mark.parametrize('ranks', [(0, 1), (0, -1), (-1, -2)])
def test_contrast_is_the_difference_of_two_explanations(vgg, ranks):
    """Scaled to the same start for rules of one sign, whatever the signs of the two logits."""
    target, other = vgg.order[0][list(ranks)]
    found = vgg.explainer(vgg.images[:1], [target], other)
    one, two = (vgg.explainer(vgg.images[:1], [each]) for each in (target, other))
    for rule in vgg.rules.COMPOSITES:
        scale = 1 if rule in BOTH_SIGNS else one.started[rule] / two.started[rule]
        expected = one.relevance[rule] - two.relevance[rule] * np.reshape(scale, (-1, 1, 1, 1))
        apart = np.abs(found.relevance[rule] - expected).max()
        assert apart <= 1e-9 * np.abs(expected).max(), rule
        np.testing.assert_allclose(found.started[rule], one.started[rule], rtol=1e-9)


def test_against_alone_explains_what_was_seen_otherwise(vgg):
    best, second, third = vgg.order[0][:3]
    for target, against, expected in (-1, second, best), (-1, best, second), (-2, best, third):
        assert vgg.explainer(vgg.images[:1], [target], against).targets == [expected]


def test_gradient_of_a_contrast(vgg):
    best, second = vgg.order[0][:2]
    one, other = (vgg.explainer.gradient_times_input(vgg.images[:1], [target])
                  for target in (best, second))
    found = vgg.explainer.gradient_times_input(vgg.images[:1], [best], against=second)
    np.testing.assert_allclose(found, one - other, rtol=1e-9, atol=1e-12)
    epsilon = vgg.explainer(vgg.images[:1], [best]).relevance['epsilon']
    assert np.abs(epsilon - one).max() < 1e-3 * np.abs(one).max()  # less its stabiliser


def test_the_graph_is_built_once(vgg):
    graph = vgg.explainer.session.graph
    assert graph.finalized and graph.as_graph_def().ByteSize() < 10e6  # weights are no constants


def test_a_rule_of_ones_own_and_another_gamma(vgg, tmp_path):
    """Composites are handed over as objects; a gamma of one's own counts in every network."""
    rules = vgg.rules
    half = rules.partial(rules.gamma, gamma=0.5)

    def own(layer, a, weights, r):
        return rules.zplus(layer, a, weights, r) / 2 + rules.epsilon(layer, a, weights, r) / 2
    mine = {'half': rules.Composite(rules.box, half, half, rules.epsilon),
            'own': rules.Composite(own, own, own, rules.epsilon)}
    made = scripts('vgg').explainer.open_explainer(network_in(tmp_path), mine,
                                                   preprocessing='tf', precision='float64')
    found = made(vgg.images).relevance
    assert set(found) == {'half', 'own'} and all(np.isfinite(r).all() for r in found.values())
    theirs = vgg.explainer(vgg.images).relevance['epsilon-gamma-box']
    assert np.corrcoef(found['half'].ravel(), theirs.ravel())[0, 1] > 0.9
    assert np.abs(found['half'] - theirs).max() > 1e-3 * np.abs(theirs).max()
