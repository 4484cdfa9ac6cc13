"""Does the class depend on the picture's frame? The search for a Clever Hans (Lapuschkin et al.
2019): a network that is right for a reason that has nothing to do with the class.

    python vgg/evaluate.py frame vgg/images/leopard.jpg vgg/images/motorbike.jpg \\
        --others vgg/images --weights caltech101

For each picture, the share of the positive relevance on the frame, its outermost pixels. Then the
frame is cut off, the rest enlarged, and the class explained again. The frame is also painted over
in the mean colour of what is inside, because enlarging alone may cost a class some of its logit. A
class that depends on its frame loses more by both than other pictures do (--others). The share of
the picture's edges on the frame is a map that knows no class. Rank correlations say how well each
of these shares predicts the share of the logit that is lost.

And the other way round: the others are made smaller and get each frame, and for comparison a plain
one. How much does the logit of the framed picture's class rise in pictures of something else?
"""
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
import numpy as np

from common import Refused, count, progress_bar
from evaluation.measures import (
    DRAWS, Estimate, batches, edge_strength, estimate, in_words, panels, share_within, table)
from evaluation.randomise import spearman
from heatmaps import colour
from networks.class_names import class_names
from pictures import open_pictures, picture_paths, resized

RULES = ['epsilon-gamma-box', 'deep-taylor']
GRADIENT = False
EDGES = 'edges'  # what stands beside the rules
LOSSES = ['lost if cut', 'lost if painted']
DRAWN = 8  # pictures, at most


class Found(NamedTuple):
    """What was found of a picture."""

    target: int  # the class seen
    logits: np.ndarray  # [3], of the picture, with its frame cut off, and painted over
    shares: dict  # {rule or 'edges': share on the frame}
    panels: list  # [4], the picture and its heatmap, before and after the cut
    titles: list  # [4]


def add_options(group):
    group.add_argument('--others', nargs='+', default=[], metavar='IMAGE',
                       help='pictures to compare with')
    group.add_argument('--margin', type=count, default=12, metavar='N',
                       help="the frame's width in pixels of the network's input (default: 12)")


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
    """The share of the positive relevance r [..., h, w] on the frame of an image of this height."""
    margin = max(1, round(margin * r.shape[-2] / height))
    return share_within(r, frame_of(r.shape[-2:], margin))


def found_in(explainer, image, rule, margin, classes):
    """What is Found in an image. rule: whose heatmaps are shown."""
    smaller, size = cut(image, margin), image.shape[1::-1]
    before = explainer(image[None])
    target, after = before.targets[0], explainer(smaller[None], before.targets)
    over = explainer.classify(painted(image, margin)[None])
    logits = np.concatenate([before.logits, after.logits, over])[:, target]
    shares = {name: on_frame(r[0].sum(-1), margin, size[1]) for name, r in before.relevance.items()}
    shares[EDGES] = on_frame(edge_strength(image), margin, size[1])
    maps = [each.relevance[rule][0].sum(-1) for each in (before, after)]
    panels = [image.squeeze(), colour(maps[0], size), smaller.squeeze(), colour(maps[1], size)]
    titles = [f'{classes[target]}\nlogit {logits[0]:.1f}', f'{shares[rule]:.0%}\non the frame',
              f'frame cut off\nlogit {logits[1]:.1f}',
              f'{on_frame(maps[1], margin, size[1]):.0%}\non outer pixels']
    return Found(int(target), logits, shares, panels, titles)


def around(explainer, image, target, others, margin, batch_size):
    """What a target's logit gains in each other image by the frame of the image, and by a plain
    frame: [n], [n]."""
    def logits(changed):
        return np.concatenate([explainer.classify(np.stack(batch))[:, target]
                               for batch in batches(changed, batch_size)])

    place, before = frame_of(image.shape, margin), logits(others)
    plain = logits([framed(other, np.uint8(np.rint(other[place].mean(0))), margin)
                    for other in others])
    return logits([framed(other, image, margin) for other in others]) - before, plain - before


def rank_correlation(x, y):
    """Spearman's rank correlation of the finite pairs of x [n] and y [n], an Estimate."""
    x, y = np.stack([x, y])[:, np.isfinite(x) & np.isfinite(y)]
    if len(x) < 3:
        return estimate([np.nan])
    drawn = np.random.default_rng(0).integers(0, len(x), (DRAWS, len(x)))
    return Estimate(spearman(x, y), np.array([spearman(x[i], y[i]) for i in drawn]))


def columns_of(found):
    """The logits of what is Found, what the cut and the paint take off, the shares: {head: [n]}."""
    logits = np.array([each.logits for each in found])
    return {'logit': logits[:, 0], 'lost if cut': logits[:, 0] - logits[:, 1],
            'lost if painted': logits[:, 0] - logits[:, 2],
            **{name: np.array([each.shares[name] for each in found]) for name in found[0].shares}}


def main_table(names, columns):
    """What each named picture has on its frame and loses with it, and the mean of the others."""
    n, cells = len(names), {}
    others = len(columns['logit']) - n
    rows = [*names, f'mean of {others} others', 'their largest'] if others else names
    for head, values in columns.items():
        cells[head] = {name: f'{value:.2f}' for name, value in zip(names, values)}
        if others:
            cells[head][f'mean of {others} others'] = estimate(values[n:])
            cells[head]['their largest'] = f'{np.nanmax(values[n:]):.2f}'
    return table('', rows, cells)


