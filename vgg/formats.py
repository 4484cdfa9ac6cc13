"""Weight files of VGG networks: .npz as bundled, and Keras's .h5, .weights.h5 and .keras, read one layer at a time."""
from functools import partial
import re
import zipfile

import h5py
import numpy as np


def open_weights(path, stack):
    """Opens a weight file on the stack. Returns (layer name in the file, kernel shape, function that reads kernel and bias) for
    each layer, in the order of the forward pass, and the class names or None."""
    classes = None
    if path.suffix == '.npz':
        opened = stack.enter_context(open(path, 'rb'))
        if not zipfile.is_zipfile(opened):
            raise ValueError('no .npz file, or not the whole of one')
        opened.seek(0)
        file = stack.enter_context(np.load(opened, allow_pickle=False))
        classes = [str(name) for name in file['classes']] if 'classes' in file else None
        entries = npz_entries(file)
    elif path.suffix == '.keras':
        archive = stack.enter_context(zipfile.ZipFile(path))
        entries = keras3_entries(stack.enter_context(h5py.File(archive.open('model.weights.h5'), 'r')))
    elif path.suffix in ('.h5', '.hdf5'):
        file = stack.enter_context(h5py.File(path, 'r'))
        group = file.get('model_weights', file)
        entries = keras2_entries(group) if 'layer_names' in group.attrs else keras3_entries(file)
    else:
        raise ValueError('expected a file .npz, .h5, .weights.h5 or .keras')
    return sorted(entries, key=lambda entry: -len(entry[1])), classes  # convolutions, then dense layers, each in its order


def npz_entries(file):
    """Keys <layer>/kernel and <layer>/bias, in the order of the forward pass; the shapes are read without the arrays."""
    entries = []
    for name in [key[:-len('/kernel')] for key in file.files if key.endswith('/kernel')]:
        with file.zip.open(f'{name}/kernel.npy') as header:
            version = np.lib.format.read_magic(header)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            entries.append((name, reader(header)[0], partial(read_pair, file, f'{name}/kernel', f'{name}/bias')))
    return entries


def keras2_entries(group):
    """The layout of Keras 2, and of the published ImageNet weights: the file lists its layers and their arrays in order."""
    arrays = [(layer, name) for layer in texts(group.attrs['layer_names']) for name in texts(group[layer].attrs['weight_names'])]
    entries, biases = [], set()
    for (layer, name), (next_layer, bias) in zip(arrays, arrays[1:] + [(None, None)]):
        shape = group[layer][name].shape
        if len(shape) in (2, 4):
            has_bias = next_layer == layer and len(group[layer][bias].shape) == 1
            entries.append((layer, shape, partial(read_pair, group[layer], name, bias if has_bias else None)))
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
            entries.append((name, group['0'].shape, partial(read_pair, group, '0', '1' if '1' in group else None)))
        elif 'seed_generator' not in path:  # the state of a dropout layer
            raise ValueError(f'layer {group.attrs.get("name", path)} is neither convolution nor dense: no VGG')
    return entries


def forward_order(path):
    """Deeper models first, then by name with numbers as numbers: conv2d_2 before conv2d_10."""
    parts = path.split('/')
    return -len(parts), [[int(text) if text.isdigit() else text for text in re.split(r'(\d+)', part)] for part in parts]


def read_pair(group, kernel, bias):
    """Reads a kernel and its bias, zero where the layer has none, as float32."""
    kernel = np.asarray(group[kernel], np.float32)
    return kernel, np.zeros(kernel.shape[-1:], np.float32) if bias is None else np.asarray(group[bias], np.float32)
