"""The rules of Layer-wise Relevance Propagation, their composites, and the walk back to the pixels.

A rule takes a layer, its inputs a [n, ...], its weights and the relevance r of its outputs, and
returns the relevance of a. All follow the four steps of `zplus`. `linear` and `transposed`
(model.py) say what a layer computes, so every rule works for convolutions and dense layers.
"""
from functools import partial
from typing import Callable, NamedTuple

from common import tf
from model import LAYERS, LINEAR, affine, linear, pool, transposed


def tiny(z):
    """The stabiliser of rules whose z is never negative: 1e-20, too small to show in any sum."""
    return tf.fill(z.shape[-1:], tf.constant(1e-20, z.dtype))


def stabilise(z, eps):
    """z + eps * sign(z) with sign(0) = +1: never zero."""
    eps = tf.convert_to_tensor(eps, z.dtype)
    return z + tf.where_v2(z >= 0, eps, -eps)


def zplus(layer, a, weights, r):
    """z+ rule for inputs a >= 0 (Montavon et al. 2017, Sec. 4.2). Conserves wherever z > 0."""
    w = weights.positive
    z = linear(layer, a, w)            # 1. what each output received
    s = r / (z + tiny(z))              # 2. relevance per unit received
    c = transposed(layer, s, w, a)     # 3. sent back along the weights
    return a * c                       # 4. weighed by what each input gave


def zbeta(layer, a, weights, r, low, high):
    """zB rule for low <= a <= high (Montavon et al. 2017, Sec. 4.2). Conserves wherever z > 0.

    z = sum (a - low) w+ + (a - high) w-: both terms are >= 0, so nothing cancels.
    """
    z = linear(layer, a - low, weights.positive) + linear(layer, a - high, weights.negative)
    s = r / (z + tiny(z))
    c_low = transposed(layer, s, weights.positive, a)
    c_high = transposed(layer, s, weights.negative, a)
    return (a - low) * c_low + (a - high) * c_high


def epsilon(layer, a, weights, r, eps=1e-6):
    """Epsilon rule (Bach et al. 2015, Eq. 58). Conserves up to what the bias and eps absorb."""
    z = affine(layer, a, weights)
    s = r / stabilise(z, eps)
    c = transposed(layer, s, weights.w, a)
    return a * c


def max_pool(layer, a, weights, r):
    """The winner takes all; among equal inputs, the first one in the window."""
    return tf.raw_ops.MaxPoolGrad(orig_input=a, orig_output=pool(layer, a), grad=r, **layer.window)


def unflatten(layer, a, weights, r):
    """Back into maps."""
    return tf.reshape(r, tf.shape(a))


class Composite(NamedTuple):
    """The rule of the first layer with weights, which reads the pixels, and that of the others."""

    pixels: Callable
    others: Callable


# The box [0, 1] of the pixels, a millionth wider: without that a black corner under all-positive
# weights has z = 0, and its relevance is lost.
box = partial(zbeta, low=-1e-6, high=1.0 + 1e-6)
COMPOSITES = {
    'deep-taylor': Composite(pixels=box, others=zplus),  # Montavon et al. 2017
    'zplus': Composite(pixels=zplus, others=zplus),
    'epsilon': Composite(pixels=epsilon, others=epsilon),  # Bach et al. 2015
}
WITHOUT_WEIGHTS = {'max': max_pool, 'flatten': unflatten}  # whatever the composite


def rule_of(composite, layer):
    """The rule of a layer."""
    if layer.kind in WITHOUT_WEIGHTS:
        return WITHOUT_WEIGHTS[layer.kind]
    first = next(each for each in LAYERS if each.kind in LINEAR)
    rules = COMPOSITES[composite]
    return rules.pixels if layer == first else rules.others


def relevance(composite, layers, a, weights, r):
    """Walks the layer table upwards from the relevance r of the logits.

    a: the activations, as `forward` returns them. Returns {layer name: relevance of its outputs}
    and, as 'pixels', that of the picture.
    """
    received = {layers[-1].name: r}
    for layer, source in reversed(list(zip(layers, a))):  # source: what the layer reads
        rule, w = rule_of(composite, layer), weights.get(layer.name)
        received[source] = rule(layer, a[source], w, received[layer.name])
    return received


# Where relevance starts. chosen [n, classes]: 1 at the target, -1 at the class to contrast it with.

def both_signs(composite, layers):
    """Whether a composite's rule at the logits separates evidence for and against a class."""
    return rule_of(composite, layers[-1]) is epsilon


def evidence(layers, a, weights):
    """The evidence for each class, [n, classes]: sum of a w+ in the last layer, for a >= 0."""
    last, source = layers[-1], list(a)[-2]
    return linear(last, a[source], weights[last.name].positive)


def start(composite, layers, a, weights, chosen):
    """The relevance of the logits: [n, classes].

    With both signs at the logits: the target's logit, minus the other class's. A rule of one sign
    would paint the evidence for a class with a negative logit blue; so where the logit is not
    positive, relevance starts at the evidence instead. In a contrast the other class gets as much,
    negative (contrastive LRP, Gu et al. 2018), if there is any evidence for it.
    """
    logits = a[layers[-1].name]
    if both_signs(composite, layers):
        return logits * chosen
    found = evidence(layers, a, weights)
    value = tf.where_v2(logits > 0, logits, found)
    chosen *= tf.where_v2((found > 0) | (chosen > 0), tf.ones_like(chosen), tf.zeros_like(chosen))
    return tf.reduce_sum(value * tf.maximum(chosen, 0.0), -1, keepdims=True) * chosen
