"""Explains what the trained network sees in digits: Layer-wise Relevance Propagation, every layer's relevance an explicit op.

    python mnist/lrp.py                                  one test digit of each class, results/0.jpg .. 9.jpg
    python mnist/lrp.py --rule deep-taylor zplus epsilon three heatmaps beside every digit
    python mnist/lrp.py --image photo.png --target 3     your own digit: what speaks for a 3?
    python mnist/lrp.py --index all --save-relevance     all test digits, one results/relevance.npz

Red pixels speak for the target class, blue ones against it, white is zero. The table that is printed gives, for every digit, the
sum of relevance at each layer divided by the logit: 1.000000 everywhere means that none was lost on the way down to the pixels.
"""
import argparse
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
import sys

import numpy as np

from model import LAYERS, best_checkpoint, forward, linear, restore, tf, variables  # first: it silences TensorFlow
import data
from pictures import digit, draw, unique, write
from train import Parser, check_writable, seed
from keras.utils import Progbar

HERE = Path(__file__).resolve().parent
BATCH = 100  # digits explained at once; of more inputs no single pictures are drawn
ACTIVATIONS = ['pixels'] + [layer[0] for layer in LAYERS]  # what r[0..L] belong to
TINY = 1e-20  # the stabiliser of the rules whose z is never negative: too small to be seen in any sum


# The rules. a: inputs [n, ...], w, b: weights and bias of the layer, r: relevance of its outputs. Each returns the relevance of a.

def transposed(layer, s, w, a):
    """The transpose of `linear`: sends s, shaped like the layer's output, back along the weights to the shape of a."""
    if layer[1] == 'conv':
        return tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(a), filter=w, out_backprop=s, strides=[1] * 4, padding='SAME')
    return tf.matmul(s, w, transpose_b=True)


def stabilise(z, eps):
    """z + eps * sign(z) with sign(0) = +1: never zero."""
    return z + tf.where_v2(z >= 0, eps, -eps)


def zplus(layer, a, w, b, r):
    """z+ rule for inputs a >= 0 (Montavon et al. 2017, Sec. 4.2). Conserves: sum of result = sum of r, wherever z > 0."""
    w = tf.maximum(w, 0.0)
    z = linear(layer, a, w)            # 1. what each output received
    s = r / (z + TINY)                 # 2. relevance per unit received
    c = transposed(layer, s, w, a)     # 3. sent back along the weights
    return a * c                       # 4. weighed by what each input gave


def zbeta(layer, a, w, b, r, low, high):
    """zB rule for inputs low <= a <= high (Montavon et al. 2017, Sec. 4.2), as z = sum (a - low) w+ + (a - high) w-. Conserves.

    Both terms are >= 0, so nothing cancels. They lie side by side along the input channels: one linear operation each way.
    """
    x = tf.concat([a - low, a - high], -1)
    w = tf.concat([tf.maximum(w, 0.0), tf.minimum(w, 0.0)], -2)
    z = linear(layer, x, w)
    s = r / (z + TINY)
    c = transposed(layer, s, w, x)
    return tf.add_n(tf.split(x * c, 2, -1))


def epsilon(layer, a, w, b, r, eps=1e-6):
    """Epsilon rule (Bach et al. 2015, Eq. 58). Conserves up to what the bias and eps absorb."""
    z = tf.nn.bias_add(linear(layer, a, w), b)
    s = r / stabilise(z, eps)
    c = transposed(layer, s, w, a)
    return a * c


def max_pool(a, pooled, r):
    """The winner takes all; of equal inputs the first one in its window."""
    window = [1, 2, 2, 1]
    return tf.raw_ops.MaxPoolGrad(orig_input=a, orig_output=pooled, grad=r, ksize=window, strides=window, padding='SAME')


# Not quite 0: a corner that is all black under weights all > 0 would have z = 0, and its relevance would be lost.
PIXELS = partial(zbeta, low=-1e-6, high=1.0)
RULES = {  # --rule: the first layer name that matches decides
    'deep-taylor': [('conv1', PIXELS), ('*', zplus)],  # Montavon et al. 2017
    'zplus': [('*', zplus)],
    'epsilon': [('*', epsilon)],  # Bach et al. 2015
}


def relevance(rule, a, weights, r):
    """Walks the layer table upwards from the relevance r of the logits. Returns r[0..L], r[i] of the shape of a[i]."""
    result = [r]
    for i, layer in reversed(list(enumerate(LAYERS))):
        name, kind, _ = layer
        if kind == 'pool':
            r = max_pool(a[i], a[i + 1], r)
        elif kind == 'flatten':
            r = tf.reshape(r, tf.shape(a[i]))
        else:
            propagate = next(function for pattern, function in RULES[rule] if fnmatch(name, pattern))
            r = propagate(layer, a[i], *weights[name], r)
        result.insert(0, r)
    return result


