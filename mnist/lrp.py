"""Explains what the trained network sees in digits: Layer-wise Relevance Propagation, every layer's relevance an explicit op.

    python mnist/lrp.py                                  one test digit of each class, results/0.jpg .. 9.jpg
    python mnist/lrp.py --rule deep-taylor zplus epsilon three heatmaps beside every digit
    python mnist/lrp.py --image photo.png --target 3     your own digit: what speaks for a 3?
    python mnist/lrp.py --digit 3 --against 8            why a 3 rather than an 8?
    python mnist/lrp.py --index all --save-relevance     all test digits, one results/relevance.npz

Red pixels speak for the target class, blue ones against it, white is zero. The table that is printed gives, for every digit, the
sum of relevance at each layer divided by what it started with, the logit: 1.000000 everywhere means that none was lost on the way
down to the pixels. Where the logit is negative, rules with one sign start with the evidence for the class instead.
"""
import argparse
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
import sys

import numpy as np

if __name__ == '__main__':  # PYTHONSAFEPATH keeps Python from looking beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from script import Parser, check_spared, check_writable, encoded, once, open_session, progress_bar, seed, tf, unique, write
import data
from model import CLASSES, LAYERS, SIDE, affine, best_checkpoint, forward, linear, pool, restore, transposed, variables
from pictures import digit, draw, plain

HERE = Path(__file__).resolve().parent
BATCH = 100  # digits explained at once; of a whole test set above that no single pictures are drawn
ACTIVATIONS = ['pixels'] + [layer.name for layer in LAYERS]  # what r[0..L] belong to


# The rules. a: inputs of the layer [n, ...], r: relevance of its outputs. Each returns the relevance of a.

def tiny(z):
    """The stabiliser of rules whose z is never negative: 1e-20, too small to be seen in any sum. One for each output, so that
    TensorFlow adds it within the linear operation."""
    return tf.fill(z.shape[-1:], tf.constant(1e-20, z.dtype))


def stabilise(z, eps):
    """z + eps * sign(z) with sign(0) = +1: never zero."""
    eps = tf.convert_to_tensor(eps, z.dtype)
    return z + tf.where_v2(z >= 0, eps, -eps)


def zplus(layer, a, weights, r):
    """z+ rule for inputs a >= 0 (Montavon et al. 2017, Sec. 4.2). Conserves: sum of result = sum of r, wherever z > 0."""
    w = weights.positive
    z = linear(layer, a, w)            # 1. what each output received
    s = r / (z + tiny(z))              # 2. relevance per unit received
    c = transposed(layer, s, w, a)     # 3. sent back along the weights
    return a * c                       # 4. weighed by what each input gave


def zbeta(layer, a, weights, r, low, high):
    """zB rule for inputs low <= a <= high (Montavon et al. 2017, Sec. 4.2), as z = sum (a - low) w+ + (a - high) w-. Conserves.

    Both terms are >= 0, so nothing cancels. They lie side by side along the input channels: one linear operation each way.
    """
    x = tf.concat([a - low, a - high], -1)
    w = tf.concat([weights.positive, weights.negative], -2)
    z = linear(layer, x, w)
    s = r / (z + tiny(z))
    c = transposed(layer, s, w, x)
    return tf.add_n(tf.split(x * c, 2, -1))


def epsilon(layer, a, weights, r, eps=1e-6):
    """Epsilon rule (Bach et al. 2015, Eq. 58). Conserves up to what the bias and eps absorb."""
    z = affine(layer, a, weights)
    s = r / stabilise(z, eps)
    c = transposed(layer, s, weights.w, a)
    return a * c


def max_pool(layer, a, weights, r):
    """The winner takes all; of equal inputs the first one in its window."""
    return tf.raw_ops.MaxPoolGrad(orig_input=a, orig_output=pool(layer, a), grad=r, **layer.window)


def unflatten(layer, a, weights, r):
    """Back into maps."""
    return tf.reshape(r, tf.shape(a))


