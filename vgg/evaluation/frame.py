"""Does the class depend on the picture's frame? The search for a Clever Hans (Lapuschkin et al.
2019): a network that is right for a reason that has nothing to do with the class.

    python vgg/frame.py vgg/images/leopard.jpg vgg/images/motorbike.jpg \\
        --others vgg/images --weights caltech101

For each picture, the share of the positive relevance on the frame, its outermost pixels (--margin,
12 of VGG's 224). Then the frame is cut off, the rest enlarged, and the class explained again. The
frame is also painted over in the mean colour of what is inside, because enlarging alone may cost a
class some of its logit. A class that depends on its frame loses more by both than other pictures do
(--others: their mean, with a 95% bootstrap interval). The share of the picture's edges on the frame
is measured, too: a map that knows no class. Rank correlations over all pictures with a positive
logit say how well each of these shares predicts the share of the logit that is lost.

And the other way round: the others are made smaller and get each frame. How much does the logit of
the framed picture's class rise in pictures of something else? For comparison they get a plain
frame, in the mean colour of their own outermost pixels.

Writes the tables to results/frame.txt, and the first pictures before and after with the heatmaps of
the first rule, beside what all others lose, to results/frame.png.
"""
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np

from evaluation.measures import interval, mean_and_interval, spearman
from networks.class_names import class_names
from common import Parser, Refused, count, once, progress_bar, write_report
from heatmaps import colour
from evaluation.shared import batches, edge_strength, open_evaluation, read_pictures, share_within
from heatmaps import add_key
from pictures import find, resized
from run import add_network_options

RULES = ['epsilon-gamma-box', 'deep-taylor']
EDGES = 'edges'  # what stands beside the rules
DRAWN = 8  # pictures, at most


class Frames(NamedTuple):
    """What was found of n pictures."""

    targets: np.ndarray  # [n], the classes seen
    logits: np.ndarray  # [n, 3], of the picture, with its frame cut off, and painted over
    maps: np.ndarray  # [DRAWN, 2, h, w], of the first rule, before and after the cut
    shares: dict  # {rule or 'edges': [n, 2]}, on the frame, before and after the cut


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
    """The share of the positive relevance r [h, w] on the frame of an image of this height."""
    return share_within(r, frame_of(r.shape, max(1, round(margin * len(r) / height))))


def explained(explainer, rules, images, margin, batch_size):
    """Explains the class seen in each image, before and after its frame is cut off.

    Returns a Frames. Raises Refused if a number in it is not finite.
    """
    parts, bar, done, height = [], progress_bar(len(images), 'picture'), 0, len(images[0])
    for batch in batches(images, batch_size):
        pairs = [np.stack(batch), np.stack([cut(image, margin) for image in batch])]
        before = explainer(pairs[0], [-1] * len(batch))
        targets = before.targets
        results = [before, explainer(pairs[1], targets)]
        maps = {rule: [r.relevance[rule].sum(-1) for r in results] for rule in rules}
        maps[EDGES] = [np.stack([edge_strength(image) for image in images]) for images in pairs]
        logits = [r.logits for r in results]
        logits.append(explainer.classify(np.stack([painted(image, margin) for image in batch])))
        if not all(np.isfinite(array).all() for array in (*logits, *sum(maps.values(), []))):
            raise Refused('logits or relevance are not finite: the weights are too large for this '
                          'precision')
        shares = {name: np.array([[on_frame(r, margin, height) for r in each]
                                  for each in zip(*pair)]) for name, pair in maps.items()}
        logits = np.stack([each[np.arange(len(batch)), targets] for each in logits], 1)
        shown = np.stack(maps[rules[0]], 1)[:max(0, DRAWN - done)]
        parts.append(Frames(targets, logits, shown, shares))
        done += len(batch)
        bar.update(done)
    shares = {name: np.concatenate([part.shares[name] for part in parts])
              for name in parts[0].shares}
    return Frames(*map(np.concatenate, zip(*(part[:3] for part in parts))), shares)


