"""The rules of Layer-wise Relevance Propagation in NumPy, float64, connection by connection: slower
and simpler than the scripts.

layer: an entry of a layer table; a: inputs of the layer [n, ...], those of an addition side by side
along the channels; w, b: weights and bias, shaped as model.linear says; r: relevance of its
outputs. Every rule returns the relevance of a. An output j shares its relevance out in proportion
to what it received from each input i:

    R_i = sum_j z_ij / z_j R_j    with    z_j = sum_i z_ij + bias_j

The rules differ in z_ij and bias_j only. An output with z_j = 0 sends nothing back.
"""
import functools
from itertools import product

import numpy as np

VGG = None  # instead of a layer: a 3x3 convolution, padded, or a dense layer, by large products
double = functools.partial(np.asarray, dtype=np.float64)  # np.float64 makes numbers of [[x]]


@functools.cache
def wiring(layer, inputs, kernel):
    """All connections of a layer: which output j, input i and weight k of an image's outputs and
    inputs, flattened, and the kernel; and the factor of a mean. Then the outputs' shape.

    inputs, kernel: shapes, without the batch.
    """
    j, i, k, factors = zip(*connections(layer, inputs, np.arange(np.prod(kernel)).reshape(kernel)))
    outputs = tuple(int(last) + 1 for last in np.max(j, 0))
    return (np.ravel_multi_index(np.transpose(j), outputs),
            np.ravel_multi_index(np.transpose(i), inputs), np.array(k), np.array(factors), outputs)


def connections(layer, shape, w):
    """Yields (output, input, weight, factor) of each connection, for one image of this shape. There
    are none to the padding."""
    if layer.kind == 'dense':
        for *place, i, j in np.ndindex(*shape[:-1], *w.shape):
            yield (*place, j), (*place, i), w[i, j], 1
    elif layer.shape:  # a transposed convolution: outputs and inputs change places
        for i, j, *rest in connections(layer._replace(shape=()), layer.shape, w.swapaxes(2, 3)):
            yield j, i, *rest
    else:
        own = layer.kind in ('conv', 'depthwise')
        size = w.shape[:2] if own else layer.window or (1, 1)
        padding = [layer.padding] * 2 if isinstance(layer.padding, str) else layer.padding
        rows, columns = map(windows, shape, size, layer.stride, layer.dilation, padding)
        for y, x in np.ndindex(len(rows), len(columns)):
            window = list(product(rows[y], columns[x]))
            for (dy, row), (dx, column) in window:
                for i, j, weight in channels(layer, shape[2], w[dy, dx] if own else w):
                    factor = 1 / len(window) if layer.window else 1
                    yield (y, x, j), (row, column, i), weight, factor


