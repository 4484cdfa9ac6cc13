"""The rules of Layer-wise Relevance Propagation, their composites, and the walk back to the pixels.

A rule takes a layer, its inputs a [n, ...], its weights and the relevance r of its outputs, and
returns the relevance of a. `linear` and `transposed` (model.py) are all that it knows of the layer,
so every rule works for every linear kind.
"""
from functools import partial
from typing import Callable, NamedTuple

import numpy as np

from common import tf
from model import LINEAR, affine, joined, linear, moved, moved_back, parts, pool, transposed


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


def box(layer, a, weights, r):
    """zB between the bounds of the layer's inputs, widened by a millionth of their range.

    Without that a black picture under all-positive weights has z = 0, and its relevance is lost.
    """
    low, high = np.float64(layer.low), np.float64(layer.high)
    margin = 1e-6 * (high - low)
    return zbeta(layer, a, weights, r, low - margin, high + margin)


def zplus_signed(layer, a, weights, r):
    """z+ rule for inputs of both signs: z = sum a+ w+ + a- w-."""
    pairs = raising(layer, a, weights)
    return sent(layer, r / (z_of(layer, pairs) + 1e-20), pairs)


def wsquare(layer, a, weights, r):
    """w^2 rule for inputs without bounds (Montavon et al. 2017, Sec. 4.1). Conserves."""
    return equal_inputs(layer, a, weights.keep('squared', weights.w * weights.w), r)


def flat(layer, a, weights, r):
    """Flat rule (Lapuschkin et al. 2019): equal shares, none for padding. Conserves."""
    return equal_inputs(layer, a, tf.ones_like(weights.w), r)


def equal_inputs(layer, a, w, r):
    """Shares out by the weights w >= 0 alone, as if every input were 1."""
    z = linear(layer, tf.ones_like(a[:1]), w)
    s = r / (z + tiny(z))
    return transposed(layer, s, w, a)


def gamma(layer, a, weights, r, gamma=0.25):
    """Gamma rule for inputs a >= 0 and outputs z >= 0 (Montavon et al. 2019, Sec. 10.2.1).

    Positive weights count 1 + gamma times: z + gamma z+, of which z+ is what zplus needs, too.
    """
    w = weights.keep(f'gamma {gamma}', weights.w + gamma * weights.positive)
    rises = linear(layer, a, weights.positive) + tf.maximum(weights.b, 0.0)
    s = r / stabilise(affine(layer, a, weights) + gamma * rises, 1e-9)
    c = transposed(layer, s, w, a)
    return a * c


def gamma_signed(layer, a, weights, r, gamma=0.25):
    """Gamma rule for inputs and outputs of both signs (Andeol et al. 2021).

    Contributions that have the sign of the output count 1 + gamma times.
    """
    z, up, down = affine(layer, a, weights), raising(layer, a, weights), lowering(layer, a, weights)
    rises = z_of(layer, up) + tf.maximum(weights.b, 0.0)
    falls = z - rises  # nothing cancels where z < 0
    s = r / stabilise(z + gamma * tf.where_v2(z >= 0, rises, falls), 1e-9)
    more = (1 + gamma) * s
    return (sent(layer, tf.where_v2(z >= 0, more, s), up)
            + sent(layer, tf.where_v2(z >= 0, s, more), down))


def alpha_beta(layer, a, weights, r, alpha):
    """Alpha-beta rule (Bach et al. 2015, Eq. 60), beta = alpha - 1. Conserves up to the biases.

    alpha r is shared among what raises z, and beta r taken from what lowers it, each in proportion
    to its own sum.
    """
    up = raising(layer, a, weights)
    rises = z_of(layer, up) + (tf.maximum(weights.b, 0.0) + 1e-20)
    given = sent(layer, alpha * r / rises, up)
    if alpha == 1:
        return given
    down = lowering(layer, a, weights)
    falls = z_of(layer, down) + (tf.minimum(weights.b, 0.0) - 1e-20)
    return given - sent(layer, (alpha - 1) * r / falls, down)


# Pairs of inputs and weights: a part of the inputs, and the part of the weights that counts for it.

def raising(layer, a, weights):
    """The pairs that raise z: a+ with w+, and a- with w-."""
    if not layer.signed:
        return [(a, weights.positive)]
    pair = tf.maximum(a, 0.0), weights.positive
    return [pair] if layer.unsigned_weights else [pair, (tf.minimum(a, 0.0), weights.negative)]


def lowering(layer, a, weights):
    """The pairs that lower z: a- with w+, and a+ with w-."""
    if not layer.signed:
        return [(a, weights.negative)]
    pair = tf.minimum(a, 0.0), weights.positive
    return [pair] if layer.unsigned_weights else [pair, (tf.maximum(a, 0.0), weights.negative)]


def z_of(layer, pairs):
    """What each output received by these pairs."""
    return sum(linear(layer, x, w) for x, w in pairs)


def sent(layer, s, pairs):
    """What the inputs of these pairs get of s, relevance per unit received."""
    return sum(x * transposed(layer, s, w, x) for x, w in pairs)


def lifted(layer, a, weights, r, share=0.0):
    """Epsilon rule with 1e-9 and a share of the rms of z (tutorial of Montavon et al. 2019)."""
    z = affine(layer, a, weights)
    s = r / stabilise(z, 1e-9 + share_of_rms(z, share))
    c = transposed(layer, s, weights.w, a)
    return a * c


