"""Does a heatmap depend on what the network learned? Cascading randomisation (Adebayo et al. 2018;
for LRP: Sixt et al. 2020).

    python vgg/randomise.py vgg/images --weights caltech101 --precision bfloat16

Makes the weights of the layers random one after the other, from the logits down to the pixels, and
explains the pictures anew at each stage, always for the class that the intact network saw. A rule
whose heatmaps look the same when the upper layers are random does not show what they learned.

--mode permute (default) permutes the weights within each unit, which keeps its bias and the sum of
its weights, so that no layer becomes silent; --mode redraw initialises them again, as the papers
do: from the normal distribution of He et al. (2015), biases zero. Both are repeated --draws times.

Spearman's rank correlation with the intact network's heatmaps is given twice: of relevance as a
share of what it started from, and of its absolute values. Each cell: the mean over pictures and
draws, its 95% bootstrap interval over pictures, and the lowest and highest draw. Writes the tables
to results/randomise.txt and draws them in results/randomise.png, above the first picture's heatmaps
at every stage.
"""
from pathlib import Path
import sys

from matplotlib.figure import Figure
import numpy as np

if __name__ == '__main__':  # PYTHONSAFEPATH keeps Python from looking beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from chance import generator, mean_and_interval, spearman
from common import Parser, count, once, progress_bar, seed, write_report
from draw import HEIGHT, colour
from evaluate import batches, open_evaluation
from run import add_network_options

RULES = ['deep-taylor', 'alpha2beta1', 'epsilon-plus', 'epsilon-gamma-box', 'epsilon']
KINDS = ['as it is', 'absolute']  # of correlation


def randomised(kernel, bias, mode, rng):
    """Kernel and bias made random. Two logits -z and z stay that."""
    units = kernel.reshape(-1, kernel.shape[-1])
    mirrored = units.shape[1] == 2 and (units[:, 0] == -units[:, 1]).all()
    if mirrored:
        units = units[:, 1:]
    if mode == 'permute':
        units = rng.permuted(units, axis=0)
    else:
        units, bias = rng.normal(0, np.sqrt(2 / len(units)),
                                 units.shape).astype(kernel.dtype), np.zeros_like(bias)
    return (np.concatenate([-units, units], 1) if mirrored else units).reshape(kernel.shape), bias


def heatmaps(explainer, composites, images, targets, batch_size):
    """Relevance as a share of what it started from: {composite: [n, h, w]}; and the targets [n].

    targets: None for the classes that the network sees.
    """
    targets = [-1] * len(images) if targets is None else targets
    parts, seen = [], []
    for batch in batches(zip(images, targets), batch_size):
        results = explainer(np.stack([image for image, _ in batch]),
                            [target for _, target in batch])
        starts = {rule: values[:, :1, None] for rule, values in results.started.items()}
        parts.append([results.relevance[rule].sum(-1) / np.where(starts[rule], starts[rule], 1)
                      for rule in composites])
        seen += list(results.targets)
    return dict(zip(composites, (np.concatenate(maps) for maps in zip(*parts)))), seen


def cascade(explainer, composites, images, batch_size, mode, draws, seed):
    """Explains the images at each stage, for each draw; leaves the network as it was.

    Returns {stage: {composite: correlations [2, draws, n], as they are and absolute}}, intact
    first, and the first image's heatmaps of the first draw {stage: {composite: [h, w]}}.
    """
    names = list(reversed(explainer.variables))
    intact, targets = heatmaps(explainer, composites, images, None, batch_size)
    found = {stage: {composite: np.ones([2, draws, len(images)]) for composite in composites}
             for stage in ['intact'] + names}
    shown, kept = {'intact': {composite: r[0] for composite, r in intact.items()}}, {}
    bar = progress_bar(draws * len(names), 'layer')
    for draw in range(draws):
        for i, name in enumerate(names, 1):
            kept[name] = explainer.read(name)
            rng = generator(seed, mode, draw, name)
            explainer.replace(name, *randomised(*kept[name], mode, rng))
            maps, _ = heatmaps(explainer, composites, images, targets, batch_size)
            for composite, r in maps.items():
                pairs = list(zip(intact[composite], r))
                found[name][composite][0, draw] = [spearman(x, y) for x, y in pairs]
                found[name][composite][1, draw] = [spearman(np.abs(x), np.abs(y))
                                                   for x, y in pairs]
            if draw == 0:
                shown[name] = {composite: r[0] for composite, r in maps.items()}
            bar.update(draw * len(names) + i)
        for name in names:
            explainer.replace(name, *kept.pop(name))
    return found, shown