PIXELS = next(layer.name for layer in LAYERS if layer.kind in ('conv', 'dense'))  # the layer that weighs them
# A millionth wider than [0, 1]: a corner that is all black under weights all > 0 would have z = 0, and its relevance would be lost.
BOX = partial(zbeta, low=-1e-6, high=1.0 + 1e-6)
PASSED = [('max *', max_pool), ('flatten *', unflatten)]  # layers without weights
COMPOSITES = {  # --rule: of each layer's kind and name the first pattern that fits decides
    'deep-taylor': [*PASSED, (f'* {PIXELS}', BOX), ('*', zplus)],  # Montavon et al. 2017
    'zplus': [*PASSED, ('*', zplus)],
    'epsilon': [*PASSED, ('*', epsilon)],  # Bach et al. 2015
}


def rule_of(composite, layer):
    """The rule of a layer."""
    return next(rule for pattern, rule in COMPOSITES[composite] if fnmatch(f'{layer.kind} {layer.name}', pattern))


def relevance(composite, layers, a, weights, r):
    """Walks the layer table upwards from the relevance r of the logits. Returns r[0..L], r[i] of the shape of a[i]."""
    result = [r]
    for layer, x in reversed(list(zip(layers, a))):
        r = rule_of(composite, layer)(layer, x, weights.get(layer.name), r)
        result.insert(0, r)
    return result


# Where relevance starts. chosen [n, classes]: 1 at the target, -1 at the class that it is held against, if there is one.

def both_signs(composite, layers):
    """Whether a composite, by its rule at the logits, tells what speaks for a class from what speaks against it."""
    return rule_of(composite, layers[-1]) is epsilon


def evidence(layers, a, weights):
    """What speaks for each class: the sum of a w+ into the logits, for inputs a >= 0. [n, classes]"""
    return linear(layers[-1], a[-2], weights[layers[-1].name].positive)


def start(composite, layers, a, weights, chosen):
    """The relevance of the logits: [n, classes].

    With both signs at the logits it is the target's logit, less the other's at the other class. A rule with one sign would spread a
    negative logit over what speaks for the class, as if it spoke against it: so it starts, where the logit is not positive, at the
    evidence for the class; held against another one, with as much taken off there (contrastive LRP, Gu et al. 2018), if anything
    speaks for that one.
    """
    logits = a[-1]
    if both_signs(composite, layers):
        return logits * chosen
    found = evidence(layers, a, weights)
    value = tf.where_v2(logits > 0, logits, found)
    chosen *= tf.where_v2((found > 0) | (chosen > 0), tf.ones_like(chosen), tf.zeros_like(chosen))
    return tf.reduce_sum(value * tf.maximum(chosen, 0.0), -1, keepdims=True) * chosen


def started(r, chosen):
    """What relevance r of the logits is at the target and at the class it is held against: [n, 2]."""
    return tf.stack([tf.reduce_sum(r * tf.maximum(part, 0.0), -1) for part in (chosen, -chosen)], -1)


class Explainer:
    """The trained network, its relevance graph for some rules and the session that runs both; built once."""

    def __init__(self, rules, logdir):
        checkpoint = best_checkpoint(logdir)
        with tf.Graph().as_default():
            weights = {name: each.read() for name, each in variables().items()}
            self.images = tf.placeholder(tf.float32, [None, SIDE, SIDE])
            self.target = tf.placeholder(tf.int64, [None])  # a class, or -1 for the most likely one
            self.against = tf.placeholder(tf.int64, [None])  # the class that it is held against, or -1
            a = forward(self.images[..., None], weights)
            self.logits = a[-1]
            against = tf.one_hot(self.against, CLASSES)
            likely = tf.argmax(tf.where_v2(against > 0, -np.inf, self.logits), 1)
            target = tf.where(self.target < 0, likely, self.target)
            chosen = tf.one_hot(target, CLASSES) - against
            self.slope = tf.gradients(self.logits * chosen, self.images)[0]
            self.results = {'logits': self.logits, 'targets': target}
            for rule in rules:
                first = start(rule, LAYERS, a, weights, chosen)
                r = relevance(rule, LAYERS, a, weights, first)
                self.results[f'started/{rule}'] = started(first, chosen)
                self.results[f'relevance/{rule}'] = r[0][..., 0]
                self.results[f'sums/{rule}'] = tf.stack([total(x) for x in r], 1)
            wanted = {variable.op.name: variable for variable in tf.global_variables()}
            saver, initialise = tf.train.Saver(wanted), tf.local_variables_initializer()
            self.session = open_session()
            restore(self.session, saver, checkpoint, wanted)
            self.session.run(initialise)
            tf.get_default_graph().finalize()  # no batch adds to it

    def __call__(self, images, target=None, against=None):
        """Explains digits [n, 28, 28] in [0, 1]: the target class, or None for the most likely one, held against another class or
        None.

        Returns {'logits': [n, 10], 'targets': [n], per rule 'relevance/<rule>': [n, 28, 28], 'started/<rule>': [n, 2], what
        relevance started with at the target and at the other class, and 'sums/<rule>': [n, L + 1], its sum at each layer}.
        """
        return self.session.run(self.results, self.feed(images, target, against))

    def gradient(self, images, target=None):
        """The gradient of the target's logit [n, 28, 28] at digits [n, 28, 28] in [0, 1]."""
        return self.session.run(self.slope, self.feed(images, target))

    def classify(self, images):
        """The logits [n, 10] of digits [n, 28, 28] in [0, 1]."""
        return self.session.run(self.logits, {self.images: images})

    def feed(self, images, target, against=None):
        target, against = (np.full(len(images), -1 if value is None else value) for value in (target, against))
        return {self.images: images, self.target: target, self.against: against}


