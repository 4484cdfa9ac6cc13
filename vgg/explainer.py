"""A network with its relevance graph: pictures in, relevance out."""
import itertools
import os
from typing import NamedTuple

import numpy as np
from PIL import Image

from common import Refused, open_session, tf
from model import LINEAR, PIXELS, Weights, forward, placed
from networks.network import open_network
from pictures import seen
from rules import DEFAULT, composites_of, relevance, start

ACTIVATIONS = 2e9  # bytes that the outputs of all layers take for one batch, at most
LAST, WIDE = 'last', 7  # see `last_wide`


class Explanation(NamedTuple):
    """The explanation of n pictures."""

    logits: np.ndarray  # [n, classes]
    targets: np.ndarray  # [n], classes
    relevance: dict  # {rule: [n, height, width, channels]}, of the first layer's inputs, RGB
    started: dict  # {rule: [n]}, the relevance of the target's logit, where relevance starts
    layers: dict  # {rule: {layer: [n, height, width]}}, summed over channels, if asked for


class Channels(NamedTuple):
    """What the channels of one layer had to do with the logits of n pictures."""

    logits: np.ndarray  # [n, classes]
    targets: np.ndarray  # [n], classes
    maps: dict  # {rule: [n, h, w, channels]}, relevance of the layer's outputs
    heatmaps: dict  # {rule: [n, height, width, 3]}, of the pixels by the channels asked for alone