def share_of_rms(z, share):
    """A share of the root mean square of z over each image's layer: [n, 1, ...]."""
    if not share:
        return tf.zeros([], z.dtype)
    axes = list(range(1, z.shape.rank))
    mean = tf.reduce_mean(tf.square(tf.cast(z, tf.float64)), axes, keepdims=True)
    return tf.cast(share * tf.sqrt(mean), z.dtype)


def max_pool(layer, a, weights, r):
    """The winner takes all; among equal inputs, the first one in the window."""
    return tf.raw_ops.MaxPoolGrad(orig_input=a, orig_output=pool(layer, a), grad=r, **layer.window)


def mean_pool(layer, a, weights, r):
    """Max-pooling explained as average pooling (tutorial of Montavon et al. 2019)."""
    z = tf.raw_ops.AvgPool(value=a, **layer.window)
    s = r / stabilise(z, 1e-9 + share_of_rms(z, 0.0 if layer.place == 'lower' else 0.25))
    c = tf.raw_ops.AvgPoolGrad(orig_input_shape=tf.shape(a), grad=s, **layer.window)
    return a * c


class Composite(NamedTuple):
    """The rule of each place.

    pixels: weights that read the picture; lower: maps of more than an eighth of the picture's side,
    VGG's blocks 1 to 3; upper: smaller maps; dense: dense layers; pooling: max-pooling.
    """

    pixels: Callable
    lower: Callable
    upper: Callable
    dense: Callable
    pooling: Callable = max_pool


ALPHA1, ALPHA2 = partial(alpha_beta, alpha=1.0), partial(alpha_beta, alpha=2.0)
COMPOSITES = {
    'epsilon-gamma-box': Composite(box, gamma, gamma, epsilon),  # Montavon et al. 2019
    'deep-taylor': Composite(box, zplus, zplus, zplus),  # Montavon et al. 2017
    'zplus': Composite(zplus, zplus, zplus, zplus),
    'wsquare': Composite(wsquare, zplus, zplus, zplus),  # Montavon et al. 2017
    'epsilon': Composite(epsilon, epsilon, epsilon, epsilon),  # Bach et al. 2015
    'alpha1beta0': Composite(ALPHA1, ALPHA1, ALPHA1, ALPHA1),  # Bach et al. 2015
    'alpha2beta1': Composite(ALPHA2, ALPHA2, ALPHA2, ALPHA2),
    'epsilon-plus': Composite(ALPHA1, ALPHA1, ALPHA1, epsilon),  # Kohlbrenner et al. 2020
    'epsilon-plus-flat': Composite(flat, ALPHA1, ALPHA1, epsilon),
    'epsilon-alpha2beta1': Composite(ALPHA2, ALPHA2, ALPHA2, epsilon),
    'epsilon-alpha2beta1-flat': Composite(flat, ALPHA2, ALPHA2, epsilon),
    'montavon2019': Composite(box, gamma, partial(lifted, share=0.25), lifted, mean_pool),
}
DEFAULT = ['epsilon-gamma-box', 'deep-taylor']


def rule_of(composite, layer):
    """The rule of a layer, in the form for both signs where its inputs or outputs need it."""
    if layer.kind == 'max':
        return COMPOSITES[composite].pooling
    rule = getattr(COMPOSITES[composite], layer.place)
    plain, options = getattr(rule, 'func', rule), getattr(rule, 'keywords', {})
    if plain is zplus and layer.signed:
        return zplus_signed
    signed = layer.signed or not (layer.unsigned_weights or layer.positive)
    return partial(gamma_signed, **options) if plain is gamma and signed else rule


def relevance(composite, layers, a, weights, r):
    """Walks the layer table upwards from the relevance r of the logits.

    Returns {layer name: relevance of its outputs} and, as 'pixels', that of the picture. The layers
    that compute a gate receive none.
    """
    received = {layers[-1].name: r}
    for layer in reversed(layers):
        if layer.name in received:
            inputs, w = [a[name] for name in layer.inputs], weights.get(layer.name)
            parts = sent_back(composite, layer, inputs, w, received[layer.name])
            for name, part in zip(layer.inputs, parts):  # what several layers send back adds up
                received[name] = received[name] + part if name in received else part
    return received


def sent_back(composite, layer, inputs, weights, r):
    """The relevance of each input of a layer."""
    if layer.kind != 'max' and layer.kind not in LINEAR:
        return moved_back(layer, inputs, r)
    return parts(rule_of(composite, layer)(layer, joined(inputs), weights, r), len(inputs))


# Where relevance starts. chosen [n, classes]: 1 at the target, -1 at the class to contrast it with.

def both_signs(composite, layers):
    """Whether a composite's rule at the logits separates evidence for and against a class."""
    rule = rule_of(composite, last_linear(layers))
    return getattr(rule, 'func', rule) in (epsilon, gamma, gamma_signed, lifted)


def last_linear(layers):
    return [layer for layer in layers if layer.kind in LINEAR][-1]


def evidence(layers, a, weights):
    """The evidence for each class: sum of a+ w+ + a- w- in the last linear layer. [n, classes]"""
    last = last_linear(layers)
    x = joined([a[name] for name in last.inputs])
    r = z_of(last, raising(last, x, weights[last.name]))
    for layer in layers[layers.index(last) + 1:]:
        r = winners(layer, a[layer.inputs[0]], r) if layer.kind == 'max' else moved(layer, [r])
    return r


def winners(layer, a, r):
    """The values of r [like a] at the places where a is the largest in its pooling window."""
    return tf.raw_ops.MaxPoolGradGrad(orig_input=a, orig_output=pool(layer, a), grad=r,
                                      **layer.window)


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
