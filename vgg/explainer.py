"""A network with its relevance graph: pictures in, relevance out."""
import itertools
import os
from typing import NamedTuple

import numpy as np

from common import Refused, open_session, tf
from model import LINEAR, PIXELS, Weights, forward
from networks.network import by_keras, compare, open_network
from pictures import first_picture
from rules import DEFAULT, relevance, start

ACTIVATIONS = 2e9  # bytes that the outputs of all layers take for one batch, at most
PEAK = 3  # times as much memory is in use while relevance is computed


class Explanation(NamedTuple):
    """The explanation of n pictures. T: the shape of the targets, [n] or [n, K]."""

    logits: np.ndarray  # [n, classes]
    targets: np.ndarray  # T, classes
    relevance: dict  # {rule: [*T, height, width, channels]}, of the first layer's inputs, RGB
    started: dict  # {rule: [*T, 2]}, what relevance started from, at the target and the other class
    layers: dict  # {rule: {layer: [*T, height, width]}}, summed over channels, if asked for


class Explainer:
    """A network, its relevance graph for some rules, and the session that runs them; built once.

    walks: how many targets of a picture are explained in one run, from one forward pass; layers:
    whether the relevance inside the network is wanted, too; gradient: whether gradients are.
    """

    def __init__(self, network, rules=DEFAULT, precision='float32', walks=1, layers=False,
                 gradient=False):
        self.walks, self.precision = walks, precision
        self.variables, self.weights = {}, {}
        shape = network.prepare(np.zeros((1, *network.size), np.float32)).shape[1:]
        arrays = {name: read() for name, read in network.read.items()}
        with tf.Graph().as_default() as graph:
            self.session = open_session()
            self.load(network, arrays)
            self.build(network, shape, rules, layers, gradient)
            self.derive(self.weights.values())
            graph.finalize()  # no batch adds to it
        self.network = network._replace(read={}, keras=None)  # lets go of what was read

    def load(self, network, arrays):
        """Keeps each layer's w and b in variables. Where there are none, as of pooling, w is 1."""
        linear, feed = [layer for layer in network.layers if layer.kind in LINEAR], {}
        for layer in linear:
            exact = self.precision == 'bfloat16' and layer is linear[-1]
            dtype = 'float32' if exact else self.precision
            if layer.name not in arrays:
                ones = tf.ones([len(layer.inputs), 1], dtype)
                self.weights[layer.name] = Weights(ones, tf.zeros([1], dtype))
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

    def build(self, network, shape, rules, layers, gradient):
        """The forward pass and, for each rule and target, the walk back."""
        table, dtype = network.layers, 'float64' if self.precision == 'float64' else 'float32'
        self.pixels = tf.placeholder(dtype, [None, *shape])
        self.target = tf.placeholder(tf.int64, [None, self.walks])
        self.against = tf.placeholder(tf.int64, [None])
        a = forward(self.pixels, table, self.weights)
        self.picture_bytes = sum(np.prod(each.shape[1:]) * each.dtype.size for each in a.values())
        self.logits = a[table[-1].name]
        targets, chosen = self.choose(self.logits)
        self.results = Explanation(self.logits, targets, {}, {}, {})
        shown = stages(network, a) if layers else []
        for rule in rules:
            starts = [start(rule, table, a, self.weights, each) for each in chosen]
            walks = [relevance(rule, table, a, self.weights, r) for r in starts]
            pixels = tf.stack([r[PIXELS] for r in walks], 1)
            self.results.relevance[rule] = tf.reverse(pixels, [-1]) if network.bgr else pixels
            self.results.started[rule] = tf.stack(list(map(started, starts, chosen)), 1)
            if layers:
                shown_here = {name: summed([r[name] for r in walks]) for name in shown}
                self.results.layers[rule] = shown_here
        if gradient:
            slopes = [tf.gradients(self.logits * each, self.pixels)[0] for each in chosen]
            self.gradient = tf.stack(slopes, 1)

    @property
    def batch_size(self):
        """How many pictures to explain at once: as many as memory allows, 1 to 8."""
        return int(np.clip(ACTIVATIONS // (self.picture_bytes * self.walks), 1, 8))

    def choose(self, logits):
        """The targets [n, walks], classes, and `chosen` (see rules.py) for each walk."""
        classes = logits.shape[-1]
        against = tf.one_hot(self.against, classes, dtype=logits.dtype)
        others = tf.where_v2(against > 0, tf.constant(-np.inf, logits.dtype), logits)
        ranked = tf.cast(tf.math.top_k(others, classes).indices, tf.int64)
        likely = tf.gather(ranked, tf.maximum(-1 - self.target, 0), batch_dims=1)
        targets = tf.where(self.target < 0, likely, self.target)
        return targets, [tf.one_hot(target, classes, dtype=logits.dtype) - against
                         for target in tf.unstack(targets, axis=1)]

    def __call__(self, images, targets=None, against=None):
        """Explains pictures.

        images: [n, height, width, channels] of the network's size, uint8, RGB or grey. targets: [n]
        or [n, K], classes, or -k for the k-th most likely one; None for the most likely one.
        against: the class to contrast them with, which is then none of the most likely ones; or
        None. Returns an Explanation in float32 (float64 in that precision).
        """
        targets = np.full(len(images), -1) if targets is None else np.asarray(targets)
        runs = self.walk(self.results, images, targets, against)
        rest = [run[1:] for run in runs]  # all but the logits, which are the same in every run
        rest = tf.nest.map_structure(lambda *parts: together(parts, targets), *rest)
        return Explanation(runs[0].logits, *rest)

    def gradient_times_input(self, images, targets, against=None):
        """The gradient of the targets' logits, minus that of `against`, times the first layer's
        inputs.

        Arguments and result are like those of an explanation, but channels are the first layer's.
        """
        targets = np.asarray(targets)
        runs = self.walk(self.gradient, images, targets, against)
        gradient, pixels = together(runs, targets), self.prepared(images)
        return gradient * (pixels if targets.ndim == 1 else pixels[:, None])

    def walk(self, wanted, images, targets, against):
        """Runs the graph for as many targets at a time as it has walks."""
        columns, runs = targets.reshape(len(images), -1), []
        for i in range(0, columns.shape[1], self.walks):
            part = columns[:, i:i + self.walks]
            part = np.pad(part, ((0, 0), (0, self.walks - part.shape[1])), 'edge')
            feed = {self.pixels: self.prepared(images), self.target: part,
                    self.against: np.full(len(images), -1 if against is None else against)}
            runs.append(self.session.run(wanted, feed))
        return runs

    def classify(self, images):
        """The logits [n, classes] of pictures [n, height, width, channels], uint8."""
        return self.session.run(self.logits, {self.pixels: self.prepared(images)})

    def prepared(self, images):
        return self.network.prepare(images.astype(self.pixels.dtype.as_numpy_dtype))

    def read(self, name):
        """The kernel and the bias of a layer."""
        return self.session.run(self.variables[name])

    def replace(self, name, w, b):
        """Replaces the kernel and the bias of a layer, and what rules derive from them."""
        with self.session.graph.as_default():
            for variable, value in zip(self.variables[name], (w, b)):
                variable.load(value, self.session)
            self.derive([self.weights[name]])


def started(r, chosen):
    """The relevance r of the logits at the target and at the class to contrast it with: [n, 2]."""
    parts = [tf.maximum(chosen, 0.0), tf.maximum(-chosen, 0.0)]
    return tf.stack([tf.reduce_sum(r * part, -1) for part in parts], -1)


def summed(walks):
    """Relevance [n, h, w, channels] of each walk, summed over channels: [n, walks, h, w]."""
    return tf.stack([tf.reduce_sum(tf.cast(r, tf.float32), -1) for r in walks], 1)


def together(parts, targets):
    """The results [n, walks, ...] of several runs as one of the shape of the targets."""
    whole = np.concatenate(parts, 1)[:, :targets.size // len(targets)]
    return whole[:, 0] if targets.ndim == 1 else whole


def stages(network, a):
    """The layers whose relevance --layers shows: the picture, and the first layer at each smaller
    size of the maps. All relevance passes through each of them.

    In VGG these are the pooling layers. a: {layer name: activation}. Raises Refused if no layer
    makes its maps smaller.
    """
    readers = {name: i for i, layer in enumerate(network.layers) for name in layer.inputs}
    found, side, reach = [PIXELS], a[PIXELS].shape[1], readers[PIXELS]
    for i, layer in enumerate(network.layers):
        shape = a[layer.name].shape
        if reach <= i and shape.rank == 4 and 1 < shape[1] < side:
            found.append(layer.name)
            side = shape[1]
        reach = max(reach, readers.get(layer.name, 0))
    if len(found) == 1:
        raise Refused(f'--layers: no layer of {network.name} makes its maps smaller')
    return found


def open_explainer(weights='imagenet', rules=DEFAULT, model=None, preprocessing=None,
                   precision='float32', walks=1, layers=False, gradient=False, pictures=()):
    """Opens a network and builds its Explainer; prints a line that names it.

    weights, model, preprocessing: as open_network takes them; the others: as Explainer does. A
    model that Keras saved is checked first: our graph must give Keras's outputs for noise and for
    the first of `pictures` (arrays of the network's size by their names). Raises Refused otherwise.
    """
    network = open_network(weights, model, preprocessing, pictures)
    explainer, checked = Explainer(network, rules, precision, walks, layers, gradient), ''
    needed = PEAK * explainer.picture_bytes * walks
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    if needed > memory:
        raise Refused(f'{network.path}: one picture of {network.size[0]}x{network.size[1]} takes '
                      f'about {needed / 1e9:.0f} GB, and this machine has {memory / 1e9:.0f}')
    if network.keras:
        noise = np.random.default_rng(0).integers(0, 256, network.size, np.uint8)
        images = {'random noise': noise, **first_picture(pictures, network.size)}
        batch = np.stack(list(images.values()))
        found = network.probabilities(explainer.classify(batch))
        compare(network, by_keras(network, batch), found, list(images), precision)
        checked = '; outputs match Keras'
    print(network.title + checked, flush=True)
    return explainer
