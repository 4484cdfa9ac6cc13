"""How fast, how large: medians of repetitions that alternate between the cases, each ratio within
one process.

    python tests/benchmark.py vgg         every composite against the forward pass; peak memory
    python tests/benchmark.py lists       vgg/lrp.py from start to end: pictures a second, memory
    python tests/benchmark.py families    networks of keras.applications: agreement, speed, start-up
    python tests/benchmark.py vgg --batch 1 --rule deep-taylor --precision bfloat16

`vgg` uses the bundled VGG16. Every case runs in a process of its own, so that its peak memory is
its own.
"""
import argparse
import json
import os
from pathlib import Path
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from conftest import ROOT, scripts
import numpy as np

vgg = scripts('vgg')
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
    network = vgg.network.open_network('caltech101')
    rules = {PAIR: vgg.rules.DEFAULT, GRADIENT: []}.get(method, [method])
    explainer = vgg.explainer.Explainer(network, rules, precision, gradient=method == GRADIENT)
    wanted = explainer.gradient if method == GRADIENT else explainer.results.relevance
    images = np.random.default_rng(0).integers(0, 256, [int(batch), *network.size], np.uint8)
    feed = explainer.feed(images, None, None)
    explainer.session.run(wanted, feed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    times = alternate({'method': lambda: explainer.session.run(wanted, feed),
                       'forward': lambda: explainer.session.run(explainer.logits, feed)})
    return {'image': statistics.median(times['method']) / int(batch), 'peak': peak,
            'forward': ratio(times, 'method', 'forward')}


def composites(args):
    print(f'{"batch":>5} {"method":>26} {"s / image":>9} {"/ forward":>9} {"GB":>5}')
    for batch in args.batch:
        for method in args.rule:
            found = child('vgg', method, batch, args.precision)
            print(f'{batch:5} {method:>26} {found["image"]:9.3f} {found["forward"]:9.2f} '
                  f'{found["peak"]:5.2f}', flush=True)


def lists(args):
    print(f'{"":>11} {"":>8} pictures / s  peak GB  first eight, s  hours for 50,000')
    with tempfile.TemporaryDirectory() as folder:
        for source in ('caltech101', 'lite0', 'ResNet50', 'MobileNetV2'):
            weights = source
            if source in FAMILIES:
                weights = Path(folder) / f'{source}.keras'
                saved(source, weights)
            for precision in ('float32', 'bfloat16'):
                start, each, peak = listed(Path(folder), args.pictures, weights, precision)
                print(f'{source:>11} {precision:>8} {1 / each:12.2f} {peak:8.2f} {start:15.1f} '
                      f'{(start + 50000 * each) / 3600:17.1f}', flush=True)


def listed(folder, count, weights, precision):
    """Explains so many copies of bundled photographs. Returns the seconds to the end of the first
    eight, those of each one after them, and the peak memory in GB."""
    pictures, results = folder / 'pictures', folder / 'results'
    pictures.mkdir()
    for i, path in zip(range(count), 4 * sorted((ROOT / 'vgg' / 'images').glob('*.jpg'))):
        shutil.copy(path, pictures / f'{i}.jpg')
    start = time.time()
    process = subprocess.Popen([sys.executable, ROOT / 'vgg' / 'lrp.py', pictures, '--weights',
                                weights, '--precision', precision, '--results', results],
                               stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    done = sorted(path.stat().st_mtime for path in results.glob('*.jpg'))
    assert status == 0 and len(done) == count
    shutil.rmtree(pictures)
    shutil.rmtree(results)
    return done[7] - start, (done[-1] - done[7]) / (count - 8), usage.ru_maxrss / 1e6


def family_case(family):
    """Agreement with Keras and with gradient x input, shares that arrive, times."""
    Explainer, rules = vgg.explainer.Explainer, ['epsilon-gamma-box', 'deep-taylor', 'epsilon']
    with tempfile.TemporaryDirectory() as folder:
        model = saved(family, Path(folder) / 'my.keras')
        start = time.perf_counter()
        network = vgg.network.open_network(Path(folder) / 'my.keras')
        explainer = Explainer(network, rules[:2])
    images = np.random.default_rng(0).integers(0, 256, [8, *network.size], np.uint8)
    explainer(images[:1])
    startup = time.perf_counter() - start
    whole = Explainer(network, rules, gradient=True)
    found, expected = whole(images[:2]), model.predict(np.float32(images[:2]), verbose=0)
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
    """A network of keras.applications with random weights and statistics, saved at a path with the
    preprocessing x / 127.5 - 1 inside."""
    keras, rng = vgg.common.keras, np.random.default_rng(0)
    inner = getattr(keras.applications, family)(weights=None)
    for weight in inner.weights:
        if weight.name in ('gamma', 'beta', 'moving_mean', 'moving_variance', 'variable'):
            values = rng.uniform(0.5, 1.5, weight.shape)
            positive = weight.name in ('gamma', 'moving_variance', 'variable')
            weight.assign(values if positive else 0.2 * values - 0.2)
    model = keras.Sequential([keras.Input(inner.input_shape[1:]),
                              keras.layers.Rescaling(1 / 127.5, -1), inner])
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


CASES = {'vgg': vgg_case, 'family': family_case}


def main():
    if sys.argv[1] == 'case':
        return print('\n' + json.dumps(CASES[sys.argv[2]](*sys.argv[3:])))
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {'vgg': composites, 'lists': lists, 'families': families}
    methods = [PAIR, GRADIENT, *vgg.rules.COMPOSITES]
    parser.add_argument('part', choices=parts)
    parser.add_argument('--batch', nargs='+', type=int, default=[1, 8])
    parser.add_argument('--precision', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--rule', nargs='+', choices=methods, default=methods)
    parser.add_argument('--pictures', type=int, default=96)
    parser.add_argument('--family', nargs='+', choices=FAMILIES, default=FAMILIES)
    args = parser.parse_args()
    parts[args.part](args)


if __name__ == '__main__':
    main()
