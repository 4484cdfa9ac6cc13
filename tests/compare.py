"""Ours beside Zennit (PyTorch): the same layers, weights and rules, in float64 with the same
stabilisers; and how long both take in float32.

    pip install torch torchvision zennit
    python tests/compare.py               the bundled VGG16, and three networks with random weights
    python tests/compare.py --times 9     also seconds for eight photographs, in nine turns

The differences are of two photographs. Each pixel is changed by up to three grey levels. Else all
inputs of a pooling window are equal in the plain parts of photographs, and PyTorch does not always
take the first, as TensorFlow does: there relevance moves by a few pixels, by up to 9e-3 of the
largest. Both sides get batch normalisation folded into the convolutions. Additions and means have
the epsilon rule on both, as in Zennit's own composites; otherwise ours gives them the rule of their
place.
"""
import argparse
import os
from pathlib import Path
import statistics
import tempfile

import benchmark
from conftest import ROOT, scripts
import numpy as np
import reference
import torch
from torch import nn
from zennit import rules
from zennit.composites import SpecialFirstLayerMapComposite
from zennit.layer import Sum

vgg = scripts('vgg')
keras, layers = vgg.common.keras, vgg.common.keras.layers
TINY = 1e-20  # our stabiliser where z is never negative
TIMED = ['epsilon-gamma-box', 'epsilon-plus']
NETWORKS = {'caltech101': None, 'signed': ['deep-taylor', 'alpha2beta1', *TIMED],  # None: all
            'ResNet50': TIMED, 'MobileNetV2': TIMED}


class Copy(nn.Module):
    """A layer table as modules of PyTorch, channels first."""

    def __init__(self, network):
        super().__init__()
        self.table = network.layers
        self.steps = nn.ModuleDict({each.name: module(each, network.read) for each in self.table})

    def forward(self, x):
        a = {'pixels': x}
        for layer in self.table:
            inputs = [a[name] for name in layer.inputs]
            x = torch.stack(inputs, -1) if len(inputs) > 1 else inputs[0]
            if layer.kind == 'dense' and x.ndim == 4:
                x = x.permute(0, 2, 3, 1).flatten(1)  # in the order of our weights
            a[layer.name] = x = self.steps[layer.name](x)
        return x


def module(layer, read):
    """A layer with its weights, and its activation."""
    (own, before), linear = padding(layer), nn.Identity()
    if layer.kind == 'max':
        linear = nn.MaxPool2d(layer.window, layer.stride)
    elif layer.kind == 'sum':
        linear = Sum() if len(layer.inputs) > 1 else nn.AdaptiveAvgPool2d(1)
    elif layer.kind != 'move':
        w, b = (torch.tensor(array) for array in read[layer.name]())
        groups = w.shape[2] if layer.kind == 'depthwise' else 1
        if layer.kind == 'dense':
            w, linear = w.T, nn.Linear(*w.shape)
        else:
            w = w.permute(2, 3, 0, 1) if groups > 1 else w.permute(3, 2, 0, 1)
            linear = nn.Conv2d(w.shape[1] * groups, len(w), w.shape[2:], layer.stride, own,
                               groups=groups)
        linear.weight.data, linear.bias.data = w.contiguous(), b
    after = {'relu': nn.ReLU(), 'relu6': nn.ReLU6(), 'linear': nn.Identity()}[layer.activation]
    return nn.Sequential(nn.ZeroPad2d(before) if any(before) else nn.Identity(), linear, after)


