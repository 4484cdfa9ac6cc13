"""How fast, how large: medians of repetitions that alternate between the cases, each ratio within
one process.

    python tests/benchmark.py mnist       an epoch of mnist/train.py against Keras's model.fit
    python tests/benchmark.py vgg         every composite against the forward pass; peak memory
    python tests/benchmark.py targets     three targets in one graph against three runs
    python tests/benchmark.py precision   what float32 and bfloat16 lose against float64
    python tests/benchmark.py families    networks of keras.applications: agreement, speed, start-up
    python tests/benchmark.py pictures    vgg/lrp.py end to end: start-up, memory, bfloat16
    python tests/benchmark.py vgg --batch 1 --rule deep-taylor --precision float32 --network full

`vgg` uses a VGG16 with a full-size head (4096-4096-1000, random weights by He et al. 2015, made on
the spot, 553 MB in the temporary folder) and the bundled one. Every case runs in a process of its
own, so that its peak memory is its own.
"""
import argparse
from functools import partial
import json
import os
from pathlib import Path
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
HEAD = [4096, 4096, 1000]
SIZE = (224, 224, 3)
PAIR = 'the default pair'
COMPOSITES = ['epsilon-gamma-box', 'deep-taylor', 'zplus', 'wsquare', 'epsilon', 'alpha1beta0',
              'alpha2beta1',
              'epsilon-plus', 'epsilon-plus-flat', 'epsilon-alpha2beta1',
              'epsilon-alpha2beta1-flat', 'montavon2019']


def peak():
    """Peak resident memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def alternate(cases, repetitions):
    """Runs every case once to warm up, then all in turn. Returns {name: [seconds]}."""
    times = {name: [] for name in cases}
    for function in cases.values():
        function()
    for _ in range(repetitions):
        for name, function in cases.items():
            times[name].append(seconds(function))
    return times


def ratio(times, name, reference):
    """The median of the ratios, repetition by repetition."""
    return statistics.median(a / b for a, b in zip(times[name], times[reference]))


def child(*arguments):
    """Runs this script's worker in a process of its own. Returns what it measured."""
    command = [sys.executable, str(Path(__file__).resolve()), 'worker', *map(str, arguments)]
    output = subprocess.run(command, check=True, capture_output=True, text=True,
                            env=dict(os.environ, STARTED=str(time.time())))
    return json.loads(output.stdout.splitlines()[-1])


# MNIST

def mnist_step_times(precision, batches):
    """Seconds for `batches` training steps of 128 digits: of mnist/train.py in one precision and of
    Keras, alternating."""
    sys.path.insert(0, str(ROOT / 'mnist'))
    import train
    from common import tf
    import data
    import keras
    (x, y), = data.load(ROOT / 'mnist' / 'mnist.npz', 'train')
    x, y = x[:128 * batches], y[:128 * batches]
    with tempfile.TemporaryDirectory() as folder:
        with tf.Graph().as_default():
            settings = {'seed': 0, 'batch-size': 128, 'epochs': 1, 'learning-rate': 1e-3,
                        'data': ''}
            trainer = train.Trainer(10 ** 6, settings, precision)
            trainer.session.run(tf.global_variables_initializer())
            writer = tf.summary.FileWriter(folder)

        def ours():
            epoch = data.epoch(x, y, 128, np.random.default_rng(0))
            train.train_epoch(trainer, 0, epoch, 0, batches, Path(folder), writer)

        model, pixels = keras_model(keras), x.astype(np.float32)[..., None] / 255
        return alternate({'ours': ours,
                          'keras': lambda: model.fit(pixels, y, batch_size=128, verbose=0)}, 3)


def keras_model(keras):
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((28, 28, 1)), layers.Conv2D(32, 3, padding='same', activation='relu'),
        layers.Conv2D(64, 3, padding='same', activation='relu'), layers.MaxPool2D(),
        layers.Flatten(),
        layers.Dense(512, activation='relu'), layers.Dropout(0.5), layers.Dense(10)])
    model.compile('adam', keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  metrics=['accuracy'])
    return model


