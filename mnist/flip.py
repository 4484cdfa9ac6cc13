"""Does the class depend on what the heatmap marks? Pixel flipping (Bach et al. 2015).

    python mnist/flip.py

Flips the pixels of test digits in order of relevance, four at each step, the most relevant first
and the least relevant first, once to background and once by inverting them (x becomes 1 - x, as
Bach et al. do). It follows the logit of the class that the network saw, and the accuracy. For each
rule of lrp.py, gradient x input and gradient magnitude, and for three orders that know nothing of
the network: random, random with the ink before the background, and by brightness. Equal scores
follow in random order.

The area is the mean drop of the logit over all steps (Samek et al. 2017, Eq. 12). The area with the
most relevant first less that with the least relevant first is the symmetric relevance gain
(Bluecher et al. 2024): the larger, the better. Intervals are 95% bootstrap intervals over digits.
"""
from matplotlib.figure import Figure
import numpy as np

from common import Parser, add_paths, count, make_folder, progress_bar, seed, write_report
import data
from explainer import BATCH, Explainer
from measures import (
    aopc, batches, curves, estimates, generator, indistinguishable, joined, ranked, table)
from rules import COMPOSITES

STEPS, PIXELS_PER_STEP = 50, 4
WAYS = ['to background', 'inverted']
BLIND = ['random', 'random ink', 'brightness']  # orders that know nothing of the network
DRAWN = [*COMPOSITES, 'gradient magnitude', 'random', 'brightness']


def scores(explainer, images, numbers, seed):
    """What orders the pixels: {method: [n, 28, 28]}, for the class that the network saw.

    numbers: of the digits, which with the seed decide the random scores of each.
    """
    noise, other = (np.stack([generator(seed, method, i).random(images.shape[1:])
                              for i in numbers]) for method in BLIND[:2])
    return {**explainer.heatmaps(images), 'random': noise, 'random ink': other + (images > 0),
            'brightness': images}


def order(score, numbers, seed):
    """Pixels by falling score [n, 28, 28], equal ones in random order: [n, 784]."""
    score = score.reshape(len(score), -1)
    shuffled = np.stack([generator(seed, 'order', i).permutation(score.shape[1]) for i in numbers])
    ranks = np.argsort(-np.take_along_axis(score, shuffled, 1), axis=1, kind='stable')
    return np.take_along_axis(shuffled, ranks, 1)


def flipped(images, pixels, way):
    """Yields images [n, 28, 28] as they are, then after each step, as pixels [n, 784] says."""
    images = images.reshape(len(images), -1).copy()
    yield images.reshape(-1, 28, 28)
    for start in range(0, STEPS * PIXELS_PER_STEP, PIXELS_PER_STEP):
        chosen = pixels[:, start:start + PIXELS_PER_STEP]
        values = 1 - np.take_along_axis(images, chosen, 1) if way == 'inverted' else 0
        np.put_along_axis(images, chosen, values, 1)
        yield images.reshape(-1, 28, 28)


def followed(explainer, images, labels, pixels, way):
    """At each step, the logit of the class first seen and whether the digit is still classified
    correctly: [2, steps + 1, n]."""
    logits = np.stack([explainer.classify(x) for x in flipped(images, pixels, way)])
    seen = logits[0].argmax(1)
    return np.stack([logits[:, np.arange(len(images)), seen], logits.argmax(2) == labels])


def flip_all(explainer, images, labels, seed):
    """Flips all digits by all methods.

    Returns {(method, way, 'most' or 'least'): [2, steps + 1, n], logits and whether correct}, by
    what is flipped first.
    """
    parts, bar = [], progress_bar(len(images), 'digit')
    for numbers in batches(range(len(images)), BATCH, bar):
        x, y, found = images[numbers], labels[numbers], {}
        for method, score in scores(explainer, x, numbers, seed).items():
            pixels = order(score, numbers, seed)
            for way in WAYS:
                found[method, way, 'most'] = followed(explainer, x, y, pixels, way)
                found[method, way, 'least'] = followed(explainer, x, y, pixels[:, ::-1], way)
        parts.append(found)
    return joined(parts, 2)


def draw(results):
    """The logit and the accuracy against the number of flipped pixels: a row for each way."""
    figure = Figure(figsize=(13, 8), dpi=100, layout='constrained')
    for way, line in zip(WAYS, figure.subplots(2, 2, sharey='col')):
        for part, label in enumerate(['mean logit of the class first seen', 'accuracy']):
            lines = {method: results[method, way, 'most'][part].mean(1) for method in DRAWN}
            curves(line[part], PIXELS_PER_STEP * np.arange(STEPS + 1), lines, BLIND)
            line[part].set(xlabel=f'pixels, most relevant first: {way}', ylabel=label)
    figure.legend(*line[0].get_legend_handles_labels(), loc='outside lower center', ncols=7)
    return figure


def report(results):
    """A line for each method, the largest gain first, then which gains cannot be told apart.

    Each line, for both ways: the area with the most relevant first, and the gain; then the accuracy
    after a quarter, half and all of the steps to background.
    """
    columns, methods = {}, dict.fromkeys(method for method, *_ in results)
    for way in WAYS:
        most, least = ({method: aopc(results[method, way, which][0]) for method in methods}
                       for which in ('most', 'least'))
        columns[way] = estimates(most)
        columns[f'gain {way}'] = estimates({name: most[name] - least[name] for name in methods})
    for k in STEPS // 4, STEPS // 2, STEPS:
        columns[f'accuracy, {PIXELS_PER_STEP * k} px'] = {
            method: f'{results[method, WAYS[0], "most"][1, k].mean():.1%}' for method in methods}
    lines = [f'gain {way} not distinguishable: {indistinguishable(columns[f"gain {way}"])}'
             for way in WAYS]
    return '\n'.join([table('area', ranked(columns[f'gain {WAYS[0]}']), columns), *lines])


def evaluate(args):
    """Measures what the command line asks for and writes figure and table."""
    make_folder(args.results)
    explainer = Explainer(COMPOSITES, args.logdir, gradient=True)
    images, labels = data.load(args.data, 'test')
    chosen = generator(args.seed, 'digits').permutation(len(images))[:args.digits]
    results = flip_all(explainer, images[chosen] / np.float32(255), labels[chosen], args.seed)
    title = (f'{len(chosen)} test digits, {STEPS} steps of {PIXELS_PER_STEP} pixels, '
             f'seed {args.seed}')
    write_report(args.results, 'flip', draw(results), title, report(results))


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument('--digits', type=count, default=1000, metavar='N',
                        help='test digits, drawn by the seed (default: 1000)')
    parser.add_argument('--seed', type=seed, default=0,
                        help='draws digits and random order (default: 0)')
    add_paths(parser, data='mnist.npz', logdir='logs', results='results')
    parser.run(evaluate, argv)


if __name__ == '__main__':
    main()
