"""Explains what the trained network sees in digits: Layer-wise Relevance Propagation.

    python mnist/lrp.py                               a test digit of each class
    python mnist/lrp.py --rule deep-taylor zplus epsilon     three heatmaps each
    python mnist/lrp.py --image photo.png --target 3  your own: why a 3?
    python mnist/lrp.py --digit 3 --against 8         why a 3 rather than an 8?
    python mnist/lrp.py --index all --save-relevance  all, as numbers

Writes results/0.jpg .. 9.jpg. Red pixels speak for the target class, blue ones against it, white is
zero. The table gives, for each digit and layer, the sum of relevance divided by the value it
started from, the logit: 1.000000 everywhere if nothing was lost on the way down to the pixels.
Where the logit is negative, rules of one sign start from the evidence for the class instead.
"""
import argparse
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import Parser, Refused, check_spared, encoded, make_folder, once, seed, write
import data
from digit import digit
from heatmaps import recorded, sheet, write_sheet
from explainer import BATCH, Explainer, explain_all
from model import CLASSES
from rules import COMPOSITES
from tables import summary, table

HERE = Path(__file__).resolve().parent


class Digit(NamedTuple):
    """A digit to explain."""

    image: np.ndarray  # [28, 28] in [0, 1]
    name: str  # in the table: '7' or 'photo.png'
    title: str  # 'test digit 7' or 'photo.png'
    source: str  # 'digit 7 of mnist.npz', 'a 3 of mnist.npz' or the path
    result: str  # the name of its result: '3', 'index_7' or 'photo'


def read_pictures(paths):
    """The Digits in these files, and a line for each that could not be read."""
    digits, failed = [], []
    for path, result in zip(paths, unique(path.stem for path in paths)):
        try:
            digits.append(Digit(digit(path), path.name, path.name, str(path), result))
        except Refused as error:
            failed.append(str(error))
    return digits, failed


def unique(names):
    """Appends _2, _3 ... to names that came before, even if their capitals differ."""
    taken, result = set(), []
    for name in names:
        candidate, number = name, 1
        while candidate.lower() in taken:
            number += 1
            candidate = f'{name}_{number}'
        taken.add(candidate.lower())
        result.append(candidate)
    return result


def result_names(args):
    """The names of the results, before any digit is read."""
    if args.image:
        return unique([path.stem for path in args.image])
    if args.index == ['all']:
        return []
    return unique([f'index_{i}' for i in args.index] if args.index else map(str, args.digit))


def read_test_digits(args, explainer):
    """The Digits that the options name in the test set, and their labels."""
    (images, labels), = data.load(args.data, 'test')
    indices = range(len(images)) if args.index == ['all'] else args.index
    if indices and max(indices) >= len(images):
        raise Refused(f'--index {max(indices)}: the test set has digits 0 to {len(images) - 1}')
    sources = [f'digit {i} of {args.data.name}' for i in indices or []]
    if not indices:
        indices = pick(explainer, args.digit, images, labels, np.random.default_rng(args.seed))
        sources = [f'a {wanted} of {args.data.name}' for wanted in args.digit]
    names = [f'index_{i}' for i in indices] if args.index == ['all'] else result_names(args)
    digits = [Digit(images[i] / np.float32(255), str(i), f'test digit {i}', source, name)
              for i, source, name in zip(indices, sources, names)]
    return digits, labels[list(indices)]


def pick(explainer, classes, images, labels, rng):
    """The index of a test digit for each of the classes, drawn from those classified correctly."""
    chosen = []
    for wanted in classes:
        candidates = rng.permutation(np.setdiff1d(np.flatnonzero(labels == wanted), chosen))
        for i in range(0, len(candidates), 10):
            batch = candidates[i:i + 10]
            logits = explainer.classify(images[batch] / np.float32(255))
            correct = batch[logits.argmax(1) == wanted]
            if len(correct):
                chosen.append(correct[0])
                break
        else:
            raise Refused(f'no (other) test digit {wanted} is classified correctly: train longer, '
                          'or choose by --index')
    return chosen


def label(rule, found, i, against):
    """What stands above a heatmap: the rule, and the class if it is not the one seen."""
    target = found.targets[i]
    logit, value = found.logits[i, target], found.started[rule][i, 0]
    name = f'{target} (logit {logit:.2f})' if logit <= 0 else f'{target}'
    if against is not None:
        return f'{rule}: {name} rather than {against}'
    if value > 0 >= logit or not value:
        return f'{rule}: {"evidence" if value else "nothing"} for {name}'
    return rule if target == found.logits[i].argmax() else f'{rule}: {name}'


def check_free(path, source):
    """Raises Refused if something else than an earlier result of this digit stands at a path."""
    if os.path.lexists(path) and recorded(path) != source:
        other = recorded(path)
        kind = f'the result of {other}' if other else 'no result of this script'
        raise Refused(f'{path} is {kind}; choose another --results, or --overwrite')