def correlations(columns):
    """How well the share on the frame predicts the loss, a line for each kind of loss."""
    seen, lines = columns['logit'] > 0, []
    for loss in LOSSES if seen.sum() > 2 else ():
        lost = columns[loss][seen] / columns['logit'][seen]
        cells = [f'{name} {in_words(rank_correlation(columns[name][seen], lost))}'
                 for name in columns if name not in ('logit', *LOSSES)]
        lines.append(f'rank correlation over {seen.sum()} pictures with a positive logit, share on '
                     f'the frame with share of the logit {loss}: ' + ', '.join(cells))
    return lines


def gains(explainer, images, names, found, classes, args):
    """What each frame does to other pictures, a line for each of the names, the first images."""
    lines = []
    for name, image, each in zip(names, images, found):
        others = [images[i] for i in range(len(names), len(images))
                  if found[i].target != each.target]
        if len(others) > 1:
            own, plain = around(explainer, image, each.target, others, args.margin,
                                args.batch_size)
            own, plain, more = (in_words(estimate(rise)) for rise in (own, plain, own - plain))
            lines.append(f'the frame of {name} around {len(others)} others: the logit of '
                         f'{classes[each.target]} gains {own}, by a plain frame {plain}, '
                         f'difference {more}')
    return lines


def draw(pictures, found, columns, names, rule, margin):
    """Each named picture and its heatmap before and after the cut, above what all pictures lose."""
    ratios = [each.photograph.height / each.photograph.width for each in pictures[:len(names)]]
    heights = [sum(2.1 * ratio + 0.7 for ratio in ratios) + 0.6, 3.0]
    figure = Figure(figsize=(8.6, sum(heights)), dpi=110, layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    grid = panels(upper, [''] * 4, [('', each.panels) for each in found[:len(names)]], 13)
    height, width = pictures[0].seen.shape[:2]
    for ratio, row, each in zip(ratios, grid, found):
        for axes, title in zip(row, each.titles):
            axes.set_title(title, fontsize=15, parse_math=False)
            axes.set_aspect(ratio * width / height)
        for axes in row[1::2]:
            axes.add_patch(Rectangle((margin - 0.5, margin - 0.5), width - 2 * margin,
                                     height - 2 * margin, fill=False, linestyle=':'))
    scatter(lower.subplots(), 100 * columns[rule], columns['lost if cut'], names)
    lower.supxlabel(f'% of positive relevance on the frame ({rule})', fontsize=13)
    return figure


def scatter(axes, share, lost, names):
    """What all pictures lose against what they have on the frame; the first ones by name."""
    n = len(names)
    axes.scatter(share[n:], lost[n:], color='#888888', s=18)
    axes.scatter(share[:n], lost[:n], color='#aa3377', s=40, marker='D')
    for name, x, y in zip(names, share, lost):
        axes.annotate(name, (x, y), (-8, 0), ha='right', va='center', textcoords='offset points',
                      fontsize=13, parse_math=False)
    axes.set_ylabel('logit lost by the cut', fontsize=13)
    axes.tick_params(labelsize=13)
    axes.margins(0.2)
    axes.spines[['top', 'right']].set_visible(False)


def different(pictures):
    """The pictures without copies, which would be no evidence of their own."""
    return list({picture.seen.tobytes(): picture for picture in pictures}.values())


def open_all(pictures, args, size):
    """The pictures and the others without copies, and how many of them are no others.

    Raises Refused if one of the others cannot be read.
    """
    paths, failed = picture_paths(args.others) if args.others else ([], [])
    others, unread = open_pictures(paths, size)
    if failed or unread:
        raise Refused((failed + unread)[0])
    pictures = different(pictures)
    return different(pictures + others), len(pictures)


def measure(explainer, pictures, args):
    """The experiment. Returns a figure, a title and a table."""
    size, rule, margin = explainer.network.size, args.rule[0], args.margin
    if 2 * margin >= min(size[:2]):
        raise Refused(f'--margin {margin}: pictures of {size[:2]} pixels have nothing inside such '
                      'a frame')
    every, n = open_all(pictures, args, size)
    images, classes = [picture.seen for picture in every], class_names(explainer.network)
    bar, found = progress_bar(len(images), 'picture'), []
    for image in images:
        found.append(found_in(explainer, image, rule, margin, classes))
        bar.add(1)
    columns, seen = columns_of(found), [each.target for each in found[:n]]
    names = [f'{classes[target]} ({i})' if seen.count(target) > 1 else classes[target]
             for i, target in enumerate(seen, 1)]
    title = (f'{n} pictures, {len(images) - n} others; the frame: the outermost {margin} pixels, '
             f'{frame_of(size, margin).mean():.0%} of the area. Columns of rules: the share of the '
             'positive relevance there')
    lines = [main_table(names, columns), *correlations(columns),
             *gains(explainer, images, names, found, classes, args)]
    return draw(every, found, columns, names[:DRAWN], rule, margin), title, '\n'.join(lines)
