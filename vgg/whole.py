"""A model that Keras saved whole: screened, read by Keras, walked from its output back to the first convolution.

What can be explained: models inside models, anything before the first convolution (Keras itself runs it on the picture), and after
it the layers that chain.py takes. Anything else is refused by its name before Keras reads it: nothing in the file is executed.
"""
import contextlib
import functools
import json
import tempfile
import zipfile

import h5py

from script import check_size, keras, silence
from chain import LEFT_OUT, TAKEN, kind_of, refuse
from formats import check_reading

PREPARING = {  # before the first convolution, like Keras's Random*
    'Rescaling', 'Normalization', 'Resizing', 'CenterCrop', 'Cropping2D', 'Permute', 'Concatenate', 'Pipeline', 'GetItem', 'Stack', 'Flip',
    'Cast', 'Add', 'Subtract', 'Multiply', 'Divide', 'TrueDivide'}
FITTED = {'BatchNormalization', 'ZeroPadding2D', 'Reshape', 'MaxPooling2D', 'AveragePooling2D'}  # may stand there, too
MODELS = {'InputLayer', 'Functional', 'Model', 'Sequential'}
PARTS = {'__keras_tensor__', '__tensor__', '__ellipsis__', '__numpy__', '__tuple__', 'DTypePolicy', 'slice'}
WEIGHTS = 'model.weights.h5'  # a .keras file's, beside its configuration


@functools.cache
def known():
    """All classes that a configuration may name."""
    parts = keras.initializers, keras.regularizers, keras.constraints, keras.optimizers, keras.losses, keras.metrics
    names = {name for part in parts for name in dir(part) if name[0].isupper()}
    random = {name for name in dir(keras.layers) if name.startswith('Random')}
    return names | random | PREPARING | MODELS | PARTS | LEFT_OUT | TAKEN.keys()


def check_links(group):
    """Raises ValueError where an h5 file refers to another one, or to itself other than as a tree."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f'{group.name}/{name} is a link to elsewhere, which is not followed')
        item = group[name]
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise ValueError(f'{item.name} is kept in another file, which is not read')
        if isinstance(item, h5py.Group):
            if item.name.count('/') > 50:
                raise ValueError(f'{item.name[:50]} nests too deep')
            check_links(item)


def screen(config, layer='model'):
    """Raises ValueError that names the first layer of a configuration which is not on the lists above."""
    if isinstance(config, dict):
        kind = config.get('class_name')
        if kind is not None:
            inner = config.get('config')
            layer = config.get('name') or (inner.get('name') if isinstance(inner, dict) else None) or layer
            module = str(config.get('module') or 'keras')
            if kind not in known() or module.split('.')[0] not in ('keras', 'builtins', 'tf_keras'):
                refuse(layer, f'{kind} of {module} is not executed' if kind == 'Lambda' or module.split('.')[0] != 'keras'
                       else f'{kind} cannot be explained')
        for value in config.values():
            screen(value, layer)
    elif isinstance(config, list):
        for value in config:
            screen(value, layer)


def blank(config):
    """A configuration without what is for training alone, all weights zero until they are read: none are drawn for nothing."""
    if isinstance(config, dict):
        return {key: 'zeros' if key.endswith('_initializer') and value else blank(value)
                for key, value in config.items() if key != 'compile_config'}
    return [blank(value) for value in config] if isinstance(config, list) else config


def open_model(path):
    """The Keras model in a file, or None where an .h5 holds weights alone.

    Raises ValueError if the file is damaged, holds anything that would be executed, refers to other files or cannot be explained.
    """
    model = open_archive(path) if path.suffix == '.keras' else open_h5(path)
    for layer in everything(model) if model else ():
        layer.dtype_policy = 'float32'  # in which weights are kept, whatever a model computes in
    return model


def open_archive(path):
    """The model of a .keras file. Its weights are read from a file of their own, layer by layer: within the archive Keras holds all
    of them in memory beside the model."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        strange = set(archive.namelist()) - {'config.json', 'metadata.json', WEIGHTS}
        if strange:
            raise ValueError(f'holds {min(strange)}, which is no part of a chain of layers')
        check_size(path, sum(member.file_size for member in archive.infolist()))
        config = json.loads(archive.read('config.json'))
        screen(config)
        weights = archive.extract(WEIGHTS, folder)
        check_reading(weights)
        with h5py.File(weights, 'r') as file:
            check_links(file)
        with read_by_keras():
            model = keras.saving.deserialize_keras_object(blank(config), safe_mode=True)
            model.load_weights(weights)
    return model


