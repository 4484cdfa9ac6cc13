"""Does the class depend on what the heatmap marks? Region perturbation (Samek et al. 2017).

    python vgg/evaluate.py flip vgg/images --weights caltech101 --precision bfloat16
    python vgg/evaluate.py flip cat.jpg --weights my.keras --rule epsilon-gamma-box

Divides each picture into 14x14 regions (a small one into fewer) and replaces them by noise, a
fortieth at each step, the most relevant ones first and the least relevant ones first. It follows
the logit of the class that the network saw. AOPC is the mean drop of the logit over all steps
(Samek et al. 2017, Eq. 12), to be large with the most relevant regions first, and small with the
least relevant ones first. Their difference is the symmetric relevance gain (Blücher et al. 2024),
which sorts the table. The rules are compared with gradient x input, Grad-CAM, Integrated Gradients
from a black picture, the size of SmoothGrad, and three orders that know no class: random, edges of
the picture, nearness to its centre. Intervals are 95% bootstrap intervals over pictures.

For one picture, each rule gets a sentence instead: where the logit goes without the tenth of the
regions that is most relevant, and without as many at random.
"""
import itertools
import math

from matplotlib.figure import Figure
import numpy as np

from common import count, progress_bar, seed
from evaluation.measures import (
    aopc, batches, curves, estimates, generator, indistinguishable, joined, ranked, table)
from evaluation.opponents import (
    class_maps, edge_strength, grad_cam, integrated_gradients, smooth_grad)
from networks.class_names import class_names
from rules import COMPOSITES

RULES = list(COMPOSITES)
GRADIENT = True
GRID = 14  # regions in a row and in a column: of 16x16 pixels in a picture of 224x224
STEPS, TENTH = 6, 4  # all steps; those that replace a tenth of the regions
DRAWS = 10  # for one picture
BLIND = ['edges', 'random']  # orders that know of no class
SHOWN = ['epsilon-gamma-box', 'deep-taylor', 'epsilon']  # rules that are drawn
OTHERS = ['Grad-CAM', *BLIND]  # drawn beside them
HEADS = ['most relevant first', 'least relevant first', 'gain: most less least']


def add_options(group):
    group.add_argument('--repeats', type=count, metavar='N',
                       help='draws of noise, of which the mean is taken (default: 1; for one '
                            f'picture {DRAWS})')
    group.add_argument('--seed', type=seed, default=0,
                       help='draws the noise and the random order (default: 0)')


def grid_of(explainer):
    """How many regions there are in a row and in a column: GRID, or fewer in small pictures."""
    return min(GRID, *explainer.network.size[:2], *explainer.pixels.shape[1:3])


def scores(explainer, images, numbers, alone=False):
    """What orders the regions: {method: [n, regions]}, a heatmap's sum over each region.

    numbers: of the images; alone: whether rules are not compared with anything else.
    """
    found, grid = explainer(images), grid_of(explainer)
    if alone:
        return {rule: by_region(r, grid) for rule, r in found.relevance.items()}
    given, place = (explainer, images, found.targets), np.linspace(-1, 1, grid)
    maps = {**found.relevance,
            'gradient x input': explainer.gradient_times_input(images, found.targets),
            'Grad-CAM': grad_cam(explainer, class_maps(*given))[..., None],
            'Integrated Gradients': integrated_gradients(*given),
            'SmoothGrad': np.abs(smooth_grad(*given, numbers)),
            'edges': edge_strength(images)[..., None]}
    nearness = -np.hypot(*np.meshgrid(place, place)).ravel()
    return {**{method: by_region(r, grid) for method, r in maps.items()},
            'centre': np.stack([nearness] * len(images))}


