"""What the graph of vgg/lrp.py computes, and how often, on a small network; then the bundled VGG16."""
from collections import Counter

from conftest import ROOT, scripts
import numpy as np
import pytest
from small_vgg import random_weights, shrink

PHOTOGRAPHS = ['piano', 'dalmatian', 'sunflower', 'soccer_ball']


@pytest.fixture
def vgg(monkeypatch):
    """The scripts, with a small VGG."""
    return shrink(monkeypatch)


@pytest.fixture
def explainer(vgg, tmp_path):
    """Builds an Explainer of the small network for some composites; its session ends with the test."""
    np.savez(tmp_path / 'small.npz', **random_weights())
    built = []

    def build(*composites):
        built.append(vgg.lrp.Explainer(list(composites), vgg.weights.open_network(tmp_path / 'small.npz')))
        return built[-1]
    yield build
    for each in built:
        each.session.close()


def noise(n, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (n, 224, 224, 3), np.uint8)


def test_layers_are_the_pooling_blocks_from_pixels_to_top(explainer):
    built = explainer('zplus')
    found = built(noise(1), [2], blocks=True)
    blocks = {key: r for key, r in found.items() if key.startswith('layers/')}
    assert [(key.split('/')[-1], r.shape[1:]) for key, r in blocks.items()] == [
        ('pixels', (224, 224)), ('block1_pool', (112, 112)), ('block2_pool', (56, 56)), ('block3_pool', (28, 28)),
        ('block4_pool', (14, 14)), ('block5_pool', (7, 7))]
    np.testing.assert_allclose(blocks['layers/zplus/pixels'], found['relevance/zplus'].sum(-1), rtol=1e-3, atol=1e-6)


def test_graph_is_built_once(vgg, explainer):
    built = explainer(*vgg.lrp.COMPOSITES)
    graph = built.session.graph
    before = len(graph.get_operations())
    for n in (1, 3):
        built(noise(n), [-1] * n, blocks=True)
    assert len(graph.get_operations()) == before


def test_graph_holds_no_weights():
    """Not even of the whole network: its definition stays under 10 MB, the weights are 150 MB and more."""
    vgg = scripts('vgg')
    explainer = vgg.lrp.Explainer(['deep-taylor', 'epsilon-plus-flat'], vgg.weights.open_network(vgg.weights.BUNDLED))
    size = explainer.session.graph.as_graph_def().ByteSize()
    explainer.session.close()
    assert size < 10e6


def convolutions_run(vgg, explainer):
    """How many convolutions, forward or back, TensorFlow computes for one picture once it has optimised the graph."""
    tf = vgg.lrp.tf
    metadata = tf.RunMetadata()
    feed = explainer.feed(noise(1))
    explainer.session.run(explainer.results, feed, tf.RunOptions(output_partition_graphs=True), metadata)
    return sum('Conv2D' in node.op for graph in metadata.partition_graphs for node in graph.node)


def test_rules_do_not_depend_on_the_rules_beside_them(vgg, explainer):
    """To the bit, in any order: what a forward pass shares with one rule would round otherwise for the others."""
    names, images = list(vgg.lrp.COMPOSITES), noise(3)
    together, reversed_ = (explainer(*each)(images, [-1, 2, -2]) for each in (names, names[::-1]))
    for name in names:
        alone = explainer(name)(images, [-1, 2, -2])[f'relevance/{name}']
        np.testing.assert_array_equal(alone, together[f'relevance/{name}'], name)
        np.testing.assert_array_equal(alone, reversed_[f'relevance/{name}'], name)


@pytest.mark.parametrize('composites, expected', [
    (['deep-taylor'], 13 + 13 + 13),  # forward, z, back
    (['epsilon'], 13 + 13),  # its z is the forward pass
    (['alpha2beta1'], 12 * 4 + 1 + 4),  # inside, z+ and z- are the forward pass; pixels have both signs
    (['alpha1beta0'], 13 + 13 + 13),
    (['deep-taylor', 'zplus'], 13 + 12 + 12 + 2 * (1 + 1)),  # the pixels apart all the same
    (['deep-taylor', 'epsilon'], 13 + 13 + 13 + 13),
    (['alpha2beta1', 'epsilon'], 12 * 4 + 1 + 4 + 12 + 13),  # only the pixels' own z is the same for both
])
def test_nothing_is_convolved_twice(vgg, explainer, composites, expected):
    assert convolutions_run(vgg, explainer(*composites)) == expected


@pytest.mark.parametrize('composite, expected', [
    ('deep-taylor', {'positive': 15, 'negative': 1}),  # pixels have both
    ('alpha1beta0', {'positive': 15, 'negative': 1}),
    ('alpha2beta1', {'positive': 15, 'negative': 15}),
    ('epsilon-gamma-box', {'positive': 1, 'negative': 1, 'raised_0.25': 12}),
    ('epsilon', {}),
])
def test_only_weights_that_are_used_are_kept(explainer, composite, expected):
    """Each one kept takes as much memory as the layer's own."""
    kept = [variable for each in explainer(composite).weights.values() for variable in each.kept]
    assert Counter(variable.op.name.split('/')[-1] for variable in kept) == expected


@pytest.fixture(scope='module')
def bundled():
    """The bundled VGG16's explainer, and the photographs as the network sees them."""
    vgg = scripts('vgg')
    explainer = vgg.lrp.Explainer(['deep-taylor', 'zplus', 'wsquare', 'epsilon-plus-flat'], vgg.weights.open_network(vgg.weights.BUNDLED))
    seen = np.stack([vgg.pictures.open_picture(ROOT / 'vgg' / 'images' / f'{name}.jpg', (224, 224, 3)).seen for name in PHOTOGRAPHS])
    yield explainer, seen
    explainer.session.close()


@pytest.fixture(scope='module')
def walked(bundled):
    """{composite: relevance of each layer's inputs, then of the logits}, of the bundled photographs."""
    explainer, seen = bundled
    feed = explainer.feed(seen)
    np.testing.assert_allclose(feed[explainer.pixels], np.float32(seen[..., ::-1]) - np.float32([103.939, 116.779, 123.68]), atol=1e-4)
    return explainer.session.run({composite: walk for composite, (walk,) in explainer.relevance.items()}, feed)


def test_bundled_network_knows_the_bundled_photographs(bundled):
    explainer, seen = bundled
    found = [explainer.network.classes[target] for target in explainer(seen, [-1] * len(seen))['targets']]
    assert found == ['grand piano', 'dalmatian', 'sunflower', 'soccer ball']


def sums(r):
    return r.reshape(len(r), -1).sum(1, dtype=np.float64)


@pytest.mark.parametrize('composite', ['deep-taylor', 'zplus', 'wsquare'])
def test_relevance_is_conserved_from_layer_to_layer(walked, composite):
    """The pixels' z+ rule alone may lose some: pixels where no weight meets its sign."""
    layers = walked[composite]
    logits = sums(layers[-1])
    assert (logits > 1).all()
    for r in layers[composite == 'zplus':]:
        np.testing.assert_allclose(sums(r), logits, rtol=1e-4)


def test_flat_conserves(walked):
    layers = walked['epsilon-plus-flat']
    np.testing.assert_allclose(sums(layers[0]), sums(layers[1]), rtol=1e-4)


@pytest.mark.parametrize('composite', ['deep-taylor', 'zplus', 'wsquare'])
def test_deep_taylor_relevance_is_never_negative(walked, composite):
    for r in walked[composite]:
        assert (r >= 0).all()
