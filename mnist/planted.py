"""Do heatmaps find a cause that is known? (After Zhou et al. 2022, who plant it likewise.)

    python mnist/planted.py

Plants one of ten marks, random black-and-white patterns of 5x5 pixels, at a random place of each
digit, and makes the number of the mark the label. Trains the network of model.py on these pictures
and explains it, twice over:

    mark    the mark alone decides, the digit says nothing
    both    the mark agrees with the digit, so that the network may use either

What the network uses is measured by removal: the mark is painted over with the digit's own pixels,
or the digit behind the mark is replaced by another. For each rule, gradient x input and gradient
magnitude: the share of the positive relevance on the mark, and the share of the 25 most relevant
pixels there; chance is 0.03. Intervals are 95% bootstrap intervals over test pictures; for other
trainings run it with another --seed. Takes about three minutes.
"""
from matplotlib.figure import Figure
import numpy as np

from common import (
    Parser, add_paths, count, encoded, make_folder, seed, write, write_report)
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
SHOWN = 4  # pictures in the figure
MEASURES = ['positive relevance', '25 most relevant pixels']
CONDITIONS = {'mark': 'the mark alone decides', 'both': 'mark and digit agree'}


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


def plant(path, condition, seed, split):
    """The pictures of a split with their marks: images, labels, places, and the bare digits."""
    (digits, numbers), = data.load(path, split)
    rng = generator(seed, condition, split)
    labels = numbers if condition == 'both' else rng.integers(0, CLASSES, len(digits))
    within = places(len(digits), rng)
    return planted(digits, within, labels, marks(seed)), labels, within, digits


def trained(args, condition):
    """The Explainer of the network, which is trained first if it is not yet."""
    folder = args.logdir / f'{condition}-{args.seed}'
    make_folder(folder)
    parts = [plant(args.data, condition, args.seed, split)[:2] for split in ('train', 'validation')]
    x, y = map(np.concatenate, zip(*parts))
    x_test, y_test, *_ = plant(args.data, condition, args.seed, 'test')
    write(folder / 'pictures.npz',
          encoded(np.savez, x_train=x, y_train=y, x_test=x_test, y_test=y_test))
    print(f'{condition}: {CONDITIONS[condition]}')
    train.main(['--data', str(folder / 'pictures.npz'), '--logdir', str(folder), '--epochs',
                str(args.epochs), '--seed', str(args.seed)])
    return Explainer(list(COMPOSITES), folder, gradient=True)


def removal(explainer, pictures, labels, within, digits, patterns, rng):
    """The accuracy as it is, with the mark painted over, and with another digit behind it."""
    others = planted(rng.permutation(digits), within, labels, patterns)
    return [np.mean(np.concatenate([explainer.classify(part / np.float32(255)).argmax(1)
                                    for part in batches(images, 1000)]) == labels)
            for images in (pictures, digits, others)]


def largest_within(r, within):
    """The share of the 25 largest pixels of r [n, 28, 28] that lie within the mark: [n]."""
    largest = np.argsort(-r.reshape(len(r), -1), 1, kind='stable')[:, :MARK * MARK]
    return np.take_along_axis(within.reshape(len(r), -1), largest, 1).mean(1)


def on_mark(maps, within):
    """How much of the heatmaps lies on the mark: {measure: {method: Estimate}}."""
    return {MEASURES[0]: estimates({name: share_within(r, within) for name, r in maps.items()}),
            MEASURES[1]: estimates({name: largest_within(r, within) for name, r in maps.items()})}


def report(found):
    """A line for each method, the largest share first."""
    columns = {head: {**column, 'chance': f'{CHANCE:.2f}'} for head, column in found.items()}
    positive = found[MEASURES[0]]
    lines = table('share on the mark', [*ranked(positive), 'chance'], columns)
    return f'{lines}\n{MEASURES[0]} not distinguishable: {indistinguishable(positive)}'


def draw(pictures, within, maps, results):
    """Pictures beside their heatmaps, and bars for both conditions."""
    figure = Figure(figsize=(11, 9.8), dpi=110, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[6.4, 3.4])
    rows = [('', [picture, *(colour(maps[method][i]) for method in maps)])
            for i, picture in enumerate(pictures)]
    for line, place in zip(panels(upper, ['', *maps], rows), within):
        for axes in line:
            axes.contour(place, [0.5], colors='#228833', linewidths=1)
    for axes, what in zip(lower.subplots(1, 2, sharey=True), MEASURES):
        bars(axes, list(maps), {meaning: results[condition][what]
                                for condition, meaning in CONDITIONS.items()}, CHANCE)
        axes.set_title(f'{what} on the mark')
    lower.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=3)
    return figure


def evaluate(args):
    """Trains, verifies by removal, explains, and writes tables and figure."""
    make_folder(args.results)
    results, tables, shown = {}, [], []
    for condition, meaning in CONDITIONS.items():
        explainer = trained(args, condition)
        pictures, labels, within, digits = plant(args.data, condition, args.seed, 'test')
        accuracies = removal(explainer, pictures, labels, within, digits, marks(args.seed),
                             generator(args.seed, 'other digits'))
        n = min(args.digits, len(pictures))
        maps = joined([explainer.heatmaps(part / np.float32(255))
                       for part in batches(pictures[:n], BATCH)])
        results[condition] = on_mark(maps, within[:n])
        tables.append(f'{condition}: {meaning}. Accuracy {accuracies[0]:.1%}, without the mark '
                      f'{accuracies[1]:.1%}, with another digit {accuracies[2]:.1%}\n'
                      f'{report(results[condition])}')
        shown.append((pictures[:SHOWN], within[:SHOWN], maps))
    title = f'{n} test pictures, {args.epochs} epochs, seed {args.seed}'
    write_report(args.results, 'planted', draw(*shown[0], results), title, '\n\n'.join(tables))


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument('--digits', type=count, default=1000, metavar='N',
                        help='test pictures explained (default: 1000)')
    parser.add_argument('--epochs', type=count, default=2, help='of training (default: 2)')
    parser.add_argument('--seed', type=seed, default=0,
                        help='draws marks, places and the training (default: 0)')
    add_paths(parser, data='mnist.npz', logdir='logs/planted', results='results')
    parser.run(evaluate, argv)


if __name__ == '__main__':
    main()
