"""Are the heatmaps faithful? Pixel flipping (Bach et al. 2015).

    python mnist/flip.py

If a heatmap is right, the class is lost as soon as the most relevant pixels are, and stays while
the least relevant are. Over test digits (--digits, 1000), flips pixels in order of relevance, four
at each step, the most relevant first and the least relevant first, and follows the logit of the
class that the network saw, and the accuracy: once by setting pixels to background, once by
inverting them (x becomes 1 - x, as Bach et al. do). For each rule of lrp.py, gradient x input and
gradient magnitude, and for three orders that know nothing of the network: random, random with the
ink before the background, and by brightness. Equal scores follow in random order.

The area is the mean drop of the logit over all steps (Samek et al. 2017, Eq. 12). The area with the
most relevant first less that with the least relevant first is the symmetric relevance gain
(Bluecher et al. 2024): the larger, the better. Setting pixels to background is what gradient x
input, and so epsilon, predicts to first order; it favours them. Intervals are 95% bootstrap
intervals over digits.
Writes the curves to results/flipping.png and the table to results/flipping.txt.
"""
import itertools
from pathlib import Path

from matplotlib.figure import Figure
import numpy as np

from measures import generator, indistinguishable, mean_and_interval
from common import (
    Parser, Refused, check_spared, count, make_folder, once, progress_bar, seed, write_report)
import data
from explainer import BATCH, Explainer
from heatmaps import curves
from rules import COMPOSITES

HERE = Path(__file__).resolve().parent
PIXELS_PER_STEP = 4
WAYS = ['to background', 'inverted']
BLIND = ['random', 'random ink', 'brightness']  # orders that know nothing of the network


def scores(explainer, images, numbers, seed):
    """What orders the pixels: {method: [n, 28, 28]}, for the class that the network saw.

    numbers: of the digits, which with the seed decide the random scores of each.
    """
    slope = explainer.gradient(images)
    noise, other = (np.stack([generator(seed, method, i).random(images.shape[1:])
                              for i in numbers]) for method in BLIND[:2])
    return {**explainer(images).relevance, 'gradient x input': slope * images,
            'gradient magnitude': np.abs(slope), 'random': noise,
            'random ink': other + (images > 0), 'brightness': images}


def order(score, numbers, seed):
    """Pixels by falling score [n, 28, 28], equal ones in random order: [n, 784]."""
    score = score.reshape(len(score), -1)
    shuffled = np.stack([generator(seed, 'order', i).permutation(score.shape[1]) for i in numbers])
    ranks = np.argsort(-np.take_along_axis(score, shuffled, 1), axis=1, kind='stable')
    return np.take_along_axis(shuffled, ranks, 1)


def flipped(images, pixels, steps, way):
    """Yields images [n, 28, 28] as they are, then after each step, as pixels [n, 784] says."""
    images = images.reshape(len(images), -1).copy()
    yield images.reshape(-1, 28, 28)
    for step in range(steps):
        chosen = pixels[:, step * PIXELS_PER_STEP:(step + 1) * PIXELS_PER_STEP]
        values = 1 - np.take_along_axis(images, chosen, 1) if way == 'inverted' else 0
        np.put_along_axis(images, chosen, values, 1)
        yield images.reshape(-1, 28, 28)


def followed(explainer, images, labels, pixels, steps, way):
    """At each step, the logit of the class first seen and whether the digit is still classified
    correctly: two arrays [steps + 1, n]."""
    logits = np.stack([explainer.classify(x) for x in flipped(images, pixels, steps, way)])
    seen = logits[0].argmax(1)
    return logits[:, np.arange(len(images)), seen], logits.argmax(2) == labels


def areas(logits):
    """The mean over steps of the first logit minus the logit [steps + 1, n], for each digit."""
    return (logits[0] - logits).mean(0, dtype=np.float64)


def measure(explainer, images, labels, steps, seed):
    """Flips all digits by all methods.

    Returns {(method, way, 'most' or 'least'): (logits [steps + 1, n], correct [steps + 1, n])}, by
    what is flipped first.
    """
    parts, bar = {}, progress_bar(len(images), 'digit')
    for start in range(0, len(images), BATCH):
        x, y = images[start:start + BATCH], labels[start:start + BATCH]
        numbers = range(start, start + len(x))
        for method, score in scores(explainer, x, numbers, seed).items():
            pixels = order(score, numbers, seed)
            for way, (first, ordered) in itertools.product(WAYS, [('most', pixels),
                                                                  ('least', pixels[:, ::-1])]):
                found = followed(explainer, x, y, ordered, steps, way)
                parts.setdefault((method, way, first), []).append(found)
        bar.update(min(start + BATCH, len(images)))
    return {key: [np.concatenate(arrays, 1) for arrays in zip(*batches)]
            for key, batches in parts.items()}