def open_h5(path):
    """The model of an .h5 file, or None."""
    check_reading(path)
    with h5py.File(path, 'r') as file:
        check_links(file)
        text = file.attrs.get('model_config')
    if text is None:
        return None
    screen(json.loads(text))
    with read_by_keras():
        return keras.saving.load_model(path, compile=False)


@contextlib.contextmanager
def read_by_keras():
    """Makes one line of whatever Keras says and raises."""
    try:
        with silence():
            yield
    except Exception as error:  # Keras raises of all kinds
        reason = ' '.join(str(error).split())
        raise ValueError(f'Keras cannot read this model ({reason[:200]})') from None


def everything(model):
    """Yields all layers of a model and of the models in it, but not these."""
    for layer in model.layers:
        yield from everything(layer) if is_model(layer) else [layer]


def is_model(layer):
    return isinstance(layer, keras.Model)


def holds(layer, kinds):
    """Whether a layer, or any layer of a model, is of one of the kinds."""
    return any(kind_of(each) in kinds for each in (everything(layer) if is_model(layer) else [layer]))


def path_of(model):
    """The layers from the model's output back to its input, in the order of the forward pass, and whether they lead there: else
    the first one has several inputs."""
    if isinstance(model, keras.Sequential):
        return [layer for layer in model.layers if kind_of(layer) != 'InputLayer'], True
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        refuse(model.name, f'it has {len(model.inputs)} inputs and {len(model.outputs)} outputs')
    config, path = model.get_config(), []
    nodes = {entry['name']: entry['inbound_nodes'] for entry in config['layers']}
    operations = {operation.name: operation for operation in model.operations}
    name, = sources(config['output_layers'])
    while kind_of(operations[name]) != 'InputLayer':
        path.insert(0, operations[name])
        if len(nodes[name]) != 1:
            refuse(name, 'it is used more than once')
        before = sources(nodes[name])
        if len(before) != 1:
            return path, False
        name, = before
    return path, True


def sources(value):
    """The names of the layers that the arguments of a layer, or a model's outputs, come from."""
    if isinstance(value, dict):
        return {value['keras_history'][0]} if 'keras_history' in value else sources(list(value.values()))
    if isinstance(value, (list, tuple)):
        if [type(each) for each in value] == [str, int, int]:
            return {value[0]}
        return set().union(*map(sources, value))
    return set()


def split(model):
    """A model as two lists: what Keras applies to a picture one after the other before the first convolution (or Flatten or Dense,
    where it has none), and the layers from there on."""
    kinds = next((kinds for kinds in ({'Conv2D'}, {'Flatten', 'Dense'}) if holds(model, kinds)), None)
    if kinds is None:
        refuse(model.name, 'it has neither a convolution nor a dense layer')
    path, complete = path_of(model)
    first = next((i for i, layer in enumerate(path) if holds(layer, kinds)), 0)
    if not complete and sum(holds(layer, kinds) for layer in model.layers) > sum(holds(layer, kinds) for layer in path):
        refuse(path[0].name, f'{kind_of(path[0])} joins branches')
    while first and kind_of(path[first - 1]) == 'ZeroPadding2D':
        first -= 1
    for layer in path[:first]:
        check_preparing(layer)
    before, after = produced(model, path, first - 1), flattened(path[first + 1:])
    if is_model(path[first]):
        inner, chain = split(path[first])
        return before + inner, chain + after
    return before, [path[first]] + after


def check_preparing(layer):
    """Raises ValueError if a layer before the first convolution makes more of a picture than another picture."""
    for each in everything(layer) if is_model(layer) else [layer]:
        if kind_of(each) not in PREPARING | FITTED | LEFT_OUT | MODELS and not kind_of(each).startswith('Random'):
            refuse(each.name, f'{kind_of(each)} stands before the first convolution')


def produced(model, path, i):
    """What Keras applies to a picture to have what comes out of the i-th layer of the path."""
    if i < 0 or isinstance(model, keras.Sequential):
        return path[:i + 1]
    if is_model(path[i]):
        return produced(model, path, i - 1) + [path[i]]
    return [keras.Model(model.inputs[0], path[i].output)]


def flattened(layers):
    """The layers, with those of models among them."""
    result = []
    for layer in layers:
        if is_model(layer):
            path, complete = path_of(layer)
            if not complete:
                refuse(path[0].name, f'{kind_of(path[0])} joins branches')
            result += flattened(path)
        else:
            result.append(layer)
    return result
