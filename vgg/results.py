"""The files of one picture: their names, whose they are, whether they are done, what is in them.

A result says in its JPEG comment, a line of JSON, of which picture, network and options it is.
"""
import itertools
import json
import os
from pathlib import Path
from typing import NamedTuple
import zipfile

import numpy as np
from PIL import Image, PngImagePlugin

from common import Refused, encoded, write
from heatmaps import LAYER_COLUMNS, colour, laid_over, sheet, sums_in_words, title_of
from networks.network import Network, digest
from pictures import open_whole, squashed

RECORD = {'picture', 'stamp', 'weights', 'options', 'targets', 'classes', 'probabilities', 'logits',
          'relevance'}  # what a record says
HIGHEST = 65500  # pixels of a JPEG


class Job(NamedTuple):
    """A picture to explain, and the name of its results."""

    name: str
    path: str


class Question(NamedTuple):
    """What is asked of every picture."""

    network: Network
    classes: list  # their names
    targets: list  # as the Explainer takes them, one after the other
    against: int = None  # the class to contrast them with
    one_sign: set = frozenset()  # the rules that have one sign at the logits


class Output(NamedTuple):
    """What is written for every picture."""

    folder: Path
    rules: list  # their names
    top: int = 1  # targets
    cmap: str = 'seismic'
    layers: bool = False  # <name>_layers.jpg, too
    numbers: bool = False  # <name>.npz, too
    plain: bool = False  # <name>_<rule>.png and <name>_<rule>_over.png, too
    run: dict = {}  # what decides the results beside the picture: the network and the options

    @property
    def endings(self):
        """What comes after the picture's name in the names of its files, the JPG last."""
        endings = ['.npz'] if self.numbers else []
        if self.plain:
            endings += [plain_ending(rule, k, kind) for k in range(self.top)
                        for rule in self.rules for kind in ('', '_over')]
        if self.layers:
            endings.append('_layers.jpg')
        return [*endings, '.jpg']

    def files(self, name):
        """The files of a picture, the JPG last."""
        return [self.folder / f'{name}{ending}' for ending in self.endings]


def plain_ending(rule, k, kind):
    """The ending of a rule's heatmap for the k-th target, alone or over the photograph."""
    return f'_{rule}_{k + 1}{kind}.png' if k else f'_{rule}{kind}.png'


def result_names(paths, endings):
    """A name for each picture's results: no two files are alike, even if capitals do not count."""
    taken, names = set(), []
    for path in paths:
        stem = shortened(os.path.splitext(os.path.basename(path))[0])
        for number in itertools.count(1):
            name = f'{stem}_{number}' if number > 1 else stem
            files = {f'{name}{ending}'.lower() for ending in endings}
            if taken.isdisjoint(files):
                break
        taken |= files
        names.append(name)
    return names


def shortened(name, limit=180):
    """The name, cut where a file system could not hold it with all that is appended."""
    while len(os.fsencode(name)) > limit:
        name = name[:-1]
    return name


# Whose a file is, and what is done

def left(jobs, output, overwrite):
    """The jobs that are to be done, how many are done, and a line for each that is refused."""
    todo, failed = [], []
    for job in jobs:
        try:
            if overwrite or not is_done(job, output):
                todo.append(job)
        except Refused as error:
            failed.append(str(error))
    return todo, len(jobs) - len(todo) - len(failed), failed


def is_done(job, output):
    """Whether the picture, as it is now, has its results, made with the options of this run.

    Raises Refused if the result of another picture or any other file stands in their place.
    """
    files = output.files(job.name)
    for file in files:
        if os.path.lexists(file) and recorded(file) is None:
            raise Refused(f'{job.path}: {file} exists and is not a result of this script; choose '
                          'another --results, or --overwrite')
    record = recorded(files[-1])
    if not record:
        return False
    stamp = stamp_of(job.path)
    if record['picture'] != os.fspath(job.path) and record['stamp'] != stamp:
        raise Refused(f'{job.path}: {files[-1]} is the result of {record["picture"]}; choose '
                      'another --results, or --overwrite')
    wanted = dict(output.run, picture=os.fspath(job.path), stamp=stamp)
    same = all(record.get(key) == value for key, value in wanted.items())
    return same and all(map(os.path.exists, files))


def stamp_of(path):
    """What changes with a picture's content: its size and its SHA-256, cut; None without a file."""
    return [os.path.getsize(path), digest(path)[:16]] if os.path.isfile(path) else None


