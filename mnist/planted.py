"""Do heatmaps find a cause that is known? (After Zhou et al. 2022, who plant it likewise.)

    python mnist/planted.py

Plants one of ten marks, random black-and-white patterns of 5x5 pixels, at a random place of each
digit, and makes the number of the mark the label: the digit says nothing. Trains the network of
model.py on these pictures and explains it, twice over:

    mark    the mark alone decides
    both    the mark agrees with the digit, so that the network may use either

What the network uses is measured by removal: the mark is painted over with the digit's own pixels,
or the digit behind the mark is replaced by another. A heatmap that is right lies on the mark as far
as the network uses it. For each rule, gradient x input and gradient magnitude: the share of the
positive relevance on the mark, and the share of the 25 most relevant pixels there; chance is 0.03.
Intervals are 95% bootstrap intervals over test pictures; they do not cover other trainings, for
which run it with another --seed.

Takes about three minutes. Writes the tables to results/planted.txt, a figure to
results/planted.png, and for vgg/planted.py the network of `mark` to results/planted.keras and the
test pictures to results/planted.npz. The training goes on where it was stopped.
"""
import io
from pathlib import Path

from matplotlib.figure import Figure
import numpy as np

from measures import generator, indistinguishable, interval, mean_and_interval, resampled
from common import Parser, check_spared, count, keras, make_folder, once, seed, write, write_report
import data
from heatmaps import colour
from explainer import Explainer, explain_all
from heatmaps import add_key
from model import CLASSES, LAYERS, LINEAR, SIDE
from rules import COMPOSITES
import train

HERE = Path(__file__).resolve().parent
MARK = 5  # pixels, width and height
SHOWN = 4  # pictures in the figure
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
    parts = [plant(args.data, condition, args.seed, split)[:2]
             for split in ('train', 'validation', 'test')]
    (x, y), (x_validation, y_validation), (x_test, y_test) = parts
    content = io.BytesIO()
    np.savez(content, x_train=np.concatenate([x, x_validation]), x_test=x_test,
             y_train=np.concatenate([y, y_validation]), y_test=y_test)
    write(folder / 'pictures.npz', content.getvalue())
    print(f'{condition}: {CONDITIONS[condition]}')
    train.main(['--data', str(folder / 'pictures.npz'), '--logdir', str(folder), '--epochs',
                str(args.epochs), '--seed', str(args.seed)])
    return Explainer(args.rule, folder, gradient=True)


def removal(explainer, pictures, labels, within, digits, patterns, rng):
    """The accuracy as it is, with the mark painted over, and with another digit behind it."""
    others = planted(rng.permutation(digits), within, labels, patterns)
    return [np.mean(np.concatenate([explainer.classify(part / np.float32(255)).argmax(1)
                                    for part in np.array_split(images, 10)]) == labels)
            for images in (pictures, digits, others)]


def heatmaps(explainer, images):
    """{method: [n, 28, 28]}, for the class that the network sees in images [n, 28, 28]."""
    slope = np.concatenate([explainer.gradient(part) for part in np.array_split(images, 10)])
    return {**explain_all(explainer, images).relevance, 'gradient x input': slope * images,
            'gradient magnitude': np.abs(slope)}


def shares(r, within):
    """Of relevance r [n, 28, 28]: the share of what is positive, and of the 25 largest pixels, that
    lies within the mark: two arrays [n]."""
    r, within = r.reshape(len(r), -1), within.reshape(len(r), -1)
    positive = np.maximum(np.asarray(r, np.float64), 0)
    largest = np.argsort(-r, 1, kind='stable')[:, :MARK * MARK]
    return ((positive * within).sum(1) / np.maximum(positive.sum(1), 1e-30),
            np.take_along_axis(within, largest, 1).mean(1))


def table(found):
    """A line for each method {method: (positive, largest)}, the largest share first."""
    lines = [f'{"share on the mark":>20} {"positive relevance":>20} {"25 largest pixels":>20}']
    for method in sorted(found, key=lambda method: -found[method][0].mean()):
        cells = ' '.join(f'{mean_and_interval(values):>20}' for values in found[method])
        lines.append(f'{method:>20} {cells}')
    lines.append(f'{"chance":>20} {MARK ** 2 / SIDE ** 2:>20.2f} {MARK ** 2 / SIDE ** 2:>20.2f}')
    same = indistinguishable({method: positive for method, (positive, _) in found.items()})
    return '\n'.join([*lines, f'positive relevance not distinguishable: {same}'])


