"""Are the heatmaps true? Region perturbation (Samek et al. 2017): if a heatmap is right, what it marks is what the class hangs on.

    python vgg/flip.py vgg/images --weights caltech101 --precision bfloat16

Lays a grid of 14x14 regions (16x16 pixels of VGG's 224x224) over each picture and replaces them by noise, five at each step, the
most relevant ones first, and again the least relevant ones first; follows the logit of the class that the network saw. AOPC is the
mean drop of the logit over all steps and pictures (Samek et al. 2017, Eq. 12): with most relevant first the larger the better, with
least relevant first the smaller. (They replace regions of 9x9 pixels, one at a time, up to 100 of them.) For all rules of lrp.py and
gradient x input, and for three orders that know of no class: random, the strength of the picture's edges, nearness to its centre.

--repeats draws the noise and the random order several times and takes the mean. Intervals hold 95 % over pictures (bootstrap). A
picture's numbers depend on the seed and its place in the list alone. Writes the curves to results/flipping.png and the table to
results/flipping.txt.
"""
from pathlib import Path
import sys

import matplotlib
from matplotlib.figure import Figure
import numpy as np

if __name__ == '__main__':  # PYTHONSAFEPATH keeps Python from looking beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from script import Parser, alike, count, generator, mean_and_interval, once, progress_bar, seed, write_report
from lrp import COMPOSITES, open_evaluation
from pictures import edge_strength
from pipeline import add_network_options, batches

GRID = 14  # regions in a row and in a column: of 16x16 pixels in a picture of 224x224
REGIONS_PER_STEP = 5
BLIND = ['edges', 'centre', 'random']  # orders that know of no class


def scores(explainer, composites, images):
    """What orders the regions: {method: [n, 196]}, relevance summed over each region, of the class that the network saw."""
    targets = [-1] * len(images)
    results = explainer(images, targets)
    maps = {composite: results[f'relevance/{composite}'] for composite in composites}
    maps['gradient x input'] = explainer.gradient_times_input(images, targets)
    maps['edges'] = np.stack([edge_strength(image) for image in images])[..., None]
    place = np.linspace(-1, 1, GRID)
    centre = -np.hypot(*np.meshgrid(place, place)).reshape(1, -1)
    return {**{method: by_region(r) for method, r in maps.items()}, 'centre': np.repeat(centre, len(images), 0)}


def drawn(seed, numbers, repeat, shape):
    """Noise [n, *shape], uint8, and the random order's scores [n, 196], for each picture by its number."""
    noise = [generator(seed, 'noise', repeat, i).integers(0, 256, shape, np.uint8) for i in numbers]
    return np.stack(noise), np.stack([generator(seed, 'random', repeat, i).random(GRID * GRID) for i in numbers])


def borders(side):
    """Where the regions of a side begin, and its end."""
    return np.linspace(0, side, GRID + 1).round().astype(int)


def by_region(r):
    """Relevance [n, h, w, channels] summed over each region: [n, 196]."""
    rows = np.add.reduceat(r.sum(-1, dtype=np.float64), borders(r.shape[1])[:-1], 1)
    return np.add.reduceat(rows, borders(r.shape[2])[:-1], 2).reshape(len(r), -1)


