"""A model that Keras 2 saved, built again in Keras 3.

Keras 3 makes each layer from its entry in the file, cleaned, and applies it to what the entry says
that it reads; models inside the model likewise. Then the layers get their weights, by name from
.h5 and by place from the zip .keras. Nothing in the file is executed, and what it says of training
is not read.
"""
import contextlib
from functools import cache
import io
import json
import re
import zipfile

import h5py
import numpy as np

from common import Refused, keras
from networks.keras_layers import LEFT_OUT, MAKERS, PREPROCESSING
from networks.keras_operations import refuse

MODELS = {'Sequential', 'Functional', 'Model'}
CLEANED = re.compile('batch_input_shape|dtype|ragged|sparse|trainable|fused|synchronized|renorm.*|'
                     'virtual_batch_size|adjustment|.*_(initializer|regularizer|constraint)')
OPERATIONS = {  # functions of TensorFlow in a model's graph, and those of keras.ops
    'math.truediv': 'true_divide', 'math.divide': 'divide', 'math.multiply': 'multiply',
    'math.add': 'add', '__operators__.add': 'add', 'nn.bias_add': 'add', 'cast': 'cast',
    'math.subtract': 'subtract', 'nn.relu': 'relu', 'nn.relu6': 'relu6', 'nn.silu': 'silu',
    'math.sigmoid': 'sigmoid'}
CONSTANT = '_CONSTANT_VALUE'  # stands for a layer's name


def open_keras2(path):
    """The model in a file of Keras 2. Raises Refused for a layer that cannot be explained."""
    if not zipfile.is_zipfile(path):
        with open_h5(path) as file:
            model = model_of(json.loads(file.attrs['model_config']))
            give_by_name(model, file['model_weights'])
            return model
    with zipfile.ZipFile(path) as archive:
        entry = json.loads(archive.read('config.json'))
        weights = io.BytesIO(archive.read('model.weights.h5'))
    with open_h5(weights) as file:
        model = model_of(entry)
        give_by_place(model, entry, file)
        return model