def total(r):
    """The sum of relevance [n, ...] of each digit, in float64: [n]."""
    return tf.reduce_sum(tf.cast(r, tf.float64), list(range(1, r.shape.rank)))


def pick(explainer, classes, images, labels, rng):
    """Draws, for each of the classes, a test digit that the network classifies right. Returns their indices."""
    chosen = []
    for wanted in classes:
        candidates = rng.permutation(np.setdiff1d(np.flatnonzero(labels == wanted), chosen))
        for start in range(0, len(candidates), 10):
            batch = candidates[start:start + 10]
            right = batch[explainer.classify(images[batch] / np.float32(255)).argmax(1) == wanted]
            if len(right):
                chosen.append(right[0])
                break
        else:
            raise ValueError(f'no (further) test digit {wanted} is classified right: train longer, or choose by --index')
    return chosen


def asked_for(explainer, images, labels, indices, classes, rng):
    """What the command line asks for of the test digits: their indices, and a name for each one's results."""
    if indices == ['all']:
        indices = range(len(images))
    if not indices:
        return pick(explainer, classes, images, labels, rng), [str(wanted) for wanted in classes]
    if max(indices) >= len(images):
        raise ValueError(f'--index {max(indices)}: the test set has digits 0 to {len(images) - 1}')
    return list(indices), [f'index_{i}' for i in indices]


def read_pictures(paths):
    """Reads pictures of digits. Returns images [n, 28, 28], the paths that could be read, and a line for each of the others."""
    images, read, broken = [], [], []
    for path in paths:
        try:
            images.append(digit(path))
            read.append(path)
        except (ValueError, OSError) as error:
            broken.append(str(error))
    return np.reshape(images, [-1, SIDE, SIDE]), read, broken


def explain_all(explainer, images, target, against):
    """Explains any number of digits, batch by batch. Returns what Explainer returns."""
    bar, results = progress_bar(len(images), 'digit', quiet=True), {}
    for i in range(0, len(images), BATCH):
        for name, values in explainer(images[i:i + BATCH], target, against).items():
            if name not in results:
                results[name] = np.empty((len(images), *values.shape[1:]), values.dtype)
            if not np.isfinite(values).all():
                raise ValueError(f'{name} is not finite: the network was trained with too high a rate, or its checkpoint is not one of it')
            results[name][i:i + BATCH] = values
        if len(images) > BATCH:
            bar.update(min(i + BATCH, len(images)))
    return results


def shares(rule, results):
    """The sum of relevance at each layer divided by what it started with [n, L + 1], and what it should be [n, 1]: 1; or 0 where
    as much was taken off at another class."""
    value, taken = np.split(np.float64(results[f'started/{rule}']), 2, -1)
    even = (taken == -value) & (value != 0)
    whole = np.where(even, value, value + taken)
    return results[f'sums/{rule}'] / np.where(whole, whole, np.nan), np.where(even, 0.0, 1.0)