def recorded(path):
    """The record in a result; {} in a result without one, such as a heatmap; else None."""
    try:
        if path.suffix == '.npz':
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            return {} if any(name.startswith('relevance/') for name in names) else None
        with Image.open(path, formats=['JPEG', 'PNG']) as image:
            if image.format == 'PNG':
                return {} if 'relevance' in image.info else None
            record = json.loads(image.info['comment'])
        return (record if RECORD <= record.keys() else {}) if 'relevance' in record else None
    except Exception:  # whatever else may stand there
        return None


# What is written

def save(job, stamp, picture, results, question, output):
    """Draws and writes all files of a picture, the JPG last. Returns the lines to print.

    results: an Explanation of this picture for each target, without a first axis. Raises Refused
    if a number is not finite or a file cannot be written.
    """
    arrays = [each for result in results for each in (result.logits, *result.relevance.values())]
    if not all(np.isfinite(array).all() for array in arrays):
        raise Refused(f'{job.path}: the relevance is not finite, so nothing is drawn: the weights '
                      'are too large for this precision')
    classes, against = question.classes, question.against
    probabilities = question.network.probabilities(results[0].logits)
    titles = [title_of(each.targets, probabilities, classes, against) for each in results]
    record = {**output.run, 'picture': os.fspath(job.path), 'stamp': stamp,
              **measured(results, probabilities, classes)}
    for ending, content in contents(job, picture, results, titles, against, record, output):
        write(output.folder / f'{job.name}{ending}', content)
    note = f' ({picture.note})' if picture.note else ''
    return [f'{job.path}: {title}, {sums_in_words(result, question.one_sign, against)}{note}'
            for title, result in zip(titles, results)]


def measured(results, probabilities, classes):
    """What a record says of the targets."""
    targets = [int(result.targets) for result in results]
    return {'targets': targets, 'classes': [classes[target] for target in targets],
            'probabilities': [float(probabilities[target]) for target in targets],
            'logits': [float(results[0].logits[target]) for target in targets],
            'relevance': {rule: [float(result.relevance[rule].sum(dtype=np.float64))
                                 for result in results] for rule in results[0].relevance}}


def contents(job, picture, results, titles, against, record, output):
    """Yields the ending and the bytes of each of a picture's files, the JPG last."""
    maps = [{rule: r.sum(-1) for rule, r in result.relevance.items()} for result in results]
    if output.numbers:
        yield '.npz', numbers(picture, results, against)
    if output.plain:
        photograph = unchanged(job.path, picture)
        for k, rule in itertools.product(range(output.top), output.rules):
            image = colour(maps[k][rule], photograph.size, output.cmap)
            yield plain_ending(rule, k, ''), png(image, rule)
            image = laid_over(photograph, maps[k][rule], output.cmap)
            yield plain_ending(rule, k, '_over'), png(image, rule)
    if output.layers:
        rows = [(f'{title}, {rule}', result.layers[rule])
                for title, result in zip(titles, results) for rule in output.rules]
        image = sheet(picture.photograph, rows, output.cmap, LAYER_COLUMNS)
        yield '_layers.jpg', jpeg(image, {'relevance': 'layers'}, job.path)
    image = sheet(picture.photograph, list(zip(titles, maps)), output.cmap)
    yield '.jpg', jpeg(image, record, job.path)


def unchanged(path, picture):
    """The photograph at its own size. Raises Refused if it is not the picture explained."""
    photograph, _ = open_whole(path)
    if not np.array_equal(squashed(photograph, picture.seen.shape), picture.seen):
        raise Refused(f'{path} changed while it was explained')
    return photograph


def numbers(picture, results, against):
    """The contents of a picture's .npz file."""
    first = results[0]
    arrays = {'image': picture.seen, 'logits': first.logits}
    arrays['targets'] = np.stack([result.targets for result in results])
    for rule in first.relevance:
        arrays[f'relevance/{rule}'] = np.stack([result.relevance[rule] for result in results])
        for layer in first.layers.get(rule, ()):
            stacked = np.stack([result.layers[rule][layer] for result in results])
            arrays[f'layers/{rule}/{layer}'] = stacked
    if against is not None:
        arrays['against'] = np.int64(against)
    return encoded(np.savez, **arrays)


def png(image, rule):
    """A PNG that says that it is a heatmap."""
    text = PngImagePlugin.PngInfo()
    text.add_text('relevance', rule)
    return encoded(image.save, 'PNG', pnginfo=text)


def jpeg(image, record, path):
    """A JPEG with the record as its comment. Raises Refused if it would be too high."""
    if image.height > HIGHEST:
        raise Refused(f'{path}: all heatmaps make a picture {image.height} pixels high; a JPEG has '
                      f'at most {HIGHEST}: name fewer rules or a smaller --top')
    comment = json.dumps(record, separators=(',', ':')).encode()
    return encoded(image.save, 'JPEG', quality=92, subsampling=0, comment=comment)