@contextlib.contextmanager
def reading(words):
    """Raises Refused, with these words and the reason, for whatever a library raises meanwhile."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # Keras, h5py and NumPy raise of all kinds
        raise Refused(f'{words} ({" ".join(str(error).split())[:300]})') from None


def open_h5(source):
    """An HDF5 file. Raises Refused, as Keras 3 does, if any of its data lies in another file."""
    file = h5py.File(source, 'r')

    def elsewhere(path, link):
        data = file[path] if isinstance(link, h5py.HardLink) else None
        if not (isinstance(data, h5py.Group) or data and not (data.external or data.is_virtual)):
            return path
    if path := file.visititems_links(elsewhere):
        raise Refused(f'{path} in it is a link, or its data lies in another file')
    return file


# Layers. An entry has a class_name, a config and, if it is not in a Sequential, inbound_nodes.

def model_of(entry):
    if entry['class_name'] != 'Sequential':
        return functional(entry)
    layers = [layer_of(each) for each in entry['config']['layers']
              if each['class_name'] != 'InputLayer']
    return keras.Sequential([keras.Input(input_shape(entry)), *layers], name=name_of(entry))


def name_of(entry):
    """The name of a layer or model, without the / that Keras 3 does not allow."""
    return entry['config']['name'].replace('/', '_')


def input_shape(entry):
    """The shape of the picture that a layer or model reads first."""
    while entry['class_name'] in MODELS:
        entry = entry['config']['layers'][0]
    return entry['config']['batch_input_shape'][1:]


def layer_of(entry):
    """The layer of an entry, or the name of a function of TensorFlow."""
    kind, config, name = re.sub('V[12]$', '', entry['class_name']), entry['config'], name_of(entry)
    if kind in MODELS:
        return model_of(entry)
    if kind in LEFT_OUT or kind.startswith('Random') and kind != 'RandomCrop':
        return keras.layers.Identity(name=name)
    if kind in ('TFOpLambda', 'SlicingOpLambda'):
        return config['function']
    own = str(entry.get('module', 'keras')).startswith('keras') and hasattr(keras.layers, kind)
    if not own or kind not in (*MAKERS, *PREPROCESSING):
        refuse(name, f'{kind} cannot be explained')
    if 'hard_sigmoid' in str(config.get('activation')):
        refuse(name, "its activation is Keras 2's hard_sigmoid, which is another function today")
    config = {key: value for key, value in {**config, 'name': name}.items()
              if not CLEANED.fullmatch(key) and (key, value) != ('groups', 1)}
    if isinstance(config.get('axis'), list) and len(config['axis']) == 1:
        config['axis'], = config['axis']
    return keras.saving.deserialize_keras_object(
        {'module': 'keras.layers', 'class_name': kind, 'config': config, 'registered_name': None})


def functional(model):
    """A model in which each layer has a node for each time it is used.

    A node lists what is read: [layer, node, output, options]. Options may be such references, too.
    """
    config = model['config']
    entries = {entry['name']: entry for entry in config['layers']}
    inner = {name for name, entry in entries.items() if entry['class_name'] in MODELS}
    layer = cache(lambda name: layer_of(entries[name]))

    @cache
    def output(name, use):
        if entries[name]['class_name'] == 'InputLayer':
            return keras.Input(input_shape(entries[name]), name=name_of(entries[name]))
        node = as_list(entries[name]['inbound_nodes'][use])
        return apply_node(name, layer(name), node, tensor)

    def tensor(reference):
        name, use = reference[:2]
        return output(name, 0 if name in inner else use)  # whose uses are counted from 1

    for name, entry in entries.items():
        if name in inner and len(entry['inbound_nodes']) > 1:
            refuse(name, 'it is used more than once')
        for use in range(len(entry['inbound_nodes'])):
            output(name, use)
    inputs, outputs = ([tensor(each) for each in as_list(config[key])]
                       for key in ('input_layers', 'output_layers'))
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0], name=name_of(model))


def as_list(node):
    """A node as a list of references; of a single one Keras sometimes makes no list."""
    return [node] if isinstance(node[0], str) else node


def apply_node(name, layer, node, tensor):
    """The output of a layer, or of a function of TensorFlow, for what is read at a node."""
    options = {key: value for key, value in (node[0][3] if len(node[0]) > 3 else {}).items()
               if key not in ('training', 'mask', 'name', 'data_format') and value is not None}
    inputs = [argument(each, tensor) for each in node]
    if layer == '__operators__.getitem':
        return inputs[0][tuple(argument(each, tensor) for each in options['slice_spec'])]
    if isinstance(layer, str) and layer in OPERATIONS:
        inputs += [argument(value, tensor) for value in options.values()]
        output = getattr(keras.ops, OPERATIONS[layer])(*inputs)
        output._keras_history.operation.name = name  # Keras's own may be that of another layer
        return output
    if options or isinstance(layer, str):
        refuse(name, f'{layer if isinstance(layer, str) else list(options)} cannot be explained')
    return layer(inputs if len(inputs) > 1 else inputs[0])


def argument(value, tensor):
    """A tensor, an array, a slice or a number, from what stands for it in the file."""
    if isinstance(value, dict):
        return slice(value['start'], value['stop'], value['step']) if 'start' in value else ...
    if not isinstance(value, list):
        return value
    if value[0] == CONSTANT:
        return value[2]
    return tensor(value) if isinstance(value[0], str) else np.float32(value)


# Weights

def give(layer, arrays):
    """Gives a layer its weights. Keras refuses arrays of other shapes."""
    if len(arrays) > len(layer.weights):  # Normalization may have counted its samples, too
        arrays = [array for array in arrays if array.ndim]
    layer.set_weights(arrays)
    if hasattr(layer, 'finalize_state'):
        layer.finalize_state()


def every_layer(model):
    """The layers of a model and of the models inside it."""
    for layer in model.layers:
        yield from every_layer(layer) if isinstance(layer, keras.Model) else [layer]


def give_by_name(model, file):
    """From .h5: a group for each layer; in that of a model, paths name the layers inside."""
    groups = {decoded(name).replace('/', '_'): file[name] for name in file.attrs['layer_names']}
    for layer in filter(lambda layer: layer.weights, model.layers):
        group = groups[layer.name]
        arrays = [(decoded(name), group[name][()]) for name in group.attrs['weight_names']]
        if not isinstance(layer, keras.Model):
            give(layer, [array for _, array in arrays])
            continue
        inner = {each.name: each for each in every_layer(layer) if each.weights}
        for name, each in inner.items():
            give(each, [array for path, array in arrays if owner(path, inner) == name])


def owner(path, names):
    """The layer that a weight belongs to: the longest end of its path without its own name."""
    parts = path.split('/')[:-1]
    return next((name for i in range(len(parts)) if (name := '_'.join(parts[i:])) in names), None)


def decoded(name):
    """A text in an HDF5 file, which may be stored as bytes."""
    return name.decode() if isinstance(name, bytes) else name


def give_by_place(model, entry, group):
    """From the zip: groups are named by the layers' classes and numbered in the layers' order."""
    group = group.get('layers') or group['_layer_checkpoint_dependencies']
    names = sorted(group, key=lambda name: int((re.findall(r'_(\d+)$', name) or [0])[0]))
    layers = {layer.name: layer for layer in model.layers}
    for each in entry['config']['layers']:
        kind, layer = each['class_name'].lower(), layers.get(name_of(each))
        own = [name for name in names if re.sub(r'_\d+$', '', name).replace('_', '') == kind][:1]
        names = [name for name in names if name not in own]
        if isinstance(layer, keras.Model):
            give_by_place(layer, each, group[own[0]])
        elif layer and layer.weights:
            values = group[own[0]]['vars']
            give(layer, [values[str(i)][()] for i in range(len(values))])
