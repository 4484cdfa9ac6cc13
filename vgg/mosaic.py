"""Whose pixels are marked? Four pictures of four classes side by side: does the heatmap of a class lie on its own picture?

    python vgg/mosaic.py vgg/images --weights caltech101 --precision bfloat16

Draws mosaics (--count, 100) of two by two pictures, each scaled to a quarter, from those that the network alone sees as one class
with a probability of at least a half. Each of the four classes is explained by every rule, alone and held against the other three;
what counts is the share of the positive relevance that lies in the class's own quarter: the grid pointing game (Boehle et al. 2021),
the Focus (Arias-Duart et al. 2022). A map that knows no class has 0.25 in the mean. Classes whose logit is not positive in the
mosaic are left out: the network does not see them there.

Held against the others: relevance less the mean of the other three classes', where a rule knows one sign only each scaled to the
same sum. Beside the rules stand gradient x input and the edges of the picture. Intervals hold 95 % over mosaics (bootstrap); the
same pictures come in many. Writes the table to results/mosaic.txt, bars and one mosaic with its heatmaps to results/mosaic.png.
"""
from pathlib import Path
import sys
import time

from matplotlib.figure import Figure
import numpy as np

if __name__ == '__main__':  # PYTHONSAFEPATH keeps Python from looking beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from script import Parser, alike, count, generator, interval, once, progress_bar, resampled, seed, write_report
from lrp import COMPOSITES, both_signs, open_evaluation
from pictures import colour, edge_strength, resized, share_within
from pipeline import add_network_options, batches
from weights import class_names

OTHERS = ['gradient x input', 'edges']  # what stands beside the rules
SHOWN = ['alpha2beta1', 'epsilon-gamma-box', 'deep-taylor']  # drawn for one mosaic, if they are among the rules


def seen_alone(explainer, images, batch_size):
    """The class that the network sees in each image, or -1 where no class has a probability of at least a half."""
    logits = np.concatenate([explainer.classify(np.stack(batch)) for batch in batches(images, batch_size)])
    probabilities = explainer.network.probabilities(logits)
    return np.where(probabilities.max(1) >= 0.5, logits.argmax(1), -1)


def draw_four(classes, rng):
    """Four pictures of four different classes, by their indices. classes: of each picture, or -1."""
    kinds = rng.permutation(np.unique(classes[classes >= 0]))[:4]
    return [int(rng.choice(np.flatnonzero(classes == kind))) for kind in kinds]


def quarters(height, width):
    """The places of the four quarters of a picture, row by row, as slices."""
    rows, columns = (0, height // 2, height), (0, width // 2, width)
    return [(slice(*rows[i:i + 2]), slice(*columns[j:j + 2])) for i in (0, 1) for j in (0, 1)]


def mosaic(images):
    """Four images [h, w, channels], uint8, as one of the same size."""
    result = np.empty_like(images[0])
    for place, image in zip(quarters(*result.shape[:2]), images):
        result[place] = resized(image, *result[place].shape[:2])
    return result


def contrasted(maps):
    """Each of the maps [4, h, w] less the mean of the other three."""
    return maps - (maps.sum(0) - maps) / 3


def maps_of(explainer, composites, images, targets):
    """{method: (maps [n, 4, h, w], the same ready to be held against each other)} of the targets [n, 4], and their logits [n, 4]."""
    results = explainer(images, targets)
    maps = {}
    for composite in composites:
        r, started = results[f'relevance/{composite}'].sum(-1), results[f'started/{composite}'][..., :1, None]
        maps[composite] = r, r if both_signs(composite, explainer.network.layers) else r / np.where(started, started, 1)
    gradient = explainer.gradient_times_input(images, targets).sum(-1)
    edges = np.stack([[edge_strength(image)] * 4 for image in images])
    maps.update({'gradient x input': (gradient, gradient), 'edges': (edges, edges)})
    return maps, np.take_along_axis(results['logits'], targets, 1)


def measure(explainer, composites, images, classes, fours, batch_size):
    """The shares of the four classes of each mosaic, made of images of these classes by their indices [m, 4].

    Returns {(method, whether held against the others): [m, 4]}, NaN for classes that are left out.
    """
    parts, bar, done = {}, progress_bar(len(fours), 'mosaic'), 0
    for batch in batches(fours, batch_size):
        maps, logits = maps_of(explainer, composites, np.stack([mosaic([images[i] for i in four]) for four in batch]), classes[np.array(batch)])
        for method, (alone, ready) in maps.items():
            for contrast, four in (False, alone), (True, [contrasted(each) for each in ready]):
                if method == 'edges' and contrast:
                    continue
                shares = [[share_within(r, place) for r, place in zip(each, quarters(*each.shape[1:]))] for each in four]
                parts.setdefault((method, contrast), []).append(np.where(logits > 0, shares, np.nan))
        done += len(batch)
        bar.update(done)
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}


def means(shares):
    """The mean share of the classes that are explained in each mosaic, and for how many that is: [m], [m]."""
    numbers = np.isfinite(shares).sum(1)
    return np.nansum(shares, 1) / np.maximum(numbers, 1), numbers


