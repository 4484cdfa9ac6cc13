"""The trained network with its relevance graph: digits in, relevance out."""
from typing import NamedTuple

import numpy as np

from checkpoint import best_checkpoint, restore
from common import Refused, open_session, progress_bar, tf
from model import CLASSES, LAYERS, PIXELS, SIDE, Weights, forward, variables
from rules import relevance, start

BATCH = 100  # digits explained at once
LEVELS = [PIXELS, *(layer.name for layer in LAYERS)]  # where sums of relevance are taken


class Explanation(NamedTuple):
    """The explanation of n digits."""

    logits: np.ndarray  # [n, 10]
    targets: np.ndarray  # [n]
    relevance: dict  # {rule: [n, 28, 28]}
    started: dict  # {rule: [n, 2]}: what it started from, at the target and the contrasted class
    sums: dict  # {rule: [n, levels]}: its sum at the pixels and after each layer, in float64


class Explainer:
    """The trained network, its relevance graph for some rules, and the session that runs both."""

    def __init__(self, rules, logdir, gradient=False):
        """gradient: whether `gradient` will be called."""
        self.checkpoint = best_checkpoint(logdir)
        with tf.Graph().as_default():
            self.variables = made = variables()
            self.build({name: Weights(each.w.read_value(), each.b.read_value())
                        for name, each in made.items()}, rules, gradient)
            wanted = {variable.op.name: variable for variable in tf.global_variables()}
            saver, derive = tf.train.Saver(wanted), tf.local_variables_initializer()
            self.session = open_session()
            restore(self.session, saver, self.checkpoint, wanted)
            self.session.run(derive)
            tf.get_default_graph().finalize()  # no batch adds to it

    def build(self, weights, rules, gradient):
        """The forward pass and, for each rule, the walk back."""
        self.images = tf.placeholder(tf.float32, [None, SIDE, SIDE])
        self.target = tf.placeholder(tf.int64, [None])  # a class, or -1 for the most likely one
        self.against = tf.placeholder(tf.int64, [None])  # the class to contrast it with, or -1
        a = forward(self.images[..., None], weights)
        self.logits = a[LAYERS[-1].name]
        against = tf.one_hot(self.against, CLASSES)
        likely = tf.argmax(tf.where_v2(against > 0, -np.inf, self.logits), 1)
        targets = tf.where(self.target < 0, likely, self.target)
        chosen = tf.one_hot(targets, CLASSES) - against
        self.results = Explanation(self.logits, targets, {}, {}, {})
        for rule in rules:
            first = start(rule, LAYERS, a, weights, chosen)
            r = relevance(rule, LAYERS, a, weights, first)
            self.results.relevance[rule] = r[PIXELS][..., 0]
            self.results.started[rule] = started(first, chosen)
            self.results.sums[rule] = tf.stack([total(r[level]) for level in LEVELS], 1)
        if gradient:
            self.slope = tf.gradients(self.logits * chosen, self.images)[0]

    def __call__(self, images, target=None, against=None):
        """Explains digits [n, 28, 28] in [0, 1].

        target: a class, or None for the most likely one. against: the class to contrast it with,
        or None. Returns an Explanation.
        """
        return self.session.run(self.results, self.feed(images, target, against))

    def gradient(self, images, target=None):
        """The gradient of the target's logit [n, 28, 28] at digits [n, 28, 28] in [0, 1]."""
        return self.session.run(self.slope, self.feed(images, target))

    def classify(self, images):
        """The logits [n, 10] of digits [n, 28, 28] in [0, 1]."""
        return self.session.run(self.logits, {self.images: images})

    def read(self, name):
        """The kernel and the bias of a layer."""
        return self.session.run([self.variables[name].w, self.variables[name].b])

    def feed(self, images, target, against=None):
        target, against = (np.full(len(images), -1 if value is None else value)
                           for value in (target, against))
        return {self.images: images, self.target: target, self.against: against}


def started(r, chosen):
    """The relevance r of the logits at the target and at the class to contrast it with: [n, 2]."""
    parts = [tf.maximum(chosen, 0.0), tf.maximum(-chosen, 0.0)]
    return tf.stack([tf.reduce_sum(r * part, -1) for part in parts], -1)


def total(r):
    """The sum of relevance [n, ...] of each digit, in float64: [n]."""
    return tf.reduce_sum(tf.cast(r, tf.float64), list(range(1, r.shape.rank)))


def explain_all(explainer, images, target=None, against=None):
    """The Explanation of any number of digits, batch by batch. Raises Refused if not finite."""
    bar, parts = progress_bar(len(images), 'digit', quiet=True), []
    for i in range(0, len(images), BATCH):
        parts.append(explainer(images[i:i + BATCH], target, against))
        if not all(np.isfinite(array).all() for array in tf.nest.flatten(parts[-1])):
            raise Refused('the relevance is not finite: the network was trained with too high a '
                          'learning rate')
        if len(images) > BATCH:
            bar.update(min(i + BATCH, len(images)))
    return tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
