"""Does the heatmap of a class lie on the right picture? Four pictures of four classes in one.

    python vgg/evaluate.py mosaic vgg/images --weights caltech101 --precision bfloat16

Draws mosaics of two by two pictures, of those to which the network gives one class a probability of
at least a half. Each rule explains each of the four classes. The result is the share of the
positive relevance in the class's own quarter: as in the grid pointing game (Böhle et al. 2021) and
in Focus (Arias-Duart et al. 2022). A map that knows no class has 0.25. Only classes with a positive
logit in the mosaic count, since the network sees those there. The last column counts all four.

Rather than another: the same of the class's contrast with that of the other three which has the
largest logit, as --against of lrp.py makes it. Rules are compared with gradient x input and
Grad-CAM, and with the picture's edges. Intervals are 95% bootstrap intervals over photographs.
"""
import itertools

from matplotlib.figure import Figure
import numpy as np

from common import Refused, count, progress_bar, seed
from evaluation.measures import (
    bars, batches, estimate, generator, indistinguishable, joined, panels, ranked, share_within,
    table)
from evaluation.opponents import class_maps, edge_strength, grad_cam
from heatmaps import colour
from networks.class_names import class_names
from pictures import resized
from rules import COMPOSITES, composites_of, one_sign

RULES = list(COMPOSITES)
GRADIENT = True
CHANCE = 0.25
HEADS = ['alone', 'rather than another', 'alone, all classes']


def add_options(group):
    group.add_argument('--count', type=count, default=100, metavar='N',
                       help='mosaics (default: 100)')
    group.add_argument('--seed', type=seed, default=0, help='draws the mosaics (default: 0)')


# Mosaics

def seen_alone(explainer, images, batch_size):
    """The class of each of the images [n, ...]; -1 where none has a probability of a half."""
    logits = np.concatenate([explainer.classify(batch) for batch in batches(images, batch_size)])
    probabilities = explainer.network.probabilities(logits)
    return np.where(probabilities.max(1) >= 0.5, logits.argmax(1), -1)


def draw_mosaics(classes, count, seed):
    """The indices of four pictures of four classes for each mosaic: [count, 4]. classes: of each
    picture, or -1."""
    kinds, fours = np.unique(classes[classes >= 0]), []
    if len(kinds) < 4:
        raise Refused('a mosaic needs pictures of four classes, each with a probability of at '
                      f'least a half; here the network sees {len(kinds)}')
    for rng in (generator(seed, 'mosaic', i) for i in range(count)):
        four = rng.permutation(kinds)[:4]
        fours.append([rng.choice(np.flatnonzero(classes == kind)) for kind in four])
    return np.array(fours)


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

def contrasted(maps, logits):
    """Each of four classes' maps [n, 4, h, w] minus that of the one among the other three with the
    largest of the logits [n, 4]."""
    others = np.where(np.eye(4, dtype=bool), -np.inf, logits[:, None])  # [n, class, another]
    return maps - np.take_along_axis(maps, others.argmax(2)[..., None, None], 1)


def maps_of(explainer, composites, images, targets):
    """The heatmaps [n, 4, h, w] of four targets [n, 4] of each image, {method: heatmaps}; their
    contrasts, those of rules of one sign from equal starts; and the targets' logits [n, 4]."""
    found = [explainer(images, target) for target in targets.T]
    logits = np.take_along_axis(found[0].logits, targets, 1)
    gradient = [explainer.gradient_times_input(images, target).sum(-1) for target in targets.T]
    size, contrasts = np.abs(logits)[..., None, None], {}
    alone = {'gradient x input': np.stack(gradient, 1),
             'edges': np.stack([edge_strength(images)] * 4, 1)}
    for rule, composite in composites.items():
        alone[rule] = np.stack([each.relevance[rule].sum(-1) for each in found], 1)
    for method, r in alone.items():
        equal = method in composites and one_sign(composites[method], explainer.table)
        contrasts[method] = contrasted(r / np.where(size, size, 1) if equal else r, logits)
    cams = np.stack([class_maps(explainer, images, target) for target in targets.T], 1)
    for result, maps in (alone, cams), (contrasts, contrasted(cams, logits)):
        result['Grad-CAM'] = np.stack([grad_cam(explainer, each) for each in maps])
    return alone, contrasts, logits


