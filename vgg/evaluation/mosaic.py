"""Does the heatmap of a class lie on the right picture? Four pictures of four classes in one.

    python vgg/mosaic.py vgg/images --weights caltech101 --precision bfloat16

Draws mosaics (--count, 100) of two by two pictures, each scaled to a quarter, from the pictures to
which the network gives one class a probability of at least a half. Each rule explains each of the
four classes, alone and compared with the other three. The result is the share of the positive
relevance in the class's own quarter: the grid pointing game (Boehle et al. 2021), the Focus
(Arias-Duart et al. 2022). A map that knows no class has 0.25 on average. Only classes whose logit
is positive in the mosaic are counted, for those the network sees there; a last column counts all
four.

Compared with the others: relevance minus the mean of the other three classes'; for a rule of one
sign, each scaled to the same sum. Gradient x input and the picture's edges are measured, too.
Intervals are 95% bootstrap intervals over photographs: all classes of a photograph are drawn
together, for mosaics share them. Writes the table to results/mosaic.txt, and bars and one mosaic
with its heatmaps to results/mosaic.png.
"""
from pathlib import Path
import time

from matplotlib.figure import Figure
import numpy as np

from evaluation.measures import generator, interval, not_apart, resampled
from networks.class_names import class_names
from common import Parser, Refused, count, once, progress_bar, seed, write_report
from heatmaps import colour
from evaluation.shared import batches, edge_strength, open_evaluation, share_within
from heatmaps import add_key
from pictures import resized
from rules import COMPOSITES
from run import add_network_options

SHOWN = ['epsilon-gamma-box', 'deep-taylor']  # rules drawn for one mosaic


def seen_alone(explainer, images, batch_size):
    """The class of each image; -1 where no class has a probability of at least a half."""
    logits = np.concatenate(
        [explainer.classify(np.stack(batch)) for batch in batches(images, batch_size)])
    probabilities = explainer.network.probabilities(logits)
    return np.where(probabilities.max(1) >= 0.5, logits.argmax(1), -1)


def draw_four(classes, rng):
    """The indices of four pictures of four classes. classes: of each picture, or -1."""
    kinds = rng.permutation(np.unique(classes[classes >= 0]))[:4]
    return [int(rng.choice(np.flatnonzero(classes == kind))) for kind in kinds]


def draw_mosaics(classes, count, seed):
    """The indices of four pictures for each mosaic, [count, 4]. Raises Refused without four
    classes."""
    kinds = len(set(classes) - {-1})
    if kinds < 4:
        raise Refused('a mosaic needs pictures of four classes, each with a probability of at '
                      f'least a half; here the network sees {kinds}')
    return np.array([draw_four(classes, generator(seed, 'mosaic', i)) for i in range(count)])


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
    """Each of the maps [4, h, w] minus the mean of the other three."""
    return maps - (maps.sum(0) - maps) / 3


def maps_of(explainer, composites, images, targets):
    """Explains the targets [n, 4] of images.

    Returns {method: (maps [n, 4, h, w], the same scaled to be compared)} and their logits [n, 4].
    """
    results = explainer(images, targets)
    maps = {}
    for composite in composites:
        r = results.relevance[composite].sum(-1)
        maps[composite] = r, r
    gradient = explainer.gradient_times_input(images, targets).sum(-1)
    edges = np.stack([[edge_strength(image)] * 4 for image in images])
    maps.update({'gradient x input': (gradient, gradient), 'edges': (edges, edges)})
    return maps, np.take_along_axis(results.logits, targets, 1)


def measure(explainer, composites, images, classes, fours, batch_size):
    """The shares of the four classes of each mosaic. fours: the indices of its images.

    Returns {(method, whether compared): [m, 4]}, and the logits [m, 4].
    """
    parts, seen, bar, done = {}, [], progress_bar(len(fours), 'mosaic'), 0
    for batch in batches(fours, batch_size):
        mosaics = np.stack([mosaic([images[i] for i in four]) for four in batch])
        maps, logits = maps_of(explainer, composites, mosaics, classes[np.array(batch)])
        for method, (alone, ready) in maps.items():
            for contrast, fours_of_maps in (False, alone), (True, map(contrasted, ready)):
                if method == 'edges' and contrast:
                    continue
                places = quarters(*alone.shape[2:])
                shares = [[share_within(r, place) for r, place in zip(four, places)]
                          for four in fours_of_maps]
                parts.setdefault((method, contrast), []).append(shares)
        seen.append(logits)
        done += len(batch)
        bar.update(done)
    shares = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    return shares, np.concatenate(seen)


