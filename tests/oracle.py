"""The rules of Layer-wise Relevance Propagation in NumPy loops, float64: slower and simpler than
the scripts.

layer: an entry of a layer table; a: inputs of the layer [n, ...], those of an addition side by side
along the channels; w, b: weights and bias, shaped as model.linear says; r: relevance of its
outputs. Every rule returns the relevance of a. An output j shares its relevance out in proportion
to what it received from each input i:

    R_i = sum_j z_ij / z_j R_j    with    z_j = sum_i z_ij + bias_j

The rules differ in z_ij and bias_j only. An output with z_j = 0 sends nothing back.
"""
import numpy as np


def connections(layer, shape, w):
    """Yields (output index, input index, weight) for inputs of this shape; there are none to the
    padding."""
    if layer.kind == 'dense':
        for *place, i, j in np.ndindex(*shape[:-1], *w.shape):
            yield (*place, j), (*place, i), w[i, j]
        return
    if layer.shape:  # a transposed convolution: outputs and inputs change places
        for i, j, weight in connections(layer._replace(shape=()), (shape[0], *layer.shape),
                                        w.swapaxes(2, 3)):
            yield j, i, weight
        return
    for n, y, x in np.ndindex(shape[0], *output_shape(layer, shape, w)[1:3]):
        window = list(real_inputs(layer, shape, w, y, x))
        for dy, dx, (row, column) in window:
            for i, j, weight in channels(layer, shape[3], w, dy, dx):
                yield (n, y, x, j), (n, row, column,
                                     i), weight / (len(window) if layer.window else 1)


