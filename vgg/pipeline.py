"""Pictures through the network and into files: decoded ahead and drawn behind by other threads, whatever their number."""
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import sys
from typing import NamedTuple

import numpy as np

from script import count, progress_bar, supported, unique, write
from model import DEPTHS
from weights import MODES
from pictures import open_picture, panels, write_picture

HERE = Path(__file__).resolve().parent


def add_network_options(parser, composites, default):
    """Adds the options that all scripts of this folder share: pictures, network, rules, and how to run them."""
    parser.add_argument('image', nargs='+', metavar='IMAGE',
                        help='a picture, a folder of pictures, @list.txt with a path on each line, or - for such a list on '
                             'standard input')
    parser.add_argument('--model', choices=DEPTHS, help='vgg16 or vgg19, for files of weights alone (default: the one that fits; '
                                                        'imagenet: vgg16)')
    parser.add_argument('--weights', default='imagenet', metavar='imagenet|caltech101|FILE',
                        help='imagenet: from Keras, downloaded once (default); caltech101: bundled, 101 classes, vgg16; '
                             'FILE: your own network, saved whole by Keras (.keras, .h5), or a VGG with any dense head '
                             '(.weights.h5, .h5, .npz)')
    parser.add_argument('--preprocessing', choices=MODES,
                        help="of pictures, before whatever stands in your own model: Keras's caffe, tf or torch, unit (0 to 1) or "
                             'none (default: none if it stands in the model, else caffe)')
    parser.add_argument('--rule', nargs='+', choices=composites, default=default, metavar='R',
                        help=f'of {", ".join(composites)} (default: {" ".join(default)})')
    parser.add_argument('--batch-size', type=count, default=8, metavar='N', help='pictures explained at once (default: 8)')
    parser.add_argument('--precision', type=supported, choices=['float32', 'bfloat16', 'float64'], default='float32',
                        help='bfloat16: 16 bits inside the network, faster where the processor can; float64: slower, exact to '
                             'some 1e-9 (default: float32)')
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR', help='default: vgg/results')


def result_names(folder, paths, layers):
    """A name for each picture's results in the folder, all different, with and without _layers if there are such.

    Raises ValueError if a result would overwrite one of the pictures.
    """
    endings = ('', '_layers') if layers else ('',)
    names = unique([path.stem for path in paths], endings)
    sources = {path.resolve() for path in paths}
    for result in (folder / f'{name}{ending}.jpg' for name in names for ending in endings):
        if result.resolve() in sources:
            raise ValueError(f'{result} is one of the pictures: choose another --results')
    return names


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

    def show(self, lines, failures=0):
        for line in lines:
            print('\r\x1b[K' + line if self.bar else line, flush=True)
        self.done += len(lines) + failures
        if self.bar:
            self.bar.update(self.done)


def decoded(pool, paths, size, ahead):
    """Yields, for each path in order, what open_picture returns or the error that it raised; `ahead` are decoded in advance."""
    paths, waiting = iter(paths), deque()
    for path in paths:
        waiting.append(pool.submit(open_picture, path, size))
        if len(waiting) > ahead:
            yield result_or_error(waiting.popleft())
    while waiting:
        yield result_or_error(waiting.popleft())


def result_or_error(task):
    try:
        return task.result()
    except (ValueError, OSError) as error:
        return error


def batches(items, size):
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
    classes: list  # their names
    rules: list
    cmap: str
    layers: bool  # <name>_layers.jpg, too
    numbers: bool  # <name>.npz, too


def explain_pictures(explainer, paths, names, targets, batch_size, files):
    """Explains the pictures for the targets (as Explainer takes them) and writes each one's files under its name.

    Prints a line for each. Returns a line for each picture that could not be read.
    """
    progress, broken, drawing, network = Progress(len(paths)), [], [], explainer.network
    with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as painter:
        for batch in batches(zip(names, paths, decoded(decoder, paths, network.size, 2 * batch_size)), batch_size):
            failures = [str(result) for _, _, result in batch if isinstance(result, Exception)]
            pictures = [item for item in batch if not isinstance(item[-1], Exception)]
            results = explain_batch(explainer, [picture.seen for _, _, picture in pictures], targets, files.layers)
            progress.show([task.result() for task in drawing], len(failures))
            drawing = [painter.submit(save, *picture, result, network.probabilities(result['logits'][0]), files)
                       for picture, result in zip(pictures, results)]
            broken += failures
        progress.show([task.result() for task in drawing])
    return broken


def explain_batch(explainer, images, targets, blocks):
    """For each image: the results of Explainer with one entry for each of the targets."""
    runs = [explainer(np.stack(images), [target] * len(images), blocks) for target in targets if images]
    return [{key: np.stack([run[key][i] for run in runs]) for key in runs[0]} for i in range(len(images))]


def save(name, path, picture, results, shares, files):
    """Draws and writes all files of one picture; shares: the probabilities of the classes. Returns the lines to print."""
    lines, rows, layer_rows = [], [], []
    note = f' ({picture.note})' if picture.note else ''
    for k, target in enumerate(results['targets']):
        title, logit = f'{files.classes[target]} {shares[target]:.2f}', results['logits'][k, target]
        maps = {rule: results[f'relevance/{rule}'][k].sum(-1) for rule in files.rules}
        sums = ', '.join(f'{rule} {r.sum(dtype=np.float64) / (logit or np.nan):.4f}' for rule, r in maps.items())
        lines.append(f'{path}: {title}, logit {logit:.3f}, sum R / logit: {sums}{note}')
        rows.append((title, maps))
        layer_rows += [(f'{title}, {rule}', of_layers(results, rule, k)) for rule in files.rules if files.layers]
    write_picture(files.folder / f'{name}.jpg', panels(picture.photograph, rows, files.cmap))
    if files.layers:
        write_picture(files.folder / f'{name}_layers.jpg', panels(picture.photograph, layer_rows, files.cmap))
    if files.numbers:
        arrays = {key: value for key, value in results.items() if key.startswith('relevance/')}
        arrays.update(image=picture.seen, logits=results['logits'][0], targets=results['targets'])
        write(files.folder / f'{name}.npz', lambda temporary: np.savez(temporary, **arrays))
    return '\n'.join(lines)


def of_layers(results, rule, k):
    """The relevance after each pooling layer for the k-th target: {layer: [h, w]}."""
    prefix = f'layers/{rule}/'
    return {key[len(prefix):]: r[k] for key, r in results.items() if key.startswith(prefix)}
