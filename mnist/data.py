"""MNIST from its .npz file, whole or in batches."""
import numpy as np

from common import Refused


def read_arrays(path, *names):
    """The arrays of these names in an .npz file. Raises Refused."""
    try:
        with open(path, 'rb') as opened, np.load(opened) as file:
            return [file[name] for name in names]
    except Exception as error:  # NumPy raises of all kinds
        raise Refused(f'{path} is no .npz file with {", ".join(names)} ({error})') from None


def load(path, split):
    """Reads a split of the data set: 'train', 'validation' (the last sixth of x_train) or 'test'.

    Returns images [n, 28, 28] uint8 and labels [n] int64. Raises Refused.
    """
    part = 'test' if split == 'test' else 'train'
    x, y = read_arrays(path, f'x_{part}', f'y_{part}')
    if x.dtype != np.uint8 or x.shape != (*y.shape, 28, 28) or set(np.unique(y)) - set(range(10)):
        raise Refused(f'{path}, {part}: images {x.dtype} {list(x.shape)}, labels {y.dtype} '
                      f'{list(y.shape)}; expected uint8 [n, 28, 28] and digits 0 to 9 [n]')
    y, cut = y.astype(np.int64), len(x) - len(x) // 6
    return {'train': (x[:cut], y[:cut]), 'validation': (x[cut:], y[cut:]), 'test': (x, y)}[split]


def epoch(images, labels, batch_size, rng):
    """Yields the batches (images, warps, labels) of an epoch. The generator decides the order and
    the warps."""
    order, moves = rng.permutation(len(images)), warps(len(images), rng)
    for start in range(0, len(images), batch_size):
        batch = order[start:start + batch_size]
        yield images[batch], moves[batch], labels[batch]


def warps(n, rng):
    """Draws n small changes of a digit: rotated by up to 10 degrees, each side up to 8% longer or
    shorter, moved by up to a pixel.

    Returns [n, 8], as TensorFlow's projective transforms take them: affine maps from the place (x,
    y) of a pixel in the result to its place in the digit.
    """
    angle, shift = np.radians(rng.uniform(-10, 10, n)), rng.uniform(-1, 1, [2, n])
    stretch = np.exp(rng.uniform(-0.08, 0.08, [2, n]))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rows = stretch[:, None] * rotation  # [2, 2, n]
    middle = 13.5 * (1 - rows.sum(1)) + shift  # the digit's middle moves only by the shift
    return np.float32([*rows[0], middle[0], *rows[1], middle[1], np.zeros(n), np.zeros(n)]).T
