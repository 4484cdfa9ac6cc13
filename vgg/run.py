"""Takes a list of pictures, of any length, through the network and into files.

One thread decodes pictures ahead of the network, another draws and writes behind it. Several
machines can share a list. After an interruption the same command goes on where it stopped: a
picture is done when its JPG, which is written last, says so.
"""
from concurrent.futures import ThreadPoolExecutor
import errno
import itertools
import os
from pathlib import Path
import signal
import sys

import numpy as np

from common import Refused, Stopped, count, one_line, precision, progress_bar, tf
from model import DEPTHS
from networks.network import BUNDLED
from networks.preprocessing import MODES
from pictures import open_picture
from results import save, stamp_of
from rules import COMPOSITES

HERE = Path(__file__).resolve().parent


def add_network_options(parser, default):
    """Adds the options that all scripts of this folder share. Returns their groups.

    default: the rules that are used if none are named.
    """
    network, what, how = map(parser.add_argument_group,
                             ('the network', 'what is explained', 'how it is run'))
    parser.add_argument('image', nargs='+', metavar='IMAGE',
                        help='a picture, a folder of pictures, @list.txt with a path on each line, '
                             'or - for such a list on standard input')
    network.add_argument('--weights', default='imagenet', metavar='NAME|FILE',
                         help='imagenet: VGG16 by Keras, downloaded once (default); caltech101: '
                              'bundled VGG16, 101 classes; lite0: bundled EfficientNet-Lite0, '
                              'ImageNet; FILE: your own network, saved whole by Keras')
    network.add_argument('--model', choices=DEPTHS,
                         help='which network --weights imagenet is (default: vgg16)')
    network.add_argument('--preprocessing', choices=MODES,
                         help="how pictures were prepared for your model, where it does not do "
                              "that itself: Keras's caffe, tf or torch, unit (0 to 1) or none")
    network.add_argument('--bgr', action='store_true',
                         help='pictures were read as blue, green, red for your model, as by cv2')
    what.add_argument('--rule', nargs='+', choices=COMPOSITES, default=default, metavar='R',
                      help=f'after the pictures: any of {", ".join(COMPOSITES)} (default: '
                           f'{" ".join(default)})')
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


def worker():
    """Which worker of how many this process is: (0, 1) where it stands alone.

    Raises Refused if TF_CONFIG or SLURM's variables do not say.
    """
    name = 'TF_CONFIG' if os.environ.get('TF_CONFIG') else 'SLURM'
    try:
        if name == 'TF_CONFIG':
            resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        elif int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1:
            tasks = int(os.environ['SLURM_STEP_NUM_TASKS'])
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(  # it insists on GPUs
                gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False)
        else:
            return 0, 1
        spec = resolver.cluster_spec().as_dict()
        tasks = [(job, i) for job in ('chief', 'master', 'worker')
                 for i in range(len(spec.get(job, [])))]
        own = resolver.task_type, resolver.task_id
        return (tasks.index(own), len(tasks)) if tasks else (0, 1)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise Refused(f'{name} does not say which worker of how many this is: {reason}') from None


def explain_pictures(explainer, jobs, question, output, batch_size=None):
    """Explains pictures (Jobs) and writes their results.

    Prints a line for each target of a picture. Returns a line for each picture that failed. Raises
    Stopped after an interruption, once the running batch is written.
    """
    size = batch_size or explainer.batch_size
    batches = [jobs[i:i + size] for i in range(0, len(jobs), size)]
    progress, failed, drawing = Progress(len(jobs)), [], []
    with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as painter, Stop() as stop:
        for reading in read_ahead(decoder, batches, explainer.network.size):
            opened, unread = finished(reading)
            results = explanations(explainer, [picture.seen for *_, picture in opened], question)
            failed += progress.show(drawing, unread)
            drawing = [painter.submit(save, *each, result, question, output)
                       for each, result in zip(opened, results)]
            if stop.number:
                break
        failed += progress.show(drawing)
    if stop.number:
        raise Stopped(stop.number, f'stopped: {progress.done} of {len(jobs)} pictures are '
                                   'done; the same command goes on from there')
    return failed


def read_ahead(decoder, batches, size):
    """Yields the tasks that read the pictures of a batch; the next batch is read meanwhile."""
    reading = []
    for batch in batches:
        next_one = [decoder.submit(read, job, size) for job in batch]
        if reading:
            yield reading
        reading = next_one
    yield reading


def read(job, size):
    """The job, the stamp of its picture, and its Picture."""
    stamp = stamp_of(job.path)
    return job, stamp, open_picture(job.path, size)


def explanations(explainer, images, question):
    """An Explanation of each image for each target: lists as long as there are targets."""
    if not images:
        return []
    wholes = [explainer(np.stack(images), [target] * len(images), question.against)
              for target in question.targets]
    return [[tf.nest.map_structure(lambda array: array[i], whole) for whole in wholes]
            for i in range(len(images))]


def finished(tasks):
    """What tasks return, and a line for each that failed.

    Raises Refused if the disk is full: then the others would fail, too.
    """
    values, failed = [], []
    for task in tasks:
        try:
            values.append(task.result())
        except Refused as error:
            if getattr(error.__cause__, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            failed.append(str(error))
    return values, failed


class Progress:
    """Prints the lines of pictures, above a bar on a terminal."""

    def __init__(self, total):
        on_terminal = sys.stdout.isatty() and total > 1
        self.done, self.bar = 0, progress_bar(total, 'picture') if on_terminal else None

    def show(self, drawing, unread=()):
        """Shows the lines of pictures once they are drawn. Returns a line for each that failed.

        drawing: the tasks; unread: a line for each picture that could not be read.
        """
        pictures, failed = finished(drawing)
        for line in itertools.chain(*pictures):
            print('\r\x1b[K' + one_line(line) if self.bar else one_line(line), flush=True)
        self.done += len(drawing) + len(unread)
        if self.bar:
            self.bar.update(self.done)
        return [*failed, *unread]


class Stop:
    """Notes the number of a signal, so that what runs can finish; a second one ends the process."""

    number = 0

    def __enter__(self):
        self.before = {number: signal.signal(number, self.note)
                       for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def note(self, number, frame):
        self.number = number
        self.__exit__()

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)