def channels(layer, inputs, w, dy, dx):
    """Yields (input channel, output channel, weight) at one place of the window."""
    if layer.kind == 'conv':
        for j in range(w.shape[3]):
            group = j // (w.shape[3] // layer.groups)
            for i in range(w.shape[2]):
                yield group * w.shape[2] + i, j, w[dy, dx, i, j]
    elif layer.kind == 'depthwise':
        for i, m in np.ndindex(*w.shape[2:]):
            yield i, i * w.shape[3] + m, w[dy, dx, i, m]
    else:  # scale and sum: a row of w for each of the tensors side by side
        each = inputs // w.shape[0]
        for i in range(inputs):
            yield i, i % each, np.broadcast_to(w, (w.shape[0], each))[i // each, i % each]


def window_of(layer, w):
    """Height and width, a dilated kernel's with what lies between its weights."""
    if layer.kind in ('scale', 'sum') and not layer.window:
        return 1, 1
    size = layer.window or w.shape[:2]
    return tuple((side - 1) * step + 1 for side, step in zip(size, layer.dilation))


def output_shape(layer, shape, w):
    """The shape of what a layer makes of inputs of this shape."""
    if layer.kind == 'dense' or layer.shape:
        return (shape[0], *layer.shape) if layer.shape else (*shape[:-1], w.shape[1])
    sides = []
    for side, over, step, zeros in zip(shape[1:3], window_of(layer, w),
                                       np.broadcast_to(layer.stride, 2), paddings(layer, shape, w)):
        sides.append((side + sum(zeros) - over) // step + 1)
    outputs = {'conv': w.shape[-1], 'depthwise': w.shape[-1] * w.shape[-2]}.get(layer.kind,
        shape[3] // w.shape[0])
    return shape[0], *sides, outputs


def paddings(layer, shape, w):
    """Zeros before and after the rows, and before and after the columns; SAME: as many outputs as
    strides begin within the map, and the odd zero after it."""
    if layer.padding == 'VALID':
        return (0, 0), (0, 0)
    if layer.padding != 'SAME':
        return layer.padding
    result = []
    for side, over, step in zip(shape[1:3], window_of(layer, w), np.broadcast_to(layer.stride, 2)):
        total = max((-(-side // step) - 1) * step + over - side, 0)
        result.append((total // 2, total - total // 2))
    return result


def real_inputs(layer, shape, w, y, x):
    """Yields (row and column within the window, (row, column) within the map) of the inputs of
    output (y, x)."""
    (top, _), (left, _) = paddings(layer, shape, w)
    (down, right), (below, beside) = np.broadcast_to(layer.stride, 2), layer.dilation
    height, width = ((side - 1) // step + 1 for side,
                     step in zip(window_of(layer, w), layer.dilation))
    for dy, dx in np.ndindex(height, width):
        row, column = y * down + dy * below - top, x * right + dx * beside - left
        if 0 <= row < shape[1] and 0 <= column < shape[2]:
            yield dy, dx, (row, column)


def received(layer, a, w, shape, given, bias=0.0):
    """z_j = sum_i given(i, w_ij) + bias_j, of this shape."""
    z = np.zeros(shape) + bias
    for j, i, weight in connections(layer, a.shape, np.asarray(w, np.float64)):
        z[j] += given(i, weight)
    return z


def share_out(layer, a, w, r, given, z):
    """R_i = sum_j given(i, w_ij) / z_j R_j."""
    result = np.zeros(a.shape)
    for j, i, weight in connections(layer, a.shape, np.asarray(w, np.float64)):
        if z[j] != 0:
            result[i] += given(i, weight) / z[j] * r[j]
    return result


def positive(x):
    return np.maximum(x, 0.0)


def negative(x):
    return np.minimum(x, 0.0)


def stabilise(z, eps):
    """z + eps * sign(z) with sign(0) = +1."""
    return np.where(z >= 0, z + eps, z - eps)


def root_mean_square(z):
    """The root mean square of z over the whole layer, image by image: [n, 1, ...]."""
    return np.sqrt(np.mean(z ** 2, axis=tuple(range(1, z.ndim)), keepdims=True))


def zplus(layer, a, w, b, r):
    """z_ij = a+ w+ + a- w-, no bias. Montavon et al. 2017, Sec. 4.2, where a >= 0: a w+."""
    a = np.asarray(a, np.float64)

    def given(i, weight):
        return positive(a[i]) * positive(weight) + negative(a[i]) * negative(weight)
    return share_out(layer, a, w, r, given, received(layer, a, w, r.shape, given))


def zbeta(layer, a, w, b, r, low, high):
    """z_ij = a w - low w+ - high w-, no bias. Montavon et al. 2017, Sec. 4.2.

    low <= a <= high: numbers, or one per channel.
    """
    a = np.asarray(a, np.float64)
    low, high = np.broadcast_to(low, a.shape), np.broadcast_to(high, a.shape)

    def given(i, weight):
        return a[i] * weight - low[i] * positive(weight) - high[i] * negative(weight)
    return share_out(layer, a, w, r, given, received(layer, a, w, r.shape, given))


def wsquare(layer, a, w, b, r):
    """z_ij = w^2, no bias, whatever the inputs are. Montavon et al. 2017, Sec. 4.1."""
    def given(i, weight):
        return weight ** 2
    return share_out(layer, a, w, r, given, received(layer, a, w, r.shape, given))


def flat(layer, a, w, b, r):
    """z_ij = 1, no bias, whatever the inputs and weights are. Lapuschkin et al. 2019."""
    def given(i, weight):
        return 1.0
    return share_out(layer, a, w, r, given, received(layer, a, w, r.shape, given))


def epsilon(layer, a, w, b, r, eps=1e-6):
    """z_ij = a w, with bias; z_j + eps * sign(z_j) divides. Bach et al. 2015, Eq. 58."""
    a = np.asarray(a, np.float64)

    def given(i, weight):
        return a[i] * weight
    return share_out(layer, a, w, r, given,
                     stabilise(received(layer, a, w, r.shape, given, b), eps))


def gamma(layer, a, w, b, r, gamma=0.25, eps=1e-9):
    """z_ij = a (w + gamma w+), bias b + gamma b+; z_j + eps * sign(z_j) divides.

    Montavon et al. 2019, Sec. 10.2.1.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def given(i, weight):
        return a[i] * (weight + gamma * positive(weight))
    z = received(layer, a, w, r.shape, given, b + gamma * positive(b))
    return share_out(layer, a, w, r, given, stabilise(z, eps))


def gamma_signed(layer, a, w, b, r, gamma=0.25, eps=1e-9):
    """z_ij = a w, and gamma times it once more where it has the sign of z_j = sum a w + b; the bias
    likewise.

    Andeol et al. 2021, which for a >= 0 and z >= 0 is the gamma rule.
    """
    a, w, b = np.asarray(a, np.float64), np.asarray(w, np.float64), np.asarray(b, np.float64)

    def given(i, weight):
        return a[i] * weight
    sign = np.where(received(layer, a, w, r.shape, given, b) >= 0, 1, -1)
    z, result = np.zeros(r.shape) + b + gamma * np.where(sign * b > 0, b, 0), np.zeros(a.shape)
    for j, i, weight in connections(layer, a.shape, w):
        z[j] += a[i] * weight * (1 + gamma * (sign[j] * a[i] * weight > 0))
    for j, i, weight in connections(layer, a.shape, w):
        result[i] += a[i] * weight * (1 + gamma * (sign[j] * a[i] * weight > 0)) / (z[j] + eps
            * sign[j]) * r[j]
    return result


def alpha_beta(layer, a, w, b, r, alpha, beta):
    """alpha times the share of the excitation less beta times the share of the inhibition.

    Excitation: z_ij = a+ w+ + a- w-, bias b+. Inhibition: z_ij = a+ w- + a- w+, bias b-.
    Bach et al. 2015, Eq. 60.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def excites(i, weight):
        return positive(a[i]) * positive(weight) + negative(a[i]) * negative(weight)

    def inhibits(i, weight):
        return positive(a[i]) * negative(weight) + negative(a[i]) * positive(weight)
    excitation = received(layer, a, w, r.shape, excites, positive(b))
    inhibition = received(layer, a, w, r.shape, inhibits, negative(b))
    return (alpha * share_out(layer, a, w, r, excites, excitation)
            - beta * share_out(layer, a, w, r, inhibits, inhibition))


def rms(layer, a, w, b, r, share=0.25):
    """z_ij = a w, with bias; z_j + (1e-9 + share * rms(z)) * sign(z_j) divides, rms over the whole
    layer of one image.

    Montavon et al. 2019, Sec. 10.2.1: the epsilon rule with an epsilon that follows the
    activations.
    """
    a = np.asarray(a, np.float64)

    def given(i, weight):
        return a[i] * weight
    z = received(layer, a, w, r.shape, given, b)
    return share_out(layer, a, w, r, given, stabilise(z, 1e-9 + share * root_mean_square(z)))


def windows(shape):
    """Yields (output index, input indices in row-major order) of the 2x2 windows of inputs of this
    shape."""
    for n, y, x, i in np.ndindex(shape[0], shape[1] // 2, shape[2] // 2, shape[3]):
        yield (n, y, x, i), [(n, 2 * y + down, 2 * x + right, i) for down in (0, 1)
                             for right in (0, 1)]


def max_pool(a, r):
    """2x2 max-pooling: the winner takes all, of equal inputs the first one. Bach et al. 2015."""
    result = np.zeros(a.shape)
    for j, window in windows(a.shape):
        winner = max(window, key=a.__getitem__)  # the first of equals
        result[winner] += r[j]
    return result


def average_pool(a, r, gamma=0.0, share=0.0):
    """2x2 average pooling: z_ij = (1 + gamma) a / 4; z_j + 1e-9 + share * rms(z) divides.

    gamma: that of the gamma rule, all weights being 1/4; share: that of the rms rule. Montavon et
    al. 2019.
    """
    given = (1 + gamma) * np.asarray(a, np.float64) / 4
    z, result = np.zeros(r.shape), np.zeros(a.shape)
    for j, window in windows(a.shape):
        z[j] = sum(given[i] for i in window)
    z = z + 1e-9 + share * root_mean_square(z)
    for j, window in windows(a.shape):
        for i in window:
            if z[j] != 0:
                result[i] += given[i] / z[j] * r[j]
    return result