def summarise(shares, owners):
    """The mean of the finite shares [m, 4], and means [2000] resampled over photographs.

    owners: [m, 4], the photograph of each class.
    """
    finite = np.isfinite(shares)
    _, photographs = np.unique(owners[finite], return_inverse=True)
    sums, numbers = np.bincount(photographs, shares[finite]), np.bincount(photographs)
    drawn = resampled(np.stack([sums, numbers], 1))
    return shares[finite].mean(), drawn[:, 0] / drawn[:, 1]


def in_words(mean, means):
    return '{:.2f} [{:.2f}, {:.2f}]'.format(mean, *interval(means))


def table(shares, logits, owners):
    """A line for each method, the largest share first, then which cannot be told apart."""
    seen = {key: summarise(np.where(logits > 0, each, np.nan), owners)
            for key, each in shares.items()}
    every = {method: summarise(each, owners)
             for (method, contrast), each in shares.items() if not contrast}
    lines = [f'{"share in its own quarter":>24} {"alone":>20} {"compared with the others":>26} '
             f'{"alone, all classes":>20}']
    for method in sorted(every, key=lambda method: -seen[method, False][0]):
        compared = in_words(*seen[method, True]) if (method, True) in seen else ''
        lines.append(f'{method:>24} {in_words(*seen[method, False]):>20} {compared:>26} '
                     f'{in_words(*every[method]):>20}')
    lines.append(f'{"chance":>24} {"0.25":>20} {"0.25":>26} {"0.25":>20}')
    same = not_apart({method: seen[method, False][1] for method in every})
    return '\n'.join([*lines, f'alone not distinguishable: {same}'])


def draw(shares, logits, owners, example, names, maps):
    """Bars of all methods, above one mosaic with its four classes' heatmaps for some rules."""
    results = {key: summarise(np.where(logits > 0, each, np.nan), owners)
               for key, each in shares.items()}
    methods = sorted(once(method for method, _ in results),
                     key=lambda method: results[method, False][0])
    figure = Figure(figsize=(11, 5.4 + 2.3 * len(maps)), dpi=90, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[4.6, 2.3 * len(maps) + 0.4])
    axes = upper.subplots()
    for contrast, tone, shift, label in [(False, '#4477aa', 0.2, 'alone'),
                                         (True, '#cc6677', -0.2, 'compared with the others')]:
        kept = [i for i, method in enumerate(methods) if (method, contrast) in results]
        mean = np.array([results[methods[i], contrast][0] for i in kept])
        low, high = np.array([interval(results[methods[i], contrast][1]) for i in kept]).T
        axes.barh(np.array(kept) + shift, mean, 0.38, color=tone, label=label, capsize=2,
                  xerr=np.maximum([mean - low, high - mean], 0))
    axes.axvline(0.25, color='black', linestyle=':', label='chance')
    axes.set(yticks=range(len(methods)), xlim=(0, 1),
             xlabel='share of positive relevance in the own quarter of the class')
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
    add_key(lower, grid)
    return figure


def evaluate(args):
    """Measures and reports. Returns a line for each picture that could not be read."""
    begin = time.time()
    explainer, pictures, failed = open_evaluation(args, 'mosaic', walks=4, gradient=True)
    images = [picture.seen for picture in pictures]
    if not images:
        return failed
    classes = seen_alone(explainer, images, args.batch_size)
    fours = draw_mosaics(classes, args.count, args.seed)
    shares, logits = measure(explainer, args.rule, images, classes, fours, args.batch_size)
    counted = int((logits > 0).sum())
    title = (f'{args.count} mosaics of {(classes >= 0).sum()} pictures, seed {args.seed}: '
             f'{counted} classes counted, {4 * args.count - counted} with a logit that is not '
             f'positive; {(time.time() - begin) / 60:.1f} minutes')
    best = (logits > 0).sum(1).argmax()  # all four, if there is such a mosaic
    shown = example(explainer, args.rule, images, classes, fours[best])
    write_report(args.results, 'mosaic', draw(shares, logits, fours, *shown), title,
                 table(shares, logits, fours))
    return failed


def example(explainer, composites, images, classes, four):
    """One mosaic of four images, the names of its classes, and some rules' heatmaps of each."""
    whole, targets = mosaic([images[i] for i in four]), classes[four]
    maps, logits = maps_of(explainer, composites, whole[None], targets[None])
    known = class_names(explainer.network)
    names = [f'{known[target]}, logit {logit:.1f}' for target, logit in zip(targets, logits[0])]
    shown = [rule for rule in SHOWN if rule in composites] or composites[:3]
    return whole, names, {rule: maps[rule][0][0] for rule in shown}


def parse(argv):
    parser = Parser(__doc__)
    *_, how = add_network_options(parser, list(COMPOSITES))
    how.add_argument('--count', type=count, default=100, metavar='N', help='mosaics (default: 100)')
    how.add_argument('--seed', type=seed, default=0, help='draws the mosaics (default: 0)')
    args = parser.parse_intermixed_args(argv)
    args.rule = once(args.rule)
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
