"""Does the heatmap of a class lie on the right picture? Four pictures of four classes in one.

    python vgg/evaluate.py mosaic vgg/images --weights caltech101 --precision bfloat16

Draws mosaics of two by two pictures, of those to which the network gives one class a probability of
at least a half. Each rule explains each of the four classes. The result is the share of the
positive relevance in the class's own quarter: as in the grid pointing game (Boehle et al. 2021) and
in Focus (Arias-Duart et al. 2022). A map that knows no class has 0.25. Only classes with a positive
logit in the mosaic count, since the network sees those there. The last column counts all four.

Compared with the others: relevance minus the mean of the other three classes'; for a rule of one
sign, each scaled to the same sum. Intervals are 95% bootstrap intervals over photographs.
"""
import itertools

from matplotlib.figure import Figure
import numpy as np

from common import Refused, count, progress_bar, seed
from evaluation.flip import edge_strength
from evaluation.measures import (
    bars, batches, estimate, generator, indistinguishable, joined, panels, ranked, share_within,
    table)
from heatmaps import colour
from networks.class_names import class_names
from pictures import resized
from rules import COMPOSITES, composites_of, one_sign

RULES = list(COMPOSITES)
GRADIENT = True
CHANCE = 0.25
SHOWN = ['epsilon-gamma-box', 'deep-taylor']  # rules drawn for one mosaic


def add_options(group):
    group.add_argument('--count', type=count, default=100, metavar='N',
                       help='mosaics (default: 100)')
    group.add_argument('--seed', type=seed, default=0, help='draws the mosaics (default: 0)')


# Mosaics

def seen_alone(explainer, images, batch_size):
    """The class of each image; -1 where no class has a probability of at least a half."""
    logits = np.concatenate([explainer.classify(np.stack(batch))
                             for batch in batches(images, batch_size)])
    probabilities = explainer.network.probabilities(logits)
    return np.where(probabilities.max(1) >= 0.5, logits.argmax(1), -1)


def draw_four(classes, rng):
    """The indices of four pictures of four classes. classes: of each picture, or -1."""
    kinds = rng.permutation(np.unique(classes[classes >= 0]))[:4]
    return [int(rng.choice(np.flatnonzero(classes == kind))) for kind in kinds]


def draw_mosaics(classes, count, seed):
    """The indices of four pictures for each mosaic: [count, 4]."""
    kinds = len(set(classes) - {-1})
    if kinds < 4:
        raise Refused('a mosaic needs pictures of four classes, each with a probability of at '
                      f'least a half; here the network sees {kinds}')
    return np.array([draw_four(classes, generator(seed, 'mosaic', i)) for i in range(count)])


def quarters(height, width):
    """Which pixels each quarter of a picture has, row by row: [4, height, width], bool."""
    lower, right = np.arange(height) >= height // 2, np.arange(width) >= width // 2
    return np.stack([(lower == i)[:, None] & (right == j) for i in (0, 1) for j in (0, 1)])


