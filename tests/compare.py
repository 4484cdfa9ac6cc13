"""The same network, photographs and rules through Zennit (PyTorch) and vgg/lrp.py: agreement and time side by side in one run.

    pip install torch torchvision zennit
    python tests/compare.py                the bundled VGG16 on eight bundled photographs, four composites

Neither package is among the requirements: without them this says so and does nothing.
"""
import argparse
from pathlib import Path
import statistics
import sys
import time

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
COMPOSITES = ['epsilon-plus', 'epsilon-plus-flat', 'epsilon-alpha2beta1', 'epsilon-gamma-box']


def torch_network(torch, explainer):
    """The explainer's network as a torch.nn.Sequential: channels first, so the first dense layer's rows are reordered."""
    modules, flattened = [], False
    for layer in explainer.network.layers:
        if layer.kind == 'max':
            modules.append(torch.nn.MaxPool2d(2))
        elif layer.kind == 'flatten':
            modules.append(torch.nn.Flatten())
        else:
            w, b = explainer.session.run([explainer.weights[layer.name].w, explainer.weights[layer.name].b])
            if layer.kind == 'conv':
                module, w = torch.nn.Conv2d(*layer.size[2:], 3, padding=1), w.transpose(3, 2, 0, 1)
            else:
                module = torch.nn.Linear(*layer.size)
                w = w.T if flattened else w.reshape(7, 7, -1, w.shape[1]).transpose(3, 2, 0, 1).reshape(w.shape[1], -1)
                flattened = True
            module.weight.data, module.bias.data = torch.tensor(w.copy()), torch.tensor(b)
            modules += [module, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def zennit_composites(torch, composites, low, high):
    low, high = (torch.tensor(limit).reshape(1, 3, 1, 1) for limit in (low, high))
    return {'epsilon-plus': composites.EpsilonPlus(), 'epsilon-plus-flat': composites.EpsilonPlusFlat(),
            'epsilon-alpha2beta1': composites.EpsilonAlpha2Beta1(),
            'epsilon-gamma-box': composites.EpsilonGammaBox(low=low, high=high)}


def zennit_relevance(torch, network, composite, pixels):
    """Relevance [n, 224, 224, 3] of each picture's most likely class, starting at its logit."""
    with composite.context(network) as modified:
        x = torch.tensor(pixels.transpose(0, 3, 1, 2).copy(), requires_grad=True)
        logits = modified(x)
        start = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]) * logits
        relevance, = torch.autograd.grad(logits, x, start.detach())
    return relevance.numpy().transpose(0, 2, 3, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repetitions', type=int, default=3)
    args = parser.parse_args()
    try:
        import torch
        from zennit import composites
    except ImportError as error:
        print(f'{error}: nothing to compare with. Get it by: pip install torch torchvision zennit')
        return
    sys.path.insert(0, str(ROOT / 'vgg'))
    import lrp
    from pictures import open_picture
    from weights import open_network
    images = np.stack([open_picture(path, (224, 224, 3)).seen for path in sorted((ROOT / 'vgg' / 'images').glob('*.jpg'))[:8]])
    print(f'{"batch of 8":>20} {"ours, s / picture":>18} {"Zennit":>7} {"ratio":>6} {"largest difference / largest relevance":>39}')
    for name in COMPOSITES:
        explainer = lrp.Explainer([name], open_network('caltech101'))
        network = torch_network(torch, explainer)
        composite = zennit_composites(torch, composites, explainer.network.layers[0].low, explainer.network.layers[0].high)[name]
        feed = explainer.feed(images, [-1] * len(images))
        pixels = feed[explainer.pixels]
        times, results = {'ours': [], 'zennit': []}, {}
        for i in range(args.repetitions + 1):  # the first one warms up
            for side, run in (('ours', lambda: explainer.session.run(explainer.results[f'relevance/{name}'], feed)[..., ::-1]),
                              ('zennit', lambda: zennit_relevance(torch, network, composite, pixels))):
                start = time.perf_counter()
                results[side] = run()
                times[side] += [time.perf_counter() - start] if i else []
        ours, zennit = (statistics.median(times[side]) / len(pixels) for side in ('ours', 'zennit'))
        difference = np.abs(results['ours'] - results['zennit']).max() / np.abs(results['zennit']).max()
        print(f'{name:>20} {ours:18.3f} {zennit:7.3f} {ours / zennit:6.2f} {difference:39.1e}', flush=True)


if __name__ == '__main__':
    main()