def start_of(rule, results, i, against):
    """What relevance of the i-th digit started with, in words."""
    target = results['targets'][i]
    logit, (value, taken) = results['logits'][i, target], results[f'started/{rule}'][i]
    name = f'evidence {value:.3f}' if value > 0 >= logit else f'logit {logit:.3f}' if value else 'nothing'
    if against is None or not value:
        return name
    return f'{name}, as much taken off' if taken == -value else f'{name} - {-taken:.3f}' if taken else f'{name}, nothing to take off'


def table(rule, which, results, against):
    """The conservation table of one rule: a line per digit."""
    other = '' if against is None else f' rather than {against}'
    starts = [start_of(rule, results, i, against) for i in range(len(which))]
    width = max(map(len, ['started with', *starts]))
    lines = [f'\n{rule}{other}: sum of relevance / what it started with, at each layer',
             f'{"digit":>12} {"seen as":>7} {"target":>6} {"started with":>{width}} ' + ' '.join(f'{name:>9}' for name in ACTIVATIONS)]
    for i, name in enumerate(which):
        values = ' '.join(f'{share:9.6f}' for share in shares(rule, results)[0][i])
        seen, target = results['logits'][i].argmax(), results['targets'][i]
        lines.append(f'{name!s:>12} {seen:>7} {target:>6} {starts[i]:>{width}} {values}')
    return '\n'.join(lines)


def summary(rules, labels, results):
    """Accuracy, and per rule and layer the worst conservation over all digits."""
    lines = [f'{len(labels)} digits, accuracy {np.mean(results["logits"].argmax(1) == labels):.2%}',
             'largest |sum of relevance / what it started with - 1| at each layer:',
             f'{"":>12} ' + ' '.join(f'{name:>9}' for name in ACTIVATIONS)]
    for rule in rules:
        found, due = shares(rule, results)
        lines.append(f'{rule:>12} ' + ' '.join(f'{loss:9.2e}' for loss in np.abs(found - due).max(0)))
    return '\n'.join(lines)


def label(rule, results, i, against):
    """What stands above a heatmap: the rule and, where it is not plainly the class seen that is explained, which one."""
    target = results['targets'][i]
    logit = results['logits'][i, target]
    name = f'{target} (logit {logit:.2f})' if logit <= 0 else f'{target}'
    if against is not None:
        return f'{rule}: {name} rather than {against}'
    value = results[f'started/{rule}'][i, 0]
    if value > 0 >= logit or not value:
        return f'{rule}: {"evidence" if value else "nothing"} for {name}'
    return rule if target == results['logits'][i].argmax() else f'{rule}: {name}'


def endings(rules, alone):
    """What the files of a digit are called after its name, the JPG last."""
    return [f'_{rule}{kind}.png' for rule in rules for kind in ('', '_over')] * alone + ['.jpg']


def draw_plain(folder, name, image, rules, results, i):
    """Writes each heatmap of the i-th digit alone and laid over it, as large as it is."""
    for rule in rules:
        for kind, picture in plain(image, results[f'relevance/{rule}'][i]).items():
            write(folder / f'{name}_{rule}{kind}.png', encoded(picture.save, 'PNG'))


def draw_all(folder, names, captions, images, rules, results, against, alone):
    """Writes a picture of each digit, folder/<name>.jpg: the digit under its caption, beside a heatmap for each rule; if wanted also
    the heatmaps alone. Returns what was written, and a line for each that could not be."""
    written, failed = [], []
    for i, (name, caption) in enumerate(zip(unique(names, endings(rules, alone)), captions)):
        heatmaps = {label(rule, results, i, against): results[f'relevance/{rule}'][i] for rule in rules}
        title = f'{caption} seen as {results["logits"][i].argmax()}'
        try:
            if alone:
                draw_plain(folder, name, images[i], rules, results, i)
            write(folder / f'{name}.jpg', encoded(draw(images[i], heatmaps, title).save, 'JPEG'))
            written.append(f'{name}.jpg')
        except OSError as error:
            failed.append(str(error))
    return f'wrote {len(written)} pictures to {folder}' + (f': {written[0]} to {written[-1]}' if written else ''), failed


def result_names(args):
    """The names of all files that are written."""
    names = [path.stem for path in args.image or []] or [f'index_{i}' for i in args.index or []] or [str(wanted) for wanted in args.digit]
    ends = endings(args.rule, args.plain)
    return [f'{name}{end}' for name in unique(names, ends) for end in ends] + ['relevance.npz'] * args.save_relevance