def windows(side, size, step, spread, padding):
    """What each output reads along one axis: pairs (place in the window, place in the map)."""
    width = (size - 1) * spread + 1
    if padding == 'SAME':  # as many outputs as strides begin within the map; the odd zero after it
        total = max((-(-side // step) - 1) * step + width - side, 0)
        padding = total // 2, total - total // 2
    before, after = (0, 0) if padding == 'VALID' else padding
    return [[(d, first + d * spread) for d in range(size) if 0 <= first + d * spread < side]
            for first in range(-before, side + after - width + 1, step)]


def channels(layer, inputs, w):
    """Yields (input channel, output channel, weight) at one place of the window."""
    if layer.kind == 'conv':
        for i, j in np.ndindex(w.shape):
            group = j // (w.shape[1] // layer.groups)
            yield group * w.shape[0] + i, j, w[i, j]
    elif layer.kind == 'depthwise':
        for i, m in np.ndindex(w.shape):
            yield i, i * w.shape[1] + m, w[i, m]
    else:  # scale and sum: a row of w for each of the tensors side by side
        each = inputs // w.shape[0]
        for i in range(inputs):
            yield i, i % each, np.broadcast_to(w, (w.shape[0], each))[i // each, i % each]


def wires(layer, a, w):
    """The wiring of a layer with inputs a and a kernel w, whatever the bounds of a."""
    return wiring(layer._replace(low=0, high=0), a.shape[1:], w.shape)


def linear(layer, x, v):
    """What the outputs receive: sum_i x_i v_ij."""
    if layer is VGG and v.ndim == 2:
        return x.reshape(len(x), -1) @ v
    if layer is VGG:
        height, width = x.shape[1:3]
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(x[:, dy:dy + height, dx:dx + width] @ v[dy, dx] for dy, dx in np.ndindex(3, 3))
    j, i, k, factors, shape = wires(layer, x, v)
    return summed(x.reshape(len(x), -1)[:, i] * v.ravel()[k] * factors, j, shape)


def transposed(layer, s, v, x):
    """Its transpose: sum_j s_j v_ij, like the inputs x."""
    if layer is VGG:
        back = np.swapaxes(v[::-1, ::-1], 2, 3) if v.ndim == 4 else v.T
        return linear(layer, s, back).reshape(x.shape)
    j, i, k, factors, _ = wires(layer, x, v)
    return summed(s.reshape(len(s), -1)[:, j] * v.ravel()[k] * factors, i, x.shape[1:])


def summed(values, index, shape):
    """The sum of the values [n, connections] that have the same index: [n, *shape]."""
    sums = [np.bincount(index, each, np.prod(shape)) for each in values]
    return np.reshape(sums, (len(values), *shape))


def share_out(layer, terms, r, bias=0.0, eps=0.0):
    """R_i with z_ij = x_i v_ij, summed over the terms (x, v); eps * sign(z_j) is added to z_j."""
    terms = [(double(x), double(v)) for x, v in terms if np.any(x)]
    z = sum((linear(layer, x, v) for x, v in terms), np.zeros(r.shape)) + bias
    z = np.where(z >= 0, z + eps, z - eps)
    s = np.divide(r, z, out=np.zeros(r.shape), where=z != 0)
    return sum((x * transposed(layer, s, v, x) for x, v in terms), 0.0)


def positive(x):
    return np.maximum(x, 0.0)


def negative(x):
    return np.minimum(x, 0.0)


def affine(layer, a, w, b):
    """What the layer computes, before its activation."""
    return linear(layer, double(a), double(w)) + b


def zplus(layer, a, w, b, r):
    """z_ij = a+ w+ + a- w-, no bias. Montavon et al. 2017, Sec. 4.2, where a >= 0: a w+."""
    return share_out(layer, [(positive(a), positive(w)), (negative(a), negative(w))], r)


def zbeta(layer, a, w, b, r, low, high):
    """z_ij = a w - low w+ - high w-, no bias. Montavon et al. 2017, Sec. 4.2.

    low <= a <= high: numbers, or one per channel.
    """
    low, high = (np.zeros(a.shape) + bound for bound in (low, high))
    return share_out(layer, [(a, w), (-low, positive(w)), (-high, negative(w))], r)


def wsquare(layer, a, w, b, r):
    """z_ij = w^2, no bias, whatever the inputs are. Montavon et al. 2017, Sec. 4.1."""
    return share_out(layer, [(np.ones(a.shape), double(w) ** 2)], r)


def flat(layer, a, w, b, r):
    """z_ij = 1, no bias, whatever the inputs and weights are. Lapuschkin et al. 2019."""
    return share_out(layer, [(np.ones(a.shape), np.ones(w.shape))], r)


def epsilon(layer, a, w, b, r, eps=1e-6):
    """z_ij = a w, with bias; z_j + eps * sign(z_j) divides. Bach et al. 2015, Eq. 58."""
    return share_out(layer, [(a, w)], r, b, eps)


def rms(layer, a, w, b, r, share=0.25):
    """z_ij = a w, with bias; z_j + (1e-9 + share * rms(z)) * sign(z_j) divides, rms over the whole
    layer of one image.

    Montavon et al. 2019, Sec. 10.2.1: the epsilon rule with an epsilon that follows the
    activations.
    """
    z = affine(layer, a, w, b)
    mean = np.mean(z ** 2, axis=tuple(range(1, z.ndim)), keepdims=True)
    return epsilon(layer, a, w, b, r, 1e-9 + share * np.sqrt(mean))


def gamma(layer, a, w, b, r, gamma=0.25):
    """z_ij = a (w + gamma w+), bias b + gamma b+; z_j + 1e-9 * sign(z_j) divides.

    Montavon et al. 2019, Sec. 10.2.1.
    """
    w, b = double(w), double(b)
    return share_out(layer, [(a, w + gamma * positive(w))], r, b + gamma * positive(b), 1e-9)


def gamma_signed(layer, a, w, b, r, gamma=0.25):
    """z_ij = a w, and gamma times it once more where it has the sign of z_j = sum a w + b; the bias
    likewise. Connection by connection.

    Andeol et al. 2021, which for a >= 0 and z >= 0 is the gamma rule.
    """
    j, i, k, factors, shape = wires(layer, a, w)
    z_ij, b = double(a).reshape(len(a), -1)[:, i] * w.ravel()[k] * factors, double(b)
    sign = np.where(summed(z_ij, j, shape) + b >= 0, 1, -1)
    z_ij = np.where(sign.reshape(len(a), -1)[:, j] * z_ij > 0, (1 + gamma) * z_ij, z_ij)
    z = summed(z_ij, j, shape) + np.where(sign * b > 0, (1 + gamma) * b, b) + 1e-9 * sign
    return summed(z_ij * (r / z).reshape(len(a), -1)[:, j], i, a.shape[1:])


def alpha_beta(layer, a, w, b, r, alpha, beta):
    """alpha times the share of the excitation less beta times the share of the inhibition.

    Excitation: z_ij = a+ w+ + a- w-, bias b+. Inhibition: z_ij = a+ w- + a- w+, bias b-.
    Bach et al. 2015, Eq. 60.
    """
    excitation = [(positive(a), positive(w)), (negative(a), negative(w))]
    inhibition = [(positive(a), negative(w)), (negative(a), positive(w))]
    result = alpha * share_out(layer, excitation, r, positive(b))
    return result - beta * share_out(layer, inhibition, r, negative(b)) if beta else result


def max_pool(a, r):
    """2x2 max-pooling: the winner takes all, of equal inputs the first one. Bach et al. 2015."""
    result = np.zeros(a.shape)
    for n, y, x, i in np.ndindex(r.shape):
        window = a[n, 2 * y:2 * y + 2, 2 * x:2 * x + 2, i]
        down, right = np.unravel_index(window.argmax(), window.shape)
        result[n, 2 * y + down, 2 * x + right, i] += r[n, y, x, i]
    return result
