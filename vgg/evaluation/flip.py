"""Are the heatmaps faithful? Region perturbation (Samek et al. 2017): if a heatmap is right, the
class depends on what it marks.

    python vgg/flip.py vgg/images --weights caltech101 --precision bfloat16

Divides each picture into 14x14 regions (16x16 pixels of VGG's 224x224) and replaces them by noise,
five at each step: once the most relevant ones first, once the least relevant ones first. It follows
the logit of the class that the network saw. AOPC is the mean drop of the logit over all steps and
pictures (Samek et al. 2017, Eq. 12): the larger the better with the most relevant first, the
smaller the better with the least relevant first. (They replace regions of 9x9 pixels, one at a
time, up to 100 of them.) The difference of the two is the symmetric relevance gain (Bluecher et al.
2024), by which the table is sorted: it depends less on how regions are replaced. All rules of
lrp.py are compared with gradient x input and with three orders that know no class: random, the
strength of the picture's edges, nearness to its centre.

--repeats draws the noise and the random order several times and takes the mean. Intervals are 95%
bootstrap intervals over pictures. A picture's numbers depend only on the seed and its place in the
list. Writes the curves to results/flipping.png and the table to results/flipping.txt.
"""
from pathlib import Path

from matplotlib.figure import Figure
import numpy as np

from evaluation.measures import generator, indistinguishable, mean_and_interval
from common import Parser, Refused, count, once, progress_bar, seed, write_report
from evaluation.shared import batches, edge_strength, open_evaluation
from heatmaps import curves
from rules import COMPOSITES
from run import add_network_options

GRID = 14  # regions in a row and in a column: of 16x16 pixels in a picture of 224x224
REGIONS_PER_STEP = 5
BLIND = ['edges', 'centre', 'random']  # orders that know of no class
SHOWN = ['epsilon-gamma-box', 'epsilon-plus', 'deep-taylor', 'epsilon']  # rules that are drawn


def scores(explainer, images):
    """What orders the regions: {method: [n, 196]}, relevance summed over each region."""
    targets = [-1] * len(images)
    maps = dict(explainer(images, targets).relevance)
    maps['gradient x input'] = explainer.gradient_times_input(images, targets)
    maps['edges'] = np.stack([edge_strength(image) for image in images])[..., None]
    place = np.linspace(-1, 1, GRID)
    centre = -np.hypot(*np.meshgrid(place, place)).reshape(1, -1)
    maps = {method: by_region(r) for method, r in maps.items()}
    return {**maps, 'centre': np.repeat(centre, len(images), 0)}


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


def curve(explainer, images, intact, regions, noise, steps):
    """The logit of the class first seen, before any step and after each: [steps + 1, n]."""
    changed = perturbed(images, regions, noise, steps)
    logits = np.stack([intact] + [explainer.classify(x) for x in changed])
    return logits[:, np.arange(len(images)), intact.argmax(1)]


def aopc(logits):
    """The mean over steps of the first logit minus the logit [steps + 1, n], for each picture."""
    return (logits[0] - logits).mean(0, dtype=np.float64)


def measure(explainer, images, batch_size, steps, seed, repeats=1):
    """Perturbs all images by all methods.

    Returns {(method, 'most' or 'least'): logits [steps + 1, n]}, the mean of the repeats.
    """
    parts, bar = {}, progress_bar(len(images), 'picture')
    for numbers in batches(range(len(images)), batch_size):
        batch = np.stack([images[i] for i in numbers])
        intact, found = explainer.classify(batch), scores(explainer, batch)
        for repeat in range(repeats):
            noise, found['random'] = drawn(seed, numbers, repeat, batch.shape[1:])
            for method, score in found.items():
                order = np.argsort(-score, axis=1, kind='stable')
                for which, regions in ('most', order), ('least', order[:, ::-1]):
                    if method == 'random' and which == 'least':
                        continue
                    logits = curve(explainer, batch, intact, regions, noise, steps)
                    parts.setdefault((method, which), {}).setdefault(numbers[0], []).append(logits)
        bar.update(numbers[-1] + 1)
    return {key: np.concatenate([np.mean(curves, 0) for curves in by_batch.values()], 1)
            for key, by_batch in parts.items()}


def draw(results, composites):
    """The mean logit against the number of replaced regions, in both directions, for some rules."""
    figure = Figure(figsize=(13, 4.8), dpi=100, layout='constrained')
    shown = [rule for rule in SHOWN if rule in composites] or composites[:4]
    for axes, which in zip(figure.subplots(1, 2), ('most', 'least')):
        logits = {method: results.get((method, which), results[method, 'most']).mean(1)
                  for method in shown + ['edges', 'random']}
        steps = REGIONS_PER_STEP * np.arange(len(logits['random']))
        curves(axes, steps, {method: (values, ':' if method in BLIND else '-')
                             for method, values in logits.items()})
        axes.set(title=f'{which} relevant first', xlabel='regions of 196 replaced by noise',
                 ylabel='mean logit of the class first seen')
    return figure


def table(results):
    """A line for each method, the largest gain first, then which cannot be told apart."""
    area = {key: aopc(logits) for key, logits in results.items()}
    columns = {which: {method: values for (method, each), values in area.items() if each == which}
               for which in ('most', 'least')}
    most, least = columns.values()
    gain = columns['gain'] = {method: most[method] - least[method] for method in least}
    methods = sorted(gain, key=lambda method: -gain[method].mean()) + ['random']
    heads = 'most relevant first', 'least relevant first', 'gain: most less least'
    lines = [f'{"AOPC":>24} ' + ' '.join(f'{head:>22}' for head in heads)]
    for method in methods:
        cells = ' '.join(f'{mean_and_interval(column[method]) if method in column else "":>22}'
                         for column in columns.values())
        lines.append(f'{method:>24} {cells}'.rstrip())
    for head, column in zip(heads, columns.values()):
        lines.append(f'not distinguishable, {head}: {indistinguishable(column)}')
    return '\n'.join(lines)


def evaluate(args):
    """Measures and reports. Returns a line for each picture that could not be read."""
    explainer, pictures, failed = open_evaluation(args, 'flipping', gradient=True)
    images = [picture.seen for picture in pictures]
    if min(explainer.network.size[:2]) < GRID:
        raise Refused(f'pictures of {explainer.network.size[:2]} pixels have no {GRID}x{GRID} '
                      'regions')
    if images:
        results = measure(explainer, images, args.batch_size, args.steps, args.seed, args.repeats)
        title = (f'{len(images)} pictures, {args.steps} steps of {REGIONS_PER_STEP} of '
                 f'{GRID * GRID} regions, seed {args.seed}, noise drawn {args.repeats} times')
        write_report(args.results, 'flipping', draw(results, args.rule), title, table(results))
    return failed


def parse(argv):
    parser = Parser(__doc__)
    *_, how = add_network_options(parser, list(COMPOSITES))
    how.add_argument('--steps', type=count, default=6, metavar='N',
                     help='of five regions each, up to 39 (default: 6)')
    how.add_argument('--repeats', type=count, default=1, metavar='N',
                     help='draws of noise, of which the mean is taken (default: 1)')
    how.add_argument('--seed', type=seed, default=0,
                     help='draws the noise and the random order (default: 0)')
    args = parser.parse_intermixed_args(argv)
    args.rule = once(args.rule)
    if args.steps * REGIONS_PER_STEP > GRID * GRID:
        most = GRID * GRID // REGIONS_PER_STEP
        parser.error(f'--steps {args.steps}: a picture has regions for {most}')
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
