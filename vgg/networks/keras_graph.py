"""A Keras model as a layer table.

`trace` opens nested models and lists what is applied to what. `Table` turns each step into entries
of a layer table (keras_layers.py says what each kind of layer becomes). What stands before the
first weights remains a Keras model. Anything that cannot be explained is refused by name.
"""
from functools import partial
from pathlib import Path
import tempfile
from typing import Callable, NamedTuple
import zipfile

import numpy as np

from common import Refused, keras, silence
from networks.keras2 import every_layer, open_keras2
from networks.keras_layers import LEFT_OUT, PREPARING, TAKEN, WEIGHING
from networks.keras_weights import mirrored, refuse
from model import LINEAR, PIXELS, SIZE, Layer


class KerasNetwork(NamedTuple):
    """What a Keras model is made of."""

    preparation: list  # what Keras applies to pictures before the first layer
    size: tuple  # height, width, channels of a picture
    layers: list  # the layer table
    read: dict  # {layer name: function that reads w and b}
    end: str  # 'softmax' or 'sigmoid', taken off; None if the outputs are logits


class Step(NamedTuple):
    """An operation in a model, and the tensors that it reads and makes."""

    operation: Callable
    name: str
    inputs: list
    constants: list  # numbers among its arguments, each with its position
    output: object


def open_model(path, kind):
    """The Keras model in a file of this kind (file_types.py). Raises Refused."""
    suffix = '.keras' if zipfile.is_zipfile(path) else '.h5'  # by which Keras goes
    try:
        if kind == 'keras 2':
            model = open_keras2(path)
        else:
            with silence(), tempfile.TemporaryDirectory() as folder:
                link = Path(folder) / f'model{suffix}'
                link.symlink_to(path.resolve())
                model = keras.saving.load_model(link, compile=False)
    except Refused as error:
        raise Refused(f'{path}: {error}') from None
    except Exception as error:  # Keras and h5py raise of all kinds
        reason = ' '.join(str(error).split())
        raise Refused(f'{path}: Keras cannot read this model ({reason[:300]})') from None
    for layer in every_layer(model):
        layer.dtype_policy = 'float32'  # of its weights, whatever it computed in
    return model


