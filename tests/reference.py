"""VGG16 and the relevance of all composites in NumPy, float64, for one picture.

Written from the papers and independent of the scripts in vgg/: it reads the weight file itself,
states its own table of composites, and a convolution is nine shifted matrix products. Every rule is
a sum of shares: term by term, an output received z_ij = x_i v_ij from input i, and gives R_j z_ij /
z_j of its relevance back to it.
"""
from functools import partial

import numpy as np
from oracle import negative, positive

CONVOLUTIONS = [2, 2, 3, 3, 3]  # of each block
HEAD = ['fc1', 'fc2', 'predictions']
MEAN = np.array([103.939, 116.779, 123.68])  # of ImageNet: blue, green, red


def read_weights(path):
    """{layer: (kernel, bias)} of the bundled weight file, float64."""
    with np.load(path, allow_pickle=False) as file:
        names = [key.split('/')[0] for key in file.files if key.endswith('/kernel')]
        return {name: (np.float64(file[f'{name}/kernel']), np.float64(file[f'{name}/bias']))
                for name in names}


def layer_names():
    """block1_conv1, block1_conv2, block1_pool, ... predictions."""
    names = []
    for block, count in enumerate(CONVOLUTIONS, 1):
        names += [f'block{block}_conv{i}' for i in range(1, count + 1)] + [f'block{block}_pool']
    return names + HEAD


def linear(x, v):
    """x [h, w, in] convolved with v [3, 3, in, out], nothing outside the picture; or x [in] times
    the matrix v."""
    if v.ndim == 2:
        return x @ v
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    return sum(padded[y:y + height, x0:x0 + width] @ v[y, x0] for y, x0 in np.ndindex(3, 3))


def transposed(s, v):
    """The transpose of linear: a convolution with the kernel turned around, or a product with the
    matrix transposed."""
    return linear(s, np.swapaxes(v[::-1, ::-1], 2, 3) if v.ndim == 4 else v.T)


def windows(x):
    """The four inputs of each 2x2 window on the last axis, row by row: [h / 2, w / 2, channels,
    4]."""
    return np.stack([x[0::2, 0::2], x[0::2, 1::2], x[1::2, 0::2], x[1::2, 1::2]], -1)


def unpooled(shares, r):
    """r, of the windows, times the shares [h / 2, w / 2, channels, 4] of their inputs: [h, w,
    channels]."""
    height, width, channels, _ = shares.shape
    shared = shares * r.reshape(height, width, channels, 1)
    shared = shared.reshape(height, width, channels, 2, 2).transpose(0, 3, 1, 4, 2)
    return shared.reshape(2 * height, 2 * width, channels)


def forward(image, weights):
    """The activations of an RGB image [224, 224, 3] of 0 to 255: the input of each layer, by name,
    and the 'logits'."""
    x, inputs = np.float64(image)[..., ::-1] - MEAN, {}
    for name in layer_names():
        inputs[name] = x = x.reshape(-1) if name == HEAD[0] else x
        if name.endswith('pool'):
            x = windows(x).max(-1)
        else:
            kernel, bias = weights[name]
            x = linear(x, kernel) + bias
            x = x if name == 'predictions' else np.maximum(x, 0)
    return {**inputs, 'logits': x}


def share_out(terms, r, bias=0.0, eps=0.0, lift=0.0):
    """R_i = sum_j z_ij / z_j R_j with z_ij = x_i v_ij, summed over the terms (x, v), and z_j =
    sum_i z_ij + bias_j.

    eps is added to z away from zero, lift times its root mean square over the layer as it is. z = 0
    sends nothing back.
    """
    terms = [(x, v) for x, v in terms if x.any()]
    z = sum((linear(x, v) for x, v in terms), np.zeros(r.shape)) + bias
    z = z + np.where(z >= 0, eps, -eps) + lift * np.sqrt(np.mean(z ** 2))
    s = np.divide(r, z, out=np.zeros(r.shape), where=z != 0)
    return sum(x * transposed(s, v) for x, v in terms)


def zplus(a, w, b, r):
    """Montavon et al. 2017: what lifts an output gets its relevance."""
    return share_out([(positive(a), positive(w)), (negative(a), negative(w))], r)


def zbeta(a, w, b, r):
    """Montavon et al. 2017, the zB rule as printed: x w - low w+ - high w-; the pixels are BGR less
    the mean."""
    margin = 255e-6  # the box is a little wider than black to white
    low, high = (np.zeros(a.shape) + bound for bound in (-MEAN - margin, 255 - MEAN + margin))
    return share_out([(a, w), (-low, positive(w)), (-high, negative(w))], r)


