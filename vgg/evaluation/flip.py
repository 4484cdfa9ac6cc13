"""Does the class depend on what the heatmap marks? Region perturbation (Samek et al. 2017).

    python vgg/evaluate.py flip vgg/images --weights caltech101 --precision bfloat16

Divides each picture into 14x14 regions and replaces them by noise, five at each step, the most
relevant ones first and the least relevant ones first. It follows the logit of the class that the
network saw. AOPC is the mean drop of the logit over all steps (Samek et al. 2017, Eq. 12): large if
the most relevant regions go first, small if the least relevant ones do. The difference of the two
is the symmetric relevance gain (Bluecher et al. 2024), by which the table is sorted. The rules are
compared with gradient x input and with three orders that know no class: random, the strength of the
picture's edges, nearness to its centre. Intervals are 95% bootstrap intervals over pictures.
"""
from functools import partial

from matplotlib.figure import Figure
import numpy as np

from common import Refused, count, number, progress_bar, seed
from evaluation.measures import (
    aopc, batches, curves, estimates, generator, indistinguishable, joined, ranked, table)
from rules import COMPOSITES

RULES = list(COMPOSITES)
GRADIENT = True
GRID = 14  # regions in a row and in a column: of 16x16 pixels in a picture of 224x224
REGIONS_PER_STEP = 5
BLIND = ['edges', 'centre', 'random']  # orders that know of no class
SHOWN = ['epsilon-gamma-box', 'epsilon-plus', 'deep-taylor', 'epsilon']  # rules that are drawn
HEADS = ['most relevant first', 'least relevant first', 'gain: most less least']


def add_options(group):
    group.add_argument('--steps', type=partial(number, low=1, high=39), default=6,
                       metavar='N', help='of five regions each (default: 6)')
    group.add_argument('--repeats', type=count, default=1, metavar='N',
                       help='draws of noise, of which the mean is taken (default: 1)')
    group.add_argument('--seed', type=seed, default=0,
                       help='draws the noise and the random order (default: 0)')


def scores(explainer, images):
    """What orders the regions: {method: [n, 196]}, relevance summed over each region."""
    found, place = explainer(images), np.linspace(-1, 1, GRID)
    maps = {**found.relevance,
            'gradient x input': explainer.gradient_times_input(images, found.targets),
            'edges': np.stack([edge_strength(image) for image in images])[..., None]}
    nearness = -np.hypot(*np.meshgrid(place, place)).ravel()
    return {**{method: by_region(r) for method, r in maps.items()},
            'centre': np.stack([nearness] * len(images))}


def edge_strength(image):
    """How much the brightness of an image [h, w, channels] changes at each pixel: [h, w]."""
    return np.hypot(*np.gradient(image.mean(-1, dtype=np.float64)))


def drawn(seed, numbers, repeat, shape):
    """Noise [n, *shape], uint8, and the random order's scores [n, 196] of pictures by number."""
    noise = [generator(seed, 'noise', repeat, i).integers(0, 256, shape, np.uint8) for i in numbers]
    order = [generator(seed, 'random', repeat, i).random(GRID * GRID) for i in numbers]
    return np.stack(noise), np.stack(order)


def borders(side):
    """Where the regions of a side begin, and its end."""
    return np.linspace(0, side, GRID + 1).round().astype(int)


def by_region(r):
    """Relevance [n, h, w, channels] summed over each region: [n, 196]."""
    rows = np.add.reduceat(r.sum(-1, dtype=np.float64), borders(r.shape[1])[:-1], 1)
    return np.add.reduceat(rows, borders(r.shape[2])[:-1], 2).reshape(len(r), -1)