class Explainer:
    """The trained network, its relevance graph for some rules and the session that runs both; built once."""

    def __init__(self, rules, logdir):
        checkpoint = best_checkpoint(logdir)
        with tf.Graph().as_default():
            made = variables()
            weights = {name: (w.read_value(), b.read_value()) for name, (w, b) in made.items()}  # read once: equal ops are shared
            self.images = tf.placeholder(tf.float32, [None, 28, 28])
            self.target = tf.placeholder(tf.int64, [None])  # a class, or -1 for the most likely one
            a = forward(self.images[..., None], weights)
            self.logits = a[-1]
            target = tf.where(self.target < 0, tf.argmax(self.logits, 1), self.target)
            self.selected = self.logits * tf.one_hot(target, 10)  # where relevance starts: the target's logit, else zero
            self.results = {'logits': self.logits, 'targets': target}
            for rule in rules:
                r = relevance(rule, a, weights, self.selected)
                self.results[f'relevance/{rule}'] = r[0][..., 0]
                self.results[f'sums/{rule}'] = tf.stack([total(x) for x in r], 1)
            wanted = tf.global_variables()
            self.session = tf.Session()
            restore(self.session, tf.train.Saver(wanted), checkpoint, wanted)

    def __call__(self, images, target=None):
        """Explains digits [n, 28, 28] in [0, 1]: target class, or None for the most likely one.

        Returns {'logits': [n, 10], 'targets': [n], per rule 'relevance/<rule>': [n, 28, 28] and 'sums/<rule>': [n, L + 1]}, the
        sum of relevance at each layer.
        """
        targets = np.full(len(images), -1 if target is None else target)
        return self.session.run(self.results, {self.images: images, self.target: targets})

    def classify(self, images):
        """The most likely class of each digit [n, 28, 28] in [0, 1]."""
        return self.session.run(self.logits, {self.images: images}).argmax(1)


def total(r):
    return tf.reduce_sum(tf.cast(r, tf.float64), list(range(1, r.shape.rank)))


def pick(explainer, classes, images, labels, rng):
    """Draws, for each of the classes, a test digit that the network classifies right. Returns their indices."""
    chosen = []
    for wanted in classes:
        candidates = rng.permutation(np.setdiff1d(np.flatnonzero(labels == wanted), chosen))
        for start in range(0, len(candidates), 10):
            batch = candidates[start:start + 10]
            right = batch[explainer.classify(images[batch] / np.float32(255)) == wanted]
            if len(right):
                chosen.append(right[0])
                break
        else:
            raise ValueError(f'no (further) test digit {wanted} is classified right: train longer, or choose by --index')
    return chosen


def find_inputs(args, explainer):
    """Finds what is to be explained. Returns images [n, 28, 28], what each is called (test indices or paths), the names of
    their results, their labels (None where unknown), and a line for each input that could not be read."""
    if args.image:
        images, paths, broken = [], [], []
        for path in args.image:
            try:
                images.append(digit(path))
                paths.append(path)
            except (ValueError, OSError) as error:
                broken.append(str(error))
        return np.reshape(images, [-1, 28, 28]), paths, unique([path.stem for path in paths]), None, broken
    (images, labels), = data.load(args.data, 'test')
    if args.index:
        indices = list(range(len(images))) if args.index == ['all'] else args.index
        if max(indices) >= len(images):
            raise ValueError(f'--index {max(indices)}: the test set has digits 0 to {len(images) - 1}')
        names = [f'index_{i}' for i in indices]
    else:
        classes = args.digit or list(range(10))
        indices = pick(explainer, classes, images, labels, np.random.default_rng(args.seed))
        names = [str(wanted) for wanted in classes]
    return images[indices] / np.float32(255), indices, unique(names), labels[indices], []


def explain_all(explainer, images, target):
    """Explains any number of digits, batch by batch. Returns what Explainer returns."""
    bar = Progbar(len(images), unit_name='digit') if len(images) > BATCH and sys.stdout.isatty() else None
    results = {}
    for start in range(0, len(images), BATCH):
        for name, values in explainer(images[start:start + BATCH], target).items():
            if name not in results:
                results[name] = np.empty((len(images), *values.shape[1:]), values.dtype)
            results[name][start:start + BATCH] = values
        if bar:
            bar.update(min(start + BATCH, len(images)))
    return results