def mnist(args):
    print(f'{"MNIST, batch 128":>18} {"s / epoch":>10} {"Keras fit":>10} {"ratio":>6}')
    for precision in args.precision:
        times = child('mnist', precision, args.batches)
        epoch = {name: statistics.median(values) * 50000 / 128 / args.batches for name,
                 values in times.items()}
        print(f'{precision:>18} {epoch["ours"]:10.1f} {epoch["keras"]:10.1f} '
              f'{ratio(times, "ours", "keras"):6.2f}', flush=True)


# VGG

def full_size_weights(path):
    """Writes a VGG16 with the head of ImageNet and random weights."""
    sys.path.insert(0, str(ROOT / 'vgg'))
    import model
    rng, arrays = np.random.default_rng(0), {}
    for layer in model.layer_table('vgg16', HEAD):
        if layer.kind in ('conv', 'dense'):
            scale = np.float32(np.sqrt(2 / np.prod(layer.size[:-1])))
            arrays[f'{layer.name}/kernel'] = rng.standard_normal(layer.size, np.float32) * scale
            arrays[f'{layer.name}/bias'] = np.full(layer.size[-1:], 0.01, np.float32)
    np.savez(path, **arrays)


def vgg_case(path, method, batch, precision, repetitions):
    """Seconds of the forward pass and of one method, the method's peak memory, and how many
    convolutions it runs."""
    sys.path.insert(0, str(ROOT / 'vgg'))
    from common import tf
    from rules import DEFAULT
    composites = DEFAULT if method == PAIR else [method] if method in COMPOSITES else []
    explainer = opened(path, composites, precision, gradient=not composites)
    fetch = list(explainer.results.relevance.values()) or explainer.gradient
    feed = feed_of(explainer, np.random.default_rng(0).integers(0, 256, [int(batch), 224, 224, 3]))
    session = explainer.session
    for _ in range(2):
        session.run(fetch, feed)
    result = {'peak': peak()}
    cases = {'method': lambda: session.run(fetch, feed)}
    # plain networks of their own, in the same process
    for name, kept in {'forward': precision, 'float32': 'float32'}.items():
        cases[name] = partial(forward_pass, opened(path, [], kept), feed[explainer.pixels])
    result['times'] = alternate(cases, repetitions)
    metadata = tf.RunMetadata()
    session.run(fetch, feed, options=tf.RunOptions(output_partition_graphs=True),
                run_metadata=metadata)
    result['convolutions'] = sum('Conv2D' in node.op for graph in metadata.partition_graphs
                                 for node in graph.node)
    return result


def opened(weights, composites, precision='float32', **options):
    """An Explainer of a VGG."""
    from explainer import Explainer
    from network import open_network
    return Explainer(open_network(weights, preprocessing='caffe'), composites, precision, **options)


def feed_of(explainer, images):
    """What the session is fed to explain the most likely class of each image."""
    n = len(images)
    return {explainer.pixels: explainer.prepared(images), explainer.target: np.full((n, 1), -1),
            explainer.against: np.full(n, -1)}


def forward_pass(explainer, pixels):
    explainer.session.run(explainer.logits, {explainer.pixels: pixels})


