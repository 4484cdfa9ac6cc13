"""The rules of Layer-wise Relevance Propagation, their composites, and the backward pass.

A rule takes a layer, its inputs a [n, ...], its weights and the relevance r of its outputs, and
returns the relevance of a. All follow the four steps of `zplus`. `linear` and `transposed`
(model.py) say what a layer computes, so every rule works for convolutions and dense layers.
"""
from functools import partial
from typing import Callable, NamedTuple

from common import tf
from model import LAYERS, LINEAR, affine, linear, pool, transposed

TINY = 1e-20  # keeps sums of terms >= 0 away from zero, too small to show in any of them


def stabilise(z, eps):
    """z + eps * sign(z) with sign(0) = +1: never zero."""
    eps = tf.convert_to_tensor(eps, z.dtype)
    return z + tf.where_v2(z >= 0, eps, -eps)


def zplus(layer, a, weights, r):
    """z+ rule for inputs a >= 0 (Montavon et al. 2017, Sec. 4.2). Conserves wherever z > 0."""
    w = weights.positive
    z = linear(layer, a, w)            # 1. what each output received
    s = r / (z + TINY)                 # 2. relevance per unit received
    c = transposed(layer, s, w, a)     # 3. sent back along the weights
    return a * c                       # 4. weighed by what each input gave


def zbeta(layer, a, weights, r, low, high):
    """zB rule for low <= a <= high (Montavon et al. 2017, Sec. 4.2). Conserves wherever z > 0.

    z = sum (a - low) w+ + (a - high) w-: both terms are >= 0, so nothing cancels.
    """
    z = linear(layer, a - low, weights.positive) + linear(layer, a - high, weights.negative)
    s = r / (z + TINY)
    c_low = transposed(layer, s, weights.positive, a)
    c_high = transposed(layer, s, weights.negative, a)
    return (a - low) * c_low + (a - high) * c_high


def epsilon(layer, a, weights, r, eps=1e-6):
    """Epsilon rule (Bach et al. 2015, Eq. 58). Conserves up to what the bias and eps absorb."""
    z = affine(layer, a, weights)
    s = r / stabilise(z, eps)
    c = transposed(layer, s, weights.w, a)
    return a * c


def gamma(layer, a, weights, r, gamma=0.25):
    """Gamma rule for inputs a >= 0 and outputs z >= 0 (Montavon et al. 2019, Sec. 10.2.1).

    Positive weights count 1 + gamma times, so the denominator is z + gamma z+. zplus computes z+
    (without the bias), too.
    """
    w = weights.keep(f'gamma {gamma}', weights.w + gamma * weights.positive)
    rises = linear(layer, a, weights.positive) + tf.maximum(weights.b, 0.0)
    s = r / stabilise(affine(layer, a, weights) + gamma * rises, 1e-9)
    c = transposed(layer, s, w, a)
    return a * c


def max_pool(layer, a, weights, r):
    """The winner takes all; among equal inputs, the first one in the window."""
    return tf.raw_ops.MaxPoolGrad(orig_input=a, orig_output=pool(layer, a), grad=r, **layer.pooling)


def unflatten(layer, a, weights, r):
    """Back into maps."""
    return tf.reshape(r, tf.shape(a))


class Composite(NamedTuple):
    """The rule of the first layer with weights, which reads the pixels, of the other convolutions,
    and of the other dense layers."""

    pixels: Callable
    convolutions: Callable
    dense: Callable


# The box [0, 1] of the pixels, a millionth wider: without that a black corner under all-positive
# weights has z = 0, and its relevance is lost.
box = partial(zbeta, low=-1e-6, high=1.0 + 1e-6)
COMPOSITES = {
    'epsilon-gamma-box': Composite(box, gamma, epsilon),  # Montavon et al. 2019
    'deep-taylor': Composite(box, zplus, zplus),  # Montavon et al. 2017
    'zplus': Composite(zplus, zplus, zplus),
    'epsilon': Composite(epsilon, epsilon, epsilon),  # Bach et al. 2015
}
DEFAULT = ['epsilon-gamma-box', 'deep-taylor']
ONE_SIGN = {box, zplus}  # share out what raises z, whatever z's sign


def rule_of(composite, layer):
    """The rule of a layer. Those without weights have the same one in all composites."""
    if layer.kind == 'max':
        return max_pool
    if layer.kind == 'flatten':
        return unflatten
    if layer == next(each for each in LAYERS if each.kind in LINEAR):
        return composite.pixels
    return composite.dense if layer.kind == 'dense' else composite.convolutions


def relevance(composite, layers, a, weights, r):
    """The backward pass: reads the layer table upwards, from the relevance r of the logits.

    a: the activations, as `forward` returns them. Returns the relevance of each of them.
    """
    result = [r]
    for layer, inputs in zip(reversed(layers), reversed(a[:-1])):
        r = rule_of(composite, layer)(layer, inputs, weights.get(layer.name), r)
        result.insert(0, r)
    return result


def one_sign(composite, layers):
    """Whether the rule at the logits is one of ONE_SIGN."""
    return rule_of(composite, layers[-1]) in ONE_SIGN


def start(composite, layers, logits, chosen):
    """The relevance of the logits [n, classes], where the backward pass starts.

    chosen [n, classes]: 1 at the target, -1 at the class to contrast it with, if any. Relevance
    starts at the target's logit, less the other class's. A rule of one sign would paint blue what
    speaks for a class whose logit is negative, so it starts at the logit's size, and takes off as
    much at the other class (contrastive LRP, Gu et al. 2018).
    """
    if not one_sign(composite, layers):
        return logits * chosen
    size = tf.reduce_sum(tf.abs(logits) * tf.maximum(chosen, 0.0), -1, keepdims=True)
    return size * chosen
