"""Pictures through the network and into files: decoded ahead and drawn behind by other threads, whatever their number."""
import argparse
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import sys
import tempfile

from keras.utils import Progbar
import numpy as np

from model import DEPTHS, probabilities
from pictures import open_picture, panels, unique, write, write_picture

HERE = Path(__file__).resolve().parent


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command."""

    def error(self, message):
        self.exit(2, f'{self.prog}: {message}\n')

    def run(self, job, args):
        """Runs job(args), which returns a line for each input that failed, and exits with the status that this means."""
        try:
            failures = job(args)
        except (ValueError, OSError) as error:
            self.error(str(error))
        if failures:
            self.exit(1, ''.join(f'{self.prog}: {line}\n' for line in failures))


def positive_int(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a whole number above zero')
    return int(text)


def seed(text):
    value = int(text)
    if not 0 <= value < 2 ** 31:
        raise ValueError
    return value


def add_network_options(parser, composites, default):
    """Adds the options that all scripts of this folder share: pictures, network, rules, and how to run them."""
    parser.add_argument('image', nargs='+', metavar='IMAGE',
                        help='a picture, a folder of pictures, @list.txt with a path on each line, or - for such a list on '
                             'standard input')
    parser.add_argument('--model', choices=DEPTHS, default='vgg16', help='vgg16 or vgg19 (default: vgg16)')
    parser.add_argument('--weights', default='imagenet', metavar='imagenet|caltech101|FILE',
                        help='imagenet: from Keras, downloaded once (default); caltech101: bundled, 101 classes, vgg16; '
                             'FILE: your VGG with any dense head, .npz, .h5, .weights.h5 or .keras')
    parser.add_argument('--rule', nargs='+', choices=composites, default=default, metavar='R',
                        help=f'of {", ".join(composites)} (default: {" ".join(default)})')
    parser.add_argument('--batch-size', type=positive_int, default=8, metavar='N', help='pictures explained at once (default: 8)')
    parser.add_argument('--precision', choices=['float32', 'bfloat16'], default='float32',
                        help='bfloat16: 16 bits inside the network, faster where the processor can (default: float32)')
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR', help='default: vgg/results')


def check_writable(folder):
    """Raises OSError, before any work is done, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f'cannot write to {folder} ({error.strerror})') from None


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


def progress_bar(total, unit):
    """Keras's bar where standard output is a terminal, else one line at the end."""
    return Progbar(total, unit_name=unit, verbose=1 if sys.stdout.isatty() else 2)


class Progress:
    """Prints a line per picture, above a bar where standard output is a terminal."""

    def __init__(self, total):
        self.done, self.bar = 0, Progbar(total, unit_name='picture') if sys.stdout.isatty() and total > 1 else None

    def show(self, lines, failures=0):
        for line in lines:
            print('\r\x1b[K' + line if self.bar else line, flush=True)
        self.done += len(lines) + failures
        if self.bar:
            self.bar.update(self.done)


def decoded(pool, paths, ahead):
    """Yields, for each path in order, what open_picture returns or the error that it raised; `ahead` are decoded in advance."""
    paths, waiting = iter(paths), deque()
    for path in paths:
        waiting.append(pool.submit(open_picture, path))
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


def explain_pictures(explainer, paths, names, classes, targets, args):
    """Explains the pictures for the targets (as Explainer takes them) and writes each one's files under its name.

    Prints a line for each. Returns a line for each picture that could not be read.
    """
    progress, broken, drawing = Progress(len(paths)), [], []
    with ThreadPoolExecutor(1) as decoder, ThreadPoolExecutor(1) as painter:
        for batch in batches(zip(names, paths, decoded(decoder, paths, 2 * args.batch_size)), args.batch_size):
            failures = [str(result) for _, _, result in batch if isinstance(result, Exception)]
            pictures = [(name, path, *result) for name, path, result in batch if not isinstance(result, Exception)]
            results = explain_batch(explainer, [pixels for _, _, _, pixels in pictures], targets, args.layers)
            progress.show([task.result() for task in drawing], len(failures))
            drawing = [painter.submit(save, *picture, result, classes, args) for picture, result in zip(pictures, results)]
            broken += failures
        progress.show([task.result() for task in drawing])
    return broken


def explain_batch(explainer, pixels, targets, blocks):
    """For each picture: the results of Explainer with one entry for each of the targets."""
    runs = [explainer(np.stack(pixels), [target] * len(pixels), blocks) for target in targets if pixels]
    return [{key: np.stack([run[key][i] for run in runs]) for key in runs[0]} for i in range(len(pixels))]


def save(name, path, photograph, pixels, results, classes, args):
    """Draws and writes all files of one picture. Returns the lines to print."""
    shares, lines, rows, layer_rows = probabilities(results['logits'][0]), [], [], []
    for k, target in enumerate(results['targets']):
        title, logit = f'{classes[target]} {shares[target]:.2f}', results['logits'][k, target]
        maps = {rule: results[f'relevance/{rule}'][k].sum(-1) for rule in args.rule}
        sums = ', '.join(f'{rule} {r.sum(dtype=np.float64) / (logit or np.nan):.4f}' for rule, r in maps.items())
        lines.append(f'{path}: {title}, logit {logit:.3f}, sum R / logit: {sums}')
        rows.append((title, maps))
        layer_rows += [(f'{title}, {rule}', of_layers(results, rule, k)) for rule in args.rule if args.layers]
    write_picture(args.results / f'{name}.jpg', panels(photograph, rows, args.cmap))
    if args.layers:
        write_picture(args.results / f'{name}_layers.jpg', panels(photograph, layer_rows, args.cmap))
    if args.save_relevance:
        arrays = {key: value for key, value in results.items() if key.startswith('relevance/')}
        arrays.update(image=pixels, logits=results['logits'][0], targets=results['targets'])
        write(args.results / f'{name}.npz', lambda temporary: np.savez(temporary, **arrays))
    return '\n'.join(lines)


def of_layers(results, rule, k):
    """The relevance after each pooling layer for the k-th target: {layer: [h, w]}."""
    prefix = f'layers/{rule}/'
    return {key[len(prefix):]: r[k] for key, r in results.items() if key.startswith(prefix)}
