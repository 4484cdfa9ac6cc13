"""Takes a list of pictures, of any length, through the network and into files.

One thread decodes pictures ahead of the network, another draws and writes behind it. Several
machines can share a list. After an interruption the same command goes on where it stopped: a
picture is done when its JPG, which is written last, says so.
"""
from collections import deque
from concurrent.futures import ThreadPoolExecutor
import contextlib
import errno
import itertools
import os
from pathlib import Path
import signal
import sys

import numpy as np

from common import Refused, Stopped, count, one_line, precision, progress_bar, rule_names, tf
from model import DEPTHS
from networks.network import BUNDLED
from results import save, stamp_of
from pictures import open_picture
from networks.preprocessing import MODES
from rules import COMPOSITES

HERE = Path(__file__).resolve().parent
ABOUT = {  # rules in three words, for --help
    'epsilon-gamma-box': 'for this class', 'deep-taylor': 'features, any class',
    'zplus': 'z+ on pixels, too', 'wsquare': 'pixels by weights',
    'epsilon': 'gradient times input', 'alpha1beta0': 'z+ with biases',
    'alpha2beta1': 'z+ less z-', 'epsilon-plus': 'for this class',
    'epsilon-plus-flat': 'likewise, flat pixels', 'epsilon-alpha2beta1': 'this class, sharper',
    'epsilon-alpha2beta1-flat': 'likewise, flat pixels', 'montavon2019': "the tutorial's rules"}


def add_network_options(parser, default):
    """Adds the options that all scripts of this folder share. Returns their groups.

    default: the rules that are used if none are named.
    """
    parser.epilog = '\n'.join(['rules:', *(f'  {name:26}{ABOUT.get(name, "")}'
                                           for name in COMPOSITES)])
    network, what, how = map(parser.add_argument_group,
                             ('the network', 'what is explained', 'how it is run'))
    parser.add_argument('image', nargs='+', metavar='IMAGE',
                        help='a picture, a folder of pictures, @list.txt with a path on each line, '
                             'or - for such a list on standard input')
    network.add_argument('--weights', default='imagenet', metavar='NAME|FILE',
                         help='imagenet: VGG16 by Keras, downloaded once (default); caltech101: '
                              'bundled VGG16, 101 classes; lite0: bundled EfficientNet-Lite0, '
                              'ImageNet; FILE: your own network, saved whole by Keras (.keras, '
                              '.h5), or the weights of a VGG with any dense head (.weights.h5, '
                              '.h5, .npz)')
    network.add_argument('--model', choices=DEPTHS,
                         help='for imagenet and weights alone (default: the one that fits)')
    network.add_argument('--preprocessing', choices=MODES,
                         help="how pictures were prepared for your model, where it does not do "
                              "that itself: Keras's caffe, tf or torch, unit (0 to 1) or none")
    what.add_argument('--rule', nargs='+', type=rule_names(COMPOSITES), default=default,
                      metavar='R',
                      help=f'rules, listed below (default: {" ".join(default)})')
    how.add_argument('--batch-size', type=count, metavar='N',
                     help='pictures explained at once (default: up to 8, as memory allows)')
    how.add_argument('--precision', type=precision, choices=['float32', 'bfloat16', 'float64'],
                     default='float32',
                     help='bfloat16: faster on processors that have it; float64: slow, exact to '
                          'about 1e-9 (default: float32)')
    how.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR',
                     help='default: vgg/results')
    return network, what, how


def inputs(args, paths):
    """All files that a command reads, pictures among them."""
    lists = [argument[1:] for argument in [*args.image, *getattr(args, 'others', [])]
             if argument.startswith('@')]
    files = [getattr(args, name, None) for name in ('weights', 'classes')]
    files = [path for path in files if path and path not in ('imagenet', *BUNDLED)]
    return [*paths, *lists, *files]


def own_share(jobs):
    """Every n-th job for this worker of n, by TF_CONFIG or under SLURM; all if it stands alone."""
    own, workers = worker()
    return jobs[own::workers]