def vgg(args):
    with tempfile.TemporaryDirectory() as folder:
        paths = {'full': Path(folder) / 'full.npz',
                 'bundled': ROOT / 'vgg' / 'weights' / 'vgg16_caltech101.npz'}
        if 'full' in args.network:
            full_size_weights(paths['full'])
        print(f'{"VGG16":>8} {"batch":>5} {"precision":>9} {"method":>20} {"s / image":>9} '
              f'{"/ forward":>9} {"/ float32":>9} '
              f'{"GB":>5} {"convolutions":>12}')
        for network in args.network:
            for batch in args.batch:
                for precision in args.precision:
                    for method in args.rule:
                        result = child('vgg', paths[network], method, batch, precision,
                                       args.repetitions)
                        image = statistics.median(result['times']['method']) / batch
                        print(f'{network:>8} {batch:5} {precision:>9} {method:>20} {image:9.3f} '
                              f'{ratio(result["times"], "method", "forward"):8.2f}x '
                              f'{ratio(result["times"], "method", "float32"):8.2f}x '
                              f'{result["peak"]:5.2f} {result["convolutions"]:12}', flush=True)


def targets_case(composite, k):
    """Seconds for k targets of 8 photographs in one graph and one after the other, and the largest
    difference."""
    sys.path.insert(0, str(ROOT / 'vgg'))
    images, ranks = photographs()[:8], -1 - np.arange(int(k))
    one, many = (opened('caltech101', [composite], walks=walks) for walks in (1, int(k)))
    cases = {'together': lambda: many(images, [ranks] * 8),
             'apart': lambda: [one(images, [rank] * 8) for rank in ranks]}
    together = cases['together']().relevance[composite]
    apart = np.stack([run.relevance[composite] for run in cases['apart']()], 1)
    return dict(alternate(cases, 3), difference=float(np.abs(together - apart).max()), peak=peak())


def targets(args):
    for composite in [method for method in args.rule if method in COMPOSITES]:
        result = child('targets', composite, 3)
        print(f'{composite:>20}: three targets in one graph take '
              f'{ratio(result, "together", "apart"):.2f} of three runs, largest difference '
              f'{result["difference"]}', flush=True)


def photographs():
    """The bundled ones as the network sees them."""
    from pictures import open_picture
    return np.stack([open_picture(path, SIZE).seen
                     for path in sorted((ROOT / 'vgg' / 'images').glob('*.jpg'))])


def precision_case(composite):
    """What float32 and bfloat16 lose of each photograph's relevance: {precision: [[largest
    difference / largest relevance, correlation of the heatmaps], ...]}, against float64."""
    sys.path.insert(0, str(ROOT / 'vgg'))
    images, maps = photographs(), {}
    for precision in ('float64', 'float32', 'bfloat16'):
        explainer = opened('caltech101', [composite], precision)
        maps[precision] = np.concatenate([explainer(images[i:i + 8]).relevance[composite]
                                          for i in range(0, len(images), 8)])
        explainer.session.close()
    exact = maps.pop('float64')
    return {name: [[float(np.abs(x - y).max() / np.abs(y).max()),
                    float(np.corrcoef(x.sum(-1).ravel(), y.sum(-1).ravel())[0, 1])]
                   for x, y in zip(found, exact)] for name, found in maps.items()}


def precision(args):
    print(f'{"worst of 24 photographs":>24} {"float32: difference":>20} {"correlation":>12} '
          f'{"bfloat16: difference":>21} {"correlation":>12}')
    for composite in [method for method in args.rule if method in COMPOSITES]:
        found = child('precision', composite)
        float32, bfloat16 = ((max(each[0] for each in found[name]),
                              min(each[1] for each in found[name]))
                              for name in ('float32', 'bfloat16'))
        print(f'{composite:>24} {float32[0]:20.1e} {float32[1]:12.7f} {bfloat16[0]:21.1e} '
              f'{bfloat16[1]:12.5f}', flush=True)


# Pictures

