"""Does the class hang on the picture's frame? A heatmap asks, a pair of scissors answers: the search for a Clever Hans (Lapuschkin et
al. 2019), a network that is right for a reason that has nothing to do with the class.

    python vgg/frame.py vgg/images/leopard.jpg vgg/images/motorbike.jpg --others vgg/images --weights caltech101

For each picture: which share of what speaks for its class lies on the frame, the outermost pixels (--margin, 12 of VGG's 224)? Then the
frame is cut off, the rest enlarged, and the class explained again; and the frame is painted over in the mean colour of what is
inside, for a class may also lose by being enlarged. A class that hangs on its frame loses more by both than those of other pictures
do (--others: their mean, with a 95 % interval, bootstrap). Beside the rules stands the share of the picture's edges that lies on
the frame, a map that knows of no class. How well each of these shares foretells what share of the logit is lost is given as a rank
correlation over all pictures with a positive logit.

And the other way round: each frame is laid around the others, made smaller, and once more a plain frame instead, in the mean colour of
their own outermost pixels: how much does the logit of the framed picture's class rise by either, in pictures of something else?

Writes the tables to results/frame.txt, and to results/frame.png the first pictures before and after with the heatmaps of the first
rule, beside what all others lose.
"""
from pathlib import Path
import sys

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np

if __name__ == '__main__':  # PYTHONSAFEPATH keeps Python from looking beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from script import Parser, check_spared, count, interval, mean_and_interval, once, progress_bar, spearman, write_report
from lrp import COMPOSITES, open_evaluation
from pictures import colour, edge_strength, find, resized, share_within
from pipeline import add_network_options, batches, inputs, read_pictures
from weights import class_names

RULES = ['epsilon-gamma-box', 'deep-taylor']
EDGES = 'edges'  # what stands beside the rules
DRAWN = 8  # pictures, at most


def cut(image, margin):
    """The image without its frame, enlarged to the size it had."""
    return resized(image[margin:-margin, margin:-margin], *image.shape[:2])


def painted(image, margin):
    """The image with its frame in the mean colour of what is inside."""
    place = frame_of(image.shape, margin)
    return np.where(place[..., None], np.uint8(np.rint(image[~place].mean(0))), image)


def frame_of(shape, margin):
    """Where the frame of an image of this shape is: [h, w], True or False."""
    inside = np.zeros(shape[:2], bool)
    inside[margin:-margin, margin:-margin] = True
    return ~inside


def framed(image, frame, margin):
    """The image, made smaller, within a frame: that of another image, or a colour."""
    result = np.empty_like(image)
    result[:] = frame
    height, width = image.shape[:2]
    result[margin:-margin, margin:-margin] = resized(image, height - 2 * margin, width - 2 * margin)
    return result


def on_frame(r, margin, height):
    """The share of the positive relevance r [h, w] that lies on the frame of an image of this height; maps may be smaller."""
    return share_within(r, frame_of(r.shape, max(1, round(margin * len(r) / height))))


def explained(explainer, rules, images, margin, batch_size):
    """Explains for each image the class that the network sees in it, before and after its frame is cut off.

    Returns {'targets': [n], 'logits': [n, 3], the last with the frame painted over, 'maps': [DRAWN, 2, h, w], of the first rule,
    'shares': {rule or 'edges': [n, 2]}}. Raises ValueError if a number in them is not finite.
    """
    parts, bar, done, height = [], progress_bar(len(images), 'picture'), 0, images[0].shape[0]
    for batch in batches(images, batch_size):
        pairs = [np.stack(batch), np.stack([cut(image, margin) for image in batch])]
        before = explainer(pairs[0], [-1] * len(batch))
        results = [before, explainer(pairs[1], before['targets'])]
        targets, maps = before['targets'], {rule: [r[f'relevance/{rule}'].sum(-1) for r in results] for rule in rules}
        maps[EDGES] = [np.stack([edge_strength(image) for image in images]) for images in pairs]
        logits = [r['logits'] for r in results] + [explainer.classify(np.stack([painted(image, margin) for image in batch]))]
        parts.append({'targets': targets, 'logits': np.stack([each[np.arange(len(batch)), targets] for each in logits], 1),
                      'maps': np.stack(maps[rules[0]], 1)[:max(0, DRAWN - done)],
                      **{name: np.array([[on_frame(r, margin, height) for r in each] for each in zip(*pair)]) for name, pair in maps.items()}})
        if not all(np.isfinite(values).all() for values in (*logits, *(r for pair in maps.values() for r in pair))):
            raise ValueError('logits or relevance are not finite: the weights are too large for this precision')
        done += len(batch)
        bar.update(done)
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return {**{key: whole.pop(key) for key in ('targets', 'logits', 'maps')}, 'shares': whole}


