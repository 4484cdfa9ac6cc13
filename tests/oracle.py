"""The rules of Layer-wise Relevance Propagation in NumPy, float64, connection by connection: slower
and simpler than the scripts.

layer: an entry of a layer table; a: inputs of the layer [n, ...], those of an addition side by side
along the channels; w, b: weights and bias, shaped as model.linear says; r: relevance of its
outputs. Every rule returns the relevance of a. An output j shares its relevance out in proportion
to what it received from each input i:

    R_i = sum_j z_ij / z_j R_j    with    z_j = sum_i z_ij + bias_j

The rules differ in z_ij and bias_j only. An output with z_j = 0 sends nothing back.
"""
from itertools import product

import numpy as np


def connections(layer, shape, w):
    """Yields (output, input, weight) of each connection, for one image of this shape. There are
    none to the padding."""
    if layer.kind == 'dense':
        for *place, i, j in np.ndindex(*shape[:-1], *w.shape):
            yield (*place, j), (*place, i), w[i, j]
    elif layer.shape:  # a transposed convolution: outputs and inputs change places
        for i, j, weight in connections(layer._replace(shape=()), layer.shape, w.swapaxes(2, 3)):
            yield j, i, weight
    else:
        own = layer.kind in ('conv', 'depthwise')
        size = w.shape[:2] if own else layer.window or (1, 1)
        sides = zip(shape, size, layer.stride, layer.dilation)
        padding = [layer.padding] * 2 if isinstance(layer.padding, str) else layer.padding
        rows, columns = (windows(*side, zeros) for side, zeros in zip(sides, padding))
        for y, x in np.ndindex(len(rows), len(columns)):
            window = list(product(rows[y], columns[x]))
            for (dy, row), (dx, column) in window:
                for i, j, weight in channels(layer, shape[2], w[dy, dx] if own else w):
                    yield (y, x, j), (row, column,
                                      i), weight / (len(window) if layer.window else 1)


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


class Connections:
    """The connections of a layer in a row. a: the input of each [n, connections]; w: its weight;
    i, j: which input and which output of an image it connects."""

    def __init__(self, layer, a, w):
        outputs, inputs, weights = zip(*connections(layer, a.shape[1:], np.float64(w)))
        self.inputs, self.outputs = a.shape, (len(a), *np.max(outputs, 0) + 1)
        self.i = np.ravel_multi_index(np.transpose(inputs), self.inputs[1:])
        self.j = np.ravel_multi_index(np.transpose(outputs), self.outputs[1:])
        self.w, self.a = np.array(weights), self.of_inputs(a)

    def of_inputs(self, x):
        """x, like the inputs or their channels, of each connection: [n, connections]."""
        return np.broadcast_to(np.float64(x), self.inputs).reshape(self.inputs[0], -1)[:, self.i]

    def of_outputs(self, x):
        return np.reshape(x, (self.outputs[0], -1))[:, self.j]

    def received(self, z_ij):
        """The sum over i: [n, ...], like the outputs."""
        return summed(z_ij, self.j, self.outputs)

    def share_out(self, z_ij, r, bias=0.0, eps=0.0):
        """R_i. eps * sign(z_j) is added to z_j."""
        z = stabilise(self.received(z_ij) + bias, eps)
        s = np.divide(r, z, out=np.zeros(z.shape), where=z != 0)
        return summed(z_ij * self.of_outputs(s), self.i, self.inputs)


def summed(values, index, shape):
    """The sum of the values [n, connections] that have the same index, in this shape."""
    return np.stack([np.bincount(index, each, np.prod(shape[1:])) for each in values]).reshape(shape)


def positive(x):
    return np.maximum(x, 0.0)


def negative(x):
    return np.minimum(x, 0.0)


def stabilise(z, eps):
    """z + eps * sign(z) with sign(0) = +1."""
    return np.where(z >= 0, z + eps, z - eps)


def affine(layer, a, w, b):
    """What the layer computes, before its activation."""
    net = Connections(layer, a, w)
    return net.received(net.a * net.w) + b


def zplus(layer, a, w, b, r):
    """z_ij = a+ w+ + a- w-, no bias. Montavon et al. 2017, Sec. 4.2, where a >= 0: a w+."""
    net = Connections(layer, a, w)
    return net.share_out(positive(net.a) * positive(net.w) + negative(net.a) * negative(net.w), r)


def zbeta(layer, a, w, b, r, low, high):
    """z_ij = a w - low w+ - high w-, no bias. Montavon et al. 2017, Sec. 4.2.

    low <= a <= high: numbers, or one per channel.
    """
    net = Connections(layer, a, w)
    low, high = net.of_inputs(low), net.of_inputs(high)
    return net.share_out(net.a * net.w - low * positive(net.w) - high * negative(net.w), r)


def wsquare(layer, a, w, b, r):
    """z_ij = w^2, no bias, whatever the inputs are. Montavon et al. 2017, Sec. 4.1."""
    net = Connections(layer, a, w)
    return net.share_out(np.ones(net.a.shape) * net.w ** 2, r)


def flat(layer, a, w, b, r):
    """z_ij = 1, no bias, whatever the inputs and weights are. Lapuschkin et al. 2019."""
    net = Connections(layer, a, w)
    return net.share_out(np.ones(net.a.shape), r)


def epsilon(layer, a, w, b, r, eps=1e-6):
    """z_ij = a w, with bias; z_j + eps * sign(z_j) divides. Bach et al. 2015, Eq. 58."""
    net = Connections(layer, a, w)
    return net.share_out(net.a * net.w, r, b, eps)


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
    net = Connections(layer, a, w)
    z_ij, b = net.a * (net.w + gamma * positive(net.w)), np.float64(b)
    return net.share_out(z_ij, r, b + gamma * positive(b), 1e-9)


def gamma_signed(layer, a, w, b, r, gamma=0.25):
    """z_ij = a w, and gamma times it once more where it has the sign of z_j = sum a w + b; the bias
    likewise.

    Andeol et al. 2021, which for a >= 0 and z >= 0 is the gamma rule.
    """
    net = Connections(layer, a, w)
    z_ij, b = net.a * net.w, np.float64(b)
    sign = np.where(net.received(z_ij) + b >= 0, 1, -1)
    z_ij = np.where(net.of_outputs(sign) * z_ij > 0, (1 + gamma) * z_ij, z_ij)
    return net.share_out(z_ij, r, np.where(sign * b > 0, (1 + gamma) * b, b), 1e-9)


def alpha_beta(layer, a, w, b, r, alpha, beta):
    """alpha times the share of the excitation less beta times the share of the inhibition.

    Excitation: z_ij = a+ w+ + a- w-, bias b+. Inhibition: z_ij = a+ w- + a- w+, bias b-.
    Bach et al. 2015, Eq. 60.
    """
    net = Connections(layer, a, w)
    excites = positive(net.a) * positive(net.w) + negative(net.a) * negative(net.w)
    inhibits = positive(net.a) * negative(net.w) + negative(net.a) * positive(net.w)
    return (alpha * net.share_out(excites, r, positive(b))
            - beta * net.share_out(inhibits, r, negative(b)))


def max_pool(a, r):
    """2x2 max-pooling: the winner takes all, of equal inputs the first one. Bach et al. 2015."""
    result = np.zeros(a.shape)
    for n, y, x, i in np.ndindex(r.shape):
        window = a[n, 2 * y:2 * y + 2, 2 * x:2 * x + 2, i]
        down, right = np.unravel_index(window.argmax(), window.shape)
        result[n, 2 * y + down, 2 * x + right, i] += r[n, y, x, i]
    return result
