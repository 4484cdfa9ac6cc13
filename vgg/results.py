"""The files of one picture: their names, whether they are done, what they say."""
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import Refused, write
from heatmaps import (
    LAYER_COLUMNS, MAX_SIDE, colour, laid_over, recorded, sheet, sheet_height, write_heatmap,
    write_sheet)
from networks.network import digest
from pictures import open_whole, squashed

NOTHING = 'nothing speaks for it'  # where relevance starts from 0


class Output(NamedTuple):
    """What is written for each picture."""

    folder: Path
    rules: list
    cmap: str = 'seismic'
    layers: bool = False  # <name>_layers.jpg, too
    numbers: bool = False  # <name>.npz, too
    plain: int = 0  # for how many targets <name>_<rule>.png and <name>_<rule>_over.png, too
    run: dict = {}  # what decides the results beside the picture: the network and the options

    @property
    def endings(self):
        """What comes after the picture's name in the names of its files, the JPG last."""
        plain = [plain_ending(rule, k, kind)
                 for k in range(self.plain) for rule in self.rules for kind in ('', '_over')]
        return ['.npz'] * self.numbers + plain + ['_layers.jpg'] * self.layers + ['.jpg']

    def files(self, name):
        """The files of a picture, the JPG last."""
        return [self.folder / f'{name}{ending}' for ending in self.endings]

    def is_done(self, name, path):
        """Whether the picture, as it is now, has its results, made with the options of this run.

        Raises Refused if the result of another picture or any other file stands in their place.
        """
        *others, result = self.files(name)
        for file in (*others, result):
            if os.path.lexists(file) and recorded(file) is None:
                raise Refused(f'{path}: {file} exists and is not a result of this script; choose '
                              'another --results, or --overwrite')
        record = recorded(result) if result.exists() else None
        if not record:
            return False
        stamp = stamp_of(path)
        if record['picture'] != os.fspath(path) and record['stamp'] != stamp:
            raise Refused(f'{path}: {result} is the result of {record["picture"]}; choose another '
                          '--results, or --overwrite')
        wanted = dict(self.run, picture=os.fspath(path), stamp=stamp)
        same = all(record.get(key) == value for key, value in wanted.items())
        return same and all(map(os.path.exists, others))


def check_height(args):
    """Raises Refused, before any work is done, if a sheet would be higher than a JPEG can be."""
    lines = [sheet_height(args.top, len(args.rule))]
    if args.layers:
        lines.append(sheet_height(args.top * len(args.rule), LAYER_COLUMNS - 1, LAYER_COLUMNS))
    if max(lines) > MAX_SIDE:
        raise Refused(f'--top {args.top} with {len(args.rule)} rules makes a picture {max(lines)} '
                      f'pixels high; a JPEG has at most {MAX_SIDE}')


def plain_ending(rule, k, kind):
    """The ending of a rule's heatmap for the k-th target, alone or over the photograph."""
    return f'_{rule}{f"_{k + 1}" if k else ""}{kind}.png'


def result_names(paths, endings):
    """A name for each picture's results: no two files are alike, even if capitals do not count."""
    taken, result = set(), []
    for path in paths:
        stem = shortened(os.path.splitext(os.path.basename(path))[0])
        name, number = stem, 1
        while not taken.isdisjoint(f'{name}{ending}'.lower() for ending in endings):
            number += 1
            name = f'{stem}_{number}'
        taken.update(f'{name}{ending}'.lower() for ending in endings)
        result.append(name)
    return result


def shortened(name, limit=180):
    """The name, cut where a file system could not hold it with all that is appended."""
    while len(os.fsencode(name)) > limit:
        name = name[:-1]
    return name


def stamp_of(path):
    """What changes with a picture's content: its size and its SHA-256, cut; None without a file."""
    return [os.path.getsize(path), digest(path)[:16]] if os.path.isfile(path) else None


def save(name, path, picture, stamp, result, network, classes, against, output):
    """Draws and writes all files of one picture, the JPG last. Returns the lines to print.

    result: the Explanation of this picture. Raises Refused if a number is not finite or a file
    cannot be written.
    """
    arrays = [result.logits, *result.relevance.values(), *result.started.values()]
    if not all(np.isfinite(array).all() for array in arrays):
        raise Refused(f'{path}: the relevance is not finite, so nothing is drawn: the weights are '
                      'too large for this precision')
    probabilities = network.probabilities(result.logits)
    targets = [Target(k, result, probabilities, classes, against)
               for k in range(len(result.targets))]
    if output.numbers:
        write(output.folder / f'{name}.npz', numbers(picture, result, against))
    if output.plain:
        save_plain(name, path, picture, targets, output)
    if output.layers:
        rows = [(f'{target.heading}, {label}', layers_of(result.layers[rule], target.k))
                for target in targets for rule, label in target.labels.items()]
        image = sheet(picture.photograph, rows, output.cmap, LAYER_COLUMNS)
        write_sheet(output.folder / f'{name}_layers.jpg', image, {'relevance': 'layers'})
    rows = [(target.heading, {target.labels[rule]: r for rule, r in target.maps.items()})
            for target in targets]
    record = dict(output.run, picture=os.fspath(path), stamp=stamp, **record_of(targets))
    write_sheet(output.folder / f'{name}.jpg', sheet(picture.photograph, rows, output.cmap), record)
    note = f' ({picture.note})' if picture.note else ''
    return [f'{path}: {target.title}, logit {target.logit:.3f}, {target.sums}{note}'
            for target in targets]


