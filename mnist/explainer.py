"""The trained network with its relevance graph: digits in, relevance out."""
from typing import NamedTuple

import numpy as np

from checkpoint import best_checkpoint, restore
from common import Refused, open_session, tf
from model import CLASSES, LAYERS, SIDE, forward, variables
from rules import relevance, start

BATCH = 100  # digits explained at once
LEVELS = ['pixels', *(layer.name for layer in LAYERS)]  # where sums of relevance are taken


class Explanation(NamedTuple):
    """The explanation of n digits."""

    logits: np.ndarray  # [n, 10]
    targets: np.ndarray  # [n]
    relevance: dict  # {rule: [n, 28, 28]}
    started: dict  # {rule: [n]}: what it started from at the target
    sums: dict  # {rule: [n, levels]}: its sum at the pixels and after each layer, in float64


class Explainer:
    """The trained network, its relevance graph for some rules, and the session that runs both.

    composites: {name: Composite}; gradient: whether `gradient` will be called.
    """

    def __init__(self, composites, logdir, gradient=False):
        checkpoint = best_checkpoint(logdir)
        with tf.Graph().as_default():
            self.build(variables(), composites, gradient)
            wanted = {variable.op.name: variable for variable in tf.global_variables()}
            self.session = open_session()
            restore(self.session, tf.train.Saver(wanted), checkpoint, wanted)
            for derived in tf.local_variables():  # each may depend on those before
                self.session.run(derived.initializer)
            tf.get_default_graph().finalize()  # no batch adds to it

    def build(self, weights, composites, gradient):
        """The forward pass and, for each composite, the backward pass."""
        self.images = tf.placeholder(tf.float32, [None, SIDE, SIDE])
        self.target = tf.placeholder(tf.int64, [None])  # a class, or -1 for the most likely one
        self.against = tf.placeholder(tf.int64, [None])  # the class to contrast it with, or -1
        a = forward(self.images[..., None], weights)
        self.logits = a[-1]
        against = tf.one_hot(self.against, CLASSES)
        likely = tf.argmax(tf.where_v2(against > 0, -np.inf, self.logits), 1)
        targets = tf.where(self.target < 0, likely, self.target)
        target = tf.one_hot(targets, CLASSES)
        self.results = Explanation(self.logits, targets, {}, {}, {})
        for name, composite in composites.items():
            first = start(composite, LAYERS, self.logits, target - against)
            r = relevance(composite, LAYERS, a, weights, first)
            self.results.relevance[name] = r[0][..., 0]
            self.results.started[name] = tf.reduce_sum(first * target, -1)
            self.results.sums[name] = tf.stack(list(map(total, r)), 1)
        if gradient:
            self.slope = tf.gradients(self.logits * (target - against), self.images)[0]

    def __call__(self, images, target=None, against=None):
        """Explains digits [n, 28, 28] in [0, 1].

        target: a class, or None for the most likely one. against: the class to contrast it with,
        or None. Returns an Explanation.
        """
        return self.session.run(self.results, self.feed(images, target, against))

    def gradient(self, images, target=None):
        """The gradient of the target's logit [n, 28, 28] at digits [n, 28, 28] in [0, 1]."""
        return self.session.run(self.slope, self.feed(images, target))

    def heatmaps(self, images):
        """By the rules and by two gradients, for the class seen: {method: [n, 28, 28]}."""
        slope = self.gradient(images)
        return {**self(images).relevance, 'gradient x input': slope * images,
                'gradient magnitude': np.abs(slope)}

    def classify(self, images):
        """The logits [n, 10] of digits [n, 28, 28] in [0, 1]."""
        return self.session.run(self.logits, {self.images: images})

    def feed(self, images, target, against=None):
        target, against = (np.full(len(images), -1 if value is None else value)
                           for value in (target, against))
        return {self.images: images, self.target: target, self.against: against}


def total(r):
    """The sum of relevance [n, ...] of each digit, in float64: [n]."""
    return tf.reduce_sum(tf.cast(r, tf.float64), list(range(1, r.shape.rank)))


def explain_all(explainer, images, target=None, against=None):
    """The Explanation of any number of digits, batch by batch. Raises Refused if not finite."""
    parts = [explainer(images[i:i + BATCH], target, against)
             for i in range(0, len(images), BATCH)]
    found = tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
    if not all(np.isfinite(array).all() for array in tf.nest.flatten(found)):
        raise Refused('the relevance is not finite: the network was trained with too high a '
                      'learning rate')
    return found
