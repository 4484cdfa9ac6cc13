"""Explains what the trained network sees in digits: Layer-wise Relevance Propagation.

    python mnist/lrp.py                               a test digit of each class
    python mnist/lrp.py --rule zplus epsilon          by these rules
    python mnist/lrp.py --image photo.png --target 3  your own: why a 3?
    python mnist/lrp.py --digit 3 --against 8         why a 3 rather than an 8?
    python mnist/lrp.py --index all --save-relevance  all, as numbers

Writes results/0.jpg .. 9.jpg. Red pixels speak for the target class, blue ones against it, white is
zero. The table gives, for each digit and layer, the sum of relevance divided by the logit where it
started: 1.000000 everywhere if nothing was lost on the way down to the pixels. Rules of one sign
start at the logit's size, for a negative logit, too.
"""
import argparse
import itertools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import Parser, Refused, add_paths, encoded, make_folder, seed, write
import data
from digit import digit
from explainer import LEVELS, Explainer, explain_all
from heatmaps import recorded, sheet, write_sheet
from model import CLASSES, LAYERS
from rules import COMPOSITES, DEFAULT, one_sign

HEADS = ' '.join(f'{level:>9}' for level in LEVELS)


class Digit(NamedTuple):
    """A digit to explain."""

    image: np.ndarray  # [28, 28] in [0, 1]
    name: str  # 'digit 7' or 'photo.png'
    source: str  # 'digit 7 of mnist.npz', 'a 3 of mnist.npz' or the path
    result: str  # the name of its result: '3', 'index_7' or 'photo'
    label: int | None = None  # the class of a test digit


# The digits

def read_pictures(paths):
    """The Digits in these files, and a line for each that could not be read."""
    digits, failed = [], []
    for path in paths:
        try:
            digits.append(Digit(digit(path), path.name, str(path), path.stem))
        except Refused as error:
            failed.append(f'{path}: {error}')
    return digits, failed


def read_test_digits(args, explainer):
    """The Digits that the options name in the test set."""
    images, labels = data.load(args.data, 'test')
    images, of = images / np.float32(255), f'of {args.data.name}'
    if not args.index:
        indices = pick(explainer, args.digit, images, labels, np.random.default_rng(args.seed))
        return [Digit(images[i], f'digit {i}', f'a {labels[i]} {of}', f'{labels[i]}')
                for i in indices]
    indices = range(len(images)) if 'all' in args.index else args.index
    if max(indices) >= len(images):
        raise Refused(f'--index {max(indices)}: the test set has digits 0 to {len(images) - 1}')
    return [Digit(images[i], f'digit {i}', f'digit {i} {of}', f'index_{i}', labels[i])
            for i in indices]


def pick(explainer, classes, images, labels, rng):
    """The index of a test digit for each of the classes, drawn from those classified correctly."""
    chosen = []
    for wanted in classes:
        candidates = rng.permutation(np.setdiff1d(np.flatnonzero(labels == wanted), chosen))
        correct = (i for i in candidates if explainer.classify(images[[i]]).argmax() == wanted)
        chosen.append(next(correct, None))
        if chosen[-1] is None:
            raise Refused(f'no (other) test digit {wanted} is classified correctly: train longer, '
                          'or choose by --index')
    return chosen


# What is printed

def shares(rule, found):
    """Where relevance started [n], and its sum at each level divided by that: [n, levels].

    In a contrast by a rule of one sign all shares should be 0, otherwise 1; at a logit of 0, NaN.
    """
    one = one_sign(COMPOSITES[rule], LAYERS)
    start = found.started[rule] if one else found.sums[rule][:, -1]
    return start, found.sums[rule] / np.where(start, start, np.nan)[:, None]


def table(rule, digits, found, against):
    """How much relevance arrives by one rule: a line for each digit."""
    other = '' if against is None else f' rather than {against}'
    lines = [f'\n{rule}{other}: sum of relevance / start at each layer',
             f'{"digit":>12} {"seen as":>7} {"target":>6} {"start":>9} {HEADS}']
    for i, (start, row) in enumerate(zip(*shares(rule, found))):
        cells = ' '.join(f'{share:9.6f}' for share in row) if start else 'an empty heatmap'
        lines.append(f'{digits[i].name:>12} {found.logits[i].argmax():>7} {found.targets[i]:>6} '
                     f'{start:>9.3f} {cells}')
    return '\n'.join(lines)


def summary(digits, found):
    """The accuracy, and for each rule and layer the largest loss of all digits."""
    accuracy = np.mean(found.logits.argmax(1) == [each.label for each in digits])
    lines = [f'{len(digits)} digits, accuracy {accuracy:.2%}',
             'largest change of the sum of relevance / start on the way to each layer:',
             f'{"":>18} {HEADS}']
    for rule in found.sums:
        _, share = shares(rule, found)
        losses = np.nanmax(np.abs(share - share[:, -1:]), 0)
        lines.append(f'{rule:>18} ' + ' '.join(f'{loss:9.2e}' for loss in losses))
    return '\n'.join(lines)