def mosaic(images):
    """Four images [h, w, channels], uint8, as one of the same size."""
    height, width = images[0].shape[:2]
    sizes = itertools.product((height // 2, height - height // 2), (width // 2, width - width // 2))
    parts = [resized(image, *size) for image, size in zip(images, sizes)]
    return np.concatenate([np.concatenate(parts[:2], 1), np.concatenate(parts[2:], 1)])


# Shares

def maps_of(explainer, composites, images, targets):
    """The heatmaps [n, 4, h, w] of four targets [n, 4] of each image: {method: heatmaps}.

    And the same compared with the others, after those of rules of one sign were scaled to the same
    sum, and the targets' logits [n, 4]. Edges know no class, so there is nothing to compare.
    """
    found = [explainer(images, target) for target in targets.T]
    alone, compared = {}, {}
    for rule, composite in composites.items():
        alone[rule] = r = np.stack([each.relevance[rule].sum(-1) for each in found], 1)
        if one_sign(composite, explainer.table):
            started = np.stack([each.started[rule] for each in found], 1)[..., None, None]
            r = r / np.where(started, started, 1)
        compared[rule] = contrasted(r)
    gradient = [explainer.gradient_times_input(images, target).sum(-1) for target in targets.T]
    alone['gradient x input'] = np.stack(gradient, 1)
    compared['gradient x input'] = contrasted(alone['gradient x input'])
    alone['edges'] = np.stack([[edge_strength(image)] * 4 for image in images])
    return alone, compared, np.take_along_axis(found[0].logits, targets, 1)


def contrasted(maps):
    """Each of the maps [n, 4, h, w] minus the mean of the other three."""
    return maps - (maps.sum(1, keepdims=True) - maps) / 3


def shares_of(explainer, composites, images, classes, fours, batch_size):
    """The shares of the four classes of each mosaic. fours [m, 4]: the indices of its images.

    Returns {method: shares [m, 4]}, the same compared with the others, and the logits [m, 4].
    """
    parts, bar = [], progress_bar(len(fours), 'mosaic')
    places = quarters(*images[0].shape[:2])
    for batch in batches(fours, batch_size, bar):
        mosaics = np.stack([mosaic([images[i] for i in four]) for four in batch])
        *maps, logits = maps_of(explainer, composites, mosaics, classes[batch])
        shares = [{method: share_within(r, places) for method, r in each.items()} for each in maps]
        parts.append((*shares, logits))
    alone, compared, logits = zip(*parts)
    return joined(alone), joined(compared), np.concatenate(logits)


def estimated(shares, counted, fours):
    """{method: Estimate} of shares {method: [m, 4]}, of the classes that are counted [m, 4]."""
    return {method: estimate(np.where(counted, each, np.nan), fours)
            for method, each in shares.items()}


# The report

def example(explainer, composites, images, classes, four):
    """One mosaic of four images beside the heatmaps of its classes: titles and rows of panels."""
    whole, rules = mosaic([images[i] for i in four]), list(composites)
    alone, _, logits = maps_of(explainer, composites, whole[None], classes[None, four])
    known = class_names(explainer.network)
    titles = [f'{known[k]}, logit {logit:.1f}' for k, logit in zip(classes[four], logits[0])]
    shown = [rule for rule in SHOWN if rule in rules] or rules[:3]
    rows = [[whole.squeeze(), *(colour(r, whole.shape[1::-1]) for r in alone[rule][0])]
            for rule in shown]
    return ['', *titles], list(zip(shown, rows))


def draw(alone, compared, titles, rows):
    """Bars of all methods, above one mosaic with its four classes' heatmaps for some rules."""
    heights = 4.6, 2.3 * len(rows) + 0.4
    figure = Figure(figsize=(11, 0.4 + sum(heights)), dpi=90, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    axes = upper.subplots()
    bars(axes, ranked(alone), {'alone': alone, 'compared with the others': compared}, CHANCE)
    axes.set_xlabel('share of positive relevance in the own quarter of the class')
    axes.legend(loc='lower right')
    panels(lower, titles, rows)
    return figure


def report(alone, compared, every):
    """A line for each method, the largest share first, then which cannot be told apart."""
    columns = {'alone': alone, 'compared with the others': compared, 'alone, all classes': every}
    columns = {head: {**column, 'chance': f'{CHANCE}'} for head, column in columns.items()}
    lines = table('share in its own quarter', [*ranked(alone), 'chance'], columns)
    return f'{lines}\nalone not distinguishable: {indistinguishable(alone)}'


def measure(explainer, pictures, args):
    """The experiment. Returns a figure, a title and a table."""
    images, composites = [picture.seen for picture in pictures], composites_of(args.rule)
    classes = seen_alone(explainer, images, args.batch_size)
    fours = draw_mosaics(classes, args.count, args.seed)
    shares, contrasts, logits = shares_of(explainer, composites, images, classes, fours,
                                          args.batch_size)
    seen = logits > 0
    alone, compared = estimated(shares, seen, fours), estimated(contrasts, seen, fours)
    every = estimated(shares, True, fours)
    best = fours[seen.sum(1).argmax()]  # all four are seen, if there is such a mosaic
    shown = example(explainer, composites, images, classes, best)
    title = (f'{args.count} mosaics of {(classes >= 0).sum()} pictures, seed {args.seed}: '
             f'{seen.sum()} classes counted, {(~seen).sum()} with a logit that is not positive')
    return draw(alone, compared, *shown), title, report(alone, compared, every)
