"""Takes a list of pictures, of any length, through the network and into files.

One thread decodes the pictures ahead of the network, another one draws and writes behind it. Several machines share a list; after an
interruption the same command goes on where it stopped.

Each result's JPEG comment is the only record of what was done: a picture is finished when its JPG, written last, says so.
"""
from collections import deque
from concurrent.futures import ThreadPoolExecutor
import contextlib
import errno
import json
import os
from pathlib import Path
import signal
import sys
from typing import NamedTuple

import numpy as np

from script import Stopped, check_regular, count, printable, progress_bar, supported, tf, unique, write
from model import DEPTHS
from weights import MODES, digest
from pictures import (
    LAYER_COLUMNS, colour, drawn, is_result, laid_over, open_picture, open_whole, panels, recorded, squashed, write_picture, write_plain)

HERE = Path(__file__).resolve().parent
NOTHING = 'nothing speaks for it'  # where relevance would start with 0


def add_network_options(parser, composites, default):
    """Adds the options that all scripts of this folder share: pictures, network, rules, how to run them. Returns these groups."""
    network, what, how = map(parser.add_argument_group, ('the network', 'what is explained', 'how it is run'))
    parser.add_argument('image', nargs='+', metavar='IMAGE',
                        help='a picture, a folder of pictures, @list.txt with a path on each line, or - for such a list on '
                             'standard input')
    network.add_argument('--model', choices=DEPTHS, help='vgg16 or vgg19, for files of weights alone (default: the one that fits; '
                                                        'imagenet: vgg16)')
    network.add_argument('--weights', default='imagenet', metavar='imagenet|caltech101|FILE',
                        help='imagenet: from Keras, downloaded once (default); caltech101: bundled, 101 classes, vgg16; '
                             'FILE: your own network, saved whole by Keras (.keras, .h5), or a VGG with any dense head '
                             '(.weights.h5, .h5, .npz)')
    network.add_argument('--preprocessing', choices=MODES,
                        help="of pictures, before whatever stands in your own model: Keras's caffe, tf or torch, unit (0 to 1) or "
                             'none (default: none if it stands in the model, else caffe)')
    what.add_argument('--rule', nargs='+', choices=composites, default=default, metavar='R',
                        help=f'of {", ".join(composites)} (default: {" ".join(default)})')
    how.add_argument('--batch-size', type=count, default=8, metavar='N', help='pictures explained at once (default: 8)')
    how.add_argument('--precision', type=supported, choices=['float32', 'bfloat16', 'float64'], default='float32',
                        help='bfloat16: 16 bits inside the network, faster where the processor can; float64: slower, exact to '
                             'some 1e-9 (default: float32)')
    how.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR', help='default: vgg/results')
    return network, what, how


def result_names(paths, endings):
    """A name for each picture's results, so that all of them differ with any of the endings."""
    return unique([shortened(os.path.splitext(os.path.basename(path))[0]) for path in paths], endings)


def shortened(name, limit=180):
    """The name, cut where a file's name could not hold it with all that is appended."""
    while len(os.fsencode(name)) > limit:
        name = name[:-1]
    return name


def inputs(args, paths):
    """All files that a command reads."""
    lists = [argument[1:] for argument in [*args.image, *getattr(args, 'others', [])] if argument.startswith('@')]
    return paths + lists + [path for path in (args.weights, getattr(args, 'classes', None)) if path and os.path.isfile(path)]


def read_pictures(paths, size):
    """What a network of this size sees of each picture, uint8, and a line for each picture that cannot be read."""
    images, broken = [], []
    for path in paths:
        try:
            images.append(open_picture(path, size).seen)
        except (ValueError, OSError) as error:
            broken.append(str(error))
    return images, broken


def first_picture(paths, size):
    """{path: what the network sees} of the first picture that can be read, or of none."""
    for path in paths:
        try:
            return {str(path): open_picture(path, size).seen}
        except (ValueError, OSError):
            continue
    return {}


class Progress:
    """Prints a line per picture, above a bar where standard output is a terminal."""

    def __init__(self, total):
        self.done, self.bar = 0, progress_bar(total, 'picture') if sys.stdout.isatty() and total > 1 else None

    def show(self, lines, pictures=1):
        """Shows the lines of so many pictures."""
        for line in lines:
            print('\r\x1b[K' * bool(self.bar) + printable(line), flush=True)
        self.done += pictures
        if self.bar:
            self.bar.update(self.done)