def layers_of(layers, k):
    """The relevance inside the network for the k-th target: {layer: [h, w]}."""
    return {layer: r[k] for layer, r in layers.items()}


def numbers(picture, result, against):
    """The contents of a picture's .npz file."""
    arrays = {f'relevance/{rule}': r for rule, r in result.relevance.items()}
    arrays.update({f'layers/{rule}/{layer}': r
                   for rule, layers in result.layers.items() for layer, r in layers.items()})
    if against is not None:
        arrays['against'] = np.int64(against)
    buffer = io.BytesIO()
    np.savez(buffer, image=picture.seen, logits=result.logits, targets=result.targets, **arrays)
    return buffer.getvalue()


def save_plain(name, path, picture, targets, output):
    """Writes each heatmap alone and over the photograph, at the size of the photograph."""
    photograph, _ = open_whole(path)
    if not np.array_equal(squashed(photograph, picture.seen.shape), picture.seen):
        raise Refused(f'{path} changed while it was explained')
    for target in targets:
        for rule, r in target.maps.items():
            images = {'': colour(r, photograph.size, output.cmap),
                      '_over': laid_over(photograph, r, output.cmap)}
            for kind, image in images.items():
                path = output.folder / f'{name}{plain_ending(rule, target.k, kind)}'
                write_heatmap(path, image, rule)


class Target:
    """What is said and drawn of the k-th target of a picture."""

    def __init__(self, k, result, probabilities, classes, against):
        self.k, self.index = k, int(result.targets[k])
        self.name, self.probability = classes[self.index], probabilities[self.index]
        self.logit = result.logits[self.index]
        self.title = f'{self.name} {self.probability:.2f}'
        if against is not None:
            self.title += f' rather than {classes[against]} {probabilities[against]:.2f}'
        self.maps = {rule: r[k].sum(-1) for rule, r in result.relevance.items()}
        self.starts = {rule: start_in_words(pair[k], self.logit, against is not None)
                       for rule, pair in result.started.items()}
        self.labels = {rule: label_of(rule, words) for rule, (words, _) in self.starts.items()}
        usual = all(rule == label for rule, label in self.labels.items())
        self.heading = self.title if usual else f'{self.title} (logit {self.logit:.2f})'

    @property
    def sums(self):
        """The sum of each rule's relevance divided by where it started, by kinds of start."""
        parts, lost, empty = {}, [], [rule for rule, r in self.maps.items() if not r.any()]
        for rule, r in self.maps.items():
            words, value = self.starts[rule]
            share = ''
            if value:
                arrived = r.sum(dtype=np.float64) / value
                share = f' {round(arrived, 4) + 0.0:.4f}'
                if abs(arrived) < 0.1 and 'taken off' not in words and rule not in empty:
                    lost.append(rule)
            parts.setdefault(f'sum R / {words}' if value else words, []).append(f'{rule}{share}')
        note = f'; biases took over nine tenths of the relevance: {", ".join(lost)}' if lost else ''
        note += f'; the heatmap is zero everywhere: {", ".join(empty)}' if empty else ''
        return '; '.join(f'{words}: {", ".join(rules)}' for words, rules in parts.items()) + note


def label_of(rule, words):
    """What stands above a heatmap: the rule, and where it started if not at the logit."""
    return f'{rule}: {words.split()[0]}' if words.startswith(('evidence', NOTHING)) else rule


def start_in_words(started, logit, contrast):
    """What relevance started from, in words, and the number by which its sum is divided."""
    value, taken = started
    if value == taken == 0:
        return NOTHING, 0
    words = f'evidence {value:.3f}' if value > 0 >= logit else 'logit'
    if not contrast:
        return words, value
    if taken == 0:
        return f'{words}, nothing to take off', value
    if taken == -value:
        return f'{words}, as much taken off', value
    return f'difference of logits {value + taken:.3f}', value + taken


def record_of(targets):
    """What the record says of the targets."""
    sums = {rule: [short(target.maps[rule].sum(dtype=np.float64)) for target in targets]
            for rule in targets[0].maps}
    return {'targets': [target.index for target in targets],
            'classes': [target.name for target in targets],
            'probabilities': [short(target.probability) for target in targets],
            'logits': [short(target.logit) for target in targets], 'relevance': sums}


def short(value):
    """A number with six digits."""
    return float(f'{value:.6g}')
