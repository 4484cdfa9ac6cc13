"""What the evaluation scripts share: opening network and pictures, and simple measures."""
import itertools

import numpy as np

from common import Refused, check_spared, make_folder
from explainer import open_explainer
from pictures import find, open_picture
from run import inputs


def open_evaluation(args, name, others=(), **options):
    """What a script that writes <name>.png and <name>.txt begins with.

    others: paths that are inputs, too; options: as open_explainer takes them. Returns the
    explainer, the Pictures, and a line for each that cannot be read.
    """
    make_folder(args.results)
    paths, failed = find(args.image)
    results = [args.results / f'{name}.png', args.results / f'{name}.txt']
    check_spared(results, inputs(args, [*paths, *others]))
    explainer = open_explainer(args.weights, args.rule, args.model, args.preprocessing,
                               args.precision, pictures=paths, **options)
    args.batch_size = args.batch_size or explainer.batch_size
    pictures, unread = read_pictures(paths, explainer.network.size)
    return explainer, pictures, failed + unread


def read_pictures(paths, size):
    """The Pictures for a network of this size, and a line for each that cannot be read."""
    pictures, failed = [], []
    for path in paths:
        try:
            pictures.append(open_picture(path, size))
        except Refused as error:
            failed.append(str(error))
    return pictures, failed


def batches(items, size):
    """Yields lists of `size` items, in order; the last one may be shorter."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def share_within(r, place):
    """The share of the positive relevance r [h, w] at a place (slices, a mask); NaN without any."""
    positive = np.maximum(r, 0)
    return positive[place].sum() / (positive.sum() or np.nan)


def edge_strength(image):
    """How much the brightness of an image [h, w, channels] changes at each pixel: [h, w]."""
    return np.hypot(*np.gradient(image.mean(-1, dtype=np.float64)))
