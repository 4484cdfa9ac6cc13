"""VGG16 and the relevance of all composites in NumPy, float64, for one picture.

Written from the papers and independent of the scripts in vgg/: it reads the weight file itself, and
states its own table of composites. The rules are those of oracle.py, which goes from connection to
connection in small layers; here a convolution is nine shifted matrix products.
"""
from functools import partial

import numpy as np
from oracle import (VGG, affine, alpha_beta, epsilon, flat, gamma, positive, rms, wsquare, zbeta,
                    zplus)

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


def windows(x):
    """The four inputs of each 2x2 window on the last axis, row by row: [1, h / 2, w / 2, channels,
    4]."""
    _, height, width, channels = x.shape
    x = x.reshape(1, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(*x.shape[:4], 4)


def unpooled(shares, r):
    """r, of the windows, times the shares of their inputs, as `windows` has them: like the
    inputs."""
    _, height, width, channels, _ = shares.shape
    shared = (shares * r.reshape(1, height, width, channels, 1)).reshape(*shares.shape[:4], 2, 2)
    return shared.transpose(0, 1, 4, 2, 5, 3).reshape(1, 2 * height, 2 * width, channels)


def forward(image, weights):
    """The activations of an RGB image [224, 224, 3] of 0 to 255: the input of each layer [1, ...],
    by name, and the 'logits'."""
    x, inputs = np.float64(image)[None, ..., ::-1] - MEAN, {}
    for name in layer_names():
        inputs[name] = x
        if name.endswith('pool'):
            x = windows(x).max(-1)
        else:
            x = affine(VGG, x, *weights[name])
            x = x if name == 'predictions' else positive(x)
    return {**inputs, 'logits': x}


def max_pool(layer, a, w, b, r):
    """The largest of each window takes all, the first of equals."""
    return unpooled(np.arange(4) == windows(a).argmax(-1)[..., None], r)


def mean_pool(layer, a, w, b, r, share=0.0):
    """A window's relevance in proportion to its inputs."""
    inputs = windows(a) / 4
    z = inputs.sum(-1, keepdims=True)
    return unpooled(inputs / (z + 1e-9 + share * np.sqrt(np.mean(z ** 2))), r)


box = partial(zbeta, low=-MEAN - 255e-6, high=255 - MEAN + 255e-6)  # a little wider than the pixels
alpha1beta0 = partial(alpha_beta, alpha=1, beta=0)
alpha2beta1 = partial(alpha_beta, alpha=2, beta=1)
plain, rms_pool = partial(epsilon, eps=1e-9), partial(mean_pool, share=0.25)
# The rules of the first convolution, of the others in blocks 1-3, in blocks 4-5, of dense layers.
COMPOSITES = {
    'deep-taylor': (box, zplus, zplus, zplus),
    'zplus': (zplus, zplus, zplus, zplus),
    'wsquare': (wsquare, zplus, zplus, zplus),
    'epsilon': (epsilon, epsilon, epsilon, epsilon),
    'alpha1beta0': (alpha1beta0, alpha1beta0, alpha1beta0, alpha1beta0),
    'alpha2beta1': (alpha2beta1, alpha2beta1, alpha2beta1, alpha2beta1),
    'epsilon-plus': (alpha1beta0, alpha1beta0, alpha1beta0, epsilon),
    'epsilon-plus-flat': (flat, alpha1beta0, alpha1beta0, epsilon),
    'epsilon-alpha2beta1': (alpha2beta1, alpha2beta1, alpha2beta1, epsilon),
    'epsilon-alpha2beta1-flat': (flat, alpha2beta1, alpha2beta1, epsilon),
    'epsilon-gamma-box': (box, gamma, gamma, epsilon),
    'montavon2019': (box, gamma, rms, plain),
}


def rule_of(composite, name):
    """The rule of a layer."""
    pixels, early, late, dense = COMPOSITES[composite]
    lower = name[:6] in ('block1', 'block2', 'block3')
    if name.endswith('pool') and composite == 'montavon2019':
        return mean_pool if lower else rms_pool
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
    r = np.where(np.arange(logits.size) == target, logits, 0.0)  # [1, classes]
    for name in reversed(layer_names()):
        rules += (rule_of(composite, name),)
        if rules not in known:
            known[rules] = rules[-1](VGG, activations[name], *weights.get(name, (None, None)), r)
        r = known[rules]
    return r[0, ..., ::-1]
