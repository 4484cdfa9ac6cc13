"""Are the heatmaps true? Pixel flipping (Bach et al. 2015): if a heatmap is right, the digit is lost as soon as its pixels are.

    python mnist/flip.py

Over test digits (--digits, 1000), sets pixels to background in order of relevance, four at each step, and follows the logit of the
class that the network saw and the accuracy: for each rule of lrp.py, gradient x input, gradient magnitude and random order.
Writes the curves to results/flipping.png and the table to results/flipping.txt. The area is the mean drop of the logit over all
steps (Samek et al. 2017, Eq. 12): the larger, the earlier the pixels that mattered were flipped. Took 1 min 29 s on 2 cores.
"""
from pathlib import Path

from matplotlib.figure import Figure
import numpy as np

from script import Parser, check_writable, count, once, progress_bar, seed, write
import data
from lrp import BATCH, COMPOSITES, Explainer

HERE = Path(__file__).resolve().parent
PIXELS_PER_STEP = 4


def scores(explainer, rules, images, rng):
    """What orders the pixels: {method: [n, 28, 28]}, by the explained class, the one that the network saw."""
    slope, results = explainer.gradient(images), explainer(images)
    by_rule = {rule: results[f'relevance/{rule}'] for rule in rules}
    return {**by_rule, 'gradient x input': slope * images, 'gradient magnitude': np.abs(slope), 'random': rng.random(images.shape)}


def order(score, rng):
    """Pixels by falling score [n, 28, 28], equal ones in random order. Returns [n, 784]."""
    score = score.reshape(len(score), -1)
    shuffled = rng.permuted(np.tile(np.arange(score.shape[1]), (len(score), 1)), axis=1)
    ranks = np.argsort(-np.take_along_axis(score, shuffled, 1), axis=1, kind='stable')
    return np.take_along_axis(shuffled, ranks, 1)


def flipped(images, pixels, steps):
    """Yields the images [n, 28, 28] as they are, then after each step, with the next pixels [n, 784] of the order set to zero."""
    images = images.reshape(len(images), -1).copy()
    yield images.reshape(-1, 28, 28)
    for step in range(steps):
        np.put_along_axis(images, pixels[:, step * PIXELS_PER_STEP:(step + 1) * PIXELS_PER_STEP], 0, 1)
        yield images.reshape(-1, 28, 28)


def curves(explainer, images, labels, pixels, steps):
    """Logit of the class first seen, and whether the label is still seen, at each step: two arrays [steps + 1, n]."""
    logits = np.stack([explainer.classify(x) for x in flipped(images, pixels, steps)])
    seen = logits[0].argmax(1)
    return logits[:, np.arange(len(images)), seen], logits.argmax(2) == labels


def area(logits):
    """Area over the perturbation curve: the mean over steps and digits of the first logit less the logit [steps + 1, n]."""
    return float((logits[0] - logits).mean())


def measure(explainer, rules, images, labels, steps, rng):
    """Flips all digits by all methods, in batches. Returns {method: (logits [steps + 1, n], right [steps + 1, n])}."""
    parts = {}
    bar = progress_bar(len(images), 'digit')
    for start in range(0, len(images), BATCH):
        x, y = images[start:start + BATCH], labels[start:start + BATCH]
        for method, score in scores(explainer, rules, x, rng).items():
            parts.setdefault(method, []).append(curves(explainer, x, y, order(score, rng), steps))
        bar.update(min(start + BATCH, len(images)))
    return {method: [np.concatenate(arrays, 1) for arrays in zip(*batches)] for method, batches in parts.items()}


def draw(results):
    """The curves of logit and accuracy against the number of flipped pixels."""
    figure = Figure(figsize=(12.5, 4.2), layout='constrained')
    for axes, part, label in zip(figure.subplots(1, 2), (0, 1), ('mean logit of the class first seen', 'accuracy')):
        for method, result in results.items():
            style = '-' if method in COMPOSITES else ':' if method == 'random' else '--'
            axes.plot(PIXELS_PER_STEP * np.arange(len(result[part])), result[part].mean(1), style, label=method)
        axes.set(xlabel='pixels set to background, most relevant first', ylabel=label)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside right upper')
    return figure


def table(results, steps):
    """A line per method, the largest area first: area, and accuracy after a quarter, half and all of the steps."""
    points = [steps // 4, steps // 2, steps]
    lines = [f'{"":>18} {"area":>7}  accuracy after ' + ' '.join(f'{PIXELS_PER_STEP * k:>6} px' for k in points)]
    for method, (logits, right) in sorted(results.items(), key=lambda item: -area(item[1][0])):
        accuracies = ' '.join(f'{right[k].mean():>9.1%}' for k in points)
        lines.append(f'{method:>18} {area(logits):7.3f} {"":>15}{accuracies}')
    return '\n'.join(lines)


def evaluate(args):
    check_writable(args.results)
    explainer = Explainer(args.rule, args.logdir)
    (images, labels), = data.load(args.data, 'test')
    if args.digits > len(images):
        raise ValueError(f'--digits {args.digits}: the test set has {len(images)}')
    rng = np.random.default_rng(args.seed)
    chosen = rng.permutation(len(images))[:args.digits]
    results = measure(explainer, args.rule, images[chosen] / np.float32(255), labels[chosen], args.steps, rng)
    write(args.results / 'flipping.png', lambda path: draw(results).savefig(path, dpi=110))
    print(f'{args.digits} test digits, {args.steps} steps of {PIXELS_PER_STEP} pixels, seed {args.seed}')
    print(table(results, args.steps))
    write(args.results / 'flipping.txt', lambda path: path.write_text(table(results, args.steps) + '\n'))
    print(f'wrote {args.results / "flipping.png"} and {args.results / "flipping.txt"}')


def parse(argv):
    parser = Parser(__doc__)
    parser.add_argument('--rule', nargs='+', choices=COMPOSITES, default=list(COMPOSITES), metavar='R',
                        help=f'of {", ".join(COMPOSITES)} (default: all)')
    parser.add_argument('--digits', type=count, default=1000, metavar='N',
                        help='test digits, drawn by the seed (default: 1000)')
    parser.add_argument('--steps', type=count, default=50, metavar='N', help='of four pixels each, up to 196 (default: 50)')
    parser.add_argument('--seed', type=seed, default=0, help='draws digits and random order (default: 0)')
    parser.add_argument('--data', type=Path, default=HERE / 'mnist.npz', metavar='FILE', help='default: mnist/mnist.npz')
    parser.add_argument('--logdir', type=Path, default=HERE / 'logs', metavar='DIR', help='of train.py (default: mnist/logs)')
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR', help='default: mnist/results')
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