class Explainer:
    """A network, its relevance graph for some rules, and the session that runs them; built once.

    rules: names, or {name: Composite}; layers: whether the relevance inside the network is wanted,
    too; gradient: whether `gradient_times_input` will be called; channels_of: the layer that
    `channels` explains, by name, or LAST.
    """

    def __init__(self, network, rules=DEFAULT, precision='float32', layers=False, gradient=False,
                 channels_of=None):
        self.precision, self.variables, self.weights = precision, {}, {}
        shape = network.preprocess(np.zeros((1, *network.size), np.float32)).shape[1:]
        arrays = {name: read() for name, read in network.read.items()}
        with tf.Graph().as_default() as graph:
            self.session = open_session()
            self.load(network, arrays)
            self.build(network, shape, composites_of(rules), layers, gradient, channels_of)
            self.derive(self.weights.values())
            graph.finalize()  # no batch adds to it
        self.table = [layer._replace(function=None, activation=None) for layer in self.table]
        self.network = network._replace(read={}, keras=None, layers=self.table)  # not the model

    def load(self, network, arrays):
        """Keeps each layer's w and b in variables. A sum has its factors."""
        linear, feed = [layer for layer in network.layers if layer.kind in LINEAR], {}
        for layer in linear:
            exact = self.precision == 'bfloat16' and layer is linear[-1]
            dtype = 'float32' if exact else self.precision
            if layer.name not in arrays:
                factors = tf.constant([[factor] for factor in layer.factors], dtype)
                self.weights[layer.name] = Weights(factors, tf.zeros([1], dtype))
                continue
            for name, array in zip(('kernel', 'bias'), arrays[layer.name]):
                if not np.isfinite(array).all():
                    raise Refused(f'{network.path}: the {name} of {layer.name} is not finite')
            values = [tf.placeholder(dtype, array.shape) for array in arrays[layer.name]]
            feed.update(zip(values, arrays[layer.name]))
            made = [tf.Variable(value, trainable=False, use_resource=True) for value in values]
            self.variables[layer.name] = made
            self.weights[layer.name] = Weights(*(variable.read_value() for variable in made))
        self.session.run([each.initializer for made in self.variables.values() for each in made],
                         feed)

    def derive(self, weights):
        """Computes what rules derive from layers' weights, each value after those it may need."""
        for variables in itertools.zip_longest(*(each.kept for each in weights)):
            self.session.run([each.initializer for each in variables if each is not None])

    def build(self, network, shape, composites, layers, gradient, channels_of):
        """The forward pass and, for each composite, the backward pass."""
        dtype = 'float64' if self.precision == 'float64' else 'float32'
        self.pixels = tf.placeholder(dtype, [None, *shape])
        self.target, self.against = (tf.placeholder(tf.int64, [None]) for _ in range(2))
        a = forward(self.pixels, network.layers, self.weights)
        table = self.table = placed(network.layers, a, *network.bounds)
        self.picture_bytes = sum(np.prod(each.shape[1:]) * each.dtype.size for each in a.values())
        self.logits = a[table[-1].name]
        targets, chosen = self.choose()
        self.results = Explanation(self.logits, targets, {}, {}, {})
        if channels_of:
            self.mark(channels_of, a, targets)
        shown = stages(network, a) if layers else []
        for name, composite in composites.items():
            first = start(composite, table, self.logits, chosen)
            r = relevance(composite, table, a, self.weights, first)
            pixels = tf.reverse(r[PIXELS], [-1]) if network.bgr else r[PIXELS]
            self.results.relevance[name] = pixels
            self.results.started[name] = tf.reduce_sum(first * tf.maximum(chosen, 0.0), -1)
            self.results.layers[name] = {each: tf.reduce_sum(tf.cast(r[each], tf.float32), -1)
                                         for each in shown}
            if channels_of:
                if self.layer not in r:
                    raise Refused(f'no relevance passes through {self.layer} (--layer)')
                marked = r[self.layer] * tf.cast(self.mask, r[self.layer].dtype)[:, None, None]
                below = relevance(composite, table, a, self.weights, marked, self.layer)[PIXELS]
                self.parts.maps[name] = tf.cast(r[self.layer], self.logits.dtype)
                self.parts.heatmaps[name] = tf.reverse(below, [-1]) if network.bgr else below
        if gradient:
            self.gradient, = tf.gradients(self.logits * chosen, self.pixels)
            maps = last_maps(table, a)
            self.last = maps, tf.gradients(self.logits * chosen, maps)[0]
            if channels_of:
                self.slope, = tf.gradients(self.logits * chosen, self.activation)

    def mark(self, name, a, targets):
        """Notes the layer whose channels are asked for: its name, or LAST."""
        self.shapes = {layer.name: a[layer.name].shape.as_list()[1:] for layer in self.table
                       if a[layer.name].shape.rank == 4}
        self.passed = passed(self.table, a)
        self.layer = name if name != LAST else last_wide(self.table, a, self.passed)
        if self.layer not in self.shapes:
            raise Refused(f'no layer {name} with maps (--layer list names them)')
        self.activation = a[self.layer]  # [n, h, w, channels]
        self.mask = tf.placeholder(self.logits.dtype, [None, self.activation.shape[-1]])
        self.parts = Channels(self.logits, targets, {}, {})

    @property
    def batch_size(self):
        """How many pictures to explain at once: as many as memory allows, 1 to 8."""
        return int(np.clip(ACTIVATIONS // self.picture_bytes, 1, 8))

    def choose(self):
        """The targets [n], classes, and `chosen` [n, classes], as `start` of rules.py takes it."""
        classes, dtype = self.logits.shape[-1], self.logits.dtype
        against = tf.one_hot(self.against, classes, dtype=dtype)
        others = tf.where_v2(against > 0, tf.constant(-np.inf, dtype), self.logits)
        ranked = tf.cast(tf.math.top_k(others, classes).indices, tf.int64)
        likely = tf.gather(ranked, tf.maximum(-1 - self.target, 0), batch_dims=1)
        targets = tf.where(self.target < 0, likely, self.target)
        return targets, tf.one_hot(targets, classes, dtype=dtype) - against

    def __call__(self, pictures, targets=None, against=None):
        """Explains one class in each picture.

        pictures: paths, images of Pillow, or arrays [height, width, channels] of uint8, RGB or
        grey, of any size; one, or n of them. targets: a class for all pictures, or one for each
        [n]; -k for the k-th most likely one; None for the most likely one. against: the class to
        contrast them with, which is then none of the most likely ones; or None. Returns an
        Explanation of n pictures, in float32 (float64 in that precision).
        """
        return self.session.run(self.results, self.feed(pictures, targets, against))

    def channels(self, pictures, mask=None, targets=None, against=None):
        """Explains one class in each picture by some channels of a layer (Concept Relevance
        Propagation, Achtibat et al. 2023). Returns Channels; heatmaps only with a mask.

        mask: [n, channels]. The backward pass begins anew from the layer's relevance times the
        mask, and what bypasses the layer is left out. Other arguments: as for an explanation.
        """
        feed, wanted = self.feed(pictures, targets, against), self.parts._replace(heatmaps={})
        if mask is not None:
            feed[self.mask], wanted = mask, self.parts
        return self.session.run(wanted, feed)

    def gradient_times_input(self, pictures, targets=None, against=None):
        """The gradient of the targets' logits, minus that of `against`, times the first layer's
        inputs: [n, height, width, channels], whose channels are those of the first layer.

        Arguments: as for an explanation.
        """
        feed = self.feed(pictures, targets, against)
        return self.session.run(self.gradient, feed) * feed[self.pixels]

    def feed(self, pictures, targets, against):
        """What the graph is fed with to explain pictures. Raises Refused for impossible classes."""
        pixels, n = self.prepared(pictures), self.network.count
        targets = np.broadcast_to(-1 if targets is None else targets, len(pixels))
        if (np.clip(targets, -n, n - 1) != targets).any() or against not in (None, *range(n)):
            raise Refused(f'the classes of {self.network.name} are 0 to {n - 1}')
        return {self.pixels: pixels, self.target: targets,
                self.against: np.full(len(pixels), -1 if against is None else against)}

    def classify(self, pictures, activations=None):
        """The logits [n, classes] of pictures, like those to explain.

        activations: [n, h, w, channels], used in place of the outputs of the layer that `channels`
        explains; None for its own.
        """
        feed = {self.pixels: self.prepared(pictures)}
        if activations is not None:
            feed[self.activation] = activations
        return self.session.run(self.logits, feed)

    def activations(self, pictures):
        """The outputs of the layer that `channels` explains, and the gradient of the most likely
        class's logit with respect to them: [n, h, w, channels], [n, h, w, channels]."""
        return self.session.run([self.activation, self.slope], self.feed(pictures, None, None))

    def prepared(self, pictures):
        """The first layer's inputs [n, height, width, channels] for pictures, floats."""
        if (isinstance(pictures, (str, os.PathLike, Image.Image))
                or isinstance(pictures, np.ndarray) and pictures.ndim < 4):
            pictures = [pictures]
        images = np.stack([seen(picture, self.network.size) for picture in pictures])
        return self.network.preprocess(images.astype(self.pixels.dtype.as_numpy_dtype))

    def read(self, name):
        """The kernel and the bias of a layer, arrays as the layer table shapes them."""
        return self.session.run(self.variables[name])

    def replace(self, name, w, b):
        """Replaces the kernel and the bias of a layer, and what rules derive from them."""
        with self.session.graph.as_default():
            for variable, value in zip(self.variables[name], (w, b)):
                variable.load(value, self.session)
            self.derive([self.weights[name]])


def passed(layers, a):
    """The layers with maps that all relevance passes through, the picture first.

    a: {layer name: activation}.
    """
    readers = {name: i for i, layer in enumerate(layers) for name in layer.inputs}
    found, reach = [PIXELS], readers[PIXELS]
    for i, layer in enumerate(layers):
        if reach <= i and a[layer.name].shape.rank == 4:
            found.append(layer.name)
        reach = max(reach, readers.get(layer.name, 0))
    return found


def last_maps(layers, a):
    """The last activations with maps that all relevance passes through, before any pooling: those
    that Grad-CAM weighs. a: {layer name: activation}."""
    pooled = {layer.name for layer in layers
              if layer.kind == 'max' or layer.kind == 'sum' and len(layer.inputs) == 1}
    return [a[name] for name in passed(layers, a)
            if name not in pooled and a[name].shape[1:3] != [1, 1]][-1]


def stages(network, a):
    """The layers whose relevance --layers shows: the picture, and the first layer at each smaller
    size of the maps. All relevance passes through each of them.

    In VGG these are the pooling layers. a: {layer name: activation}. Raises Refused if no layer
    makes its maps smaller.
    """
    found = []
    for name in passed(network.layers, a):
        if not found or 1 < a[name].shape[1] < a[found[-1]].shape[1]:
            found.append(name)
    if len(found) == 1:
        raise Refused(f'--layers: no layer of {network.name} makes its maps smaller')
    return found


def last_wide(layers, a, names):
    """The last of the named layers that is an addition, else a convolution, with maps at least WIDE
    pixels wide. Raises Refused if there is none."""
    wide = [layer for layer in layers if layer.name in names and a[layer.name].shape[2] >= WIDE]
    sums = [layer for layer in wide if layer.kind in LINEAR and len(layer.inputs) > 1]
    found = sums or [layer for layer in wide if layer.kind == 'conv']
    if not found:
        raise Refused('no convolution or addition that all relevance passes through has maps at '
                      f'least {WIDE} wide; choose a layer by --layer')
    return found[-1].name


def open_explainer(weights='imagenet', rules=DEFAULT, model=None, preprocessing=None,
                   precision='float32', layers=False, gradient=False, channels_of=None,
                   pictures=(), bgr=False):
    """Opens a network and builds its Explainer; prints a line that names it.

    weights, model, preprocessing, bgr: as open_network takes them; the others: as Explainer does.
    A model that Keras saved is checked first: our graph must give Keras's outputs for noise and for
    the first of `pictures` (paths). Raises Refused otherwise.
    """
    network = open_network(weights, preprocessing, pictures, model, bgr)
    explainer = Explainer(network, rules, precision, layers, gradient, channels_of)
    compared = network.compare(explainer.classify, pictures, precision)
    print(f'{network.title}{"; outputs match Keras" if compared else ""}', flush=True)
    return explainer