class Stop:
    """Notes the first interruption or termination, so that what runs can be finished; a second one ends the process at once."""

    number = 0  # of the signal

    def __enter__(self):
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number, frame):
        if self.number:
            os._exit(128 + number)
        self.number = number

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def worker():
    """Which worker of how many this process is, by TF_CONFIG or under SLURM: (0, 1) where it stands alone.

    Raises ValueError where TF_CONFIG or SLURM's variables cannot be read.
    """
    resolvers = tf.distribute.cluster_resolver
    try:
        if os.environ.get('TF_CONFIG'):
            if not isinstance(json.loads(os.environ['TF_CONFIG']), dict):
                raise ValueError('expected {"cluster": ..., "task": ...}')
            resolver = resolvers.TFConfigClusterResolver()
            spec, own = resolver.cluster_spec().as_dict(), (resolver.task_type, resolver.task_id)
        elif int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1:
            gpus = int(os.environ['SLURM_STEP_NUM_TASKS'])  # one for each task, though there may be none: else it refuses
            resolver = resolvers.SlurmClusterResolver(gpus_per_node=gpus, gpus_per_task=1, auto_set_gpu=False)
            spec, own = resolver.cluster_spec().as_dict(), resolver.get_task_info()
        else:
            return 0, 1
        tasks = [(job, i) for job in ('chief', 'master', 'worker') for i in range(len(spec.get(job, [])))]
        return (tasks.index(own), len(tasks)) if tasks else (0, 1)
    except Exception as error:  # the resolvers raise of all kinds
        name = 'TF_CONFIG' if os.environ.get('TF_CONFIG') else 'SLURM'
        raise ValueError(f'{name} does not say which worker of how many this is: {" ".join(str(error).split())[:200]}') from None


def decoded(pool, jobs, size, ahead):
    """Yields (name, path, what open_picture returns or the error that it raised, what stamp_of said of it before that) for
    each job in order; `ahead` are decoded in advance."""
    waiting = deque()
    for job in jobs:
        waiting.append((*job, pool.submit(stamp_and_picture, job[1], size)))
        if len(waiting) > ahead:
            yield finished(waiting.popleft())
    while waiting:
        yield finished(waiting.popleft())


def stamp_and_picture(path, size):
    try:
        stamp = stamp_of(path)
    except (OSError, ValueError):
        stamp = None  # open_picture says what is wrong
    return open_picture(path, size), stamp


def stamp_of(path):
    """What changes with a picture: its size and the beginning of its SHA-256. (Not its time of change, which every copy has anew.)"""
    check_regular(path)
    return [os.path.getsize(path), digest(path)[:16]]


def finished(waiting):
    name, path, task = waiting
    try:
        return name, path, *task.result()
    except (ValueError, OSError) as error:
        return name, path, error, None