def padding(layer):
    """Zeros that a convolution adds itself: rows, columns; and those that are added before it:
    left, right, above, below. SAME: of maps whose sides are multiples of the stride."""
    zeros = [0] * 4
    if layer.kind == 'move' and not layer.name.startswith('flatten'):
        moved = np.asarray(layer.function(np.ones((1, 8, 8, 1), np.float32)))[0, ..., 0]
        rows, columns = (np.flatnonzero(moved.any(axis)) for axis in (1, 0))
        return 0, [int(each) for each in (columns[0], moved.shape[1] - 1 - columns[-1], rows[0],
                                          moved.shape[0] - 1 - rows[-1])]
    if layer.padding == 'SAME':
        totals = [max(side - step, 0) for side, step in zip(layer.kernel[1::-1], layer.stride)]
        zeros = [each for total in totals for each in (total // 2, total - total // 2)]
    elif layer.padding != 'VALID':
        zeros = [*layer.padding[1], *layer.padding[0]]
    return (zeros[2::-2], [0] * 4) if zeros[0::2] == zeros[1::2] else (0, zeros)


def zennit_composite(name, network, dtype):
    """The same of Zennit's rules, with our stabilisers. Its ZPlus has the bias that Bach et al.
    (2015) give it; z+ of Montavon et al. (2017) has none."""
    low, high = (torch.tensor(bound, dtype=dtype).reshape(1, 3, 1, 1).expand(
        1, 3, *network.size[:2]) for bound in network.bounds)
    margin, (_, before) = 1e-6 * (high - low), padding(network.layers[0])
    low, high = (nn.functional.pad(bound, before) for bound in (low - margin, high + margin))
    known = {
        reference.box: rules.ZBox(low, high, stabilizer=TINY),
        reference.zplus: rules.ZPlus(stabilizer=TINY, zero_params='bias'),
        reference.wsquare: rules.WSquare(stabilizer=TINY, zero_params='bias'),
        reference.flat: rules.Flat(stabilizer=TINY),
        reference.epsilon: rules.Epsilon(epsilon=1e-6),
        reference.gamma: rules.Gamma(gamma=0.25, stabilizer=1e-9),
        reference.alpha1beta0: rules.ZPlus(stabilizer=TINY),
        reference.alpha2beta1: rules.AlphaBeta(alpha=2.0, beta=1.0, stabilizer=TINY)}
    pixels, convolutions, _, dense = map(known.get, reference.COMPOSITES[name])
    return SpecialFirstLayerMapComposite(
        [(nn.ReLU, rules.Pass()), (nn.ReLU6, rules.Pass()), (Sum, rules.Norm()),
         (nn.AdaptiveAvgPool2d, rules.Norm()), (nn.Conv2d, convolutions), (nn.Linear, dense)],
        [(nn.Conv2d, pixels)])


def our_composite(name):
    """Ours, with the epsilon rule for additions and means."""
    def either(rule):
        return lambda layer, *arguments: (
            vgg.rules.epsilon if layer.kind == 'sum' else rule)(layer, *arguments)
    composite = vgg.rules.COMPOSITES[name]
    return composite._replace(lower=either(composite.lower), upper=either(composite.upper))


def signed(path):
    """Saves a network with linear bottlenecks: convolutions of each kind read both signs."""
    model = keras.Sequential([
        keras.Input((48, 48, 3)), layers.Rescaling(1 / 127.5, -1),
        layers.Conv2D(8, 3, padding='same', activation='relu6'), layers.Conv2D(6, 1),
        layers.DepthwiseConv2D(3, padding='same'), layers.Conv2D(9, 1),
        layers.DepthwiseConv2D(3, padding='same', activation='relu6'), layers.MaxPooling2D(),
        layers.Conv2D(5, 3), layers.Flatten(), layers.Dense(7)])
    rng = np.random.default_rng(0)
    for weights in model.weights:
        weights.assign(rng.normal(0, 0.3, weights.shape))
    model.save(path)


def opened(name):
    """The network of this name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'my.keras'
        if name in benchmark.FAMILIES:
            benchmark.saved(name, path)
        elif name == 'signed':
            signed(path)
        return vgg.network.open_network(path if path.exists() else name)


def photographs(size):
    """Eight bundled photographs, a little noisy: [8, height, width, 3], uint8."""
    paths = sorted((ROOT / 'vgg' / 'images').glob('*.jpg'))[:8]
    seen = np.stack([vgg.pictures.open_picture(path, size).seen for path in paths])
    noise = np.random.default_rng(0).integers(-3, 4, seen.shape)
    return np.uint8(np.clip(seen + noise, 0, 255))


def both(name, network, precision):
    """Our explainer of one composite, and two functions that give the relevance of what it is fed
    with: ours, then Zennit's."""
    explainer = vgg.explainer.Explainer(network, {name: our_composite(name)}, precision)
    copy = Copy(network).to(getattr(torch, precision))
    zennit_composite(name, network, getattr(torch, precision)).register(copy)

    def theirs(feed):
        x = torch.tensor(feed[explainer.pixels].transpose(0, 3, 1, 2).copy(), requires_grad=True)
        logits = copy(x)
        start = nn.functional.one_hot(logits.argmax(1), logits.shape[1]) * logits
        relevance, = torch.autograd.grad(logits, x, start.detach())
        relevance = relevance.numpy().transpose(0, 2, 3, 1)
        return relevance[..., ::-1] if network.bgr else relevance
    return explainer, lambda feed: explainer.session.run(explainer.results.relevance[name],
                                                         feed), theirs


def difference(name, network, images):
    """The largest difference, as a share of the largest relevance, in float64."""
    explainer, *sides = both(name, network, 'float64')
    ours, theirs = (side(explainer.feed(images, None, None)) for side in sides)
    explainer.session.close()
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def seconds(name, network, images, turns):
    """Median seconds of each side and their range, and those of their ratios, in words."""
    explainer, ours, theirs = both(name, network, 'float32')
    feed = explainer.feed(images, None, None)
    times = benchmark.alternate({'ours': lambda: ours(feed), 'Zennit': lambda: theirs(feed)}, turns)
    times['Zennit / ours'] = [b / a for a, b in zip(*times.values())]
    explainer.session.close()
    return ''.join(f'  {side} {statistics.median(all):.3f} [{min(all):.3f}, {max(all):.3f}]'
                   for side, all in times.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--times', type=int, metavar='TURNS')
    parser.add_argument('--network', nargs='+', choices=NETWORKS, default=NETWORKS)
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for each in args.network:
        network = opened(each)
        images = photographs(network.size)
        for name in NETWORKS[each] or list(vgg.rules.COMPOSITES)[:-1]:  # not montavon2019
            words = seconds(name, network, images, args.times) if args.times else ''
            print(f'{each:>12} {name:>24} {difference(name, network, images[:2]):9.1e}{words}',
                  flush=True)


if __name__ == '__main__':
    main()