def wsquare(a, w, b, r):
    """Montavon et al. 2017: squared weights, whatever the inputs."""
    return share_out([(np.ones(a.shape), w ** 2)], r)


def flat(a, w, b, r):
    """Lapuschkin et al. 2019: all inputs alike."""
    return share_out([(np.ones(a.shape), np.ones(w.shape))], r)


def epsilon(a, w, b, r):
    """Bach et al. 2015, Eq. 58."""
    return share_out([(a, w)], r, b, eps=1e-6)


def gamma(a, w, b, r):
    """Montavon et al. 2019, gamma = 1/4: positive weights and biases count a quarter more."""
    return share_out([(a, w + positive(w) / 4)], r, b + positive(b) / 4, eps=1e-9)


def plain(a, w, b, r, lift=0.0):
    """The tutorial of Montavon et al. 2019: hardly a stabiliser."""
    return share_out([(a, w)], r, b + 1e-9, lift=lift)


def alpha1beta0(a, w, b, r):
    """Bach et al. 2015, Eq. 60: what raises z."""
    return share_out([(positive(a), positive(w)), (negative(a), negative(w))], r, positive(b))


def alpha2beta1(a, w, b, r):
    """Bach et al. 2015, Eq. 60: twice what raises z, less what lowers it."""
    lowering = [(positive(a), negative(w)), (negative(a), positive(w))]
    return 2 * alpha1beta0(a, w, b, r) - share_out(lowering, r, negative(b))


def max_pool(a, w, b, r):
    """The largest of each window takes all, the first of equals."""
    return unpooled(np.arange(4) == windows(a).argmax(-1)[..., None], r)


def mean_pool(a, w, b, r, lift=0.0):
    """A window's relevance in proportion to its inputs."""
    inputs = windows(a) / 4
    z = inputs.sum(-1, keepdims=True)
    return unpooled(inputs / (z + 1e-9 + lift * np.sqrt(np.mean(z ** 2))), r)


# Stabilised by a quarter of the root mean square of z
lifted, lifted_pool = partial(plain, lift=0.25), partial(mean_pool, lift=0.25)
# The rules of the first convolution, of the others in blocks 1-3, in blocks 4-5, of dense layers.
COMPOSITES = {
    'deep-taylor': (zbeta, zplus, zplus, zplus),
    'zplus': (zplus, zplus, zplus, zplus),
    'wsquare': (wsquare, zplus, zplus, zplus),
    'epsilon': (epsilon, epsilon, epsilon, epsilon),
    'alpha1beta0': (alpha1beta0, alpha1beta0, alpha1beta0, alpha1beta0),
    'alpha2beta1': (alpha2beta1, alpha2beta1, alpha2beta1, alpha2beta1),
    'epsilon-plus': (alpha1beta0, alpha1beta0, alpha1beta0, epsilon),
    'epsilon-plus-flat': (flat, alpha1beta0, alpha1beta0, epsilon),
    'epsilon-alpha2beta1': (alpha2beta1, alpha2beta1, alpha2beta1, epsilon),
    'epsilon-alpha2beta1-flat': (flat, alpha2beta1, alpha2beta1, epsilon),
    'epsilon-gamma-box': (zbeta, gamma, gamma, epsilon),
    'montavon2019': (zbeta, gamma, lifted, plain),
}


def rule_of(composite, name):
    """The rule of a layer."""
    pixels, early, late, dense = COMPOSITES[composite]
    lower = name[:6] in ('block1', 'block2', 'block3')
    if name.endswith('pool') and composite == 'montavon2019':
        return mean_pool if lower else lifted_pool
    if name.endswith('pool'):
        return max_pool
    if name in HEAD:
        return dense
    if name == 'block1_conv1':
        return pixels
    return early if lower else late


def relevance(composite, activations, weights, target, known):
    """Relevance of the pixels for the target's logit: [224, 224, 3], RGB.

    known: an empty dict, the same for all calls that differ in their composite only; composites
    whose upper layers have the same rules share what it then holds.
    """
    logits, rules = activations['logits'], ()
    r = np.where(np.arange(logits.size) == target, logits, 0.0)
    for name in reversed(layer_names()):
        rules += (rule_of(composite, name),)
        if rules not in known:
            known[rules] = rules[-1](activations[name], *weights.get(name, (None, None)), r)
        r = known[rules]
    return r[..., ::-1]