def batches(items, size):
    """Yields lists of `size` items, in order; the last one may be shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class Files(NamedTuple):
    """What is written for each picture, and how."""

    folder: Path
    rules: list
    cmap: str
    layers: bool = False  # <name>_layers.jpg, too
    numbers: bool = False  # <name>.npz, too
    plain: int = 0  # of how many targets <name>_<rule>.png and <name>_<rule>_over.png, too
    classes: list = None  # their names
    run: dict = {}  # what else decides the result: weights and options

    @property
    def endings(self):
        """What the files of a picture are called after its name, the JPG last."""
        plain = [plain_ending(rule, k, kind) for k in range(self.plain) for rule in self.rules for kind in ('', '_over')]
        return ['.npz'] * self.numbers + plain + ['_layers.jpg'] * self.layers + ['.jpg']

    def of(self, name):
        """The files of a picture, the JPG last."""
        return [self.folder / f'{name}{ending}' for ending in self.endings]

    def is_done(self, name, path):
        """Whether the results of a picture are there, of the picture as it is now and of this run's weights and options.

        Raises ValueError where something else stands in their place.
        """
        *others, result = self.of(name)
        for file in (*others, result):
            if os.path.lexists(file) and not is_result(file):
                raise ValueError(f'{path}: {file} is there and is no result of this script: choose another --results, or --overwrite')
        record = recorded(result) or {}
        with contextlib.suppress(OSError, ValueError):
            wanted = dict(self.run, picture=os.fspath(path))
            return (all(record.get(key) == value for key, value in wanted.items()) and all(map(os.path.exists, others))
                    and record.get('stamp') == stamp_of(path))
        return False


def plain_ending(rule, k, kind):
    """What a rule's heatmap of the k-th target, alone or laid over the photograph, is called after the picture's name."""
    return f'_{rule}{f"_{k + 1}" * (k > 0)}{kind}.png'


def left(names, paths, files, overwrite):
    """The jobs that are left to this worker: [(name, path)]; how many are done; a line for each whose place is taken."""
    own, workers = worker()
    jobs, broken = list(zip(names, paths))[own::workers], []
    if overwrite:
        return jobs, 0, broken
    there, endings, todo = set(os.listdir(files.folder)), files.endings, []
    for name, path in jobs:
        try:
            if not any(f'{name}{ending}' in there for ending in endings) or not files.is_done(name, path):
                todo.append((name, path))
        except ValueError as error:
            broken.append(str(error))
    return todo, len(jobs) - len(todo) - len(broken), broken


def explain_pictures(explainer, jobs, targets, against, batch_size, files):
    """Explains pictures [(name, path)] for the targets, each held against a class or None (as Explainer takes them), and writes each
    one's files under its name.

    Prints a line for each. Returns a line for each picture that could not be explained. Raises Stopped after an interruption, once
    the running batch is written.
    """
    progress, broken, drawing, network = Progress(len(jobs)), [], [], explainer.network
    decoder, painter = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    with contextlib.ExitStack() as stack:
        stack.callback(decoder.shutdown, cancel_futures=True)
        stack.callback(painter.shutdown)
        stop = stack.enter_context(Stop())
        for batch in batches(decoded(decoder, jobs, network.size, 2 * batch_size), batch_size):
            if stop.number:
                break
            failures = [str(item[2]) for item in batch if isinstance(item[2], Exception)]
            pictures = [(name, path, drawn(network, picture), stamp) for name, path, picture, stamp in batch if not isinstance(picture, Exception)]
            results = explain_batch(explainer, [picture.seen for _, _, picture, _ in pictures], targets, against, files.layers)
            broken += show(progress, drawing) + failures
            progress.show([], len(failures))
            drawing = [painter.submit(save, *picture, result, network.probabilities(result['logits']), against, files)
                       for picture, result in zip(pictures, results)]
        broken += show(progress, drawing)
        if stop.number:
            raise Stopped(stop.number, f'stopped: {progress.done} of {len(jobs)} pictures are done; the same command goes on from there')
    return broken


def show(progress, drawing):
    """Shows the lines of what was drawn. Returns a line for each picture that could not be written; raises OSError on a full disk."""
    broken = []
    for task in drawing:
        lines = []
        try:
            lines = task.result()
        except (ValueError, OSError) as error:
            if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            broken.append(str(error))
        progress.show(lines)
    return broken


def explain_batch(explainer, images, targets, against, blocks):
    """For each image: the results of Explainer for the targets."""
    if not images:
        return []
    results = explainer(np.stack(images), [targets] * len(images), against, blocks)
    return [{key: value[i] for key, value in results.items()} for i in range(len(images))]


def save(name, path, picture, stamp, results, probabilities, against, files):
    """Draws and writes all files of one picture, the JPG last. Returns the lines to print.

    Raises ValueError if a number in the results is not finite, OSError if they cannot be written.
    """
    for key, values in results.items():
        if not np.isfinite(values).all():
            raise ValueError(f'{path}: {key} is not finite, so nothing is drawn: the weights are too large for this precision')
    targets = [Target(k, results, probabilities, against, files) for k in range(len(results['targets']))]
    if files.numbers:
        arrays = {key: value for key, value in results.items() if key.startswith('relevance/')}
        arrays.update(image=picture.seen, logits=results['logits'], targets=results['targets'])
        if against is not None:
            arrays['against'] = np.int64(against)
        write(files.folder / f'{name}.npz', lambda temporary: np.savez(temporary, **arrays))
    if files.plain:
        save_plain(name, path, picture, targets, files)
    if files.layers:
        rows = [(f'{target.heading}, {label}', of_layers(results, rule, target.k))
                for target in targets for rule, label in target.labels.items()]
        write_picture(files.folder / f'{name}_layers.jpg', panels(picture.photograph, rows, files.cmap, LAYER_COLUMNS), {'relevance': 'layers'})
    rows = [(target.heading, {target.labels[rule]: r for rule, r in target.maps.items()}) for target in targets]
    record = dict(files.run, picture=os.fspath(path), stamp=stamp, **record_of(targets, results, probabilities, files))
    write_picture(files.folder / f'{name}.jpg', panels(picture.photograph, rows, files.cmap), record)
    note = f' ({picture.note})' if picture.note else ''
    return [f'{path}: {target.title}, logit {target.logit:.3f}, {sums_of(target.maps, target.starts)}{note}' for target in targets]


def save_plain(name, path, picture, targets, files):
    """Writes each heatmap alone and laid over the photograph, at the photograph's own size, for which it is read again; where the network
    cuts it, over what is left."""
    photograph = picture.photograph if picture.cut else open_whole(path)[0]
    if not picture.cut and not np.array_equal(squashed(photograph, picture.seen.shape), picture.seen):
        raise ValueError(f'{path} changed while it was explained')
    for target in targets:
        for rule, r in target.maps.items():
            write_plain(files.folder / f'{name}{plain_ending(rule, target.k, "")}', colour(r, photograph.size, files.cmap), rule)
            write_plain(files.folder / f'{name}{plain_ending(rule, target.k, "_over")}', laid_over(photograph, r, files.cmap), rule)


class Target:
    """What is said and drawn of the k-th target of a picture."""

    def __init__(self, k, results, probabilities, against, files):
        index = results['targets'][k]
        other = '' if against is None else f' rather than {files.classes[against]} {probabilities[against]:.2f}'
        self.k, self.logit, self.title = k, results['logits'][index], f'{files.classes[index]} {probabilities[index]:.2f}{other}'
        self.maps = {rule: results[f'relevance/{rule}'][k].sum(-1) for rule in files.rules}
        self.starts = {rule: start_of(results[f'started/{rule}'][k], self.logit, against is not None) for rule in files.rules}
        self.labels = {rule: f'{rule}: {name.split()[0]}' if name.startswith(('evidence', NOTHING)) else rule
                       for rule, (name, _) in self.starts.items()}
        plain = all(rule == label for rule, label in self.labels.items())
        self.heading = self.title if plain else f'{self.title} (logit {self.logit:.2f})'


def record_of(targets, results, probabilities, files):
    """What the JPEG comment says of the targets."""
    indices = list(map(int, results['targets']))
    return {'targets': indices, 'classes': [files.classes[index] for index in indices],
            'probabilities': [significant(probabilities[index]) for index in indices],
            'logits': [significant(results['logits'][index]) for index in indices],
            'relevance': {rule: [significant(target.maps[rule].sum(dtype=np.float64)) for target in targets] for rule in files.rules}}


def significant(value):
    """A number for a record: six digits of it."""
    return float(f'{value:.6g}')


def start_of(started, logit, contrast):
    """What relevance started with, in words, and by how much its sum is to be divided. started: at the target, at the other class."""
    value, taken = started
    if value == taken == 0:
        return NOTHING, 0
    name = f'evidence {value:.3f}' if value > 0 >= logit else 'logit'
    if not contrast:
        return name, value
    if taken == 0:
        return f'{name}, nothing to take off', value
    return (f'{name}, as much taken off', value) if taken == -value else (f'difference of logits {value + taken:.3f}', value + taken)


def sums_of(maps, starts):
    """The sum of each rule's relevance, divided by what it started with: one part of the line for each kind of start."""
    parts = {}
    for rule, r in maps.items():
        name, value = starts[rule]
        share = f' {round(r.sum(dtype=np.float64) / value, 4) + 0.0:.4f}' if value else ''  # never -0.0000
        parts.setdefault(f'sum R / {name}' if value else name, []).append(f'{rule}{share}')
    return '; '.join(f'{name}: {", ".join(rules)}' for name, rules in parts.items())


def of_layers(results, rule, k):
    """The relevance after each pooling layer for the k-th target: {layer: [h, w]}."""
    prefix = f'layers/{rule}/'
    return {key[len(prefix):]: r[k] for key, r in results.items() if key.startswith(prefix)}