def draw(pictures, within, maps, results):
    """Pictures beside their heatmaps, and bars for both conditions."""
    figure = Figure(figsize=(11, 9.8), dpi=110, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[6.4, 3.4])
    methods = list(maps)
    grid = upper.subplots(SHOWN, 1 + len(methods))
    for i, row in enumerate(grid):
        rows, columns = (np.flatnonzero(within[i].any(axis)) for axis in (1, 0))
        frame = [columns[0] - 1, rows[0] - 1, columns[-1] + 1, rows[-1] + 1]
        row[0].imshow(pictures[i], cmap='gray')
        for axes, method in zip(row[1:], methods):
            axes.imshow(colour(maps[method][i]))
            axes.set_title(method if i == 0 else '', fontsize=10)
        for axes in row:
            axes.plot([frame[j] for j in (0, 2, 2, 0, 0)], [frame[j] for j in (1, 1, 3, 3, 1)],
                      color='#228833', linewidth=1)
            axes.set(xticks=[], yticks=[])
    add_key(upper, grid)
    titles = 'positive relevance on the mark', '25 most relevant pixels on the mark'
    for k, (axes, title) in enumerate(zip(lower.subplots(1, 2, sharey=True), titles)):
        for condition, shift, tone in ('mark', 0.2, '#4477aa'), ('both', -0.2, '#ccbb44'):
            values = [results[condition][method][k] for method in methods]
            low, high = np.array([interval(resampled(each)) for each in values]).T
            mean = np.array([each.mean() for each in values])
            axes.barh(np.arange(len(methods)) + shift, mean, 0.38, xerr=[mean - low, high - mean],
                      color=tone, label=CONDITIONS[condition], capsize=2)
        axes.axvline(MARK ** 2 / SIDE ** 2, color='black', linestyle=':', label='chance')
        axes.set(yticks=range(len(methods)), yticklabels=methods, xlim=(0, 1), title=title)
    axes.invert_yaxis()
    lower.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=3)
    return figure


def export(explainer, folder, pictures, within):
    """Writes the network as Keras saves it, and the pictures, for vgg/planted.py."""
    model = keras.Sequential([keras.Input((SIDE, SIDE, 1))])
    for layer in LAYERS:
        ending = 'softmax' if layer is LAYERS[-1] else 'relu'
        model.add({
            'conv': lambda: keras.layers.Conv2D(layer.size[-1], layer.size[:2], layer.stride,
                                                layer.padding.lower(), activation=ending),
            'dense': lambda: keras.layers.Dense(layer.size[-1], activation=ending),
            'max': lambda: keras.layers.MaxPooling2D(layer.size, layer.stride,
                                                     layer.padding.lower()),
            'flatten': keras.layers.Flatten}[layer.kind]())
    names = [layer.name for layer in LAYERS if layer.kind in LINEAR]
    model.set_weights([array for name in names for array in explainer.read(name)])
    model.save(folder / 'planted.keras')
    content = io.BytesIO()
    np.savez_compressed(content, images=pictures[..., None], marks=within)
    write(folder / 'planted.npz', content.getvalue())


def evaluate(args):
    """Trains, verifies by removal, explains, and writes tables and figure."""
    make_folder(args.results)
    files = [args.results / f'planted.{ending}' for ending in ('png', 'txt', 'keras', 'npz')]
    check_spared(files, [args.data])
    results, tables, shown = {}, [], None
    for condition, meaning in CONDITIONS.items():
        explainer = trained(args, condition)
        pictures, labels, within, digits = plant(args.data, condition, args.seed, 'test')
        accuracies = removal(explainer, pictures, labels, within, digits, marks(args.seed),
                             generator(args.seed, 'other digits'))
        n = min(args.digits, len(pictures))
        maps = heatmaps(explainer, pictures[:n] / np.float32(255))
        results[condition] = {method: shares(r, within[:n]) for method, r in maps.items()}
        tables.append(f'{condition}: {meaning}. Accuracy {accuracies[0]:.1%}, without the mark '
                      f'{accuracies[1]:.1%}, with another digit {accuracies[2]:.1%}\n'
                      f'{table(results[condition])}')
        if condition == 'mark':
            shown = pictures[:SHOWN], within, maps
            export(explainer, args.results, pictures[:n], within[:n])
    title = f'{n} test pictures, {args.epochs} epochs, seed {args.seed}'
    write_report(args.results, 'planted', draw(*shown, results), title, '\n\n'.join(tables))


def parse(argv):
    parser = Parser(__doc__)
    parser.add_argument('--rule', nargs='+', choices=COMPOSITES, default=list(COMPOSITES),
                        metavar='R', help=f'of {", ".join(COMPOSITES)} (default: all)')
    parser.add_argument('--digits', type=count, default=1000, metavar='N',
                        help='test pictures explained (default: 1000)')
    parser.add_argument('--epochs', type=count, default=2, help='of training (default: 2)')
    parser.add_argument('--seed', type=seed, default=0,
                        help='draws marks, places and the training (default: 0)')
    parser.add_argument('--data', type=Path, default=HERE / 'mnist.npz', metavar='FILE',
                        help='default: mnist/mnist.npz')
    parser.add_argument('--logdir', type=Path, default=HERE / 'logs' / 'planted', metavar='DIR',
                        help='of the trainings (default: mnist/logs/planted)')
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR',
                        help='default: mnist/results')
    args = parser.parse_args(argv)
    args.rule = once(args.rule)
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