def around(explainer, image, target, others, margin, batch_size):
    """What a target's logit gains in each other image by the frame of the image, and by a plain one, in the mean colour of the other's own
    outermost pixels: [n], [n]."""
    def logits(changed):
        return np.concatenate([explainer.classify(np.stack(batch))[:, target] for batch in batches(changed, batch_size)])
    place, before = frame_of(image.shape, margin), logits(others)
    plain = logits(framed(other, np.uint8(np.rint(other[place].mean(0))), margin) for other in others)
    return logits(framed(other, image, margin) for other in others) - before, plain - before


def rank_correlation(x, y):
    """Spearman's, of the pairs of x [n] and y [n] that are finite, and its 95 % interval over the pairs (bootstrap)."""
    x, y = np.stack([x, y])[:, np.isfinite(x) & np.isfinite(y)]
    drawn = np.random.default_rng(0).integers(0, len(x), (2000, len(x)))
    return spearman(x, y), *interval(np.array([spearman(x[i], y[i]) for i in drawn]))


def losses(logits):
    """What logits [n, 3] lose when the frame is cut off, and when it is painted over."""
    return {'lost if cut': logits[:, 0] - logits[:, 1], 'lost if painted': logits[:, 0] - logits[:, 2]}


def table(names, found, classes, others, gains):
    """What each picture has on its frame and loses with it, and the others; what foretells it; and what frames do to others."""
    shares, logits, lost = {name: values[:, 0] for name, values in found['shares'].items()}, found['logits'][:, 0], losses(found['logits'])
    columns = {'logit': logits, **lost, **shares}
    first = max(map(len, [*names, f'mean of {len(others)} others']))
    lines = [' ' * first + ''.join(f' {name:>20}' for name in columns)]
    lines += [f'{name:{first}}' + ''.join(f' {values[i]:20.2f}' for values in columns.values()) for i, name in enumerate(names)]
    if len(others):
        known = [values[others][np.isfinite(values[others])] for values in columns.values()]
        lines.append(f'{f"mean of {len(others)} others":{first}}'
                     + ''.join(f' {mean_and_interval(values) if len(values) else "-":>20}' for values in known))
        lines.append(f'{"their largest":{first}}' + ''.join(f' {values.max(initial=-np.inf):20.2f}' for values in known))
    seen = logits > 0
    for what, loss in lost.items() if seen.sum() > 2 else ():
        cells = ['{} {:.2f} [{:.2f}, {:.2f}]'.format(name, *rank_correlation(values[seen], loss[seen] / logits[seen]))
                 for name, values in shares.items()]
        lines.append(f'rank correlation over {seen.sum()} pictures with a positive logit, share on the frame with share of the logit {what}: '
                     + ', '.join(cells))
    for i, (own, plain) in gains.items():
        lines.append(f'the frame of {names[i]} around {len(own)} others: the logit of {classes[found["targets"][i]]} gains '
                     f'{mean_and_interval(own)}, by a plain one, in the colour of their own rim, {mean_and_interval(plain)}, difference '
                     f'{mean_and_interval(own - plain)}')
    return '\n'.join(lines)