def explain(args):
    """Does what the command line asks. Returns a line for each input that could not be read."""
    check_writable(args.results)
    check_spared(args.results, result_names(args), (args.image or []) + [args.data])
    explainer, broken, labels = Explainer(args.rule, args.logdir), [], None
    if args.image:
        images, paths, broken = read_pictures(args.image)
        which, names, numbers = [path.name for path in paths], [path.stem for path in paths], {'files': list(map(str, paths))}
    else:
        (images, labels), = data.load(args.data, 'test')
        which, names = asked_for(explainer, images, labels, args.index, args.digit, np.random.default_rng(args.seed))
        images, labels, numbers = images[which] / np.float32(255), labels[which], {'index': which}
    results = explain_all(explainer, images, args.target, args.against)
    if args.save_relevance and which:
        arrays = {name: values for name, values in results.items() if not name.startswith(('sums/', 'started/'))}
        if args.against is not None:
            arrays['against'] = np.int64(args.against)
        write(args.results / 'relevance.npz', lambda path: np.savez(path, **numbers, images=images, **arrays))
    if args.index == ['all'] and len(images) > BATCH:
        print(summary(args.rule, labels, results))
    elif which:
        captions = which if args.image else [f'test digit {i}' for i in which]
        written, failed = draw_all(args.results, names, captions, images, args.rule, results, args.against, args.plain)
        print('\n'.join(table(rule, which, results, args.against) for rule in args.rule) + f'\n\n{written} (seed {args.seed})')
        broken += failed
    return broken


def parse(argv):
    parser = Parser(__doc__)
    parser.add_argument('--rule', nargs='+', choices=COMPOSITES, default=['deep-taylor'], metavar='R',
                        help=f'one heatmap for each: {", ".join(COMPOSITES)} (default: deep-taylor)')
    inputs = parser.add_mutually_exclusive_group()
    inputs.add_argument('--digit', nargs='+', type=int, choices=range(CLASSES), default=list(range(CLASSES)), metavar='D',
                        help='a test digit of each class given')
    inputs.add_argument('--index', nargs='+', type=index, metavar='I', help='these test digits, counted from 0, or: all')
    inputs.add_argument('--image', nargs='+', type=Path, metavar='FILE',
                        help='your own pictures of one digit each, dark on light or light on dark, of any size')
    parser.add_argument('--target', type=int, choices=range(CLASSES), metavar='T',
                        help='explain this class instead of the most likely one')
    parser.add_argument('--against', type=int, choices=range(CLASSES), metavar='D',
                        help='explain it rather than this class; alone: why what the network saw, rather than this')
    parser.add_argument('--seed', type=seed, default=0, help='draws the test digits (default: 0)')
    parser.add_argument('--plain', action='store_true',
                        help='also write, for papers and slides, each heatmap without frame and title, of 28x28 pixels: '
                             '<name>_<rule>.png, and laid over the digit: <name>_<rule>_over.png')
    parser.add_argument('--save-relevance', action='store_true', help='also write results/relevance.npz, the relevance as numbers')
    parser.add_argument('--data', type=Path, default=HERE / 'mnist.npz', metavar='FILE', help='default: mnist/mnist.npz')
    parser.add_argument('--logdir', type=Path, default=HERE / 'logs', metavar='DIR', help='of train.py (default: mnist/logs)')
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR', help='default: mnist/results')
    args = parser.parse_args(argv)
    args.rule = once(args.rule)
    if args.index and 'all' in args.index and args.index != ['all']:
        parser.error('--index all stands alone')
    if args.index == ['all'] and args.plain:
        parser.error('--plain: with --index all no pictures are drawn')
    if args.against is not None and args.against == args.target:
        parser.error(f'--against {args.against} is the target itself')
    return parser, args


def index(text):
    """An option's value: the number of a test digit, or 'all'."""
    if text != 'all' and not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text} is neither the number of a test digit nor: all')
    return text if text == 'all' else int(text)


def main(argv=None):
    parser, args = parse(argv)
    parser.run(explain, args)


if __name__ == '__main__':
    main()
