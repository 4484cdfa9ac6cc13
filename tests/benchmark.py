"""How fast, how large: medians of repetitions that alternate between the cases, each ratio within
one process.

    python tests/benchmark.py vgg         every composite against the forward pass; peak memory
    python tests/benchmark.py families    networks of keras.applications: agreement, speed, start-up
    python tests/benchmark.py mnist       a step of mnist/train.py against Keras's model.fit
    python tests/benchmark.py vgg --batch 1 --rule deep-taylor --precision bfloat16

`vgg` uses the bundled VGG16. Every case runs in a process of its own, so that its peak memory is
its own.
"""
import argparse
import json
from pathlib import Path
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PAIR, GRADIENT = 'the default pair', 'gradient'
FAMILIES = ['ResNet50', 'ResNet50V2', 'InceptionV3', 'InceptionResNetV2', 'Xception', 'MobileNet',
            'MobileNetV2', 'MobileNetV3Small', 'DenseNet121', 'EfficientNetB0', 'EfficientNetV2B0',
            'NASNetMobile', 'ConvNeXtTiny', 'VGG19']


def alternate(cases, repetitions=5):
    """Runs every case once to warm up, then all in turn. Returns {name: [seconds]}."""
    times = {name: [] for name in cases}
    for function in cases.values():
        function()
    for _ in range(repetitions):
        for name, function in cases.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times, name, reference):
    """The median of the ratios, repetition by repetition."""
    return statistics.median(a / b for a, b in zip(times[name], times[reference]))