def shares_of(explainer, composites, images, classes, fours, batch_size):
    """The shares of the four classes of each mosaic. fours [m, 4]: the indices of its images.

    Returns {method: shares [m, 4]}, the same of contrasts, and the logits [m, 4].
    """
    parts = []
    for batch in batches(fours, batch_size, progress_bar(len(fours), 'mosaic')):
        mosaics = np.stack([mosaic(images[four]) for four in batch])
        *maps, logits = maps_of(explainer, composites, mosaics, classes[batch])
        shares = [{method: share_within(r, quarters(*r.shape[2:])) for method, r in each.items()}
                  for each in maps]
        parts.append((*shares, logits))
    alone, contrasts, logits = zip(*parts)
    return joined(alone), joined(contrasts), np.concatenate(logits)


# The report

def example(explainer, composites, images, classes):
    """One mosaic of four images: itself, a title for each of the classes [4], and their heatmaps by
    two rules and Grad-CAM: [(method, images)]."""
    whole = mosaic(images)
    maps, _, (logits,) = maps_of(explainer, composites, whole[None], classes[None])
    names = class_names(explainer.network)
    titles = [f'{names[k]}, logit {logit:.1f}' for k, logit in zip(classes, logits)]
    rows = [(method, [colour(r, whole.shape[1::-1]) for r in maps[method][0]])
            for method in [*list(composites)[:2], 'Grad-CAM']]
    return whole.squeeze(), titles, rows


def draw(found, whole, titles, rows):
    """Bars of all methods, above an example."""
    heights = 1 + 0.27 * len(found[HEADS[0]]), 2 * len(rows) + 0.7
    figure = Figure(figsize=(9.6, sum(heights)), dpi=100, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    axes = upper.subplots()
    bars(axes, ranked(found[HEADS[0]]), {head: found[head] for head in HEADS[:2]}, CHANCE)
    axes.set_xlabel('share of positive relevance in the own quarter of the class')
    upper.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=3)
    panels(lower, ['', *titles], [(label, [whole, *images]) for label, images in rows])
    return figure


def report(found):
    """A line for each method, the largest share first, then which cannot be told apart."""
    columns = {head: {**column, 'chance': f'{CHANCE}'} for head, column in found.items()}
    lines = [table('share in its own quarter', [*ranked(found[HEADS[0]]), 'chance'], columns)]
    lines += [f'not distinguishable, {head}: {indistinguishable(found[head])}'
              for head in HEADS[:2]]
    return '\n'.join(lines)


def measure(explainer, pictures, args):
    """The experiment. Returns a figure, a title and a table."""
    images, composites = np.stack([each.seen for each in pictures]), composites_of(args.rule)
    classes = seen_alone(explainer, images, args.batch_size)
    fours = draw_mosaics(classes, args.count, args.seed)
    alone, contrasts, logits = shares_of(explainer, composites, images, classes, fours,
                                         args.batch_size)
    seen, found = logits > 0, {}
    for head, shares, counted in zip(HEADS, (alone, contrasts, alone), (seen, seen, True)):
        found[head] = {method: estimate(np.where(counted, each, np.nan), fours)
                       for method, each in shares.items()}
    best = fours[seen.sum(1).argmax()]  # all four are seen, if there is such a mosaic
    shown = example(explainer, composites, images[best], classes[best])
    title = (f'{args.count} mosaics of {(classes >= 0).sum()} pictures, seed {args.seed}: '
             f'{seen.sum()} classes counted, {(~seen).sum()} with a logit that is not positive')
    return draw(found, *shown), title, report(found)