def summarise(shares):
    """The mean share over all classes [m, 4] that are explained, and its 95 % interval over mosaics."""
    values, numbers = means(shares)
    drawn = resampled(np.stack([values * numbers, numbers], 1))
    return (values * numbers).sum() / max(numbers.sum(), 1), *interval(drawn[:, 0] / np.maximum(drawn[:, 1], 1e-9))


def table(results):
    """A line per method, the largest share first; then which are not distinguishable, classes weighing alike as in the means."""
    alone = {method: np.nansum(shares, 1) for (method, contrast), shares in results.items() if not contrast}
    lines = [f'{"share in its own quarter":>24} {"alone":>20} {"held against the others":>26}']
    for method in sorted(alone, key=lambda method: -summarise(results[method, False])[0]):
        cells = ['{:.2f} [{:.2f}, {:.2f}]'.format(*summarise(results[method, contrast])) if (method, contrast) in results else ''
                 for contrast in (False, True)]
        lines.append(f'{method:>24} {cells[0]:>20} {cells[1]:>26}'.rstrip())
    lines += [f'{"chance":>24} {"0.25":>20} {"0.25":>26}', f'alone not distinguishable: {alike(alone)}']
    return '\n'.join(lines)


def draw(results, example, names, maps):
    """Bars of all methods, above one mosaic with the heatmaps of its four classes for some rules."""
    methods = sorted(once(method for method, _ in results), key=lambda method: summarise(results[method, False])[0])
    figure = Figure(figsize=(11, 5 + 2.3 * len(maps)), dpi=90, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[4.6, 2.3 * len(maps)])
    axes = upper.subplots()
    for contrast, tone, shift, label in (False, '#4477aa', 0.2, 'alone'), (True, '#cc6677', -0.2, 'held against the other three'):
        kept = [i for i, method in enumerate(methods) if (method, contrast) in results]
        mean, low, high = np.array([summarise(results[methods[i], contrast]) for i in kept]).T
        axes.barh(np.array(kept) + shift, mean, 0.38, xerr=[mean - low, high - mean], color=tone, label=label, capsize=2)
    axes.axvline(0.25, color='black', linestyle=':', label='chance')
    axes.set(yticks=range(len(methods)), xlim=(0, 1), xlabel='share of positive relevance in the own quarter of the class')
    axes.set_yticklabels(methods)
    axes.legend(loc='lower right')
    grid = lower.subplots(len(maps), 5, squeeze=False)
    for i, (row, (rule, four)) in enumerate(zip(grid, maps.items())):
        row[0].imshow(example.squeeze(), cmap='gray')
        row[0].set_ylabel(rule)
        for axes, name, r in zip(row[1:], names, four):
            axes.imshow(colour(r, example.shape[1::-1], 'seismic'))
            axes.set_title(name if i == 0 else '', fontsize=10, parse_math=False)
        for axes in row:
            axes.set(xticks=[], yticks=[])
    return figure


def evaluate(args):
    """Does what the command line asks. Returns a line for each picture that could not be read."""
    begin, (explainer, images, broken) = time.time(), open_evaluation(args, 'mosaic', walks=4)
    if not images:
        return broken
    classes = seen_alone(explainer, images, args.batch_size)
    kinds = len(set(classes) - {-1})
    if kinds < 4:
        raise ValueError(f'a mosaic needs pictures of four classes; of {kinds} the network sees one here with a probability of at least a half')
    fours = [draw_four(classes, generator(args.seed, 'mosaic', i)) for i in range(args.count)]
    results = measure(explainer, args.rule, images, classes, fours, args.batch_size)
    explained = int(np.isfinite(results['edges', False]).sum())
    title = (f'{args.count} mosaics of {(classes >= 0).sum()} pictures, seed {args.seed}: {explained} classes explained, '
             f'{4 * args.count - explained} left out (logit not positive); {(time.time() - begin) / 60:.1f} minutes')
    best = int(np.isfinite(results['edges', False]).all(1).argmax())
    write_report(args.results, 'mosaic', example(explainer, args.rule, results, images, classes, fours[best]), title, table(results))
    return broken


def example(explainer, composites, results, images, classes, four):
    """The figure, with one mosaic of four images as its example."""
    whole, targets = mosaic([images[i] for i in four]), classes[four]
    maps, logits = maps_of(explainer, composites, whole[None], targets[None])
    known = class_names(explainer.network, None, explainer.count)
    names = [f'{known[target]}, logit {logit:.1f}' for target, logit in zip(targets, logits[0])]
    shown = [rule for rule in SHOWN if rule in composites] or composites[:3]
    rows = {rule: maps[rule][0][0] for rule in shown}
    rows[f'{shown[-1]},\nheld against'] = contrasted(maps[shown[-1]][1][0])
    return draw(results, whole, names, rows)


def parse(argv):
    parser = Parser(__doc__)
    *_, how = add_network_options(parser, COMPOSITES, list(COMPOSITES))
    how.add_argument('--count', type=count, default=100, metavar='N', help='mosaics (default: 100)')
    how.add_argument('--seed', type=seed, default=0, help='draws the mosaics (default: 0)')
    args = parser.parse_mixed(argv)
    args.rule = once(args.rule)
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