def around(explainer, image, target, others, margin, batch_size):
    """What a target's logit gains in each other image by the frame of the image, and by a plain
    frame: [n], [n]."""
    def logits(changed):
        return np.concatenate([explainer.classify(np.stack(batch))[:, target]
                               for batch in batches(changed, batch_size)])

    place, before = frame_of(image.shape, margin), logits(others)
    plain = logits(framed(other, np.uint8(np.rint(other[place].mean(0))), margin)
                   for other in others)
    return logits(framed(other, image, margin) for other in others) - before, plain - before


def rank_correlation(x, y):
    """Spearman's rank correlation of the finite pairs of x [n] and y [n], with its interval."""
    x, y = np.stack([x, y])[:, np.isfinite(x) & np.isfinite(y)]
    if len(x) < 3:
        return '- (too few pictures)'
    drawn = np.random.default_rng(0).integers(0, len(x), (2000, len(x)))
    low, high = interval(np.array([spearman(x[i], y[i]) for i in drawn]))
    return f'{spearman(x, y):.2f} [{low:.2f}, {high:.2f}]'


def losses(logits):
    """How much the logit falls when the frame is cut off, and when it is painted over: [n] each."""
    return {'lost if cut': logits[:, 0] - logits[:, 1],
            'lost if painted': logits[:, 0] - logits[:, 2]}


def table(names, found, classes, others, gains):
    """What each picture has on its frame and loses with it; how well the one predicts the other;
    what frames do to other pictures."""
    shares = {name: values[:, 0] for name, values in found.shares.items()}
    logits, lost = found.logits[:, 0], losses(found.logits)
    columns = {'logit': logits, **lost, **shares}
    first = max(map(len, [*names, f'mean of {len(others)} others']))
    lines = [' ' * first + ''.join(f' {name:>20}' for name in columns)]
    for i, name in enumerate(names):
        cells = ''.join(f' {values[i]:20.2f}' for values in columns.values())
        lines.append(f'{name:{first}}{cells}')
    if len(others):
        known = [values[others][np.isfinite(values[others])] for values in columns.values()]
        means = ''.join(f' {mean_and_interval(values) if len(values) else "-":>20}'
                        for values in known)
        largest = ''.join(f' {values.max(initial=-np.inf):20.2f}' for values in known)
        lines.append(f'{f"mean of {len(others)} others":{first}}{means}')
        lines.append(f'{"their largest":{first}}{largest}')
    seen = logits > 0
    for what, loss in lost.items() if seen.sum() > 2 else ():
        cells = [f'{name} {rank_correlation(values[seen], loss[seen] / logits[seen])}'
                 for name, values in shares.items()]
        lines.append(f'rank correlation over {seen.sum()} pictures with a positive logit, share on '
                     f'the frame with share of the logit {what}: ' + ', '.join(cells))
    for i, (own, plain) in gains.items():
        lines.append(f'the frame of {names[i]} around {len(own)} others: the logit of '
                     f'{classes[found.targets[i]]} gains {mean_and_interval(own)}, by a plain '
                     f'frame {mean_and_interval(plain)}, difference '
                     f'{mean_and_interval(own - plain)}')
    return '\n'.join(lines)