def end_to_end_case():
    """Start-up, explaining alone and the whole of vgg/lrp.py for the 24 bundled photographs, in
    seconds."""
    sys.path.insert(0, str(ROOT / 'vgg'))
    from output import Output
    from pictures import open_picture
    from run import explain_pictures
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted((ROOT / 'vgg' / 'images').glob('*.jpg'))
        explainer = opened('caltech101', ['deep-taylor'])
        explainer(open_picture(paths[0], SIZE).seen[None], [-1])
        result = {'startup': time.time() - float(os.environ['STARTED'])}
        pixels = np.stack([open_picture(path, SIZE).seen for path in paths])
        jobs = [(path.stem, path) for path in paths]

        def alone():
            for i in range(0, len(pixels), 8):
                explainer(pixels[i:i + 8], [-1] * 8)

        def whole():
            output = Output(Path(folder), ['deep-taylor'])
            explain_pictures(explainer, jobs, [-1], None, explainer.network.classes, 8, output)

        return dict(result, **alternate({'alone': alone, 'whole': whole}, 3))


def many_case(count):
    """Peak memory of vgg/lrp.py after so many pictures: the bundled ones again and again."""
    sys.path.insert(0, str(ROOT / 'vgg'))
    import lrp
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted((ROOT / 'vgg' / 'images').glob('*.jpg'))
        (Path(folder) / 'list.txt').write_text('\n'.join(str(paths[i % len(paths)])
            for i in range(count)))
        _, args = lrp.parse([f'@{folder}/list.txt', '--weights', 'caltech101', '--results', folder,
                             '--rule', 'deep-taylor'])
        lrp.explain(args)
    return peak()


def agreement_case(method):
    """Correlation of each bundled photograph's relevance in bfloat16 with that in float32."""
    sys.path.insert(0, str(ROOT / 'vgg'))
    images, relevance = photographs(), []
    for precision in ('float32', 'bfloat16'):
        explainer = opened('caltech101', [method], precision)
        batches = [explainer(images[i:i + 8]).relevance[method].sum(-1)
                   for i in range(0, len(images), 8)]
        relevance.append(np.concatenate(batches).reshape(len(images), -1))
    return [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(*relevance)]


def pictures(args):
    end_to_end()
    print(f'peak memory after 10 pictures {child("many", 10):.2f} GB, after 500 '
          f'{child("many", 500):.2f} GB', flush=True)
    for method in args.rule:
        if method in COMPOSITES:
            correlations = child('agreement', method)
            print(f'{method:>20}: correlation of bfloat16 with float32 at least '
                  f'{min(correlations):.5f}, median '
                  f'{statistics.median(correlations):.5f}', flush=True)


def end_to_end():
    result = child('endtoend')
    alone, whole = (statistics.median(result[name]) for name in ('alone', 'whole'))
    startup = result['startup']
    print(f'24 photographs, bundled VGG16, deep-taylor, batch 8: start-up to the first relevance '
          f'{startup:.1f} s; explaining {24 / alone:.2f} pictures a second; decoding, explaining, '
          f'drawing and writing {24 / whole:.2f}; '
          f'whole run / (start-up + explaining) = {(startup + whole) / (startup + alone):.2f}',
          flush=True)


# Families of keras.applications, with random weights and statistics

FAMILIES = ['ResNet50', 'ResNet50V2', 'InceptionV3', 'InceptionResNetV2', 'Xception', 'MobileNet',
            'MobileNetV2', 'MobileNetV3Small', 'DenseNet121', 'EfficientNetB0', 'EfficientNetV2B0',
            'NASNetMobile', 'VGG19']


