"""Why 0.25? Where relevance lies, for the gamma rule with one gamma after another.

    python vgg/gamma.py vgg/images --precision bfloat16
    python vgg/gamma.py vgg/images --planted mnist/results

Makes epsilon-gamma-box with each gamma (--gamma, default 0 0.1 0.25 0.5 1 10): 0 is epsilon with
zB on the pixels, and the larger gamma is, the nearer it comes to z+ below the dense layers. For the
bundled VGG16 and EfficientNet-Lite0, gives the share of the positive relevance in a class's own
quarter of mosaics (see mosaic.py; --count, 50); with --planted, on the mark in the pictures of
mnist/planted.py, too. Intervals are 95% bootstrap intervals over photographs, or over pictures.
Writes results/gamma.txt and the curves to results/gamma.png.
"""
from functools import partial
from pathlib import Path
import sys

from matplotlib.figure import Figure
import numpy as np

if __name__ == '__main__':  # PYTHONSAFEPATH keeps Python from looking beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from chance import interval, resampled
from common import (
    Parser, check_spared, count, make_folder, number, once, precision, seed, write_report)
from evaluate import read_pictures
from explainer import open_explainer
from model import SIZE
import mosaic
from pictures import find
import planted
from rules import COMPOSITES, Composite, box, epsilon, gamma

HERE = Path(__file__).resolve().parent
NETWORKS = {'caltech101': 'VGG16, own quarter of a mosaic',
            'lite0': 'EfficientNet-Lite0, own quarter of a mosaic'}
MARKED = 'digits, planted mark'


def composites(gammas):
    """Adds a composite for each gamma to those of rules.py. Returns their names."""
    made = {}
    for value in gammas:
        rule = partial(gamma, gamma=value)
        made[f'gamma {value:g}'] = Composite(box, rule, rule, epsilon)
    COMPOSITES.update(made)
    return list(made)


def in_mosaics(weights, rules, images, args):
    """The mean share of each rule in mosaics of images, and its resampled means."""
    explainer = open_explainer(weights, rules, precision=args.precision, walks=4, gradient=True)
    classes = mosaic.seen_alone(explainer, images, explainer.batch_size)
    fours = mosaic.draw_mosaics(classes, args.count, args.seed)
    shares, logits = mosaic.measure(explainer, rules, images, classes, fours,
                                    explainer.batch_size)
    return {rule: mosaic.summarise(np.where(logits > 0, shares[rule, False], np.nan), fours)
            for rule in rules}


def on_marks(folder, rules, args):
    """The mean share of each rule on the planted mark, and its resampled means."""
    images, marks = planted.load(folder / 'planted.npz')
    explainer = open_explainer(folder / 'planted.keras', rules, preprocessing='unit',
                               precision=args.precision, gradient=True)
    found = planted.measure(explainer, rules, images, marks, 50)
    return {rule: (found[rule][0].mean(), resampled(found[rule][0])) for rule in rules}


def table(found, gammas):
    """A line for each gamma, a column for each network."""
    lines = [f'{"gamma":>8} ' + ' '.join(f'{name:>44}' for name in found)]
    for i, value in enumerate(gammas):
        cells = ' '.join(f'{mosaic.in_words(*list(shares.values())[i]):>44}'
                         for shares in found.values())
        lines.append(f'{value:>8g} {cells}')
    return '\n'.join(lines)


def draw(found, gammas):
    """A curve for each network, its interval as a band."""
    figure = Figure(figsize=(8, 4.4), dpi=110, layout='constrained')
    axes = figure.subplots()
    for (name, shares), tone in zip(found.items(), ('#4477aa', '#ee6677', '#228833')):
        low, high = np.transpose([interval(means) for _, means in shares.values()])
        axes.plot([mean for mean, _ in shares.values()], marker='o', color=tone, label=name)
        axes.fill_between(range(len(gammas)), low, high, color=tone, alpha=0.2)
    axes.set(xticks=range(len(gammas)), xticklabels=[f'{value:g}' for value in gammas],
             ylim=(0, 1), xlabel='gamma',
             ylabel='share of positive relevance')
    axes.grid(alpha=0.3)
    figure.legend(loc='outside lower center', ncols=1)
    return figure


def evaluate(args):
    """Measures and reports. Returns a line for each picture that could not be read."""
    make_folder(args.results)
    paths, failed = find(args.image)
    check_spared([args.results / f'gamma.{ending}' for ending in ('png', 'txt')], paths)
    pictures, unread = read_pictures(paths, (SIZE, SIZE, 3))
    images = [picture.seen for picture in pictures]
    if not images:
        return failed + unread
    rules = composites(args.gamma)
    found = {title: in_mosaics(name, rules, images, args) for name, title in NETWORKS.items()}
    if args.planted:
        found[MARKED] = on_marks(args.planted, rules, args)
    title = f'{args.count} mosaics, seed {args.seed}; share of positive relevance where it belongs'
    write_report(args.results, 'gamma', draw(found, args.gamma), title, table(found, args.gamma))
    return failed + unread


def not_negative(text):
    """A type for --gamma."""
    return number(text, float, 0, 1e6)


def parse(argv):
    parser = Parser(__doc__)
    parser.add_argument('image', nargs='+', metavar='IMAGE',
                        help='a picture, a folder of pictures, or @list.txt with paths')
    parser.add_argument('--gamma', nargs='+', type=not_negative, metavar='G',
                        default=[0, 0.1, 0.25, 0.5, 1, 10], help='default: 0 0.1 0.25 0.5 1 10')
    parser.add_argument('--planted', type=Path, metavar='DIR',
                        help='where mnist/planted.py wrote planted.keras and planted.npz')
    parser.add_argument('--count', type=count, default=50, metavar='N',
                        help='mosaics (default: 50)')
    parser.add_argument('--seed', type=seed, default=0, help='draws the mosaics (default: 0)')
    parser.add_argument('--precision', type=precision, choices=['float32', 'bfloat16', 'float64'],
                        default='float32', help='default: float32')
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR',
                        help='default: vgg/results')
    args = parser.parse_intermixed_args(argv)
    args.gamma = once(args.gamma)
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
