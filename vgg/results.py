"""The files of one picture: their names, whose they are, whether they are done, what is in them.

Every file carries a record of the picture, network and options that it was made from.
"""
import contextlib
import itertools
import os
from pathlib import Path
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from common import Refused, write
from heatmaps import (
    NAME, colour, jpeg, laid_over, numbers, png, record_in, sheet, sums_in_words, title_of)
from networks.network import Network
from pictures import decoded, digest_of, read_file

VERSION = 6  # of what is computed and drawn: results of another version are made again
SIDE = 4096  # pixels, at most, of a photograph under a heatmap
ENDS = {'.jpg': (2, b'\xff\xd9'), '.png': (8, b'IEND'), '.npz': (22, b'PK\5\6')}  # of whole files


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
    overwrite: bool = False  # whether results of other pictures may be replaced
    run: dict = {}  # the record without what it says of the picture

    @property
    def endings(self):
        """What comes after the picture's name in the names of its files, the JPG last."""
        endings = ['.npz'] if self.numbers else []
        if self.plain:
            rows = ['', *(f'_{k}' for k in range(2, self.top + 1))]  # of the sheet
            endings += [f'_{rule}{row}{kind}.png' for row in rows
                        for rule in self.rules for kind in ('', '_over')]
        if self.layers:
            endings.append('_layers.jpg')
        return [*endings, '.jpg']

    def files(self, name):
        """The files of a picture, the JPG last."""
        return [self.folder / f'{name}{ending}' for ending in self.endings]


def result_names(paths, endings):
    """A name for each picture's results: no two files are alike, even if capitals do not count."""
    taken, names, numbers = set(), [], {}
    for path in paths:
        stem = shortened(os.path.splitext(os.path.basename(path))[0])
        for number in itertools.count(numbers.get(stem.lower(), 1)):
            name = f'{stem}_{number}' if number > 1 else stem
            files = {f'{name}{ending}'.lower() for ending in endings}
            if taken.isdisjoint(files):
                break
        taken |= files
        numbers[stem.lower()] = number + 1
        names.append(name)
    return names


def shortened(name, limit=180):
    """The name as any file system can hold it, with all that is appended."""
    name = re.sub(r'[<>:"|?*\\]', '_', name)  # Windows has no such names
    return os.fsencode(name)[:limit].decode('utf-8', 'ignore')


# Whose a file is, and what is done

def what_is_wrong(job, output):
    """The job, and why it is to be done: words if there are results, '' if there are none; None if
    it is done. Raises Refused if what stands in their place may not be replaced."""
    if not any(map(os.path.lexists, output.files(job.name))):
        return job, ''
    wanted = record_of(job, digest_of(read_file(job.path)), output)
    wrong = [difference(look(job, file, wanted, output), wanted)
             for file in output.files(job.name)]
    return job, '' if output.overwrite else next(filter(None, reversed(wrong)), None)


def difference(found, wanted):
    """Why a file is made again, in words; None if it is not. found: its record, as by `look`."""
    names = ('version', 'network', 'options', 'picture')
    changed = [name for name in names if found and found[name] != wanted[name]]
    if changed:
        return f'{" and ".join(changed)} changed'
    return None if found and found['whole'] else 'incomplete'


def look(job, file, wanted, output):
    """The record of a file that is ours, with `whole`: whether it ends where it should. {} if it is
    empty; None if there is none. Raises Refused if the file is not ours, or the result of another
    picture: of other content at another path."""
    try:
        content = b'a link' if os.path.islink(file) else file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f'{job.path}: {file} cannot be read ({error.strerror})') from error
    if not content:
        return {}
    record, (length, end) = record_in(content), ENDS[file.suffix]
    if not record:
        raise Refused(f'{job.path}: {file} is not a result of this script: delete it, or choose '
                      'another --results')
    path, same = record['paths']['picture'], record['picture'] == wanted['picture']
    if not (same or path == wanted['paths']['picture'] or output.overwrite):
        other = os.path.normpath(output.folder / path)
        raise Refused(f'{job.path}: {file} is the result of {other}: delete it, choose another '
                      '--results, or --overwrite')
    return {**record, 'whole': content[-length:].startswith(end)}


def record_of(job, digest, output):
    """The record of a picture's files."""
    paths = {**output.run['paths'], 'picture': relative(job.path, output.folder)}
    return {**output.run, 'picture': digest, 'paths': paths}


def relative(path, folder):
    """The path as seen from a folder; on another drive of Windows the whole path."""
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    try:
        return os.path.relpath(path, os.path.realpath(folder))
    except ValueError:
        return path


# What is written

def save(job, picture, results, question, output):
    """Draws and writes all files of a picture. Returns the lines to print. Raises Refused if a
    number is not finite. results: an Explanation for each target, without a first axis."""
    arrays = [each for result in results for each in (result.logits, *result.relevance.values())]
    if not all(np.isfinite(array).all() for array in arrays):
        raise Refused(f'{job.path}: the relevance is not finite, so nothing is drawn: the weights '
                      'are too large for this precision')
    classes, against = question.classes, question.against
    probabilities = question.network.probabilities(results[0].logits)
    titles = [title_of(each.targets, probabilities, classes, against) for each in results]
    record = record_of(job, picture.digest, output)
    told = {**record, **measured(results, probabilities, classes)}
    files = list(contents(job, picture, results, titles, record, told, output))
    put(job, files, record, output)
    note = f' ({picture.note})' if picture.note else ''
    return [f'{job.path}: {title}, {sums_in_words(result, question.one_sign, against)}{note}'
            for title, result in zip(titles, results)]


def put(job, files, record, output):
    """Writes a picture's files, of these contents, the JPG last. Deletes the old JPG first."""
    paths = output.files(job.name)
    *_, jpg = [look(job, path, record, output) for path in paths]
    if jpg is not None:
        paths[-1].unlink(missing_ok=True)
    for path, content in zip(paths, files):
        while True:
            there = look(job, path, record, output)  # by now
            with contextlib.suppress(FileExistsError):  # another run was quicker
                write(path, content, new=there is None)
                break


def measured(results, probabilities, classes):
    """What a record says of the targets."""
    targets = [int(result.targets) for result in results]
    return {'targets': targets, 'classes': [classes[target][:NAME] for target in targets],
            'probabilities': [float(probabilities[target]) for target in targets],
            'logits': [float(results[0].logits[target]) for target in targets],
            'relevance': {rule: [float(result.relevance[rule].sum(dtype=np.float64))
                                 for result in results] for rule in results[0].relevance}}


def contents(job, picture, results, titles, record, told, output):
    """Yields the bytes of a picture's files, the JPG last. told: the record of the JPG."""
    maps = [{rule: r.sum(-1) for rule, r in result.relevance.items()} for result in results]
    if output.numbers:
        yield numbers(picture, results, record)
    if output.plain:
        content = read_file(job.path)
        if digest_of(content) != picture.digest:
            raise Refused(f'{job.path} changed while it was explained')
        photograph, _ = decoded(job.path, content)
        photograph.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        for k, rule in itertools.product(range(output.top), output.rules):
            yield png(colour(maps[k][rule], photograph.size, output.cmap), record)
            yield png(laid_over(photograph, maps[k][rule], output.cmap), record)
    if output.layers:
        rows = [(f'{title}, {rule}', result.layers[rule])
                for title, result in zip(titles, results) for rule in output.rules]
        yield jpeg(sheet(picture.photograph, rows, output.cmap), record, job.path)
    yield jpeg(sheet(picture.photograph, list(zip(titles, maps)), output.cmap), told, job.path)
