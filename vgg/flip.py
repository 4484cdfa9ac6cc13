"""Are the heatmaps true? Region perturbation (Samek et al. 2017): if a heatmap is right, what it marks is what the class hangs on.

    python vgg/flip.py vgg/images --weights caltech101 --precision bfloat16

Lays a grid of 14x14 regions (16x16 pixels of VGG's 224x224) over each picture and replaces them by noise, five at each step, the
most relevant ones first, and again the least relevant ones first; follows the logit of the class that the network saw. AOPC is the
mean drop of the logit over all steps and pictures (Samek et al. 2017, Eq. 12): with most relevant first the larger the better, with
least relevant first the smaller. For all rules of lrp.py, gradient x input and random order. Writes the curves to
results/flipping.png and the table to results/flipping.txt. Took 5 min 46 s for the 24 photographs and all rules on 2 cores.
"""
import matplotlib
from matplotlib.figure import Figure
import numpy as np

from script import Parser, check_writable, count, once, progress_bar, seed, write
from lrp import COMPOSITES, open_explainer
from pictures import find
from pipeline import add_network_options, batches, read_pictures

GRID = 14  # regions in a row and in a column: of 16x16 pixels in a picture of 224x224
REGIONS_PER_STEP = 5


def scores(explainer, composites, images, rng):
    """What orders the regions: {method: [n, 196]}, relevance summed over each region, of the class that the network saw."""
    targets = [-1] * len(images)
    results = explainer(images, targets)
    maps = {composite: results[f'relevance/{composite}'] for composite in composites}
    maps['gradient x input'] = explainer.gradient_times_input(images, targets)
    return {**{method: by_region(r) for method, r in maps.items()}, 'random': rng.random([len(images), GRID * GRID])}


def edges(side):
    """Where the regions of a side begin, and its end."""
    return np.linspace(0, side, GRID + 1).round().astype(int)


def by_region(r):
    """Relevance [n, h, w, channels] summed over each region: [n, 196]."""
    rows = np.add.reduceat(r.sum(-1, dtype=np.float64), edges(r.shape[1])[:-1], 1)
    return np.add.reduceat(rows, edges(r.shape[2])[:-1], 2).reshape(len(r), -1)


def perturbed(images, regions, noise, steps):
    """Yields the images [n, h, w, channels] after each step, with the next regions [n, 196] replaced by noise."""
    images = images.copy()
    rows, columns = edges(images.shape[1]), edges(images.shape[2])
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
    """Area over the perturbation curve: the mean over steps and pictures of the first logit less the logit [steps + 1, n]."""
    return float((logits[0] - logits).mean())


def measure(explainer, composites, images, batch_size, steps, rng):
    """Perturbs all images by all methods. Returns {(method, 'most' or 'least'): logits [steps + 1, n]}."""
    parts, done, bar = {}, 0, progress_bar(len(images), 'picture')
    for batch in batches(images, batch_size):
        batch = np.stack(batch)
        noise, intact = rng.integers(0, 256, batch.shape, np.uint8), explainer.classify(batch)
        for method, score in scores(explainer, composites, batch, rng).items():
            order = np.argsort(-score, axis=1, kind='stable')
            parts.setdefault((method, 'most'), []).append(curve(explainer, batch, intact, order, noise, steps))
            if method != 'random':
                parts.setdefault((method, 'least'), []).append(curve(explainer, batch, intact, order[:, ::-1], noise, steps))
        done += len(batch)
        bar.update(done)
    return {key: np.concatenate(curves, 1) for key, curves in parts.items()}


def draw(results, composites):
    """The mean logit against the number of replaced regions, most relevant first beside least relevant first."""
    figure = Figure(figsize=(13, 5), layout='constrained')
    for axes, which in zip(figure.subplots(1, 2, sharey=True), ('most', 'least')):
        for i, method in enumerate(composites + ['gradient x input', 'random']):
            logits = results.get((method, which), results[method, 'most'])
            style = '-' if method in composites else ':' if method == 'random' else '--'
            colour = matplotlib.colormaps['tab20'](i) if method in composites else 'black'
            axes.plot(REGIONS_PER_STEP * np.arange(len(logits)), logits.mean(1), style, color=colour, label=method)
        axes.set(xlabel=f'regions of 196 replaced by noise, {which} relevant first', ylabel='mean logit of the class first seen')
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside right upper')
    return figure


def table(results):
    """A line per method, the largest AOPC first."""
    lines = [f'{"AOPC":>20} {"most relevant first":>20} {"least relevant first":>21}']
    methods = sorted({method for method, _ in results}, key=lambda method: -aopc(results[method, 'most']))
    for method in methods:
        least = f'{aopc(results[method, "least"]):21.3f}' if (method, 'least') in results else ''
        lines.append(f'{method:>20} {aopc(results[method, "most"]):20.3f} {least}')
    return '\n'.join(lines)


def evaluate(args):
    """Does what the command line asks. Returns a line for each picture that could not be read."""
    check_writable(args.results)
    paths = find(args.image)
    explainer = open_explainer(args.rule, paths, args.weights, args.model, args.preprocessing, args.precision)
    if min(explainer.network.size[:2]) < GRID:
        raise ValueError(f'pictures of {explainer.network.size[:2]} pixels have no {GRID}x{GRID} regions')
    images, broken = read_pictures(paths, explainer.network.size)
    if not images:
        return broken
    results = measure(explainer, args.rule, images, args.batch_size, args.steps, np.random.default_rng(args.seed))
    write(args.results / 'flipping.png', lambda path: draw(results, args.rule).savefig(path, dpi=100))
    print(f'{len(images)} pictures, {args.steps} steps of {REGIONS_PER_STEP} of {GRID * GRID} regions, seed {args.seed}')
    print(table(results))
    write(args.results / 'flipping.txt', lambda path: path.write_text(table(results) + '\n'))
    print(f'wrote {args.results / "flipping.png"} and {args.results / "flipping.txt"}')
    return broken


def parse(argv):
    parser = Parser(__doc__)
    add_network_options(parser, COMPOSITES, list(COMPOSITES))
    parser.add_argument('--steps', type=count, default=6, metavar='N', help='of five regions each, up to 39 (default: 6)')
    parser.add_argument('--seed', type=seed, default=0, help='draws the noise and the random order (default: 0)')
    args = parser.parse_intermixed_args(argv)
    args.rule = once(args.rule)
    if args.steps * REGIONS_PER_STEP > GRID * GRID:
        parser.error(f'--steps {args.steps}: a picture has regions for {GRID * GRID // REGIONS_PER_STEP}')
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
