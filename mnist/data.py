"""MNIST from its .npz file, whole or in batches."""
import os
import zipfile

import numpy as np

from script import check_regular, check_size, declared


def load(path, *splits):
    """Reads splits of the data set: 'train' (of the file's training part all but the last sixth), 'validation' (that sixth), 'test'.

    Returns one (images [n, 28, 28] uint8, labels [n] int64) per split. Raises FileNotFoundError, or ValueError for any other file.
    """
    try:
        check_regular(path)
        if os.path.exists(path) and not zipfile.is_zipfile(path):
            raise ValueError('no .npz file, or not the whole of one')
        with open(path, 'rb') as opened, np.load(opened, allow_pickle=False) as file:
            check_size(path, declared(file.zip))
            return [split_of(file, split) for split in splits]
    except FileNotFoundError:
        raise FileNotFoundError(f'no data file {path}') from None
    except Exception as error:  # readers of damaged archives raise of all kinds
        reason = 'it holds pickled objects, which are not read' if 'allow_pickle' in str(error) else ' '.join(str(error).split())[:200]
        raise ValueError(f'{path} is not an MNIST .npz with x_train, y_train, x_test, y_test ({reason})') from None


def split_of(file, split):
    part = 'test' if split == 'test' else 'train'
    x, y = file[f'x_{part}'], file[f'y_{part}']
    if x.dtype != np.uint8 or x.shape[1:] != (28, 28) or y.dtype.kind not in 'iu' or y.shape != x.shape[:1] or not len(x):
        raise ValueError(f'{part}: images {x.dtype} {list(x.shape)}, labels {y.dtype} {list(y.shape)}; expected uint8 [n, 28, 28] and '
                         'whole numbers [n]')
    y = y.astype(np.int64)
    if part == 'train' and len(x) < 6:
        raise ValueError(f'train: {len(x)} images, expected 6 or more')
    if y.min() < 0 or y.max() > 9:
        raise ValueError(f'{part}: labels {y.min()} to {y.max()}; expected 0 to 9')
    cut = len(x) - len(x) // 6
    return {'train': (x[:cut], y[:cut]), 'validation': (x[cut:], y[cut:]), 'test': (x, y)}[split]


def epoch(images, labels, batch_size, rng, first=0):
    """Yields one epoch's batches (images, warps, labels) in the generator's order, from batch number `first` on."""
    order, moves = rng.permutation(len(images)), warps(len(images), rng)
    for start in range(first * batch_size, len(images), batch_size):
        batch = order[start:start + batch_size]
        yield images[batch], moves[batch], labels[batch]


def warps(n, rng):
    """Draws n small changes of a digit: turned by up to 10 degrees, each side up to 8 % longer or shorter, moved by up to a pixel.

    Returns [n, 8]: the affine maps from where a pixel of the result lies (x, y) to where it comes from, as TensorFlow takes them.
    """
    angle, shift = np.radians(rng.uniform(-10, 10, n)), rng.uniform(-1, 1, [2, n])
    stretch = np.exp(rng.uniform(-0.08, 0.08, [2, n]))
    rows = stretch[:, None] * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # [2, 2, n]
    middle = 13.5 * (1 - rows.sum(1)) + shift  # the middle of the picture stays where it is, but for the shift
    return np.float32([*rows[0], middle[0], *rows[1], middle[1], np.zeros(n), np.zeros(n)]).T