def regions_of(height, width, grid):
    """Which region each pixel belongs to: [height, width], counted row by row."""
    row, column = (np.arange(side) * grid // side for side in (height, width))
    return grid * row[:, None] + column


def by_region(r, grid):
    """Relevance [n, h, w, channels] summed over each region: [n, regions]."""
    place = regions_of(*r.shape[1:3], grid).ravel()
    return np.stack([np.bincount(place, each.sum(-1, dtype=np.float64).ravel()) for each in r])


def in_a_step(regions):
    """How many of the regions one step replaces."""
    return max(1, round(regions / 10 / TENTH))


def perturbed(images, order, noise):
    """Yields the images [n, h, w, channels] after each step. order: of regions, [n, regions]."""
    regions = order.shape[1]
    turn = np.argsort(order, 1)[:, regions_of(*images.shape[1:3], math.isqrt(regions)), None]
    for step in range(1, STEPS + 1):
        yield np.where(turn < step * in_a_step(regions), noise, images)


def followed(explainer, images, intact, order, noise):
    """The logit of the class first seen, from the intact logits [n, classes] on: [STEPS + 1, n]."""
    logits = [intact, *map(explainer.classify, perturbed(images, order, noise))]
    return np.stack(logits)[:, np.arange(len(images)), intact.argmax(1)]


def flipped(explainer, images, found, noise):
    """Perturbs images in the order of scores {method: [n, regions]}. Returns {(method, 'most' or
    'least'): logits [STEPS + 1, n]}, by what is replaced first."""
    intact, results = explainer.classify(images), {}
    for method, score in found.items():
        order = np.argsort(-score, axis=1, kind='stable')
        results[method, 'most'] = followed(explainer, images, intact, order, noise)
        if method != 'random':
            order = order[:, ::-1]
            results[method, 'least'] = followed(explainer, images, intact, order, noise)
    return results


def flip_all(explainer, images, batch_size, seed, repeats=1):
    """Perturbs images [n, height, width, channels] by all methods, `repeats` times with other noise
    and another random order. Returns what `flipped` does, with logits [STEPS + 1, n, repeats]."""
    bar, alone = progress_bar(len(images), 'picture'), len(images) == 1
    found = joined([scores(explainer, images[numbers], numbers, alone)
                    for numbers in batches(np.arange(len(images)), batch_size, bar)])
    draws, parts = list(itertools.product(range(len(images)), range(repeats))), []
    for batch in batches(draws, batch_size, progress_bar(len(draws), 'draw')):
        numbers = [i for i, _ in batch]
        noise = [generator(seed, 'noise', k, i).integers(0, 256, images.shape[1:], np.uint8)
                 for i, k in batch]
        now = {method: score[numbers] for method, score in found.items()}
        now['random'] = np.stack([generator(seed, 'random', k, i).random(grid_of(explainer) ** 2)
                                  for i, k in batch])
        parts.append(flipped(explainer, images[numbers], now, noise))
    return {key: logits.reshape(STEPS + 1, len(images), repeats)
            for key, logits in joined(parts, 1).items()}


def draw(results, rules, regions):
    """The mean logit against the number of replaced regions, in both directions."""
    figure = Figure(figsize=(10, 4.8), dpi=100, layout='constrained')
    shown = [rule for rule in SHOWN if rule in rules] or rules[:3]
    shown += [method for method in OTHERS if (method, 'most') in results]
    for axes, which in zip(figure.subplots(1, 2, sharey=True), ('most', 'least')):
        lines = {method: results.get((method, which), results[method, 'most']).mean((1, 2))
                 for method in shown}
        curves(axes, in_a_step(regions) * np.arange(STEPS + 1), lines, BLIND)
        axes.set(title=f'{which} relevant first', xlabel=f'regions of {regions} replaced by noise')
    figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=len(shown))
    figure.supylabel('mean logit of the class first seen', fontsize='medium')
    return figure


def report(results):
    """A line for each method, the largest gain first, then which cannot be told apart."""
    most, least = ({method: aopc(logits.mean(2)) for (method, each), logits in results.items()
                    if each == which} for which in ('most', 'least'))
    gain = {method: most[method] - least[method] for method in least}
    columns = dict(zip(HEADS, map(estimates, (most, least, gain))))
    lines = [table('AOPC', ranked(columns[HEADS[2]]) + ['random'], columns)]
    lines += [f'not distinguishable, {head}: {indistinguishable(column)}'
              for head, column in columns.items()]
    return '\n'.join(lines)


def sentences(results, regions, name):
    """What becomes of the logit of the class, by name, of one picture: a line for each rule."""
    tenth, chance = TENTH * in_a_step(regions), results['random', 'most'][TENTH, 0]
    for rule in [method for method, which in results if which == 'least']:
        before, after = results[rule, 'most'][[0, TENTH], 0].mean(1)
        yield (f'{rule}: without its {tenth} most relevant of {regions} regions the logit of '
               f'{name} goes from {before:.1f} to {after:.1f}; without {tenth} at random to '
               f'{chance.mean():.1f} [{chance.min():.1f} to {chance.max():.1f} in {len(chance)} '
               f'draws]')


def measure(explainer, pictures, args):
    """The experiment. Returns a figure, a title and a table."""
    images, regions = np.stack([picture.seen for picture in pictures]), grid_of(explainer) ** 2
    alone = len(images) == 1
    repeats = args.repeats or (DRAWS if alone else 1)
    results = flip_all(explainer, images, args.batch_size, args.seed, repeats)
    title = (f'pictures: {len(images)}; {STEPS} steps of {in_a_step(regions)} of {regions} '
             f'regions; draws of noise: {repeats}; seed {args.seed}')
    name = class_names(explainer.network)[explainer.classify(images[:1]).argmax()]
    said = '\n'.join(sentences(results, regions, name)) if alone else report(results)
    return draw(results, args.rule, regions), title, said