def child(case, *arguments):
    """Runs one of CASES in a process of its own. Returns what it measured."""
    command = [sys.executable, __file__, 'case', case, *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def vgg_case(method, batch, precision):
    """Seconds a picture, times the forward pass, and peak memory in GB."""
    from explainer import Explainer
    from networks.network import open_network
    from rules import DEFAULT
    network = open_network('caltech101')
    rules = {PAIR: DEFAULT, GRADIENT: []}.get(method, [method])
    explainer = Explainer(network, rules, precision, gradient=method == GRADIENT)
    wanted = explainer.gradient if method == GRADIENT else explainer.results.relevance
    images = np.random.default_rng(0).integers(0, 256, [int(batch), *network.size], np.uint8)
    feed = explainer.feed(images, None, None)
    explainer.session.run(wanted, feed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    times = alternate({'method': lambda: explainer.session.run(wanted, feed),
                       'forward': lambda: explainer.session.run(explainer.logits, feed)})
    return {'image': statistics.median(times['method']) / int(batch), 'peak': peak,
            'forward': ratio(times, 'method', 'forward')}


def vgg(args):
    print(f'{"batch":>5} {"method":>26} {"s / image":>9} {"/ forward":>9} {"GB":>5}')
    for batch in args.batch:
        for method in args.rule:
            found = child('vgg', method, batch, args.precision)
            print(f'{batch:5} {method:>26} {found["image"]:9.3f} {found["forward"]:9.2f} '
                  f'{found["peak"]:5.2f}', flush=True)


def family_case(family):
    """Agreement with Keras and with gradient x input, shares that arrive, times."""
    from explainer import Explainer
    from networks.network import open_network
    rules = ['epsilon-gamma-box', 'deep-taylor', 'epsilon']
    with tempfile.TemporaryDirectory() as folder:
        model = saved(family, Path(folder) / 'my.keras')
        start = time.perf_counter()
        network = open_network(str(Path(folder) / 'my.keras'), preprocessing='tf')
        explainer = Explainer(network, rules[:2])
    images = np.random.default_rng(0).integers(0, 256, [8, *network.size], np.uint8)
    explainer(images[:1])
    startup = time.perf_counter() - start
    whole = Explainer(network, rules, gradient=True)
    found, expected = whole(images[:2]), model.predict(images[:2] / 127.5 - 1, verbose=0)
    gradient = whole.gradient_times_input(images[:2], found.targets)
    apart = np.abs(network.probabilities(found.logits) - expected).max() / expected.max()
    result = {'layers': len(network.layers), 'startup': startup, 'apart': float(apart),
              'correlation': float(np.corrcoef(found.relevance['epsilon'].ravel(),
                                               gradient.ravel())[0, 1]),
              'arrived': [float(np.mean(found.relevance[rule].sum((1, 2, 3), np.float64)
                                        / found.started[rule])) for rule in rules[:2]],
              'ratios': []}
    for rule in rules[:2]:
        alone = Explainer(network, [rule])
        feed = alone.feed(images, None, None)
        times = alternate({'method': lambda: alone.session.run(alone.results.relevance, feed),
                           'forward': lambda: alone.session.run(alone.logits, feed)}, 3)
        result['ratios'].append(ratio(times, 'method', 'forward'))
    return result


def saved(family, path):
    """A network of keras.applications with random weights and statistics, saved at a path."""
    from common import keras
    rng = np.random.default_rng(0)
    model = getattr(keras.applications, family)(weights=None)
    for weight in model.weights:
        if weight.name in ('gamma', 'beta', 'moving_mean', 'moving_variance', 'variable'):
            values = rng.uniform(0.5, 1.5, weight.shape)
            positive = weight.name in ('gamma', 'moving_variance', 'variable')
            weight.assign(values if positive else 0.2 * values - 0.2)
    model.save(path)
    return model


def families(args):
    print('layers, difference from Keras, epsilon with gradient x input (correlation), share that '
          'arrives, / forward pass, start-up')
    for family in args.family:
        found = child('family', family)
        arrived, ratios = (' / '.join(f'{value:.{digits}f}' for value in found[key])
                           for key, digits in (('arrived', 3), ('ratios', 1)))
        print(f'{family:>18} {found["layers"]:6} {found["apart"]:8.0e} '
              f'{found["correlation"]:16.4f} {arrived:>15} {ratios:>11} {found["startup"]:6.1f} s',
              flush=True)


def mnist_case(batches):
    """Seconds for so many steps of 128 digits, of mnist/train.py and of Keras."""
    from common import keras, tf
    import data
    import train
    (x, y), = data.load(ROOT / 'mnist' / 'mnist.npz', 'train')
    x, y, layers = x[:128 * int(batches)], y[:128 * int(batches)], keras.layers
    settings = {'seed': 0, 'batch-size': 128, 'epochs': 1, 'learning-rate': 1e-3, 'data': ''}
    convolutions = [layers.Conv2D(n, 3, padding='same', activation='relu') for n in (32, 64)]
    model = keras.Sequential([keras.Input((28, 28, 1)), *convolutions, layers.MaxPool2D(),
                              layers.Flatten(), layers.Dense(512, activation='relu'),
                              layers.Dropout(0.5), layers.Dense(10)])
    model.compile('adam', keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pixels = x.astype(np.float32)[..., None] / 255
    with tempfile.TemporaryDirectory() as folder:
        with tf.Graph().as_default():
            trainer = train.Trainer(10 ** 6, settings, 'float32')
            trainer.session.run(trainer.initialise)
            writer = tf.summary.FileWriter(folder)

        def ours():
            epoch = data.epoch(x, y, 128, np.random.default_rng(0))
            train.train_epoch(trainer, 0, epoch, 0, int(batches), Path(folder), writer)
        return alternate({'ours': ours,
                          'keras': lambda: model.fit(pixels, y, batch_size=128, verbose=0)}, 3)


def mnist(args):
    times = child('mnist', 60)
    epoch = statistics.median(times['ours']) * 50000 / 128 / 60
    print(f'an epoch of mnist/train.py takes {epoch:.1f} s, {ratio(times, "ours", "keras"):.2f} '
          "times as long as Keras's model.fit")


CASES = {'vgg': vgg_case, 'family': family_case, 'mnist': mnist_case}


def main():
    if sys.argv[1] == 'case':
        sys.path.insert(0, str(ROOT / ('mnist' if sys.argv[2] == 'mnist' else 'vgg')))
        return print('\n' + json.dumps(CASES[sys.argv[2]](*sys.argv[3:])))
    sys.path.insert(0, str(ROOT / 'vgg'))
    from rules import COMPOSITES
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {'vgg': vgg, 'families': families, 'mnist': mnist}
    methods = [PAIR, GRADIENT, *COMPOSITES]
    parser.add_argument('part', choices=parts)
    parser.add_argument('--batch', nargs='+', type=int, default=[1, 8])
    parser.add_argument('--precision', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--rule', nargs='+', choices=methods, default=methods)
    parser.add_argument('--family', nargs='+', choices=FAMILIES, default=FAMILIES)
    args = parser.parse_args()
    parts[args.part](args)


if __name__ == '__main__':
    main()