def draw(pictures, found, classes, rule, margin, others):
    """Each picture and its heatmap before and after the cut, above what all pictures lose."""
    ratios = [each.photograph.height / each.photograph.width for each in pictures]
    images = [picture.seen for picture in pictures]
    n, above = len(images), sum(2.1 * ratio + 0.7 for ratio in ratios) + 0.6
    heights = [above, 3.0] if len(others) else [above]
    figure = Figure(figsize=(8.6, sum(heights)), dpi=110, layout='constrained')
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    grid = parts[0].subplots(n, 4, squeeze=False)
    for i, (image, row) in enumerate(zip(images, grid)):
        pair, name = [image, cut(image, margin)], classes[found.targets[i]]
        for k, what in enumerate((name, 'frame cut off')):
            share, (height, width) = found.shares[rule][i, k], image.shape[:2]
            row[2 * k].imshow(pair[k].squeeze(), cmap='gray')
            row[2 * k].set_title(f'{what}\nlogit {found.logits[i, k]:.1f}', parse_math=False)
            row[2 * k + 1].imshow(colour(found.maps[i, k], (width, height)))
            place = 'the frame' if k == 0 else 'outer pixels'
            row[2 * k + 1].set_title(f'{share:.0%}\non {place}')
            inside = Rectangle((margin - 0.5, margin - 0.5), width - 2 * margin,
                               height - 2 * margin, fill=False, linestyle=':', color='black')
            row[2 * k + 1].add_patch(inside)
        for axes in row:
            axes.title.set_fontsize(15)
            axes.set(xticks=[], yticks=[], aspect=ratios[i] * width / height)
    add_key(parts[0], grid, 13)
    for part in parts[1:]:
        axes, share = part.subplots(), found.shares[rule][:, 0]
        lost = losses(found.logits)['lost if cut']
        axes.scatter(100 * share[others], lost[others], color='#888888', s=18)
        axes.scatter(100 * share[:n], lost[:n], color='#aa3377', s=40, marker='D')
        for i in range(n):
            axes.annotate(classes[found.targets[i]], (100 * share[i], lost[i]), (-8, 0), ha='right',
                          va='center', textcoords='offset points', fontsize=13, parse_math=False)
        axes.set_xlabel(f'% of positive relevance on the frame ({rule})', fontsize=13)
        axes.set_ylabel('logit lost by the cut', fontsize=13)
        axes.tick_params(labelsize=13)
        axes.margins(0.2)
        axes.spines[['top', 'right']].set_visible(False)
    return figure


def different(pictures):
    """The pictures without copies, which would be no evidence of their own."""
    return list({picture.seen.tobytes(): picture for picture in pictures}.values())


def evaluate(args):
    """Measures and reports. Returns a line for each picture that could not be read."""
    paths, missing = find(args.others) if args.others else ([], [])
    explainer, pictures, failed = open_evaluation(args, 'frame', paths)
    size = explainer.network.size
    if 2 * args.margin >= min(size[:2]):
        raise Refused(f'--margin {args.margin}: pictures of {size[:2]} pixels have nothing inside '
                      'such a frame')
    if not pictures:
        return failed + missing
    beside, unread = read_pictures(paths, size)
    pictures = different(pictures)
    every = [picture.seen for picture in different(pictures + beside)]
    images, beside = every[:len(pictures)], every[len(pictures):]
    found = explained(explainer, args.rule, every, args.margin, args.batch_size)
    classes, others = class_names(explainer.network), np.arange(len(images), len(images + beside))
    gains = {}
    targets = found.targets[:len(images)].tolist()
    for i, target in enumerate(targets):
        strangers = [beside[k - len(images)] for k in others if found.targets[k] != target]
        if len(strangers) > 1:
            gains[i] = around(explainer, images[i], target, strangers, args.margin, args.batch_size)
    names = [f'{classes[target]} ({i})' if targets.count(target) > 1 else classes[target]
             for i, target in enumerate(targets, 1)]
    area = frame_of(size, args.margin).mean()
    title = (f'{len(images)} pictures, {len(beside)} others; the frame: the outermost '
             f'{args.margin} pixels, {area:.0%} of the area. Columns of rules: the share of the '
             'positive relevance there')
    figure = draw(pictures[:DRAWN], found, classes, args.rule[0], args.margin, others)
    write_report(args.results, 'frame', figure, title, table(names, found, classes, others, gains))
    return failed + missing + unread


def parse(argv):
    parser = Parser(__doc__)
    _, what, _ = add_network_options(parser, RULES)
    what.add_argument('--others', nargs='+', default=[], metavar='IMAGE',
                      help='pictures to compare with')
    what.add_argument('--margin', type=count, default=12, metavar='N',
                      help="the frame's width in pixels of the network's input (default: 12)")
    args = parser.parse_intermixed_args(argv)
    args.rule = once(args.rule)
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
