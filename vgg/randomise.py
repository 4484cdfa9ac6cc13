"""Does a heatmap depend on what the network learned? Cascading randomisation (Adebayo et al. 2018; for LRP: Sixt et al. 2020).

    python vgg/randomise.py vgg/images --weights caltech101 --precision bfloat16

Permutes the weights of the layers one after the other, from the logits down to the pixels, and explains the pictures anew at each
stage, always for the class that the intact network saw. A rule whose heatmaps look the same when the upper layers are random does
not show what they learned. Writes to results/randomise.txt, for each stage and rule, the Spearman correlation with the intact
network's heatmaps (mean over the pictures, relevance taken as a share of the logit), and draws it in results/randomise.png, above
the first picture's heatmaps.
Took 6 min 30 s for the 24 photographs and the five default rules on 2 cores.
"""
from functools import partial

from matplotlib.figure import Figure
import numpy as np

from script import Parser, check_writable, once, progress_bar, seed, write
from lrp import COMPOSITES, open_explainer
from pictures import colour, find
from pipeline import add_network_options, batches, read_pictures

RULES = ['deep-taylor', 'alpha2beta1', 'epsilon-plus', 'epsilon-gamma-box', 'epsilon']


def spearman(x, y):
    """Spearman's rank correlation of two arrays of the same size, in [-1, 1]; 0 where one of them is constant."""
    x, y = (ranks(values) - ranks(values).mean() for values in (x, y))
    return float((x * y).sum() / (np.sqrt((x * x).sum() * (y * y).sum()) or 1))


def ranks(values):
    """The rank of each value; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()]


def permuted(kernel, rng):
    """The kernel with its weights permuted within each output unit, so that each keeps the sum of its weights and its bias: else
    whole layers fall silent and there is nothing to explain. Two logits -z and z stay that."""
    units = kernel.reshape(-1, kernel.shape[-1])
    if units.shape[1] == 2 and (units[:, 0] == -units[:, 1]).all():
        return rng.permuted(units[:, 1]).reshape(*kernel.shape[:-1], 1) * np.array([-1, 1], kernel.dtype)
    return rng.permuted(units, axis=0).reshape(kernel.shape)


def heatmaps(explainer, composites, images, targets, batch_size):
    """Relevance as a share of the logit, {composite: [n, h, w]}, and the targets [n] (given, or if None the class seen)."""
    targets = [-1] * len(images) if targets is None else targets
    parts, seen = [], []
    for batch in batches(zip(images, targets), batch_size):
        results = explainer(np.stack([image for image, _ in batch]), [target for _, target in batch])
        logits = np.take_along_axis(results['logits'], results['targets'][:, None], 1)[:, :, None]
        parts.append([results[f'relevance/{composite}'].sum(-1) / logits for composite in composites])
        seen += list(results['targets'])
    return dict(zip(composites, (np.concatenate(maps) for maps in zip(*parts)))), seen


def cascade(explainer, composites, images, batch_size, rng):
    """Explains the images at each stage. Returns {stage: {composite: (correlation [n], first image's heatmap)}}, intact first."""
    names = list(reversed(explainer.variables))
    intact, targets = heatmaps(explainer, composites, images, None, batch_size)
    stages = {'intact': {composite: (np.ones(len(images)), r[0]) for composite, r in intact.items()}}
    bar = progress_bar(len(names), 'layer')
    for i, name in enumerate(names, 1):
        explainer.replace(name, partial(permuted, rng=rng))
        maps, _ = heatmaps(explainer, composites, images, targets, batch_size)
        stages[name] = {composite: (np.array([spearman(*pair) for pair in zip(intact[composite], r)]), r[0])
                        for composite, r in maps.items()}
        bar.update(i)
    return stages


def draw(stages, composites):
    """The correlations by stage, and below them the first image's heatmaps, a row for each composite."""
    figure = Figure(figsize=(1.15 * len(stages), 4 + 1.35 * len(composites)), layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[3.6, 1.35 * len(composites)])
    axes = upper.subplots()
    for composite in composites:
        axes.plot([stage[composite][0].mean() for stage in stages.values()], marker='o', label=composite)
    axes.set(xticks=range(len(stages)), ylabel='Spearman correlation with intact', xlim=(-0.5, len(stages) - 0.5))
    axes.set_xticklabels(stages, rotation=30, ha='right')
    axes.grid(alpha=0.3)
    axes.legend()
    grid = lower.subplots(len(composites), len(stages), squeeze=False)
    for row, composite in zip(grid, composites):
        for cell, (name, stage) in zip(row, stages.items()):
            cell.imshow(colour(stage[composite][1], (224, 224), 'seismic'))
            cell.set(xticks=[], yticks=[])
            if row is grid[0]:
                cell.set_title(name.replace('_', '\n'), fontsize=8)
        row[0].set_ylabel(composite, fontsize=8)
    return figure


def table(stages, composites):
    """A line per stage: the mean correlation of each composite."""
    lines = [f'{"layers random down to":>22} ' + ' '.join(f'{composite:>18}' for composite in composites)]
    for name, stage in stages.items():
        lines.append(f'{name:>22} ' + ' '.join(f'{stage[composite][0].mean():18.3f}' for composite in composites))
    return '\n'.join(lines)


def evaluate(args):
    """Does what the command line asks. Returns a line for each picture that could not be read."""
    check_writable(args.results)
    paths = find(args.image)
    explainer = open_explainer(args.rule, paths, args.weights, args.model, args.preprocessing, args.precision)
    images, broken = read_pictures(paths, explainer.network.size)
    if not images:
        return broken
    stages = cascade(explainer, args.rule, images, args.batch_size, np.random.default_rng(args.seed))
    write(args.results / 'randomise.png', lambda path: draw(stages, args.rule).savefig(path, dpi=80))
    print(f'{len(images)} pictures, seed {args.seed}')
    print(table(stages, args.rule))
    write(args.results / 'randomise.txt', lambda path: path.write_text(table(stages, args.rule) + '\n'))
    print(f'wrote {args.results / "randomise.png"} and {args.results / "randomise.txt"}')
    return broken


def parse(argv):
    parser = Parser(__doc__)
    add_network_options(parser, COMPOSITES, RULES)
    parser.add_argument('--seed', type=seed, default=0, help='draws the permutations (default: 0)')
    args = parser.parse_intermixed_args(argv)
    args.rule = once(args.rule)
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