def read_model(model):
    """The KerasNetwork of a model. Raises Refused, naming the layer that cannot be explained."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        refuse(model.name, f'it has {len(model.inputs)} inputs and {len(model.outputs)} outputs')
    size = tuple(side or SIZE for side in model.input_shape[1:3]) + model.input_shape[3:]
    size = size if len(size) == 3 else (*size, 1)
    if len(model.input_shape) not in (3, 4) or size[-1] not in (1, 3):
        raise Refused(f'the input has the shape {model.input_shape}; expected pictures, grey or in '
                      'three colours, channels last')
    picture, steps = keras.Input(size), []
    grey = len(model.input_shape) == 3
    tensor = keras.layers.Reshape(size[:2])(picture) if grey else picture
    output = trace(model, tensor, steps)
    table = Table(steps, tensor)
    for step in steps:
        table.take(step)
    return table.finished(picture, size, output)


def trace(model, tensor, steps):
    """Applies a model to a tensor and lists the steps. Returns the output."""
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            tensor = applied(steps, layer, tensor)
        return tensor
    output = model._run_through_graph(tensor, lambda operation: operation, partial(applied, steps))
    return keras.tree.flatten(output)[0]


def applied(steps, operation, *arguments, **options):
    """Applies an operation and notes it, unless it is active only during training."""
    if isinstance(operation, keras.Model):
        return trace(operation, arguments[0], steps)
    if type(operation).__name__ in LEFT_OUT or type(operation).__name__.startswith('Random'):
        return arguments[0]
    output = operation(*arguments, **options)
    tensors = {key: each for key, each in options.items() if isinstance(each, keras.KerasTensor)}
    flat = keras.tree.flatten([arguments, tensors])
    inputs = [each for each in flat if isinstance(each, keras.KerasTensor)]
    constants = [(each, i) for i, each in enumerate(flat)
                 if isinstance(each, (int, float, np.ndarray))]
    steps.append(Step(operation, operation.name, inputs, constants, output))
    return output


class Table:
    """Grows a layer table from the steps of a model."""

    def __init__(self, steps, tensor):
        self.layers, self.read = {}, {}  # by name
        self.shapes = {}  # of the outputs of each layer, without the batch
        self.names = {}  # of the layer that makes each tensor
        self.raw = {id(tensor): tensor}  # what Keras prepares
        self.pixels = None  # what the first layers read
        self.used = set()  # layers with weights
        self.readers = [id(tensor) for step in steps for tensor in step.inputs]

    def take(self, step):
        """Adds a step to what prepares the picture or to the table."""
        kind = type(step.operation).__name__
        prepares = kind in PREPARING or kind == 'Reshape' and len(step.output.shape) < 4
        if prepares and step.inputs and all(id(tensor) in self.raw for tensor in step.inputs):
            self.raw[id(step.output)] = step.output
            return
        if getattr(step.operation, 'data_format', 'channels_last') != 'channels_last':
            refuse(step.name, 'its channels come first')
        if getattr(step.operation, 'weights', None):
            if id(step.operation) in self.used:
                refuse(step.name, 'its weights are used more than once')
            self.used.add(id(step.operation))
        inputs = [self.name_of(tensor, step) for tensor in step.inputs]
        if kind not in TAKEN:
            refuse(step.name, f'{kind} cannot be explained')
        self.names[id(step.output)] = TAKEN[kind](self, step, inputs)

    def name_of(self, tensor, step):
        """The layer that makes a tensor; the first ones read the picture as Keras prepares it."""
        if id(tensor) in self.names:
            return self.names[id(tensor)]
        if self.pixels is not None and tensor is not self.pixels:
            refuse(step.name, 'it reads a picture prepared differently from that of other layers')
        self.pixels = tensor
        grey = len(tensor.shape) == 3
        self.shapes[PIXELS] = (*tensor.shape[1:], 1) if grey else tensor.shape[1:]
        return PIXELS

    def add(self, name, kind, inputs, output, read=None, **geometry):
        """Adds a layer whose outputs are like the tensor `output`. Returns its name."""
        if name in self.layers:
            name = next(each for i in range(2, 10 ** 6)
                        if (each := f'{name}_{i}') not in self.layers)
        self.layers[name] = Layer(name, kind, tuple(inputs), **geometry)
        self.shapes[name] = tuple(output.shape[1:])
        if read:
            self.read[name] = read
        return name

    def remove(self, name):
        """Removes a layer that becomes part of another. Returns it."""
        self.shapes.pop(name)
        return self.layers.pop(name)

    def only_reader(self, step):
        """Whether a step is the only one that reads its input."""
        return self.readers.count(id(step.inputs[0])) == 1

    def activate(self, step, name, activation):
        """Lets an activation follow a layer, as part of it if nothing else reads it."""
        if activation == 'linear':
            return name
        layer, own = self.layers.get(name), type(step.operation).__name__ in WEIGHING
        free = layer and layer.activation == 'linear' and layer.kind in LINEAR
        if free and (own or self.only_reader(step)):
            self.layers[name] = layer._replace(activation=activation)
            return name
        return self.add(step.name, 'activation', [name], step.output, activation=activation)

    def finished(self, picture, size, output):
        """The KerasNetwork, with softmax or sigmoid taken off its end."""
        name, end = self.names.get(id(output)), None
        if name is None or not self.read:
            raise Refused('the model has no layers that can be explained')
        last = self.layers[name]
        if last.activation in ('softmax', 'sigmoid'):
            end = last.activation
            self.layers[name] = last._replace(activation='linear')
            if last.kind == 'activation':
                del self.layers[name]
                name, = last.inputs
        layers = list(self.layers.values())
        for layer in layers:
            if layer.activation == 'softmax':
                refuse(layer.name, 'softmax inside a network cannot be explained')
        if len(self.shapes[name]) != 1 or layers[-1].name != name:
            refuse(name, f'the output has the shape {self.shapes[name]}, not one number for each '
                         'class')
        check_end(layers)
        if self.shapes[name] == (1,) and end:
            layers = self.two_classes(layers, end)
        grey = len(self.pixels.shape) == 3
        pixels = keras.layers.Reshape(self.shapes[PIXELS])(self.pixels) if grey else self.pixels
        preparation = [] if pixels is picture else [keras.Model(picture, pixels)]
        return KerasNetwork(preparation, size, layers, self.read, end)

    def two_classes(self, layers, end):
        """The layers with their one output z made two, -z and z."""
        i = max(i for i, layer in enumerate(layers) if layer.name in self.read)
        after = layers[i + 1:]
        if end == 'softmax' or any(layer.kind == 'max' for layer in after) or any(
                layer.activation != 'linear' for layer in layers[i:]):
            refuse(layers[-1].name, 'one output with a softmax or a ReLU is no choice between '
                                    'classes')
        self.read[layers[i].name] = partial(mirrored, self.read[layers[i].name])
        layers[i] = layers[i]._replace(kernel=(*layers[i].kernel[:-1], 2))
        return layers[:i + 1] + [layer._replace(shape=(*layer.shape[:-1], 2))
                                 if layer.kind == 'flatten' else layer for layer in after]


def check_end(layers):
    """Refuses outputs that several layers make together."""
    for layer in reversed(layers):
        if layer.kind in ('concat', 'gate'):
            refuse(layer.name, 'the outputs must be those of one layer')
        if layer.kind in LINEAR:
            return