def worker():
    """Which worker of how many this process is: (0, 1) where it stands alone.

    Raises Refused if TF_CONFIG or SLURM's variables do not say.
    """
    try:
        if os.environ.get('TF_CONFIG'):
            resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
            spec, own = resolver.cluster_spec().as_dict(), (resolver.task_type, resolver.task_id)
        elif int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1:
            tasks = int(os.environ['SLURM_STEP_NUM_TASKS'])
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(  # it insists on GPUs
                gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False)
            spec, own = resolver.cluster_spec().as_dict(), resolver.get_task_info()
        else:
            return 0, 1
        tasks = [(job, i) for job in ('chief', 'master', 'worker')
                 for i in range(len(spec.get(job, [])))]
        return (tasks.index(own), len(tasks)) if tasks else (0, 1)
    except Exception as error:  # the resolvers raise of all kinds
        name = 'TF_CONFIG' if os.environ.get('TF_CONFIG') else 'SLURM'
        reason = ' '.join(str(error).split())
        raise Refused(f'{name} does not say which worker of how many this is: {reason}') from None


def left(jobs, output, overwrite):
    """Of jobs [(name, path)]: those to do, how many are done, a line for each that is refused."""
    todo, failed = [], []
    for name, path in jobs:
        try:
            if overwrite or not output.is_done(name, path):
                todo.append((name, path))
        except Refused as error:
            failed.append(str(error))
    return todo, len(jobs) - len(todo) - len(failed), failed


def explain_pictures(explainer, jobs, targets, against, classes, batch_size, output):
    """Explains pictures [(name, path)] for the targets, as Explainer takes them, and writes files.

    Prints a line for each target. Returns a line for each picture that failed. Raises Stopped after
    an interruption, once the running batch is written.
    """
    batch_size = batch_size or explainer.batch_size
    progress, failed, drawing = Progress(len(jobs)), [], []
    decoder, painter = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    with contextlib.ExitStack() as stack:
        stack.callback(decoder.shutdown, cancel_futures=True)
        stack.callback(painter.shutdown)
        stop = stack.enter_context(Stop())
        pictures = decoded(decoder, jobs, explainer.network.size, 2 * batch_size)
        while not stop.number and (batch := list(itertools.islice(pictures, batch_size))):
            unread = [str(picture) for _, _, picture, _ in batch if isinstance(picture, Refused)]
            batch = [item for item in batch if not isinstance(item[2], Refused)]
            results = explained(explainer, [item[2].seen for item in batch], targets, against)
            failed += written(progress, drawing) + unread
            progress.show([], len(unread))
            drawing = [painter.submit(save, *item, result, explainer.network, classes, against,
                                      output) for item, result in zip(batch, results)]
        failed += written(progress, drawing)
        if stop.number:
            raise Stopped(stop.number, f'stopped: {progress.done} of {len(jobs)} pictures are '
                                       'done; the same command goes on from there')
    return failed


def decoded(pool, jobs, size, ahead):
    """Yields (name, path, Picture or Refused, stamp) of each job, decoding some ahead."""
    waiting, jobs = deque(), iter(jobs)
    while True:
        for name, path in itertools.islice(jobs, ahead + 1 - len(waiting)):
            waiting.append((name, path, pool.submit(picture_and_stamp, path, size)))
        if not waiting:
            return
        name, path, task = waiting.popleft()
        yield name, path, *task.result()


def picture_and_stamp(path, size):
    try:
        stamp = stamp_of(path)
        return open_picture(path, size), stamp
    except Refused as error:
        return error, None


def explained(explainer, images, targets, against):
    """An Explanation of each of the images, which may be none."""
    if not images:
        return []
    whole = explainer(np.stack(images), [targets] * len(images), against)
    return [tf.nest.map_structure(lambda array: array[i], whole) for i in range(len(images))]


def written(progress, drawing):
    """Shows the lines of the pictures that are being drawn. Returns a line for each that failed.

    Raises Refused if the disk is full: then the others would fail, too.
    """
    failed = []
    for task in drawing:
        lines = []
        try:
            lines = task.result()
        except Refused as error:
            if getattr(error.__cause__, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            failed.append(str(error))
        progress.show(lines)
    return failed


class Progress:
    """Prints a line for each picture, above a bar on a terminal."""

    def __init__(self, total):
        on_terminal = sys.stdout.isatty() and total > 1
        self.done, self.bar = 0, progress_bar(total, 'picture') if on_terminal else None

    def show(self, lines, pictures=1):
        """Shows the lines of so many pictures."""
        for line in lines:
            print('\r\x1b[K' * bool(self.bar) + one_line(line), flush=True)
        self.done += pictures
        if self.bar:
            self.bar.update(self.done)


class Stop:
    """Notes an interruption, so that what runs can finish; a second one ends the process."""

    number = 0  # of the signal

    def __enter__(self):
        self.before = {number: signal.signal(number, self.note)
                       for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number, frame):
        if self.number:
            os._exit(128 + number)
        self.number = number

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)
