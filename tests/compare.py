"""Ours beside Zennit (PyTorch): every composite that Zennit's rules can state, in float64 and with
the same stabilisers.

    pip install torch torchvision zennit
    python tests/compare.py                the bundled VGG16 on eight bundled photographs
    python tests/compare.py --times        also how long both take in float32

Each pixel is changed by up to three grey levels. Else all inputs of a pooling window are equal in
the plain parts of photographs, and PyTorch does not always take the first, as TensorFlow does:
there relevance moves by a few pixels, by up to 9e-3 of the largest. None of these packages is among
the requirements: without them this says so and does nothing.
"""
import argparse
from pathlib import Path
import statistics
import sys
import time

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TINY = 1e-20  # our stabiliser where z is never negative


def torch_network(torch, explainer):
    """The explainer's network as a torch.nn.Sequential: channels first, so the first dense layer's
    rows are reordered."""
    modules, flattened = [], False
    for layer in explainer.network.layers:
        if layer.kind == 'max':
            modules.append(torch.nn.MaxPool2d(2))
        elif layer.kind == 'move':
            modules.append(torch.nn.Flatten())
        else:
            w, b = explainer.read(layer.name)
            if layer.kind == 'conv':
                module = torch.nn.Conv2d(*layer.kernel[2:], 3, padding=1)
                w = w.transpose(3, 2, 0, 1)
            else:
                module = torch.nn.Linear(*layer.kernel)
                w = w.T if flattened else w.reshape(7, 7, -1, w.shape[1]).transpose(3, 2, 0,
                    1).reshape(w.shape[1], -1)
                flattened = True
            module.weight.data, module.bias.data = torch.tensor(w.copy()), torch.tensor(b.copy())
            modules += [module, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def zennit_composites(low, high, dtype):
    """{our name: the same of Zennit's rules, with our stabilisers}. Its ZPlus has the bias that
    Bach et al. (2015) give it; z+ of Montavon et al. (2017) has none."""
    import torch
    from zennit import rules
    from zennit.composites import SpecialFirstLayerMapComposite
    low, high = (torch.tensor(limit, dtype=dtype).reshape(1, 3, 1, 1) for limit in (low, high))
    alpha1, alpha2 = (rules.AlphaBeta(alpha=alpha, beta=alpha - 1, stabilizer=TINY)
                      for alpha in (1.0, 2.0))
    zplus, epsilon = rules.ZPlus(stabilizer=TINY, zero_params='bias'), rules.Epsilon(epsilon=1e-6)
    box, gamma = rules.ZBox(low, high, stabilizer=TINY), rules.Gamma(gamma=0.25, stabilizer=1e-9)
    flat, wsquare = rules.Flat(stabilizer=TINY), rules.WSquare(stabilizer=TINY, zero_params='bias')
    table = {  # pixels, convolutions, dense
        'deep-taylor': (box, zplus, zplus), 'zplus': (zplus, zplus, zplus),
        'wsquare': (wsquare, zplus, zplus),
        'epsilon': (epsilon, epsilon, epsilon), 'alpha1beta0': (alpha1, alpha1, alpha1),
        'alpha2beta1': (alpha2, alpha2, alpha2),
        'epsilon-plus': (alpha1, alpha1, epsilon), 'epsilon-plus-flat': (flat, alpha1, epsilon),
        'epsilon-alpha2beta1': (alpha2, alpha2, epsilon),
        'epsilon-alpha2beta1-flat': (flat, alpha2, epsilon),
        'epsilon-gamma-box': (box, gamma, epsilon)}
    return {name: SpecialFirstLayerMapComposite([(torch.nn.ReLU, rules.Pass()),
                                                 (torch.nn.Conv2d, conv), (torch.nn.Linear, dense)],
                                                [(torch.nn.Conv2d, pixels)])
            for name, (pixels, conv, dense) in table.items()}


def zennit_relevance(torch, network, composite, pixels):
    """Relevance [n, 224, 224, 3] of each picture's most likely class, starting at its logit."""
    with composite.context(network) as modified:
        x = torch.tensor(pixels.transpose(0, 3, 1, 2).copy(), requires_grad=True)
        logits = modified(x)
        start = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]) * logits
        relevance, = torch.autograd.grad(logits, x, start.detach())
    return relevance.numpy().transpose(0, 2, 3, 1)


def explained(name, precision, images):
    """Our explainer of one composite, what it is fed, and Zennit's network and composite."""
    from explainer import open_explainer
    import torch
    explainer = open_explainer('caltech101', [name], precision=precision)
    dtype = torch.float64 if precision == 'float64' else torch.float32
    low, high = map(np.float64, explainer.network.bounds)
    margin = 1e-6 * (high - low)
    composite = zennit_composites(low - margin, high + margin, dtype)[name]
    return explainer, explainer.feed(images, None, None), torch_network(torch, explainer), composite


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--times', action='store_true')
    parser.add_argument('--repetitions', type=int, default=3)
    args = parser.parse_args()
    try:
        import torch
        import zennit  # noqa: F401
    except ImportError as error:
        print(f'{error}: nothing to compare with. Get it by: pip install torch torchvision zennit')
        return
    sys.path.insert(0, str(ROOT / 'vgg'))
    from pictures import open_picture
    seen = np.stack([open_picture(path, (224, 224, 3)).seen
                     for path in sorted((ROOT / 'vgg' / 'images').glob('*.jpg'))[:8]])
    images = np.uint8(np.clip(seen + np.random.default_rng(0).integers(-3, 4, seen.shape), 0, 255))
    print(f'{"composite":>20} {"largest difference / largest relevance":>39}' + args.times
          * ' ours, s / picture  Zennit  ratio')
    for name in zennit_composites([0] * 3, [1] * 3, torch.float64):
        explainer, feed, network, composite = explained(name, 'float64', images)
        ours = explainer(images).relevance[name][..., ::-1]  # in BGR, like the pixels
        theirs = zennit_relevance(torch, network, composite, feed[explainer.pixels])
        explainer.session.close()
        line = f'{name:>20} {np.abs(ours - theirs).max() / np.abs(theirs).max():39.1e}'
        if args.times:
            ours, theirs = measure(torch, *explained(name, 'float32', images), args.repetitions)
            line += f' {ours / len(images):18.3f} {theirs / len(images):7.3f} {ours / theirs:6.2f}'
        print(line, flush=True)


def measure(torch, explainer, feed, network, composite, repetitions):
    """Median seconds of ours and of Zennit's, in turn, after one run to warm up."""
    (relevance,), times = explainer.results.relevance.values(), {'ours': [], 'zennit': []}
    for i in range(repetitions + 1):
        for side, run in (('ours', lambda: explainer.session.run(relevance, feed)),
                          ('zennit', lambda: zennit_relevance(torch, network, composite,
                              feed[explainer.pixels]))):
            start = time.perf_counter()
            run()
            times[side] += [time.perf_counter() - start] if i else []
    return [statistics.median(each) for each in times.values()]


if __name__ == '__main__':
    main()
