"""Files of weights alone: .npz as bundled, and Keras's .h5 and .weights.h5, read one layer at a time."""
from functools import partial
import os
import re
import subprocess
import sys
from typing import Callable, NamedTuple
import zipfile

import h5py
import numpy as np

from script import array_header, check_size, declared

VGG_NAME = re.compile(r'block\d+_conv\d+|fc\d+|predictions')
SAVE_WHOLE = "save the whole model, by model.save('my.keras') in Keras, then it can be read as it is"


class Entry(NamedTuple):
    """A layer in a file of weights."""

    name: str
    shape: tuple  # of its kernel
    read: Callable  # gives kernel and bias


def arranged(entries):
    """Convolutions, then dense layers, each in the order of the forward pass: by their names where these are VGG's, else as they
    stand. Raises ValueError where they are numbered otherwise than they stand, for then one of the two is wrong."""
    result = []
    for entry in entries:
        if 0 in entry.shape:
            raise ValueError(f'layer {entry.name} has shape {list(entry.shape)}: nothing goes through it')
    for rank in 4, 2:
        part = [entry for entry in entries if len(entry.shape) == rank]
        if all(VGG_NAME.fullmatch(entry.name) for entry in part):
            part.sort(key=lambda entry: (entry.name == 'predictions', natural(entry.name)))
        elif [entry.name for entry in part] != sorted((entry.name for entry in part), key=natural) and all(
                re.search(r'\d+$', entry.name) for entry in part[1:]):
            raise ValueError(f'the layers stand in the order {", ".join(entry.name for entry in part)}, which is not that of their '
                             f'numbers; {SAVE_WHOLE}')
        result += part
    return result


def natural(name):
    """Sorts numbers within names as numbers: conv2d_2 before conv2d_10."""
    return [int(text) if text.isdigit() else text for text in re.split(r'(\d+)', name)]


def open_weights(path, stack):
    """Opens a file of weights, an .h5 file one that check_reading has tried, on the stack. Returns its entries, and the class names or
    None."""
    if path.suffix == '.npz':
        opened = stack.enter_context(open(path, 'rb'))
        if not zipfile.is_zipfile(opened):
            raise ValueError('no .npz file, or not the whole of one')
        opened.seek(0)
        file = stack.enter_context(np.load(opened, allow_pickle=False))
        check_size(path, declared(file.zip))
        return npz_entries(file), [str(name) for name in file['classes']] if 'classes' in file else None
    if path.suffix in ('.h5', '.hdf5'):
        file = stack.enter_context(h5py.File(path, 'r'))
        return keras2_entries(file) if 'layer_names' in file.attrs else keras3_entries(file), None
    raise ValueError('expected a file .npz, .h5, .weights.h5 or .keras')


READING = """import h5py, sys
total = 0
def add(name, item):
    global total
    total += item.nbytes if isinstance(item, h5py.Dataset) else 0
def read(name, item):  # what does not lie in one piece, and may be compressed
    if isinstance(item, h5py.Dataset) and item.chunks:
        item[()]
with h5py.File(sys.argv[1], 'r') as file:
    file.visititems(add)
    if total <= float(sys.argv[2]):
        file.visititems(read)
print(total)"""


def check_reading(path):
    """Raises ValueError where reading an h5 file would end the process, as a damaged one can, or fill the memory: another process
    tries it. It follows no links, and reads nothing that is kept in other files."""
    limit = max(10 ** 8, 100 * os.path.getsize(path))
    end = subprocess.run([sys.executable, '-I', '-c', READING, os.fspath(path), str(limit)], capture_output=True, text=True)
    if end.returncode:
        reason = end.stderr.strip().splitlines()[-1:] if end.returncode > 0 else ['reading it ends the process']
        raise ValueError(f'damaged ({(reason or ["no reason given"])[0][:200]})')
    check_size(path, int(end.stdout))


def npz_entries(file):
    """Keys <layer>/kernel and <layer>/bias, in the order of the forward pass; the shapes are read without the arrays."""
    entries = []
    for name in [key[:-len('/kernel')] for key in file.files if key.endswith('/kernel')]:
        with file.zip.open(f'{name}/kernel.npy') as array:
            entries.append(Entry(name, array_header(array)[0], partial(read_pair, file, f'{name}/kernel', f'{name}/bias')))
    return entries


def keras2_entries(group):
    """The layout of Keras 2, and of the published ImageNet weights: the file lists its layers and their arrays in order."""
    arrays = [(layer, name) for layer in texts(group.attrs['layer_names']) for name in texts(group[layer].attrs['weight_names'])]
    entries, biases = [], set()
    for (layer, name), (next_layer, bias) in zip(arrays, arrays[1:] + [(None, None)]):
        shape = group[layer][name].shape
        if len(shape) in (2, 4):
            has_bias = next_layer == layer and len(group[layer][bias].shape) == 1
            entries.append(Entry(layer, shape, partial(read_pair, group[layer], name, bias if has_bias else None)))
            biases |= {(next_layer, bias)} if has_bias else set()
        elif (layer, name) not in biases and 'seed_generator' not in name:  # the state of a dropout layer
            raise ValueError(f'layer {layer} holds {name} of shape {list(shape)}, which is no weight of VGG')
    return entries


def texts(attribute):
    return [name.decode() if isinstance(name, bytes) else name for name in attribute]


def keras3_entries(file):
    """The layout of Keras 3: layers/<kind>_<number>/vars/0 and 1, nested for a model in a model, which comes first."""
    found = []
    file.visit(lambda path: found.append(path) if path.endswith('vars/0') and not path.startswith('optimizer') else None)
    entries = []
    for path in sorted(found, key=forward_order):
        group = file[path].parent
        if len(group['0'].shape) in (2, 4):
            name = group.attrs.get('name', path)
            entries.append(Entry(name, group['0'].shape, partial(read_pair, group, '0', '1' if '1' in group else None)))
        elif 'seed_generator' not in path:  # the state of a dropout layer
            raise ValueError(f'layer {group.attrs.get("name", path)} is neither convolution nor dense: no VGG')
    return entries


def forward_order(path):
    """Deeper models first, then by name with numbers as numbers."""
    parts = path.split('/')
    return -len(parts), [natural(part) for part in parts]


def read_pair(group, kernel, bias):
    """Reads a kernel and its bias, zero where the layer has none, as float32."""
    kernel = np.asarray(group[kernel], np.float32)
    return kernel, np.zeros(kernel.shape[-1:], np.float32) if bias is None else np.asarray(group[bias], np.float32)
