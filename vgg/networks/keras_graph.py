"""A Keras model as a layer table.

`trace` opens nested models and lists what is applied to what. `Table` turns each step into entries
of a layer table (keras_layers.py says what each kind of layer becomes). What stands before the
first weights remains a Keras model. Anything that cannot be explained is refused by name.
"""
from functools import partial
import itertools
import math
from typing import Callable, NamedTuple

import numpy as np

from common import Refused, keras
from model import LINEAR, PIXELS, SIZE, Layer
from networks.keras_layers import LEFT_OUT, MAKERS, PREPROCESSING
from networks.keras_operations import CROPS, MOVES, activation_of, move, refuse


class Step(NamedTuple):
    """An operation in a model, the tensors that it reads and one that it makes."""

    operation: Callable
    name: str
    inputs: list
    output: object
    function: Callable  # what it makes of other tensors than its inputs


def read_model(model):
    """A Keras model as a layer table.

    Returns the layers, {layer name: function that reads w and b}, the size of a picture (height,
    width, channels), a Keras model of what stands before the first layer or None, and what was
    taken off the end: 'softmax', 'sigmoid' or None. Raises Refused, naming the layer that cannot be
    explained.
    """
    size, steps = picture_size(model), []
    picture = keras.Input(size)
    without_channel = len(model.inputs[0].shape) == 3
    tensor = keras.layers.Reshape(size[:2])(picture) if without_channel else picture
    output = keras.tree.flatten(trace(model, tensor, steps))[0]
    used = keras.Model(picture, output).operations  # not those of a second output inside
    steps = [step for step in steps if step.operation in used]
    table = Table(steps, tensor)
    for step in steps:
        table.take(step)
    end = table.finish(output)
    return list(table.layers.values()), table.read, size, table.model_before(picture), end


def picture_size(model):
    """Height, width and channels of the picture that a model reads."""
    if not model.built:
        raise Refused('it was saved before it had seen a picture, so it has no weights')
    if len(model.inputs) != 1:
        raise Refused(f'it has {len(model.inputs)} inputs; expected one picture')
    if len(model.outputs) != 1:
        raise Refused(f'it has {len(model.outputs)} outputs; save one of them alone, the first of '
                      "a model m by keras.Model(m.input, m.outputs[0]).save('one.keras')")
    shape = model.inputs[0].shape[1:]
    size = (*(side or SIZE for side in shape[:2]), *(shape[2:] or [1]))
    if len(shape) not in (2, 3) or size[-1] not in (1, 3):
        raise Refused(f'the input has the shape {model.inputs[0].shape}; expected pictures, grey '
                      'or in three colours, channels last')
    return size


def trace(model, tensor, steps):
    """Applies a model to a tensor and lists the steps. Returns what the model does."""
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            tensor = apply(steps, layer, tensor)
        return tensor
    return model._run_through_graph(tensor, lambda operation: operation, partial(apply, steps))


def apply(steps, operation, *arguments, **options):
    """Applies an operation and lists it, unless it is active only during training."""
    if isinstance(operation, keras.Model):
        return trace(operation, arguments[0], steps)
    kind = type(operation).__name__
    if kind in LEFT_OUT or kind.startswith('Random') and kind != 'RandomCrop':
        return arguments[0]
    if mode := getattr(operation, 'quantization_mode', None):
        raise Refused(f'the weights of layer {operation.name} are quantised ({mode}); explain the '
                      'model as it was before model.quantize()')
    output = operation(*arguments, **options)
    inputs = [each for each in keras.tree.flatten([arguments, options])
              if isinstance(each, keras.KerasTensor)]
    for i, each in enumerate(keras.tree.flatten(output)):
        function = partial(call, operation, arguments, options, i)
        steps.append(Step(operation, operation.name, inputs, each, function))
    return output


def call(operation, arguments, options, i, *tensors):
    """The i-th output of an operation, for tensors in place of those among its arguments."""
    left = iter(tensors)
    arguments, options = keras.tree.map_structure(
        lambda each: next(left) if isinstance(each, keras.KerasTensor) else each,
        (arguments, options))
    symbolic = isinstance(tensors[0], keras.KerasTensor)
    return keras.tree.flatten(
        (operation if symbolic else operation.call)(*arguments, **options))[i]


def halves(function, x):
    """What a function makes of each half of the channels."""
    return keras.ops.concatenate([function(half) for half in keras.ops.split(x, 2, -1)], -1)


def stays(step):
    """Whether a step that moves values leaves each pixel where it is."""
    shape = step.inputs[0].shape[1:3]
    places = np.arange(math.prod(shape), dtype=float).reshape(shape)
    found = np.asarray(step.function(*(
        np.broadcast_to(places.reshape(1, *shape, *[1] * (len(tensor.shape) - 3)),
                        [1, *tensor.shape[1:]]) for tensor in step.inputs)))
    return found.shape[1:3] == shape and bool(
        (found.reshape(*shape, -1) == places[..., None]).all())


