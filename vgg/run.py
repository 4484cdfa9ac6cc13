"""Takes a list of pictures, of any length, through the network and into files.

One thread decodes pictures ahead of the network, another draws and writes behind it. Several
machines can share a list. After an interruption the same command goes on where it stopped.
"""
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
import itertools
import os
from pathlib import Path

import numpy as np

from common import Refused, collected, count, one_line, precision, tf
from model import DEPTHS
from networks.preprocessing import MODES
from pictures import open_picture
from results import save, what_is_wrong
from rules import COMPOSITES

HERE = Path(__file__).resolve().parent
ABOUT = {  # what one sees by each rule
    'epsilon-gamma-box': 'what speaks for and against this class',
    'deep-taylor': 'what the features respond to, whatever the class',
    'zplus': 'like deep-taylor, with thinner outlines',
    'wsquare': 'nearly the same as deep-taylor',
    'epsilon': 'gradient x input in networks of ReLUs; noisy',
    'alpha1beta0': 'like zplus, but biases keep a part',
    'alpha2beta1': 'what excites the features in red, what inhibits them in blue',
    'epsilon-plus': 'what speaks for and against this class',
    'epsilon-plus-flat': 'likewise; smoother',
    'epsilon-alpha2beta1': 'what speaks for and against this class; more blue',
    'epsilon-alpha2beta1-flat': 'likewise; smoother',
    'montavon2019': 'smooth, on fewer parts; the rules of the tutorial'}


def add_network_options(parser, default):
    """Adds the options that all scripts of this folder share. Returns their groups. default: the
    rules that are used if none are named."""
    parser.epilog = '\n'.join(['what one sees, by rule:',
                               *(f'  {name:26}{ABOUT.get(name, "")}' for name in COMPOSITES)])
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
                      help=f'after the pictures: rules, listed below (default: '
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


def worker():
    """Which worker of how many this process is: (0, 1) where it stands alone. Raises Refused if
    TF_CONFIG or SLURM's variables do not say."""
    name, tasks = 'TF_CONFIG', os.environ.get('SLURM_STEP_NUM_TASKS', '1')
    try:
        if os.environ.get(name):
            resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        elif tasks == '1':
            return 0, 1
        else:
            name = 'SLURM'
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(  # it insists on GPUs
                gpus_per_node=int(tasks), gpus_per_task=1, auto_set_gpu=False)
        spec = resolver.cluster_spec().as_dict()
        workers = [(job, i) for job in ('chief', 'master', 'worker')
                   for i in range(len(spec.get(job, [])))]
        own = resolver.task_type, resolver.task_id
        return (workers.index(own), len(workers)) if workers else (0, 1)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise Refused(f'{name} does not say which worker of how many this is: {error}') from None


def left(jobs, output):
    """The jobs that are to be done, and a line for each that is refused. Prints how many are done,
    and why others are made again."""
    found, refused = collected([partial(what_is_wrong, job, output) for job in jobs])
    todo = [job for job, reason in found if reason is not None]
    if len(todo) < len(found):
        hint = '' if todo else ' (--overwrite explains them again)'
        print(f'{len(found) - len(todo)} done before, {len(todo)} to do{hint}', flush=True)
    for reason, number in Counter(reason for _, reason in found if reason).items():
        print(f'{number} to make again: {reason}')
    return todo, refused


def explain_pictures(explainer, jobs, question, output, failed, batch_size=None):
    """Explains pictures (Jobs) and writes their results. Prints a line for each target of a
    picture, and adds one to `failed` for each picture that fails. Returns how many did not."""
    size = batch_size or explainer.batch_size
    batches = [jobs[i:i + size] for i in range(0, len(jobs), size)]
    explained, drawing = 0, []
    with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as painter:
        for batch in read_ahead(decoder, batches, explainer.network.size):
            opened, unread = collected([task.result for task in batch])
            results = explanations(explainer, [picture.seen for _, picture in opened], question)
            explained += show(drawing, failed)
            failed += unread
            drawing = [painter.submit(save, *each, result, question, output)
                       for each, result in zip(opened, results)]
        return explained + show(drawing, failed)


def read_ahead(decoder, batches, size):
    """Yields the tasks that read a batch, (Job, Picture) each; the next one is read meanwhile."""
    reading = []
    for batch in batches:
        next_one = [decoder.submit(lambda job: (job, open_picture(job.path, size)), job)
                    for job in batch]
        if reading:
            yield reading
        reading = next_one
    yield reading


def explanations(explainer, images, question):
    """An Explanation of each image for each target: lists as long as there are targets."""
    if not images:
        return []
    wholes = [explainer(np.stack(images), [target] * len(images), question.against)
              for target in question.targets]
    return [[tf.nest.map_structure(lambda array: array[i], whole) for whole in wholes]
            for i in range(len(images))]


def show(drawing, failed):
    """Prints the lines of pictures once these tasks have drawn them. Returns how many there are,
    and adds a line to `failed` for each of the others."""
    pictures, undrawn = collected([task.result for task in drawing])
    for line in itertools.chain(*pictures):
        print(one_line(line), flush=True)
    failed += undrawn
    return len(pictures)
