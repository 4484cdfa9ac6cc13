"""The rules of Layer-wise Relevance Propagation, their composites, and the backward pass.

A rule takes a layer, its inputs a [n, ...], its weights and the relevance r of its outputs, and
returns the relevance of a. `linear` and `transposed` (model.py) are all that it knows of the layer,
so every rule works for every linear kind.
"""
from functools import partial, wraps
from typing import Callable, NamedTuple

import numpy as np

from common import Refused, tf
from model import LINEAR, affine, joined, linear, parts, pool, sent_through, transposed

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


def box(layer, a, weights, r):
    """zB between the bounds of the layer's inputs, widened by a millionth of their range.

    Without that a black picture under all-positive weights has z = 0, and its relevance is lost.
    """
    low, high = np.float64(layer.low), np.float64(layer.high)
    margin = 1e-6 * (high - low)
    return zbeta(layer, a, weights, r, low - margin, high + margin)


def wsquare(layer, a, weights, r):
    """w^2 rule for inputs without bounds (Montavon et al. 2017, Sec. 4.1). Conserves."""
    return equal_inputs(layer, a, weights.keep('squared', weights.w * weights.w), r)


def flat(layer, a, weights, r):
    """Flat rule (Lapuschkin et al. 2019): equal shares, none for padding. Conserves."""
    return equal_inputs(layer, a, tf.ones_like(weights.w), r)


def equal_inputs(layer, a, w, r):
    """Shares out by the weights w >= 0 alone, as if every input were 1."""
    z = linear(layer, tf.ones_like(a[:1]), w)
    s = r / (z + TINY)
    return transposed(layer, s, w, a)


# Both signs. A pair is a part of the inputs, with the part of the weights that counts for it.

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


def received(layer, pairs):
    """What each output received by these pairs."""
    return sum(linear(layer, x, w) for x, w in pairs)


def sent(layer, s, pairs):
    """What the inputs of these pairs get of s, relevance per unit received."""
    return sum(x * transposed(layer, s, w, x) for x, w in pairs)


def zplus_signed(layer, a, weights, r):
    """z+ rule for inputs of both signs: z = sum a+ w+ + a- w-."""
    pairs = raising(layer, a, weights)
    return sent(layer, r / (received(layer, pairs) + TINY), pairs)


def gamma_signed(layer, a, weights, r, gamma=0.25):
    """Gamma rule for inputs and outputs of both signs (Andeol et al. 2021).

    Contributions that have the sign of the output count 1 + gamma times.
    """
    z, up, down = affine(layer, a, weights), raising(layer, a, weights), lowering(layer, a, weights)
    rises = received(layer, up) + tf.maximum(weights.b, 0.0)
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
    rises = received(layer, up) + (tf.maximum(weights.b, 0.0) + TINY)
    given = sent(layer, alpha * r / rises, up)
    if alpha == 1:
        return given
    down = lowering(layer, a, weights)
    falls = received(layer, down) + (tf.minimum(weights.b, 0.0) - TINY)
    return given - sent(layer, (alpha - 1) * r / falls, down)


def for_both_signs(rule, signed):
    """The rule for every layer: in the form `signed` where inputs or outputs can be negative."""
    @wraps(rule)
    def either(layer, *arguments, **options):
        return (signed if layer.both_signs else rule)(layer, *arguments, **options)
    return either


zplus, gamma = for_both_signs(zplus, zplus_signed), for_both_signs(gamma, gamma_signed)


# The tutorial of Montavon et al. 2019: stabilisers that grow with z, and pooling by its mean.

def epsilon_rms(layer, a, weights, r):
    """Epsilon rule with a stabiliser of 1e-9 and a quarter of the root mean square of z."""
    return epsilon(layer, a, weights, r, eps_rms(affine(layer, a, weights)))


def eps_rms(z):
    """1e-9 and a quarter of the root mean square of each image's z: [n, 1, ...]."""
    square = tf.square(tf.cast(z, tf.float64))
    mean = tf.reduce_mean(square, list(range(1, z.shape.rank)), keepdims=True)
    return tf.cast(1e-9 + tf.sqrt(mean) / 4, z.dtype)


def mean_pool(layer, a, weights, r):
    """Max-pooling explained as average pooling."""
    z = tf.raw_ops.AvgPool(value=a, **layer.pooling)
    s = r / stabilise(z, 1e-9 if layer.place == 'lower' else eps_rms(z))
    c = tf.raw_ops.AvgPoolGrad(orig_input_shape=tf.shape(a), grad=s, **layer.pooling)
    return a * c


class Composite(NamedTuple):
    """The rule of each place.

    pixels: weights that read the picture; lower: maps of more than an eighth of the picture's side,
    VGG's blocks 1 to 3; upper: smaller maps; dense: dense layers, and convolutions whose output is
    one pixel; pooling: max-pooling.
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
    'montavon2019': Composite(box, gamma, epsilon_rms, partial(epsilon, eps=1e-9), mean_pool),
}
DEFAULT = ['epsilon-gamma-box', 'deep-taylor']
ONE_SIGN = {zplus, box, wsquare, flat, ALPHA1, ALPHA2}  # share out what raises z, whatever z's sign


def composites_of(rules):
    """{name: Composite} of a name in COMPOSITES, of several, or of such a dictionary."""
    if isinstance(rules, dict):
        return rules
    try:
        return {name: COMPOSITES[name] for name in ([rules] if isinstance(rules, str) else rules)}
    except KeyError as error:
        raise Refused(f'no rule {error}; there are {", ".join(COMPOSITES)}') from None


def rule_of(composite, layer):
    """The rule of a layer. In normalisation z+ would lose what negative outputs received."""
    if layer.kind in ('centre', 'gain'):
        return epsilon
    return composite.pooling if layer.kind == 'max' else getattr(composite, layer.place)


def relevance(composite, layers, a, weights, r, begin=None):
    """The backward pass: reads the layer table upwards, from the relevance r of the logits, or of
    the outputs of the layer `begin` alone.

    a: {layer name: activation}. Returns {layer name: relevance of its outputs} and, as 'pixels',
    that of the picture. The layers that compute a gate receive none.
    """
    result = {begin or layers[-1].name: r}
    for layer in reversed(layers):
        if layer.name in result:
            inputs, w = [a[name] for name in layer.inputs], weights.get(layer.name)
            shares = sent_back(composite, layer, inputs, w, result[layer.name])
            for name, share in zip(layer.inputs, shares):  # what several layers send back adds up
                result[name] = result[name] + share if name in result else share
    return result


def sent_back(composite, layer, inputs, weights, r):
    """The relevance of each input of a layer. A gate has none (Arras et al. 2017)."""
    if layer.kind == 'move':
        return sent_through(layer.function, inputs, r)
    if layer.kind in ('gate', 'activation'):
        return [r]
    return parts(rule_of(composite, layer)(layer, joined(inputs), weights, r), len(inputs))


def one_sign(composite, layers):
    """Whether the rule at the logits is one of ONE_SIGN."""
    last = [layer for layer in layers if layer.kind in LINEAR][-1]
    return rule_of(composite, last) in ONE_SIGN


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