def perturbed(images, regions, noise, steps):
    """Yields the images [n, h, w, channels] after each step, with the next regions [n, 196] replaced by noise."""
    images = images.copy()
    rows, columns = borders(images.shape[1]), borders(images.shape[2])
    for step in range(steps):
        for image, grain, chosen in zip(images, noise, regions[:, step * REGIONS_PER_STEP:(step + 1) * REGIONS_PER_STEP]):
            for y, x in zip(chosen // GRID, chosen % GRID):
                place = slice(rows[y], rows[y + 1]), slice(columns[x], columns[x + 1])
                image[place] = grain[place]
        yield images


def curve(explainer, images, intact, regions, noise, steps):
    """The logit of the class first seen: before any step, from the logits `intact`, and after each one. [steps + 1, n]."""
    logits = np.stack([intact] + [explainer.classify(x) for x in perturbed(images, regions, noise, steps)])
    return logits[:, np.arange(len(images)), intact.argmax(1)]


def aopc(logits):
    """Area over the perturbation curve of each picture: the mean over steps of the first logit less the logit [steps + 1, n]."""
    return (logits[0] - logits).mean(0, dtype=np.float64)


def measure(explainer, composites, images, batch_size, steps, seed, repeats=1):
    """Perturbs all images by all methods. Returns {(method, 'most' or 'least'): logits [steps + 1, n]}, the mean of the repeats."""
    parts, bar = {}, progress_bar(len(images), 'picture')
    for numbers in batches(range(len(images)), batch_size):
        batch = np.stack([images[i] for i in numbers])
        intact, found = explainer.classify(batch), scores(explainer, composites, batch)
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
    return {key: np.concatenate([np.mean(curves, 0) for curves in by_batch.values()], 1) for key, by_batch in parts.items()}


def draw(results, composites):
    """The mean logit against the number of replaced regions, most relevant first beside least relevant first."""
    figure = Figure(figsize=(13, 5), dpi=100, layout='constrained')
    for axes, which in zip(figure.subplots(1, 2, sharey=True), ('most', 'least')):
        for i, method in enumerate(composites + ['gradient x input'] + BLIND):
            logits = results.get((method, which), results[method, 'most'])
            style = '-' if method in composites else ':' if method in BLIND else '--'
            colour = matplotlib.colormaps['tab20'](i) if method in composites + BLIND else 'black'
            axes.plot(REGIONS_PER_STEP * np.arange(len(logits)), logits.mean(1), style, color=colour, label=method)
        axes.set(xlabel=f'regions of 196 replaced by noise, {which} relevant first', ylabel='mean logit of the class first seen')
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside right upper')
    return figure


def table(results):
    """A line per method, the largest AOPC first; then which are not distinguishable."""
    area = {key: aopc(logits) for key, logits in results.items()}
    methods = sorted(once(method for method, _ in results), key=lambda method: -area[method, 'most'].mean())
    lines = [f'{"AOPC":>20} {"most relevant first":>22} {"least relevant first":>22}']
    for method in methods:
        cells = [mean_and_interval(area[method, which]) if (method, which) in area else '' for which in ('most', 'least')]
        lines.append(f'{method:>20} {cells[0]:>22} {cells[1]:>22}'.rstrip())
    return '\n'.join(lines + [f'not distinguishable, {which} relevant first: '
                              + alike({method: area[method, which] for method in methods if (method, which) in area})
                              for which in ('most', 'least')])


def evaluate(args):
    """Does what the command line asks. Returns a line for each picture that could not be read."""
    explainer, images, broken = open_evaluation(args, 'flipping')
    if min(explainer.network.size[:2]) < GRID:
        raise ValueError(f'pictures of {explainer.network.size[:2]} pixels have no {GRID}x{GRID} regions')
    if images:
        results = measure(explainer, args.rule, images, args.batch_size, args.steps, args.seed, args.repeats)
        title = (f'{len(images)} pictures, {args.steps} steps of {REGIONS_PER_STEP} of {GRID * GRID} regions, seed {args.seed}, '
                 f'noise drawn {args.repeats} times')
        write_report(args.results, 'flipping', draw(results, args.rule), title, table(results))
    return broken


def parse(argv):
    parser = Parser(__doc__)
    *_, how = add_network_options(parser, COMPOSITES, list(COMPOSITES))
    how.add_argument('--steps', type=count, default=6, metavar='N', help='of five regions each, up to 39 (default: 6)')
    how.add_argument('--repeats', type=count, default=1, metavar='N', help='draws of noise, of which the mean is taken (default: 1)')
    how.add_argument('--seed', type=seed, default=0, help='draws the noise and the random order (default: 0)')
    args = parser.parse_mixed(argv)
    args.rule = once(args.rule)
    if args.steps * REGIONS_PER_STEP > GRID * GRID:
        parser.error(f'--steps {args.steps}: a picture has regions for {GRID * GRID // REGIONS_PER_STEP}')
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