def table(rule, which, results):
    """The conservation table of one rule: a line per digit."""
    print(f'\n{rule}: sum of relevance / logit at each layer\n{"digit":>12} {"seen as":>7} {"target":>6} {"logit":>8}', end=' ')
    print(' '.join(f'{name:>9}' for name in ACTIVATIONS))
    for i, name in enumerate(which):
        logits, target = results['logits'][i], results['targets'][i]
        shares = ' '.join(f'{share:9.6f}' for share in results[f'sums/{rule}'][i] / logits[target])
        print(f'{getattr(name, "name", name)!s:>12} {logits.argmax():>7} {target:>6} {logits[target]:8.3f} {shares}')


def summary(rules, labels, results):
    """Accuracy, and per rule and layer the worst conservation over all digits."""
    logits = np.take_along_axis(results['logits'], results['targets'][:, None], 1)
    if labels is not None:
        print(f'{len(logits)} digits, accuracy {np.mean(results["logits"].argmax(1) == labels):.2%}')
    print(f'largest |sum of relevance / logit - 1| at each layer:\n{"":>12}', ' '.join(f'{name:>9}' for name in ACTIVATIONS))
    for rule in rules:
        worst = np.abs(results[f'sums/{rule}'] / logits - 1).max(0)
        print(f'{rule:>12}', ' '.join(f'{loss:9.2e}' for loss in worst))


def save_relevance(args, which, images, results):
    """Writes results/relevance.npz: index or files, images, logits, targets, relevance/<rule>."""
    arrays = {'files': np.array([str(path) for path in which])} if args.image else {'index': np.array(which)}
    arrays.update({name: values for name, values in results.items() if not name.startswith('sums/')}, images=images)
    write(args.results / 'relevance.npz', lambda path: np.savez(path, **arrays))


def explain(args):
    """Does what the command line asks. Returns a line for each input that could not be read."""
    check_writable(args.results)
    explainer = Explainer(args.rule, args.logdir)
    images, which, names, labels, broken = find_inputs(args, explainer)
    results = explain_all(explainer, images, args.target)
    if len(images) > BATCH:
        summary(args.rule, labels, results)
    elif len(images):
        for i, name in enumerate(names):
            heatmaps = {rule: results[f'relevance/{rule}'][i] for rule in args.rule}
            caption = f'{which[i].name if args.image else f"test digit {which[i]}"} seen as {results["logits"][i].argmax()}'
            write(args.results / f'{name}.jpg', draw(images[i], heatmaps, caption).save)
        for rule in args.rule:
            table(rule, which, results)
        print(f'\nwrote {len(names)} pictures to {args.results}: {names[0]}.jpg to {names[-1]}.jpg (seed {args.seed})')
    if args.save_relevance and len(images):
        save_relevance(args, which, images, results)
    return broken


def parse(argv):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rule', nargs='+', choices=RULES, default=['deep-taylor'], metavar='R',
                        help=f'one heatmap for each: {", ".join(RULES)} (default: deep-taylor)')
    inputs = parser.add_mutually_exclusive_group()
    inputs.add_argument('--digit', nargs='+', type=int, choices=range(10), metavar='D', help='a test digit of each class given')
    inputs.add_argument('--index', nargs='+', type=index, metavar='I', help='these test digits, counted from 0, or: all')
    inputs.add_argument('--image', nargs='+', type=Path, metavar='FILE',
                        help='your own pictures of one digit each, dark on light or light on dark, of any size')
    parser.add_argument('--target', type=int, choices=range(10), metavar='T',
                        help='explain this class instead of the most likely one')
    parser.add_argument('--seed', type=seed, default=0, help='draws the test digits (default: 0)')
    parser.add_argument('--save-relevance', action='store_true', help='also write results/relevance.npz, the relevance as numbers')
    parser.add_argument('--data', type=Path, default=HERE / 'mnist.npz', metavar='FILE', help='default: mnist/mnist.npz')
    parser.add_argument('--logdir', type=Path, default=HERE / 'logs', metavar='DIR', help='of train.py (default: mnist/logs)')
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR', help='default: mnist/results')
    args = parser.parse_args(argv)
    args.rule = list(dict.fromkeys(args.rule))
    if args.index and 'all' in args.index and args.index != ['all']:
        parser.error('--index all stands alone')
    return parser, args


def index(text):
    if text != 'all' and not text.isdecimal():
        raise ValueError
    return text if text == 'all' else int(text)


def main(argv=None):
    parser, args = parse(argv)
    try:
        broken = explain(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if broken:
        parser.exit(1, ''.join(f'{parser.prog}: {line}\n' for line in broken))


if __name__ == '__main__':
    main()
