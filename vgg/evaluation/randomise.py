"""Does the heatmap depend on what the network learned? Cascading randomisation (Adebayo et al.
2018; for LRP: Sixt et al. 2020).

    python vgg/evaluate.py randomise vgg/images --weights caltech101 --precision bfloat16

Makes the weights of the layers random one after the other, from the logits down to the pixels, and
explains the pictures anew at each stage, always for the class that the intact network saw. Adebayo
et al. draw new weights. Here those of each unit are permuted, which keeps its bias and their sum,
so that no layer becomes silent.

Spearman's rank correlation with the intact network's heatmaps is given twice: of relevance as a
share of what it started from, and of its absolute values. It cannot rank rules, for noise changes
most of all (Binder et al. 2023). So a third table gives the rise in entropy of the heatmap's
histogram, divided by its first entropy (efficient MPRT, Hedström et al. 2024, who compare the
intact with the wholly random network). Each cell: the mean over pictures and draws, its 95%
bootstrap interval over pictures, and the lowest and highest draw.
"""
import itertools

from matplotlib.figure import Figure
import numpy as np

from common import count, progress_bar, seed
from evaluation.measures import (
    batches, estimate, generator, in_words, joined, panels, table)
from heatmaps import colour
from pictures import HEIGHT

RULES = ['deep-taylor', 'alpha2beta1', 'epsilon-plus', 'epsilon-gamma-box', 'epsilon']
GRADIENT = False
KINDS = ['correlation', 'correlation of absolute values', 'relative rise in entropy']
BINS = 100  # of the histogram whose entropy is taken
STAGES = 7  # drawn


def add_options(group):
    group.add_argument('--draws', type=count, default=3, metavar='N', help='how often (default: 3)')
    group.add_argument('--seed', type=seed, default=0, help='what is drawn (default: 0)')


def permuted(kernel, rng):
    """The kernel [..., units] with the weights of each unit permuted."""
    return rng.permuted(kernel.reshape(-1, kernel.shape[-1]), axis=0).reshape(kernel.shape)


def stages(explainer, draw, seed):
    """Makes layer after layer random, from the logits down, and yields the name of each. Leaves the
    network as it was."""
    kept = {}
    for name in reversed(explainer.variables):
        kept[name] = explainer.read(name)
        kernel, bias = kept[name]
        explainer.replace(name, permuted(kernel, generator(seed, 'permute', draw, name)), bias)
        yield name
    for name, weights in kept.items():
        explainer.replace(name, *weights)


def heatmaps(explainer, images, targets, batch_size):
    """Relevance as a share of what it started from: {rule: [n, h, w]}."""
    parts = []
    for numbers in batches(np.arange(len(images)), batch_size):
        found, shares = explainer(images[numbers], targets[numbers]), {}
        for rule, r in found.relevance.items():
            start = found.started[rule][:, None, None]
            shares[rule] = r.sum(-1) / np.where(start, start, 1)
        parts.append(shares)
    return joined(parts)


def spearman(x, y):
    """Spearman's rank correlation of two arrays of one size, in [-1, 1]; 0 if one is constant."""
    x, y = ranks(x), ranks(y)
    return (x * y).sum() / (np.sqrt((x * x).sum() * (y * y).sum()) or 1)


def ranks(values):
    """The rank of each value minus the mean rank; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()] - (values.size + 1) / 2


def entropy(r):
    """The entropy, in nats, of the histogram of a heatmap's values between plus and minus its
    largest."""
    largest = np.abs(r).max() or 1.0
    shares = np.histogram(r, BINS, (-largest, largest))[0] / r.size
    return -(shares * np.log(np.maximum(shares, 1e-30))).sum()


def compared(one, other):
    """What KINDS says of a heatmap of the intact network and another."""
    before = entropy(one)
    return (spearman(one, other), spearman(np.abs(one), np.abs(other)),
            (entropy(other) - before) / (before or np.nan))


def cascade(explainer, images, batch_size, draws, seed):
    """Explains the images [n, h, w, channels] at each stage, for each draw.

    Returns {stage: {rule: [draws, n, 3], as KINDS says}}, intact first, and the first image's
    heatmaps of the first draw {stage: {rule: [h, w]}}.
    """
    targets = np.concatenate([explainer.classify(batch).argmax(1)
                              for batch in batches(images, batch_size)])
    intact, found, shown = None, {}, {}
    bar = progress_bar(1 + draws * len(explainer.variables), 'stage')
    for name in itertools.chain(['intact'], *(stages(explainer, i, seed) for i in range(draws))):
        maps = heatmaps(explainer, images, targets, batch_size)
        intact = intact or maps
        shown.setdefault(name, {rule: r[0] for rule, r in maps.items()})
        for rule, r in maps.items():
            pairs = [compared(*pair) for pair in zip(intact[rule], r)]
            found.setdefault(name, {}).setdefault(rule, []).append(pairs)
        bar.add(1)
    return {name: {rule: np.array(each) for rule, each in rules.items()}
            for name, rules in found.items()}, shown


def draw(found, shown):
    """What KINDS says by stage, with the range of the draws, above the first image's heatmaps."""
    names, rules = list(found), list(found['intact'])
    figure = Figure(figsize=(12, 4.6 + 1.7 * len(rules)), dpi=100, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[4.6, 1.7 * len(rules)])
    chosen = np.unique(np.linspace(0, len(names) - 1, STAGES).round().astype(int))
    for k, axes in enumerate(upper.subplots(1, len(KINDS))):
        for rule in rules:
            draws = [stage[rule][..., k].mean(-1) for stage in found.values()]
            line, = axes.plot(list(map(np.mean, draws)), marker='o', markersize=3, label=rule)
            axes.fill_between(range(len(names)), list(map(min, draws)), list(map(max, draws)),
                              color=line.get_color(), alpha=0.2)
        axes.set(xticks=chosen, title=KINDS[k])
        axes.set_xticklabels([names[i] for i in chosen], rotation=35, ha='right', fontsize=8)
        axes.grid(alpha=0.3)
    upper.suptitle('all layers from the logits down to this one random; bands: lowest to highest '
                   f'of {len(found[names[-1]][rules[0]])} draws')
    upper.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=len(rules))
    height, width = shown['intact'][rules[0]].shape
    size = round(HEIGHT * width / height), HEIGHT
    rows = [(rule, [colour(shown[names[i]][rule], size) for i in chosen]) for rule in rules]
    panels(lower, [names[i] for i in chosen], rows)
    return figure


def cell(values):
    """'0.43 [0.38, 0.48] 0.30..0.55' of values [draws, n]."""
    by_draw = values.mean(1)
    return f'{in_words(estimate(values.mean(0)))} {by_draw.min():.2f}..{by_draw.max():.2f}'


def report(found):
    """A table for each of KINDS: a line for each stage, a column for each rule."""
    lines = []
    for k, kind in enumerate(KINDS):
        columns = {rule: {name: cell(stage[rule][..., k]) for name, stage in found.items()}
                   for rule in found['intact']}
        lines += [kind, table('random down to', list(found), columns)]
    return '\n'.join(lines)


def measure(explainer, pictures, args):
    """The experiment. Returns a figure, a title and a table."""
    images = np.stack([picture.seen for picture in pictures])
    found, shown = cascade(explainer, images, args.batch_size, args.draws, args.seed)
    title = f'{len(images)} pictures, {args.draws} draws, seed {args.seed}'
    return draw(found, shown), title, report(found)