def family_case(family):
    """Agreement with Keras and with gradient x input, shares that arrive, times."""
    sys.path[:0] = [str(ROOT / 'vgg'), str(ROOT / 'tests')]
    from common import keras
    from explainer import Explainer
    import keras_models
    from network import by_keras, open_network
    rng, rules = np.random.default_rng(0), ['epsilon-gamma-box', 'deep-taylor', 'epsilon']
    model = getattr(keras.applications, family)(weights=None)
    for layer in keras_models.everything(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                positive = weight.name in ('gamma', 'moving_variance')
                values = rng.uniform(0.5, 1.5, weight.shape)
                weight.assign(values if positive else 0.2 * values - 0.2)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / 'my.keras')
        start = time.perf_counter()
        network = open_network(str(Path(folder) / 'my.keras'), preprocessing='tf')
        explainer = Explainer(network, rules[:2])
    images = rng.integers(0, 256, [8, *network.size], np.uint8)
    explainer(images[:1])
    startup = time.perf_counter() - start
    whole = Explainer(network, rules, gradient=True)
    found, keras_logits = whole(images[:2]), by_keras(network, images[:2])
    gradient = whole.gradient_times_input(images[:2], found.targets)
    result = {'layers': len(network.layers), 'startup': startup,
              'apart': float(np.abs(network.probabilities(found.logits) - keras_logits).max()
                             / keras_logits.max()),
              'correlation': float(np.corrcoef(found.relevance['epsilon'].ravel(),
                                               gradient.ravel())[0, 1]),
              'arrived': [float(np.mean([r.sum(dtype=np.float64) / started[0] for r, started in
                                         zip(found.relevance[rule], found.started[rule])]))
                          for rule in rules[:2]]}
    result['times'] = {}
    for rule in rules[:2]:
        alone = Explainer(network, [rule])
        feed = feed_of(alone, images)
        result['times'][rule] = alternate(
            {'method': lambda: alone.session.run(alone.results.relevance, feed),
             'forward': partial(forward_pass, alone, feed[alone.pixels])}, 3)
    return result


def families(args):
    print(f'{"family":>18} {"layers":>6} {"apart":>8} {"gradient x input":>16} {"arrived":>15} '
          f'{"/ forward":>11} {"start-up":>8}')
    for family in args.family:
        found = child('family', family)
        arrived = ' / '.join(f'{share:.3f}' for share in found['arrived'])
        ratios = ' / '.join(f'{ratio(times, "method", "forward"):.1f}'
                            for times in found['times'].values())
        print(f'{family:>18} {found["layers"]:6} {found["apart"]:8.0e} '
              f'{found["correlation"]:16.4f} {arrived:>15} {ratios:>11} {found["startup"]:6.1f} s',
              flush=True)


def worker(arguments):
    kind, *rest = arguments
    if kind == 'mnist':
        result = mnist_step_times(rest[0], int(rest[1]))
    elif kind == 'vgg':
        path, method, batch, precision, repetitions = rest
        result = vgg_case(Path(path), method, batch, precision, int(repetitions))
    elif kind == 'targets':
        result = targets_case(*rest)
    elif kind == 'precision':
        result = precision_case(*rest)
    elif kind == 'many':
        result = many_case(int(rest[0]))
    elif kind == 'family':
        result = family_case(rest[0])
    elif kind == 'agreement':
        result = agreement_case(rest[0])
    else:
        result = end_to_end_case()
    print('\n' + json.dumps(result))


def main():
    if sys.argv[1:2] == ['worker']:
        return worker(sys.argv[2:])
    methods = ['gradient', PAIR, *COMPOSITES]
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=['mnist', 'vgg', 'targets', 'precision', 'families',
                                         'pictures'])
    parser.add_argument('--batches', type=int, default=60,
                        help='mnist: training steps in each repetition (default: 60)')
    parser.add_argument('--network', nargs='+', choices=['full', 'bundled'],
                        default=['full', 'bundled'])
    parser.add_argument('--batch', nargs='+', type=int, default=[1, 8])
    parser.add_argument('--precision', nargs='+', choices=['float32', 'bfloat16'],
                        default=['float32', 'bfloat16'])
    parser.add_argument('--rule', nargs='+', choices=methods, default=methods)
    parser.add_argument('--family', nargs='+', choices=FAMILIES, default=FAMILIES)
    parser.add_argument('--repetitions', type=int, default=5)
    args = parser.parse_args()
    {'mnist': mnist, 'vgg': vgg, 'targets': targets, 'precision': precision,
     'families': families, 'pictures': pictures}[args.part](args)


if __name__ == '__main__':
    main()