def draw_all(args, digits, found):
    """Writes results/<name>.jpg for each digit: the digit beside a heatmap for each rule.

    Returns what was written, and a line for each that was not.
    """
    written, failed = [], []
    for i, each in enumerate(digits):
        path = args.results / f'{each.result}.jpg'
        try:
            if not args.overwrite:
                check_free(path, each.source)
        except Refused as error:
            failed.append(str(error))
            continue
        heatmaps = {label(rule, found, i, args.against): found.relevance[rule][i]
                    for rule in args.rule}
        title = f'{each.title} seen as {found.logits[i].argmax()}'
        sums = {rule: float(found.relevance[rule][i].sum()) for rule in args.rule}
        record = {'picture': each.source, 'target': int(found.targets[i]), 'relevance': sums}
        write_sheet(path, sheet(each.image, title, heatmaps), record)
        written.append(path)
    last = f' to {written[-1].name}' if len(written) > 1 else ''
    return f'wrote {written[0]}{last}' if written else 'wrote nothing', failed


def save_relevance(path, args, digits, found):
    """Writes the relevance of all digits as numbers."""
    sources = [each.source for each in digits]
    if not args.overwrite:
        check_free(path, sources)
    arrays = {f'relevance/{rule}': r for rule, r in found.relevance.items()}
    if args.against is not None:
        arrays['against'] = np.int64(args.against)
    images = np.stack([each.image for each in digits])
    write(path, encoded(np.savez, digits=sources, images=images, logits=found.logits,
                        targets=found.targets, **arrays))


def explain(args):
    """Explains the digits named on the command line. Returns a line for each that failed."""
    make_folder(args.results)
    numbers = args.results / 'relevance.npz'
    results = [args.results / f'{name}.jpg' for name in result_names(args)]
    check_spared([*results, numbers], [*(args.image or []), args.data])
    explainer, failed, labels = Explainer(args.rule, args.logdir), [], None
    if args.image:
        digits, failed = read_pictures(args.image)
    else:
        digits, labels = read_test_digits(args, explainer)
    if not digits:
        return failed
    images = np.stack([each.image for each in digits])
    found = explain_all(explainer, images, args.target, args.against)
    if args.save_relevance:
        save_relevance(numbers, args, digits, found)
        print(f'wrote {numbers}')
    if args.index == ['all'] and len(digits) > BATCH:
        print(summary(args.rule, labels, found))
        return failed
    written, unwritten = draw_all(args, digits, found)
    print(*(table(rule, digits, found, args.against) for rule in args.rule), sep='\n')
    print(f'\n{written} (seed {args.seed})')
    return failed + unwritten


def parse(argv):
    parser = Parser(__doc__)
    parser.add_argument('--rule', nargs='+', choices=COMPOSITES, default=['deep-taylor'],
                        metavar='R', help=f'a heatmap for each: {", ".join(COMPOSITES)} (default: '
                                          'deep-taylor)')
    inputs = parser.add_mutually_exclusive_group()
    inputs.add_argument('--digit', nargs='+', type=int, choices=range(CLASSES),
                        default=list(range(CLASSES)), metavar='D',
                        help='a test digit of each class given')
    inputs.add_argument('--index', nargs='+', type=index, metavar='I',
                        help='these test digits, counted from 0, or: all')
    inputs.add_argument('--image', nargs='+', type=Path, metavar='FILE',
                        help='your own pictures of one digit each, of any size, dark on light or '
                             'light on dark')
    parser.add_argument('--target', type=int, choices=range(CLASSES), metavar='T',
                        help='explain this class instead of the most likely one')
    parser.add_argument('--against', type=int, choices=range(CLASSES), metavar='D',
                        help='explain why the target rather than this class; without --target, '
                             'why the predicted class')
    parser.add_argument('--seed', type=seed, default=0, help='draws the test digits (default: 0)')
    parser.add_argument('--save-relevance', action='store_true',
                        help='also results/relevance.npz, the relevance as numbers')
    parser.add_argument('--overwrite', action='store_true', help='replace what stands in the way')
    parser.add_argument('--data', type=Path, default=HERE / 'mnist.npz', metavar='FILE',
                        help='default: mnist/mnist.npz')
    parser.add_argument('--logdir', type=Path, default=HERE / 'logs', metavar='DIR',
                        help='of train.py (default: mnist/logs)')
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR',
                        help='default: mnist/results')
    args = parser.parse_args(argv)
    args.rule = once(args.rule)
    if args.index and 'all' in args.index and args.index != ['all']:
        parser.error('--index all stands alone')
    if args.against is not None and args.against == args.target:
        parser.error(f'--against {args.against} is the target itself')
    return parser, args


def index(text):
    """A type for --index: the number of a test digit, or 'all'."""
    if text != 'all' and not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text} is neither the number of a test digit nor: all')
    return text if text == 'all' else int(text)


def main(argv=None):
    parser, args = parse(argv)
    parser.run(explain, args)


if __name__ == '__main__':
    main()
