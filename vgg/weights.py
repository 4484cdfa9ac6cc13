"""Where a network comes from: the bundled VGG16, Keras's ImageNet weights or a user's file, read one layer at a time.

Files: .npz as bundled, and Keras's .h5, .weights.h5 and .keras. At most one layer is held twice while loading, and none is ever
part of the graph's definition.
"""
import contextlib
import difflib
from functools import partial
import os
from pathlib import Path
import re
import zipfile
import zlib

import h5py
import numpy as np

from script import keras, tf
from model import Weights, layer_table

HERE = Path(__file__).resolve().parent
BUNDLED = HERE / 'weights' / 'vgg16_caltech101.npz'
IMAGENET_CLASSES = HERE / 'weights' / 'imagenet_classes.txt'
ORIGIN = 'https://storage.googleapis.com/tensorflow/keras-applications/'
PUBLISHED = {  # Keras's ImageNet files: name, MD5
    'vgg16': ('vgg16_weights_tf_dim_ordering_tf_kernels.h5', '64373286793e3c8b2b4e3219cbf3544b'),
    'vgg19': ('vgg19_weights_tf_dim_ordering_tf_kernels.h5', 'cbe5617147190e668d6c5d5026f83318'),
}


def load(session, model, path, precision):
    """Reads a weight file into variables of the session's graph, layer by layer.

    path: .npz, .h5, .weights.h5 or .keras with the convolutions of `model` and any dense layers after them.
    Returns the layer table, the variables {layer name: Weights} and the class names in the file or None.
    Raises FileNotFoundError, or ValueError that names the layer or the fault for a file that holds anything else.
    """
    try:
        with contextlib.ExitStack() as stack:
            entries, classes = open_weights(Path(path), stack)
            layers = match(model, entries)
            pairs = zip([layer for layer in layers if layer.kind in ('conv', 'dense')], entries)
            return layers, {layer.name: variables(session, layer, read, precision) for layer, (_, _, read) in pairs}, classes
    except FileNotFoundError:
        raise FileNotFoundError(f'no weight file {path}') from None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, EOFError, RuntimeError, MemoryError, OverflowError,
            zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f'{path}: {(str(error).splitlines() or ["damaged"])[0]}') from None


def match(model, entries):
    """The layer table of the entries of a file. Raises ValueError that names the first layer which is not the model's."""
    layers = layer_table(model, [shape[-1] for _, shape, _ in entries if len(shape) == 2])
    expected = [layer for layer in layers if layer.kind in ('conv', 'dense')]
    for layer, (found_name, found, _) in zip(expected, entries):
        if tuple(found) != layer.size:
            raise ValueError(f'layer {found_name} has shape {list(found)}, expected {list(layer.size)} for {layer.name} of {model}')
    if len(entries) < len(expected):
        raise ValueError(f'no weights for {expected[len(entries)].name} of {model}')
    if expected[-1].kind != 'dense':
        raise ValueError(f'no dense layers after the convolutions of {model}, so no classes to explain')
    return layers


def variables(session, layer, read, precision):
    """The variables of one layer, which now hold what `read` reads. In bfloat16 the logits alone keep 32 bits."""
    dtype = tf.float32 if precision == 'bfloat16' and layer.name == 'predictions' else tf.as_dtype(precision)
    kernel, bias = read()
    made = []
    for part, array, shape in (('kernel', kernel, layer.size), ('bias', bias, layer.size[-1:])):
        if array.shape != shape or not np.isfinite(array).all():
            raise ValueError(f'{part} of {layer.name} has shape {list(array.shape)} or is not finite; expected {list(shape)}')
        value = tf.placeholder(dtype, shape)
        made.append(tf.get_variable(f'{layer.name}/{part}', initializer=value, trainable=False, use_resource=True))
        session.run(made[-1].initializer, {value: array.astype(dtype.as_numpy_dtype, copy=False)})
    return Weights(layer.name, *made)


def weight_file(model, source):
    """The file of a --weights argument: the bundled one, Keras's ImageNet one (cached or downloaded by Keras), or a path."""
    if source == 'caltech101':
        if model != 'vgg16':
            raise ValueError(f'--weights caltech101 is a vgg16, not a {model}')
        return BUNDLED
    if source != 'imagenet':
        return Path(source)
    name, digest = PUBLISHED[model]
    try:
        return Path(keras.utils.get_file(name, f'{ORIGIN}{model}/{name}', cache_subdir='models', file_hash=digest))
    except Exception as error:  # Keras raises plain Exception when it cannot download
        cache = Path(os.environ.get('KERAS_HOME', Path.home() / '.keras')) / 'models'
        raise OSError(f'no ImageNet weights: {cache / name} does not exist and could not be downloaded '
                      f'({str(error).splitlines()[0]}); copy it there, or use --weights caltech101, which works offline') from None


def class_names(path, own, classes_file, count):
    """Names of the classes: from --classes FILE (one a line), the weight file's own, ImageNet's, or 'class 0' and so on."""
    if classes_file:
        try:
            names = Path(classes_file).read_text(encoding='utf-8').splitlines()
        except UnicodeDecodeError:
            raise ValueError(f'{classes_file} is no text: expected the name of a class on each line') from None
        if len(names) != count:
            raise ValueError(f'{classes_file} has {len(names)} lines, but {path} has {count} classes')
        return names
    if path.name in (name for name, _ in PUBLISHED.values()):
        own = IMAGENET_CLASSES.read_text(encoding='utf-8').splitlines()
    return own if own and len(own) == count else [f'class {i}' for i in range(count)]


def probabilities(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def find_target(text, classes):
    """The index of a class given by index or name. Raises ValueError if no class or more than one fits."""
    if text.isdecimal():
        if int(text) >= len(classes):
            raise ValueError(f'--target {text}: the classes are 0 to {len(classes) - 1}')
        return int(text)
    fitting = [i for i, name in enumerate(classes) if name.lower() == text.lower()]
    if not fitting:
        close = difflib.get_close_matches(text.lower(), dict.fromkeys(name.lower() for name in classes), 3)
        raise ValueError(f'--target {text}: no such class' + (f'; did you mean {" or ".join(close)}?' if close else ''))
    if len(fitting) > 1:
        raise ValueError(f'--target {text} fits several classes: give one of the indices {", ".join(map(str, fitting))}')
    return fitting[0]


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
