"""Is a channel what it seems?

    python vgg/evaluate.py concepts vgg/images --frame vgg/images/leopard.jpg --weights caltech101

Sets more and more channels of a layer to 0, those with most relevance first, and follows the logit
of the class that the network saw. Compared with: by gradient x activation, by activation, random.
Cells: by how much the logit fell, the mean over pictures with its 95% bootstrap interval.

--frame: these pictures are explained twice: as they are, and with the outermost --margin pixels
painted over in the mean colour of the rest.
"""
from matplotlib.figure import Figure
import numpy as np

from common import Refused, count, progress_bar
from evaluation.measures import (
    batches, curves, estimate, estimates, generator, in_words, indistinguishable, joined,
    share_within, table)
from explainer import LAST
from networks.class_names import class_names
from pictures import open_pictures, picture_paths

RULES = ['epsilon-gamma-box']
GRADIENT = True
STEPS = [1, 2, 5, 10, 20, 50]  # channels that are set to 0
SHOWN = 6  # channels of a picture with a frame
STATES = ['as it is', 'frame painted over']


def add_options(group):
    group.add_argument('--layer', default=LAST, metavar='NAME', help='as for concepts.py')
    group.add_argument('--frame', nargs='+', default=[], metavar='IMAGE',
                       help='pictures whose frame is painted over')
    group.add_argument('--margin', type=count, default=12, metavar='N',
                       help="the frame's width in pixels of the network's input (default: 12)")


def followed(explainer, images, numbers):
    """The logit of the class first seen, before channels are set to 0 and after each step, by what
    orders them: {method: [steps + 1, n]}. numbers: [n], of the images."""
    maps, (a, gradient) = explainer.channels(images).maps, explainer.activations(images)
    maps.update({'gradient x activation': gradient * a, 'activation': np.abs(a)})
    scores = {method: r.sum((1, 2), dtype=np.float64) for method, r in maps.items()}
    scores['random'] = np.stack([generator(0, i).random(a.shape[-1]) for i in numbers])
    before, found = explainer.classify(images), {}
    for method, score in scores.items():
        rank = np.argsort(np.argsort(-score, 1, 'stable'), 1)[:, None, None]
        after = [explainer.classify(images, a * (rank >= step)) for step in STEPS]
        found[method] = np.stack([before, *after])[:, np.arange(len(images)), before.argmax(1)]
    return found


def falls(logits):
    """By how much {method: logits [steps + 1, n]} fall, and which cannot be told apart."""
    columns = {str(step): estimates({method: each[0] - each[i] for method, each in logits.items()})
               for i, step in enumerate(STEPS, 1)}
    pairs = [f'not distinguishable, {step}: {indistinguishable(column)}'
             for step, column in columns.items()]
    return [table('channels set to 0', list(logits), columns), *pairs]


def frame_of(height, width, margin):
    """Where the frame of an image is: [height, width], True or False."""
    inside = np.zeros((height - 2 * margin, width - 2 * margin), bool)
    return np.pad(inside, margin, constant_values=True)


def painted(image, margin):
    """The image with its frame in the mean colour of what is inside."""
    place = frame_of(*image.shape[:2], margin)
    return np.where(place[..., None], np.uint8(np.rint(image[~place].mean(0))), image)


def of_frame(explainer, image, rule, margin):
    """What an image loses with its frame: a line, and a table of its channels."""
    target = explainer.classify(image[None]).argmax()
    found = explainer.channels(np.stack([image, painted(image, margin)]), None, target)
    sums = found.maps[rule].sum((1, 2), dtype=np.float64)
    top = np.argsort(-sums[0], kind='stable')[:SHOWN]
    heatmaps = np.stack([explainer.channels(image[None], mask[None], target).heatmaps[rule][0]
                         for mask in [np.ones_like(sums[0]), *np.eye(sums.shape[1])[top]]]).sum(-1)
    place = frame_of(*heatmaps.shape[1:], round(margin * heatmaps.shape[1] / len(image)))
    rows, line = ['all', *map(str, top)], []
    shares = [f'{share:.0%}' for share in share_within(heatmaps, place)]
    columns = {'on the frame': dict(zip(rows, shares))}
    probabilities = explainer.network.probabilities(found.logits)[:, target]
    for state, r, logit, p in zip(STATES, sums, found.logits[:, target], probabilities):
        cells = [f'{each:.2f} ({each / r.sum():.1%})' for each in (r.sum(), *r[top])]
        columns[state] = dict(zip(rows, cells))
        line.append(f'{state} {logit:.2f} (probability {p:.3f})')
    name = class_names(explainer.network)[target]
    return [f'{name}: logit {", ".join(line)}', table('channel', rows, columns)]


def frames(explainer, images, args):
    """The lines on --frame, and on what the images lose by paint."""
    pictures, unread = open_pictures(picture_paths(args.frame)[0], explainer.network.size)
    if unread:
        raise Refused(unread[0])
    for picture in pictures:
        yield from of_frame(explainer, picture.seen, args.rule[0], args.margin)
    pairs = [explainer.classify(np.stack([image, painted(image, args.margin)])) for image in images]
    lost = [before.max() - after[before.argmax()] for before, after in pairs]
    yield f'painted over, all {len(lost)} pictures lose {in_words(estimate(lost))}'


def measure(explainer, pictures, args):
    """The experiment. Returns a figure, a title and a table."""
    if 2 * args.margin >= min(explainer.network.size[:2]):
        raise Refused(f'--margin {args.margin}: nothing is inside such a frame')
    images = np.stack([picture.seen for picture in pictures])
    bar = progress_bar(len(images), 'picture')
    logits = joined([followed(explainer, images[numbers], numbers)
                     for numbers in batches(range(len(images)), args.batch_size, bar)], 1)
    lines = [*falls(logits), *(frames(explainer, images, args) if args.frame else [])]
    figure = Figure(figsize=(7, 4.8), dpi=100, layout='constrained')
    axes = figure.subplots()
    curves(axes, [0, *STEPS], {method: each.mean(1) for method, each in logits.items()}, ['random'])
    axes.set(xlabel=f'channels of {explainer.layer} set to 0', xscale='symlog',
             ylabel='mean logit of the class first seen')
    figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=2)
    return figure, f'{len(images)} pictures, {explainer.layer}', '\n'.join(lines)
