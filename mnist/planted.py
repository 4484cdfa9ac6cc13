"""Do heatmaps find a cause that is known? (After Zhou et al. 2022, who plant it likewise.)

    python mnist/planted.py

Plants one of ten marks, random black-and-white patterns of 5x5 pixels, at a random place of each
digit, and makes the number of the mark the label. Trains the network of model.py on these pictures
and explains it, twice over:

    mark    the mark alone decides, the digit says nothing
    both    the mark agrees with the digit, so that the network may use either

What the network uses is measured by removal: the mark is painted over with the digit's own pixels,
or the digit behind the mark is replaced by another. For each rule and two gradients, and for three
baselines that see only the picture (brightness, edges, the size of the Laplacian): the share of the
positive relevance on the mark, and of the 25 most relevant pixels; chance is 0.03. Intervals are
95% bootstrap intervals over test pictures; for other trainings run it with another --seed. Takes
about three minutes.
"""
from matplotlib.figure import Figure
import numpy as np

from common import Parser, add_paths, count, encoded, make_folder, seed, write, write_report
import data
from explainer import BATCH, Explainer
from heatmaps import colour
from measures import (
    bars, batches, estimates, generator, indistinguishable, joined, panels, ranked, share_within,
    table)
from model import CLASSES, SIDE
from rules import COMPOSITES
import train

MARK = 5  # pixels, width and height
CHANCE = MARK ** 2 / SIDE ** 2
EPOCHS = 2  # of training
SHOWN = 4  # pictures in the figure
MEASURES = ['positive relevance', '25 most relevant pixels']
CONDITIONS = {'mark': 'the mark alone decides', 'both': 'mark and digit agree'}
BLIND = {  # heatmaps of pictures x [n, 28, 28] that know nothing of the network
    'brightness': lambda x: x,
    'edges': lambda x: np.hypot(*np.gradient(x, axis=(1, 2))),
    'Laplacian': lambda x: np.abs(4 * x - sum(np.roll(x, shift, axis)  # rims are black
                                              for shift in (-1, 1) for axis in (1, 2)))}


# Pictures with marks

def marks(seed):
    """The ten marks, [10, 5, 5] uint8: half of the pixels white, half black."""
    rng, half = generator(seed, 'marks'), np.arange(MARK * MARK) % 2
    return np.uint8(255 * np.stack([rng.permutation(half) for _ in range(CLASSES)])
                    .reshape(CLASSES, MARK, MARK))


def places(n, rng):
    """Where marks lie in n pictures: [n, 28, 28] bool. Not at the rim, for training moves them."""
    within = np.zeros((n, SIDE, SIDE), bool)
    for picture, (top, left) in zip(within, rng.integers(2, SIDE - MARK - 1, (n, 2))):
        picture[top:top + MARK, left:left + MARK] = True
    return within


def planted(images, within, labels, patterns):
    """The images [n, 28, 28] with the marks of their labels at their places."""
    result = images.copy()
    result[within] = patterns[labels].reshape(-1)
    return result


def plant(args, condition, split):
    """The pictures of a split with their marks: images, labels, places, and the bare digits."""
    digits, numbers = data.load(args.data, split)
    rng = generator(args.seed, condition, split)
    labels = numbers if condition == 'both' else rng.integers(0, CLASSES, len(digits))
    within = places(len(digits), rng)
    return planted(digits, within, labels, marks(args.seed)), labels, within, digits


# The network

def trained(args, condition):
    """The Explainer of the network, which is trained first if it is not yet."""
    folder = args.logdir / f'{condition}-{args.seed}'
    make_folder(folder)
    x, y = map(np.concatenate, zip(*(plant(args, condition, split)[:2]
                                     for split in ('train', 'validation'))))
    x_test, y_test, *_ = plant(args, condition, 'test')
    write(folder / 'pictures.npz',
          encoded(np.savez, x_train=x, y_train=y, x_test=x_test, y_test=y_test))
    print(f'{condition}: {CONDITIONS[condition]}')
    train.main(['--data', str(folder / 'pictures.npz'), '--logdir', str(folder), '--epochs',
                str(EPOCHS), '--seed', str(args.seed)])
    return Explainer(COMPOSITES, folder, gradient=True)