class Table:
    """Grows a layer table from the steps of a model."""

    def __init__(self, steps, tensor):
        self.layers, self.read = {}, {}  # by name
        self.shapes = {}  # of the outputs of each layer, without the batch
        self.names = {}  # {id of a tensor: the layer that makes it}
        self.raw = {id(tensor): (tensor, [])}  # before all weights: the same uncropped, and crops
        self.pixels = None  # the one of them that the first layers read
        self.readers = [id(tensor) for step in steps for tensor in step.inputs]

    def take(self, step):
        """Adds a step to what preprocesses the picture or to the table."""
        kind = type(step.operation).__name__
        early = step.inputs and all(id(tensor) in self.raw for tensor in step.inputs)
        if early and self.preprocessed(step, kind):
            return
        if kind in PREPROCESSING - {'Resizing'} and not self.read:
            refuse(step.name, 'it preprocesses a picture that was padded before; save the model '
                              'with this layer in front')
        if getattr(step.operation, 'data_format', None) not in ('channels_last', None):
            refuse(step.name, 'its channels come first')
        if not step.output.shape or step.output.shape[0] is not None:
            refuse(step.name, 'it mixes several pictures')
        inputs = [self.name_of(tensor, step) for tensor in step.inputs]
        if kind not in MAKERS:
            refuse(step.name, f'{kind} cannot be explained')
        self.names[id(step.output)] = MAKERS[kind](self, step, inputs)

    def preprocessed(self, step, kind):
        """Takes a step before all weights and returns True, unless it is a layer. What follows a
        crop is done to the whole picture, which is cropped by the first layers."""
        tensors, crops = zip(*(self.raw[id(tensor)] for tensor in step.inputs))
        kept = kind in PREPROCESSING or kind in MOVES and stays(step)
        if kept and not any(crops):
            early = step.output, []
        elif kept and len(tensors) == 1 and kind in CROPS | PREPROCESSING - {'Resizing'}:
            early = step.function(*tensors), crops[0]
        elif kind in CROPS and not kept:
            early = tensors[0], [*crops[0], step]
        else:
            return False
        self.raw[id(step.output)] = early
        return True

    def name_of(self, tensor, step):
        """The layer that makes a tensor; the first ones read the picture, preprocessed by Keras."""
        if id(tensor) in self.names:
            return self.names[id(tensor)]
        pixels, crops = self.raw[id(tensor)]
        if self.pixels is not None and pixels is not self.pixels:
            refuse(step.name, 'it reads a picture preprocessed differently from that of other '
                              'layers')
        self.pixels, name = pixels, PIXELS
        self.shapes[PIXELS] = (*pixels.shape[1:], 1)[:3]
        for crop in crops:
            name = move(self, crop, [name])
        self.names[id(tensor)] = name
        return name

    def add(self, name, kind, inputs, output, read=None, **geometry):
        """Adds a layer whose outputs are like the tensor `output`. Returns its name."""
        while name in self.layers:
            name += '_2'
        self.layers[name] = Layer(name, kind, tuple(inputs), **geometry)
        self.shapes[name] = tuple(output.shape[1:])
        if read:
            self.read[name] = read
        return name

    def only_reader(self, step):
        """Whether a step is the only one that reads its input."""
        return self.readers.count(id(step.inputs[0])) == 1

    def activate(self, step, name, activation=None):
        """Lets an activation, or that which a step is or has, follow a layer, as part of it if
        nothing else reads it. Returns the name of the last layer."""
        activation = activation or activation_of(step.operation, step.function)
        if activation == 'linear':
            return name
        layer, own = self.layers.get(name), name == step.name
        free = layer and layer.activation == 'linear' and layer.kind in LINEAR
        if free and (own or self.only_reader(step)):
            self.layers[name] = layer._replace(activation=activation)
            return name
        return self.add(step.name, 'activation', [name], step.output, activation=activation)

    def finish(self, output):
        """Takes 'softmax' or 'sigmoid' off the end and returns it; None if outputs are logits."""
        name, end = self.names.get(id(output)), None
        if name is None or not self.read:
            raise Refused('the model has no layers that can be explained')
        last = self.layers[name]
        if last.activation in ('softmax', 'log_softmax', 'sigmoid'):
            end = None if last.activation == 'log_softmax' else last.activation
            self.layers[name] = last._replace(activation='linear')
            if last.kind == 'activation':
                del self.layers[name]
                name, = last.inputs
        self.check_outputs(name)
        if self.shapes[name] == (1,) and end:
            self.mirror(end)
        return end

    def check_outputs(self, name):
        """Refuses outputs, made by the layer of this name, that are not one layer's logits."""
        layers = list(self.layers.values())
        for layer in layers:
            if layer.activation in ('softmax', 'log_softmax', 'sparsemax', 'glu'):
                refuse(layer.name, f'{layer.activation} inside a network cannot be explained')
        if len(self.shapes[name]) != 1 or layers[-1].name != name:
            refuse(name, f'the output has the shape {self.shapes[name]}, not one number for each '
                         'class')
        after = itertools.takewhile(lambda layer: layer.kind not in LINEAR, reversed(layers))
        if several := [layer.name for layer in after if len(layer.inputs) > 1]:
            refuse(several[0], 'the outputs must be those of one layer')

    def mirror(self, end):
        """Makes the one output z two classes, -z and z, each with a row of weights of its own:
        z+ on -w is not minus z+ on w."""
        layers = list(self.layers.values())
        weighted = next(layer for layer in reversed(layers) if layer.name in self.read)
        after = layers[layers.index(weighted):]
        if end == 'softmax' or weighted.shape or weighted.kind not in ('conv', 'dense') or any(
                layer.kind == 'max' or layer.activation != 'linear' for layer in after):
            refuse(layers[-1].name, 'one output with a softmax or a ReLU is no choice between '
                                    'classes')
        read = self.read[weighted.name]
        self.read[weighted.name] = lambda: [np.concatenate([-x, x], -1) for x in read()]
        self.layers[weighted.name] = weighted._replace(kernel=(*weighted.kernel[:-1], 2))
        for layer in after:
            if layer.function:
                self.layers[layer.name] = layer._replace(function=partial(halves, layer.function))

    def model_before(self, picture):
        """A Keras model of what stands between the picture and the first layer, or None."""
        pixels = self.pixels
        if len(pixels.shape) == 3:
            pixels = keras.layers.Reshape(self.shapes[PIXELS])(pixels)
        return None if pixels is picture else keras.Model(picture, pixels)