def draw(images, found, classes, rule, margin, others):
    """Each picture and its heatmap before and after the cut, and beside them all pictures: what is on the frame against what is lost."""
    n = len(images)
    figure = Figure(figsize=(12.6 if len(others) else 9.2, 2.7 * n + 0.2), dpi=90, layout='constrained')
    left, *right = figure.subfigures(1, 2, width_ratios=[9, 3.4]) if len(others) else [figure]
    for i, (image, row) in enumerate(zip(images, left.subplots(n, 4, squeeze=False))):
        pair, name = [image, cut(image, margin)], classes[found['targets'][i]]
        for k, what in enumerate((f'{name}: logit', 'frame cut off:')):
            share, height = found['shares'][rule][i, k], image.shape[0]
            row[2 * k].imshow(pair[k].squeeze(), cmap='gray')
            row[2 * k].set_title(f'{what} {found["logits"][i, k]:.1f}', fontsize=11, parse_math=False)
            row[2 * k + 1].imshow(colour(found['maps'][i, k], image.shape[1::-1], 'seismic'))
            row[2 * k + 1].set_title(f'{share:.0%} on the frame' if k == 0 else f'{share:.0%} on its outer pixels', fontsize=11)
            corner, sides = (margin - 0.5, margin - 0.5), (image.shape[1] - 2 * margin, height - 2 * margin)
            inside = Rectangle(corner, *sides, fill=False, linestyle=':', color='black')
            row[2 * k + 1].add_patch(inside)
        for axes in row:
            axes.set(xticks=[], yticks=[])
    for part in right:
        axes, share, lost = part.subplots(), found['shares'][rule][:, 0], losses(found['logits'])['lost if cut']
        axes.scatter(100 * share[others], lost[others], color='#888888', s=18, label='others')
        axes.scatter(100 * share[:n], lost[:n], color='#aa3377', s=40, marker='D')
        for i in range(n):
            axes.annotate(classes[found['targets'][i]], (100 * share[i], lost[i]), (0, 7), textcoords='offset points', ha='center',
                          fontsize=11, parse_math=False)
        axes.set(xlabel=f'% of positive relevance on the frame\n({rule})', ylabel='logit lost when the frame is cut off')
        axes.margins(0.15)
        axes.legend(loc='lower right')
        axes.spines[['top', 'right']].set_visible(False)
    return figure


def evaluate(args):
    """Does what the command line asks. Returns a line for each picture that could not be read."""
    paths, missing = find(args.others) if args.others else ([], [])
    check_spared(args.results, ['frame.png', 'frame.txt'], inputs(args, paths))
    explainer, images, broken = open_evaluation(args, 'frame')
    size = explainer.network.size
    if 2 * args.margin >= min(size[:2]):
        raise ValueError(f'--margin {args.margin}: pictures of {size[:2]} pixels have nothing inside of such a frame')
    if not images:
        return broken + missing
    beside, unread = read_pictures(paths, size)
    images = list({image.tobytes(): image for image in images}.values())  # each once: a copy is no evidence of its own
    beside = list({image.tobytes(): image for image in beside if not any(np.array_equal(image, each) for each in images)}.values())
    found = explained(explainer, args.rule, images + beside, args.margin, args.batch_size)
    classes, others = class_names(explainer.network, None, explainer.count), np.arange(len(images), len(images + beside))
    gains = {}
    for i, target in enumerate(found['targets'][:len(images)]):
        strangers = [beside[k - len(images)] for k in others if found['targets'][k] != target]
        if len(strangers) > 1:
            gains[i] = around(explainer, images[i], target, strangers, args.margin, args.batch_size)
    names = [f'{classes[target]} ({i + 1})' if list(found['targets'][:len(images)]).count(target) > 1 else classes[target]
             for i, target in enumerate(found['targets'][:len(images)])]
    area = frame_of(size, args.margin).mean()
    title = (f'{len(images)} pictures, {len(beside)} others; the frame: the outermost {args.margin} pixels, {area:.0%} of the area. '
             'Columns of rules: the share of the positive relevance there')
    figure = draw(images[:DRAWN], found, classes, args.rule[0], args.margin, others)
    write_report(args.results, 'frame', figure, title, table(names, found, classes, others, gains))
    return broken + missing + unread


def parse(argv):
    parser = Parser(__doc__)
    _, what, _ = add_network_options(parser, COMPOSITES, RULES)
    what.add_argument('--others', nargs='+', default=[], metavar='IMAGE', help='what the pictures are held against, given like them')
    what.add_argument('--margin', type=count, default=12, metavar='N',
                      help="the frame's width in pixels of the network's input (default: 12)")
    args = parser.parse_mixed(argv)
    args.rule = once(args.rule)
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
