"""Files of weights alone, for VGG16 or VGG19: .npz as bundled, and Keras's .h5 and .weights.h5.

They do not say what network they belong to, so they are taken for the one that fits.
"""
from functools import partial
import re
from typing import NamedTuple
import zipfile

import h5py
import numpy as np

from common import Refused
from model import DEPTHS, layer_table

VGG_NAME = re.compile(r'block\d+_conv\d+|fc\d+|predictions')
SAVE_WHOLE = "save the whole model in Keras, by model.save('my.keras'), and give that file"


class Entry(NamedTuple):
    """A layer in a file of weights."""

    name: str
    kernel: np.ndarray  # float32
    bias: np.ndarray


def read_weights(path, model=None):
    """The network in a file of weights alone.

    model: 'vgg16' or 'vgg19', or None for the one that fits. Returns its name, its layer table,
    {layer name: function that returns w and b} and the class names or None. Raises Refused if the
    file cannot be read, or naming the first layer that does not fit.
    """
    try:
        entries, classes = entries_in(path)
        entries = arranged(entries)
        model, layers = matched(model, entries)
    except Refused as error:
        raise Refused(f'{path}: {error}') from None
    weighted = [layer.name for layer in layers if layer.kind in ('conv', 'dense')]
    read = {name: partial(tuple, entry[1:]) for name, entry in zip(weighted, entries)}
    return model, layers, read, classes


def entries_in(path):
    """The layers in a file, as they are stored, and the class names or None."""
    try:
        return npz_entries(path) if zipfile.is_zipfile(path) else h5_entries(path)
    except Refused:
        raise
    except Exception as error:  # NumPy and h5py raise of all kinds
        reason = ' '.join(str(error).split())
        raise Refused(f'cannot be read as weights ({reason})') from None


def arranged(entries):
    """Convolutions, then dense layers, in the order of VGG's names, or else as they are stored."""
    result = []
    for rank in 4, 2:
        part = [entry for entry in entries if entry.kernel.ndim == rank]
        if all(VGG_NAME.fullmatch(entry.name) for entry in part):
            part.sort(key=lambda entry: (entry.name == 'predictions', natural(entry.name)))
        elif not in_order([entry.name for entry in part]):
            names = ', '.join(entry.name for entry in part)
            raise Refused(f'layers are stored as {names}, against their numbers; {SAVE_WHOLE}')
        result += part
    return result


def in_order(names):
    """Whether numbered names stand in the order of their numbers."""
    numbered = all(re.search(r'\d+$', name) for name in names[1:])
    return not numbered or names == sorted(names, key=natural)


def natural(name):
    """Sorts numbers within names as numbers: conv2d_2 before conv2d_10."""
    return [int(text) if text.isdigit() else text for text in re.split(r'(\d+)', name)]


def matched(model, entries):
    """'vgg16' or 'vgg19', whichever fits, and its layer table with these dense layers."""
    convolutions = sum(entry.kernel.ndim == 4 for entry in entries)
    model = model or ('vgg19' if convolutions > sum(DEPTHS['vgg16']) else 'vgg16')
    head = [entry.kernel.shape[-1] for entry in entries if entry.kernel.ndim == 2]
    layers = layer_table(model, head)
    expected = [layer for layer in layers if layer.kind in ('conv', 'dense')]
    for layer, entry in zip(expected, entries):
        named_otherwise = VGG_NAME.fullmatch(entry.name) and entry.name != layer.name
        if named_otherwise and layer.kind == 'conv':
            raise Refused(f'layer {entry.name} stands where {model} has {layer.name}')
        if entry.kernel.shape != layer.kernel:
            raise Refused(f'layer {entry.name} has shape {list(entry.kernel.shape)}, but '
                          f'{layer.name} of {model} has {list(layer.kernel)}; if it is no {model}, '
                          f'{SAVE_WHOLE}')
        if entry.bias.shape != layer.kernel[-1:]:
            raise Refused(f'the bias of {entry.name} has shape {list(entry.bias.shape)}, but its '
                          f'kernel {list(layer.kernel)}')
    if len(entries) < len(expected):
        raise Refused(f'there are no weights for {expected[len(entries)].name} of {model}')
    if expected[-1].kind != 'dense':
        raise Refused(f'there are no dense layers after the convolutions of {model}, so no classes')
    return model, layers


def npz_entries(path):
    """Arrays named <layer>/kernel and <layer>/bias; class names, if any, named classes."""
    with np.load(path, allow_pickle=False) as file:
        names = [key.removesuffix('/kernel') for key in file.files if key.endswith('/kernel')]
        entries = [entry_of(name, file[f'{name}/kernel'], file[f'{name}/bias']) for name in names]
        return entries, [str(name) for name in file['classes']] if 'classes' in file else None


def h5_entries(path):
    """The kernels in an .h5 file of Keras 2 (as the published weights are) or Keras 3."""
    with h5py.File(path, 'r') as file:
        names = keras2_arrays(file) if 'layer_names' in file.attrs else keras3_arrays(file)
        return [entry_of(layer, file[kernel], bias and file[bias])
                for layer, kernel, bias in names], None


def entry_of(name, kernel, bias):
    """An Entry, with zeros for the bias where the layer has none (None)."""
    bias = np.zeros(kernel.shape[-1:]) if bias is None else bias
    return Entry(name, np.asarray(kernel, np.float32), np.asarray(bias, np.float32))


def keras2_arrays(file):
    """Yields (layer, kernel, bias or None) in the order in which the file lists its layers."""
    for layer in map(text, file.attrs['layer_names']):
        arrays = [f'{layer}/{text(name)}' for name in file[layer].attrs['weight_names']]
        arrays = [name for name in arrays if 'seed_generator' not in name]  # dropout's state
        bias = None
        for name, following in zip(arrays, [*arrays[1:], None]):
            rank = len(file[name].shape)
            if rank in (2, 4):
                has_bias = following and len(file[following].shape) == 1
                bias = following if has_bias else None
                yield layer, name, bias
            elif name != bias:
                raise Refused(f'layer {layer} holds {name} of shape {list(file[name].shape)}, '
                              f'which is no weight of VGG; {SAVE_WHOLE}')


def text(name):
    return name.decode() if isinstance(name, bytes) else name


def keras3_arrays(file):
    """Yields (layer, kernel, bias or None); a model within the model comes first."""
    found = []
    file.visit(lambda path: found.append(path) if path.endswith('vars/0') else None)
    for path in sorted(found, key=inner_first):
        if path.startswith('optimizer') or 'seed_generator' in path:
            continue
        group = file[path].parent
        layer = group.attrs.get('name', path)
        if len(group['0'].shape) not in (2, 4):
            raise Refused(f'layer {layer} is neither a convolution nor dense: no VGG; {SAVE_WHOLE}')
        yield layer, path, f'{group.name}/1' if '1' in group else None


def inner_first(path):
    return -path.count('/'), [natural(part) for part in path.split('/')]
