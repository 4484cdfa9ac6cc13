"""Do the heatmaps of all rules lie on a cause that is known?

    python mnist/planted.py
    python vgg/planted.py mnist/results/planted.npz \\
        --weights mnist/results/planted.keras

mnist/planted.py trains a network to name the mark in a picture, shows by removal that it uses
nothing else, and saves network and pictures. This script explains it by each rule of lrp.py and by
gradient x input, and gives the share of the positive relevance on the mark, and the share of the 25
most relevant pixels there. Chance is 0.03: the mark has 25 of 784 pixels. Intervals are 95%
bootstrap intervals over pictures. Writes results/planted.txt and results/planted.png.
"""
from pathlib import Path
import sys

from matplotlib.figure import Figure
import numpy as np

if __name__ == '__main__':  # PYTHONSAFEPATH keeps Python from looking beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from chance import indistinguishable, interval, mean_and_interval, resampled
from common import Parser, Refused, check_spared, make_folder, once, write_report
from evaluate import batches
from explainer import open_explainer
from rules import COMPOSITES
from run import add_network_options


def load(path):
    """The pictures [n, h, w, channels], uint8, and where their marks are [n, h, w], bool."""
    try:
        with np.load(path) as file:
            return file['images'], file['marks']
    except (OSError, ValueError, KeyError):
        raise Refused(f'{path} is not a file of mnist/planted.py') from None


def measure(explainer, rules, images, marks, batch_size):
    """The shares on the mark: {method: (of positive relevance [n], of the largest pixels [n])}."""
    found = {}
    for batch in batches(range(len(images)), batch_size):
        results = explainer(images[batch])
        maps = {rule: results.relevance[rule] for rule in rules}
        maps['gradient x input'] = explainer.gradient_times_input(images[batch], results.targets)
        for method, r in maps.items():
            found.setdefault(method, []).append(shares(r.sum(-1), marks[batch]))
    return {method: np.concatenate(parts, 1) for method, parts in found.items()}


def shares(r, within):
    """Of relevance r [n, h, w]: the share of what is positive, and of as many of the largest pixels
    as the mark has, that lies within the mark: [2, n]."""
    r, within = r.reshape(len(r), -1), within.reshape(len(r), -1)
    positive = np.maximum(np.asarray(r, np.float64), 0)
    largest = np.argsort(-r, 1, kind='stable')[:, :within[0].sum()]
    return np.stack([(positive * within).sum(1) / np.maximum(positive.sum(1), 1e-30),
                     np.take_along_axis(within, largest, 1).mean(1)])


def table(found, chance):
    """A line for each method, the largest share of positive relevance first."""
    lines = [f'{"share on the mark":>24} {"positive relevance":>20} {"largest pixels":>20}']
    for method in sorted(found, key=lambda method: -found[method][0].mean()):
        cells = ' '.join(f'{mean_and_interval(values):>20}' for values in found[method])
        lines.append(f'{method:>24} {cells}')
    lines.append(f'{"chance":>24} {chance:>20.2f} {chance:>20.2f}')
    same = indistinguishable({method: positive for method, (positive, _) in found.items()})
    return '\n'.join([*lines, f'positive relevance not distinguishable: {same}'])


def draw(found, chance):
    """Bars of both shares."""
    figure = Figure(figsize=(11, 0.6 + 0.4 * len(found)), dpi=110, layout='constrained')
    methods = sorted(found, key=lambda method: found[method][0].mean())
    titles = 'positive relevance on the mark', 'most relevant pixels on the mark'
    for k, (axes, title) in enumerate(zip(figure.subplots(1, 2, sharey=True), titles)):
        mean = np.array([found[method][k].mean() for method in methods])
        low, high = np.array([interval(resampled(found[method][k])) for method in methods]).T
        axes.barh(range(len(methods)), mean, color='#4477aa', capsize=2,
                  xerr=np.maximum([mean - low, high - mean], 0))
        axes.axvline(chance, color='black', linestyle=':', label='chance')
        axes.set(yticks=range(len(methods)), yticklabels=methods, xlim=(0, 1), title=title)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center')
    return figure


def evaluate(args):
    """Explains and measures."""
    make_folder(args.results)
    path, = args.image
    check_spared([args.results / f'planted.{ending}' for ending in ('png', 'txt')], [path])
    images, marks = load(path)
    explainer = open_explainer(args.weights, args.rule, args.model, args.preprocessing or 'unit',
                               args.precision, gradient=True)
    if images.shape[1:] != explainer.network.size:
        raise Refused(f'{path} holds pictures of the shape {images.shape[1:]}, and the network '
                      f'takes {explainer.network.size}')
    found = measure(explainer, args.rule, images, marks, args.batch_size or 50)
    report = table(found, marks.mean()), draw(found, marks.mean())
    write_report(args.results, 'planted', report[1], f'{len(images)} pictures', report[0])


def parse(argv):
    parser = Parser(__doc__)
    add_network_options(parser, list(COMPOSITES))
    args = parser.parse_intermixed_args(argv)
    args.rule = once(args.rule)
    if len(args.image) > 1:
        parser.error('give one file of mnist/planted.py')
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