# What is written

def unique(names):
    """Appends _2, _3 ... to names that came before, even if their capitals differ."""
    result = []
    for name in names:
        taken = {each.lower() for each in result}
        numbered = itertools.chain([name], (f'{name}_{i}' for i in itertools.count(2)))
        result.append(next(each for each in numbered if each.lower() not in taken))
    return result


def check_free(path, source, overwrite):
    """Raises Refused if a path is taken: by another digit's result, or by no result of ours."""
    other = recorded(path) if os.path.lexists(path) else source
    if other is None:
        raise Refused(f'{path} is no result of this script; choose another --results')
    if other != source and not overwrite:
        raise Refused(f'{path} is the result of {other}; choose another --results, or --overwrite')


def draw(path, digit, heatmaps, target, logits, against):
    """Writes a digit beside its heatmaps {rule: [28, 28]}, named if not of the class seen alone."""
    name = '' if target == logits.argmax() else f':\n{target} (logit {logits[target]:.1f})'
    if against is not None:
        name = f':\n{target} rather than {against}'
    named = {f'{rule}{name}': r for rule, r in heatmaps.items()}
    figure = sheet(digit.image, f'{digit.name} seen as {logits.argmax()}', named)
    write_sheet(path, figure, {'picture': digit.source})


def save_relevance(path, images, sources, found, against):
    """Writes the relevance of all digits as numbers, and the class to contrast with, or -1."""
    arrays = {f'relevance/{rule}': r for rule, r in found.relevance.items()}
    write(path, encoded(np.savez, digits=sources, images=images, logits=found.logits,
                        targets=found.targets, against=-1 if against is None else against,
                        **arrays))
    print(f'wrote {path}')


# The command

def explain(args):
    """Explains the digits named on the command line. Returns a line for each that failed."""
    if args.target is not None and args.against == args.target:
        raise Refused(f'--against {args.against} is the target itself')
    make_folder(args.results)
    explainer = Explainer({rule: COMPOSITES[rule] for rule in args.rule}, args.logdir)
    digits, failed = read_pictures(args.image or [])
    digits = digits if args.image else read_test_digits(args, explainer)
    if digits:
        explain_digits(args, explainer, digits)
    return failed


def explain_digits(args, explainer, digits):
    """Writes and prints all that the command line asks for."""
    every = 'all' in (args.index or [])  # too many for pictures
    names = [] if every else unique([each.result for each in digits])
    paths = [args.results / f'{name}.jpg' for name in names]
    numbers, sources = args.results / 'relevance.npz', [each.source for each in digits]
    for path, source in zip(paths, sources):
        check_free(path, source, args.overwrite)
    if args.save_relevance:
        check_free(numbers, sources, args.overwrite)
    images = np.stack([each.image for each in digits])
    found = explain_all(explainer, images, args.target, args.against)
    if args.save_relevance:
        save_relevance(numbers, images, sources, found, args.against)
    for i, path in enumerate(paths):
        heatmaps = {rule: r[i] for rule, r in found.relevance.items()}
        draw(path, digits[i], heatmaps, found.targets[i], found.logits[i], args.against)
    if every:
        print(summary(digits, found))
    else:
        print(*(table(rule, digits, found, args.against) for rule in found.relevance), sep='\n')
        print(f'\nwrote {", ".join(path.name for path in paths)} to {args.results} '
              f'(seed {args.seed})')


def index(text):
    """A type for --index: the number of a test digit, or 'all'."""
    if text != 'all' and not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text} is neither the number of a test digit nor: all')
    return text if text == 'all' else int(text)


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument('--rule', nargs='+', choices=COMPOSITES, default=DEFAULT, metavar='R',
                        help=f'a heatmap for each: {", ".join(COMPOSITES)} (default: '
                             f'{" ".join(DEFAULT)})')
    inputs = parser.add_mutually_exclusive_group()
    inputs.add_argument('--digit', nargs='+', type=int, choices=range(CLASSES),
                        default=list(range(CLASSES)), metavar='D',
                        help='a test digit of each class given')
    inputs.add_argument('--index', nargs='+', type=index, metavar='I',
                        help='these test digits, counted from 0, or: all')
    inputs.add_argument('--image', nargs='+', type=Path, metavar='FILE',
                        help='your own pictures of one digit each')
    parser.add_argument('--target', type=int, choices=range(CLASSES), metavar='T',
                        help='explain this class instead of the most likely one')
    parser.add_argument('--against', type=int, choices=range(CLASSES), metavar='D',
                        help='explain why the target rather than this class')
    parser.add_argument('--seed', type=seed, default=0, help='draws the test digits (default: 0)')
    parser.add_argument('--save-relevance', action='store_true',
                        help='also results/relevance.npz, the relevance as numbers')
    parser.add_argument('--overwrite', action='store_true', help='replace results of other digits')
    add_paths(parser, data='mnist.npz', logdir='logs', results='results')
    parser.run(explain, argv)


if __name__ == '__main__':
    main()
