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
share of what it started from, and of its absolute values. It cannot rank rules, for noise changes
most of all (Binder et al. 2023). So a third table gives the rise in entropy of the heatmap's
histogram (efficient MPRT, Hedstroem et al. 2024): a heatmap that shows what was learned becomes
less orderly without it. Each cell: the mean over pictures and draws, its 95% bootstrap interval
over pictures, and the lowest and highest draw. Writes the tables to results/randomise.txt and draws
them in results/randomise.png, above the first picture's heatmaps.
"""
from pathlib import Path

from matplotlib.figure import Figure
import numpy as np

from evaluation.measures import generator, mean_and_interval, spearman
from common import Parser, count, once, progress_bar, seed, write_report
from heatmaps import HEIGHT, colour
from evaluation.shared import batches, open_evaluation
from heatmaps import add_key
from run import add_network_options

RULES = ['deep-taylor', 'alpha2beta1', 'epsilon-plus', 'epsilon-gamma-box', 'epsilon']
KINDS = ['correlation', 'correlation of absolute values', 'rise in entropy']  # with intact
BINS = 100  # of the histogram whose entropy is taken
STAGES = 7  # drawn


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


def entropy(r):
    """The entropy, in nats, of the histogram of a heatmap's values between plus and minus its
    largest."""
    largest = np.abs(r).max() or 1.0
    shares = np.histogram(r, BINS, (-largest, largest))[0] / r.size
    return -(shares * np.log(np.maximum(shares, 1e-30))).sum()


def compared(one, other):
    """What KINDS says of a heatmap and another."""
    return (spearman(one, other), spearman(np.abs(one), np.abs(other)),
            entropy(other) - entropy(one))


def cascade(explainer, composites, images, batch_size, mode, draws, seed):
    """Explains the images at each stage, for each draw; leaves the network as it was.

    Returns {stage: {composite: [3, draws, n], as KINDS says}}, intact first, and the first image's
    heatmaps of the first draw {stage: {composite: [h, w]}}.
    """
    names = list(reversed(explainer.variables))
    intact, targets = heatmaps(explainer, composites, images, None, batch_size)
    found = {stage: {composite: np.ones([len(KINDS), draws, len(images)])
                     for composite in composites} for stage in ['intact'] + names}
    for composite in composites:
        found['intact'][composite][2] = 0
    shown, kept = {'intact': {composite: r[0] for composite, r in intact.items()}}, {}
    bar = progress_bar(draws * len(names), 'layer')
    for draw in range(draws):
        for i, name in enumerate(names, 1):
            kept[name] = explainer.read(name)
            rng = generator(seed, mode, draw, name)
            explainer.replace(name, *randomised(*kept[name], mode, rng))
            maps, _ = heatmaps(explainer, composites, images, targets, batch_size)
            for composite, r in maps.items():
                found[name][composite][:, draw] = np.transpose(
                    list(map(compared, intact[composite], r)))
            if draw == 0:
                shown[name] = {composite: r[0] for composite, r in maps.items()}
            bar.update(draw * len(names) + i)
        for name in names:
            explainer.replace(name, *kept.pop(name))
    return found, shown


def draw(found, shown, composites):
    """What KINDS says by stage, with the range of the draws, above the first image's heatmaps."""
    names = list(shown)
    chosen = once(names[i] for i in np.linspace(0, len(names) - 1, STAGES).round().astype(int))
    figure = Figure(figsize=(12, 4.6 + 1.7 * len(composites)), dpi=100, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[4.6, 1.7 * len(composites)])
    for k, axes in enumerate(upper.subplots(1, len(KINDS))):
        for composite in composites:
            by_draw = np.array([stage[composite][k].mean(-1) for stage in found.values()])
            line, = axes.plot(by_draw.mean(1), marker='o', markersize=3, label=composite)
            axes.fill_between(range(len(found)), by_draw.min(1), by_draw.max(1),
                              color=line.get_color(), alpha=0.2)
        axes.set(xticks=[names.index(name) for name in chosen], title=KINDS[k])
        axes.set_xticklabels(chosen, rotation=35, ha='right', fontsize=8)
        axes.grid(alpha=0.3)
    upper.suptitle('all layers from the logits down to this one random; bands: the range of draws')
    upper.legend(*axes.get_legend_handles_labels(), loc='outside lower center',
                 ncols=len(composites))
    grid = lower.subplots(len(composites), len(chosen), squeeze=False)
    for i, (row, composite) in enumerate(zip(grid, composites)):
        for axes, name in zip(row, chosen):
            height, width = shown[name][composite].shape
            size = round(HEIGHT * width / height), HEIGHT
            axes.imshow(colour(shown[name][composite], size))
            axes.set(xticks=[], yticks=[])
            axes.set_title(name if i == 0 else '', fontsize=9)
        row[0].set_ylabel(composite, fontsize=9)
    add_key(lower, grid)
    return figure


def table(found, composites):
    """A table for each of KINDS: a line for each stage, a column for each composite."""
    lines = []
    for k, kind in enumerate(KINDS):
        heads = ' '.join(f'{composite:>31}' for composite in composites)
        lines += [kind, f'{"random down to":>25} {heads}']
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
    explainer, pictures, failed = open_evaluation(args, 'randomise')
    images = [picture.seen for picture in pictures]
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