def draw(results):
    """The logit and the accuracy against the number of flipped pixels: a row for each way."""
    figure = Figure(figsize=(13, 8), dpi=100, layout='constrained')
    methods = [method for method in once(method for method, _, _ in results)
               if method in (*COMPOSITES, 'gradient magnitude', 'random', 'brightness')]
    for row, way in zip(figure.subplots(2, 2), WAYS):
        labels = 'mean logit of the class first seen', 'accuracy'
        for axes, part, label in zip(row, (0, 1), labels):
            lines = {method: (results[method, way, 'most'][part].mean(1),
                              ':' if method in BLIND else '-') for method in methods}
            curves(axes, PIXELS_PER_STEP * np.arange(len(lines['random'][0])), lines)
            axes.set(xlabel=f'pixels, most relevant first: {way}', ylabel=label)
    return figure


def table(results, steps):
    """A line for each method, the largest gain first, then which gains cannot be told apart.

    Each line, for both ways: the area with the most relevant first, and the gain; then the accuracy
    after a quarter, half and all of the steps to background.
    """
    points = [steps // 4, steps // 2, steps]
    area = {key: areas(logits) for key, (logits, _) in results.items()}
    gain = {way: {method: area[method, way, 'most'] - area[method, way, 'least']
                  for method in once(method for method, _, _ in results)} for way in WAYS}
    heads = ' '.join(f'{head:>21}' for way in WAYS for head in (way, 'gain'))
    after = ' '.join(f'{PIXELS_PER_STEP * k:>6} px' for k in points)
    lines = [f'{"area":>18} {heads}  accuracy after {after}']
    for method in sorted(gain[WAYS[0]], key=lambda method: -gain[WAYS[0]][method].mean()):
        cells = ' '.join(f'{mean_and_interval(values):>21}' for way in WAYS
                         for values in (area[method, way, 'most'], gain[way][method]))
        correct = results[method, WAYS[0], 'most'][1]
        accuracies = ' '.join(f'{correct[k].mean():>9.1%}' for k in points)
        lines.append(f'{method:>18} {cells}{"":>17}{accuracies}')
    for way in WAYS:
        lines.append(f'gain not distinguishable, {way}: {indistinguishable(gain[way])}')
    return '\n'.join(lines)


def evaluate(args):
    """Measures what the command line asks for and writes figure and table."""
    make_folder(args.results)
    results = [args.results / f'flipping.{ending}' for ending in ('png', 'txt')]
    check_spared(results, [args.data])
    explainer = Explainer(args.rule, args.logdir, gradient=True)
    (images, labels), = data.load(args.data, 'test')
    if args.digits > len(images):
        raise Refused(f'--digits {args.digits}: the test set has {len(images)}')
    chosen = generator(args.seed, 'digits').permutation(len(images))[:args.digits]
    images = images[chosen] / np.float32(255)
    found = measure(explainer, images, labels[chosen], args.steps, args.seed)
    title = (f'{args.digits} test digits, {args.steps} steps of {PIXELS_PER_STEP} pixels, '
             f'seed {args.seed}')
    write_report(args.results, 'flipping', draw(found), title, table(found, args.steps))


def parse(argv):
    parser = Parser(__doc__)
    parser.add_argument('--rule', nargs='+', choices=COMPOSITES, default=list(COMPOSITES),
                        metavar='R', help=f'of {", ".join(COMPOSITES)} (default: all)')
    parser.add_argument('--digits', type=count, default=1000, metavar='N',
                        help='test digits, drawn by the seed (default: 1000)')
    parser.add_argument('--steps', type=count, default=50, metavar='N',
                        help='of four pixels each, up to 196 (default: 50)')
    parser.add_argument('--seed', type=seed, default=0,
                        help='draws digits and random order (default: 0)')
    parser.add_argument('--data', type=Path, default=HERE / 'mnist.npz', metavar='FILE',
                        help='default: mnist/mnist.npz')
    parser.add_argument('--logdir', type=Path, default=HERE / 'logs', metavar='DIR',
                        help='of train.py (default: mnist/logs)')
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR',
                        help='default: mnist/results')
    args = parser.parse_args(argv)
    if args.steps * PIXELS_PER_STEP > 28 * 28:
        parser.error(f'--steps {args.steps}: a digit has pixels for {28 * 28 // PIXELS_PER_STEP}')
    args.rule = once(args.rule)
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(evaluate, args)


if __name__ == '__main__':
    main()