def draw(found, shown, composites):
    """Both correlations by stage, with the range of the draws, above the first image's heatmaps."""
    figure = Figure(figsize=(1.15 * len(found), 4 + 1.35 * len(composites)), dpi=80,
                    layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[3.8, 1.35 * len(composites)])
    for k, axes in enumerate(upper.subplots(1, 2, sharey=True)):
        for composite in composites:
            by_draw = np.array([stage[composite][k].mean(-1) for stage in found.values()])
            line, = axes.plot(by_draw.mean(1), marker='o', label=composite)
            axes.fill_between(range(len(found)), by_draw.min(1), by_draw.max(1),
                              color=line.get_color(), alpha=0.2)
        axes.set(xticks=range(len(found)), xlim=(-0.5, len(found) - 0.5),
                 title=f'Spearman correlation with intact, {KINDS[k]}')
        axes.set_xticklabels(found, rotation=45, ha='right')
        axes.grid(alpha=0.3)
    axes.legend()
    grid = lower.subplots(len(composites), len(found), squeeze=False)
    for i, (row, composite) in enumerate(zip(grid, composites)):
        for cell, (name, maps) in zip(row, shown.items()):
            height, width = maps[composite].shape
            cell.imshow(colour(maps[composite], (round(HEIGHT * width / height), HEIGHT)))
            cell.set(xticks=[], yticks=[])
            if i == 0:
                cell.set_title(name.replace('_', '\n'), fontsize=8)
        row[0].set_ylabel(composite, fontsize=8)
    return figure


def table(found, composites):
    """Two tables, as they are and absolute: a line for each stage, a column for each composite."""
    lines = []
    for k, kind in enumerate(KINDS):
        title = f'{kind}, random down to'
        lines.append(f'{title:>25} ' + ' '.join(f'{composite:>31}' for composite in composites))
        for name, stage in found.items():
            cells = (f'{cell(stage[composite][k]):>31}' for composite in composites)
            lines.append(f'{name:>25} ' + ' '.join(cells))
    return '\n'.join(lines)


def cell(values):
    """'0.43 [0.38, 0.48] 0.30..0.55' of correlations [draws, n]."""
    by_draw = values.mean(1)
    return f'{mean_and_interval(values.mean(0))} {by_draw.min():.2f}..{by_draw.max():.2f}'


def evaluate(args):
    """Measures and reports. Returns a line for each picture that could not be read."""
    explainer, images, failed = open_evaluation(args, 'randomise')
    if images:
        found, shown = cascade(explainer, args.rule, images, args.batch_size, args.mode,
                               args.draws, args.seed)
        title = f'{len(images)} pictures, --mode {args.mode}, {args.draws} draws, seed {args.seed}'
        write_report(args.results, 'randomise', draw(found, shown, args.rule), title,
                     table(found, args.rule))
    return failed


def parse(argv):
    parser = Parser(__doc__)
    *_, how = add_network_options(parser, RULES)
    how.add_argument('--mode', choices=['permute', 'redraw'], default='permute',
                     help='how weights become random (default: permute)')
    how.add_argument('--draws', type=count, default=3, metavar='N', help='how often (default: 3)')
    how.add_argument('--seed', type=seed, default=0, help='what is drawn (default: 0)')
    args = parser.parse_intermixed_args(argv)
    args.rule = once(args.rule)
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