def perturbed(images, regions, noise, steps):
    """Yields the images [n, h, w, channels] after each step, as regions [n, 196] says."""
    images = images.copy()
    rows, columns = borders(images.shape[1]), borders(images.shape[2])
    for step in range(steps):
        now = regions[:, step * REGIONS_PER_STEP:(step + 1) * REGIONS_PER_STEP]
        for image, grain, chosen in zip(images, noise, now):
            for y, x in zip(chosen // GRID, chosen % GRID):
                place = slice(rows[y], rows[y + 1]), slice(columns[x], columns[x + 1])
                image[place] = grain[place]
        yield images


def followed(explainer, images, intact, regions, noise, steps):
    """The logit of the class first seen, from the intact logits [n, classes] on: [steps + 1, n]."""
    changed = perturbed(images, regions, noise, steps)
    logits = np.stack([intact, *(explainer.classify(x) for x in changed)])
    return logits[:, np.arange(len(images)), intact.argmax(1)]


def flipped(explainer, images, found, noise, steps):
    """Perturbs images in the order of scores {method: [n, 196]}.

    Returns {(method, 'most' or 'least'): logits [steps + 1, n]}, by what is replaced first.
    """
    intact, results = explainer.classify(images), {}
    for method, score in found.items():
        order = np.argsort(-score, axis=1, kind='stable')
        results[method, 'most'] = followed(explainer, images, intact, order, noise, steps)
        if method != 'random':
            order = order[:, ::-1]
            results[method, 'least'] = followed(explainer, images, intact, order, noise, steps)
    return results


def flip_all(explainer, images, batch_size, steps, seed, repeats=1):
    """Perturbs all images by all methods. Returns what `flipped` does, the mean of the repeats."""
    parts, bar = [], progress_bar(len(images), 'picture')
    for numbers in batches(range(len(images)), batch_size, bar):
        batch, rounds = np.stack([images[i] for i in numbers]), []
        found = scores(explainer, batch)
        for repeat in range(repeats):
            noise, found['random'] = drawn(seed, numbers, repeat, batch.shape[1:])
            rounds.append(flipped(explainer, batch, found, noise, steps))
        parts.append({key: np.mean([each[key] for each in rounds], 0) for key in rounds[0]})
    return joined(parts, 1)


def draw(results, rules):
    """The mean logit against the number of replaced regions, in both directions, for some rules."""
    figure = Figure(figsize=(13, 4.8), dpi=100, layout='constrained')
    shown = [rule for rule in SHOWN if rule in rules] or rules[:4]
    for axes, which in zip(figure.subplots(1, 2), ('most', 'least')):
        lines = {method: results[method, which].mean(1) for method in [*shown, 'edges']}
        lines['random'] = results['random', 'most'].mean(1)
        curves(axes, REGIONS_PER_STEP * np.arange(len(lines['random'])), lines, BLIND)
        axes.set(title=f'{which} relevant first', xlabel='regions of 196 replaced by noise',
                 ylabel='mean logit of the class first seen')
    return figure


def report(results):
    """A line for each method, the largest gain first, then which cannot be told apart."""
    most, least = ({method: aopc(logits) for (method, each), logits in results.items()
                    if each == which} for which in ('most', 'least'))
    gain = {method: most[method] - least[method] for method in least}
    columns = dict(zip(HEADS, map(estimates, (most, least, gain))))
    lines = [table('AOPC', ranked(columns[HEADS[2]]) + ['random'], columns)]
    lines += [f'not distinguishable, {head}: {indistinguishable(column)}'
              for head, column in columns.items()]
    return '\n'.join(lines)


def measure(explainer, pictures, args):
    """The experiment. Returns a figure, a title and a table."""
    size = explainer.network.size[:2]
    if min(size) < GRID:
        raise Refused(f'pictures of {size} pixels have no {GRID}x{GRID} regions')
    images = [picture.seen for picture in pictures]
    results = flip_all(explainer, images, args.batch_size, args.steps, args.seed, args.repeats)
    title = (f'{len(images)} pictures, {args.steps} steps of {REGIONS_PER_STEP} of {GRID * GRID} '
             f'regions, seed {args.seed}, noise drawn {args.repeats} times')
    return draw(results, args.rule), title, report(results)