def accuracy(explainer, images, labels):
    """The share of images [n, 28, 28] uint8 that are classified as their labels say."""
    seen = [explainer.classify(part / np.float32(255)).argmax(1) for part in batches(images, 1000)]
    return np.mean(np.concatenate(seen) == labels)


# Heatmaps and what lies on the mark

def heatmaps(explainer, pictures):
    """What all methods say of pictures [n, 28, 28] in [0, 1]: {method: [n, 28, 28]}."""
    seen = joined([explainer.heatmaps(part) for part in batches(pictures, BATCH)])
    return {**seen, **{name: drawn(pictures) for name, drawn in BLIND.items()}}


def largest_within(r, within):
    """The share of the 25 largest pixels of r [n, 28, 28] that lie within the mark: [n]."""
    largest = np.argsort(-r.reshape(len(r), -1), 1, kind='stable')[:, :MARK * MARK]
    return np.take_along_axis(within.reshape(len(r), -1), largest, 1).mean(1)


def on_mark(maps, within):
    """How much of the heatmaps lies on the mark: {measure: {method: Estimate}}."""
    return {measure: estimates({name: share(r, within) for name, r in maps.items()})
            for measure, share in zip(MEASURES, (share_within, largest_within))}


# The report

def report(found):
    """A line for each method, the largest share first, then which cannot be told apart."""
    columns = {head: {**column, 'chance': f'{CHANCE:.2f}'} for head, column in found.items()}
    lines = [table('share on the mark', [*ranked(found[MEASURES[0]]), 'chance'], columns)]
    lines += [f'{head} not distinguishable: {indistinguishable(column)}'
              for head, column in found.items()]
    return '\n'.join(lines)


def draw(pictures, within, maps, results):
    """Pictures beside their heatmaps, and bars for both conditions."""
    figure = Figure(figsize=(11, 10.4), dpi=110, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[6.4, 4])
    methods = [name for name in maps if name not in BLIND]
    rows = [('', [picture, *(colour(maps[method][i]) for method in methods)])
            for i, picture in enumerate(pictures)]
    for line, place in zip(panels(upper, ['', *methods], rows), within):
        for axes in line:
            axes.contour(place, [0.5], colors='#228833', linewidths=1)
    for axes, what in zip(lower.subplots(1, 2, sharey=True), MEASURES):
        series = {meaning: results[name][what] for name, meaning in CONDITIONS.items()}
        bars(axes, ranked(results['mark'][MEASURES[0]]), series, CHANCE)
        axes.set_title(f'{what} on the mark')
    lower.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=3)
    return figure


def evaluate(args):
    """Trains, verifies by removal, explains, and writes tables and figure."""
    make_folder(args.results)
    results, tables, shown = {}, [], []
    for condition, meaning in CONDITIONS.items():
        explainer = trained(args, condition)
        pictures, labels, within, digits = plant(args, condition, 'test')
        rng = generator(args.seed, 'other digits')
        others = planted(rng.permutation(digits), within, labels, marks(args.seed))
        intact, bare, swapped = (f'{accuracy(explainer, images, labels):.1%}'
                               for images in (pictures, digits, others))
        pictures, within = pictures[:args.digits] / np.float32(255), within[:args.digits]
        maps = heatmaps(explainer, pictures)
        results[condition] = on_mark(maps, within)
        tables.append(f'{condition}: {meaning}. Accuracy {intact}, without the mark {bare}, with '
                      f'another digit {swapped}\n{report(results[condition])}')
        shown.append((pictures[:SHOWN], within, maps))
    title = f'{len(pictures)} test pictures, {EPOCHS} epochs, seed {args.seed}'
    write_report(args.results, 'planted', draw(*shown[0], results), title, '\n\n'.join(tables))


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument('--digits', type=count, default=1000, metavar='N',
                        help='test pictures explained (default: 1000)')
    parser.add_argument('--seed', type=seed, default=0,
                        help='draws marks, places and the training (default: 0)')
    add_paths(parser, data='mnist.npz', logdir='logs/planted', results='results')
    parser.run(evaluate, argv)


if __name__ == '__main__':
    main()
