"""What each of Keras's layers becomes in a layer table.

A function of MAKERS takes the table (Table of keras_graph.py), a step of the model and the names of
the layers it reads. It adds to the table and returns the name of the last layer that it made.
"""
from functools import partial
import math

import numpy as np

from common import Refused, keras

LEFT_OUT = {  # active only during training
    'InputLayer', 'Dropout', 'SpatialDropout2D', 'AlphaDropout', 'GaussianDropout', 'GaussianNoise',
    'ActivityRegularization', 'Identity', 'StopGradient'}
PREPROCESSING = {  # left to Keras where they stand in front of all weights
    'Rescaling', 'Normalization', 'Resizing', 'Pipeline', 'GetItem', 'Stack', 'Cast', 'Add',
    'Subtract', 'Multiply', 'Divide', 'TrueDivide', 'Concatenate'}
WEIGHING = {'Conv2D', 'DepthwiseConv2D', 'SeparableConv2D', 'Dense'}
CAN = ('networks can be explained that consist of convolutions, dense layers, pooling, batch '
       'normalisation, additions, concatenations, gates and the usual activations, with one '
       'picture as input and one number for each class as output')


def refuse(name, reason):
    """Raises Refused: why a layer cannot be explained, and what can be."""
    raise Refused(f'layer {name}: {reason}; {CAN}')


# Layers with weights

def convolution(table, step, inputs):
    """A 'conv' or a 'depthwise', with the padding and the normalisation before it where exact."""
    layer, source = step.operation, table.layers.get(inputs[0])
    depthwise = type(layer).__name__ == 'DepthwiseConv2D'
    w, padding = Weighted(layer.kernel, layer.bias, depthwise), layer.padding.upper()
    padded = source and source.kind == 'pad' and table.only_reader(step)
    if padded and padding == 'VALID' and not depthwise:  # TensorFlow pads no depthwise convolution
        padding, inputs = source.padding, source.inputs
        table.remove(source.name)
    if padding == 'VALID' and not depthwise and layer.groups == 1:
        inputs = folded_into(w, table, step, inputs)
    name = table.add(step.name, 'depthwise' if depthwise else 'conv', inputs, step.output, w,
                     kernel=w.shape, stride=tuple(layer.strides), padding=padding,
                     dilation=tuple(layer.dilation_rate), groups=getattr(layer, 'groups', 1))
    return table.activate(step, name)


def folded_into(w, table, step, inputs):
    """Folds batch normalisation before a layer into its weights. Returns what the layer reads."""
    scale = table.layers.get(inputs[0])
    alone = scale and scale.kind == 'scale' and scale.activation == 'linear'
    if not (alone and table.only_reader(step)):
        return inputs
    w.before.append(table.read.pop(scale.name))
    return table.remove(scale.name).inputs


def separable_convolution(table, step, inputs):
    """A 'depthwise', and a 'conv' of one pixel behind it."""
    layer = step.operation
    w = Weighted(layer.depthwise_kernel, None, True)
    middle = keras.KerasTensor((*step.output.shape[:-1], math.prod(w.shape[2:])))
    depthwise = table.add(f'{step.name}_depthwise', 'depthwise', inputs, middle, w, kernel=w.shape,
                          stride=tuple(layer.strides), padding=layer.padding.upper(),
                          dilation=tuple(layer.dilation_rate))
    w = Weighted(layer.pointwise_kernel, layer.bias)
    name = table.add(step.name, 'conv', [depthwise], step.output, w, kernel=w.shape)
    return table.activate(step, name)


def dense(table, step, inputs):
    """A 'dense'; on maps a 'conv' of one pixel."""
    w, rank = Weighted(step.operation.kernel, step.operation.bias), len(table.shapes[inputs[0]])
    if rank not in (1, 3):
        refuse(step.name, f'its inputs have the shape {table.shapes[inputs[0]]}')
    inputs = folded_into(w, table, step, inputs)
    if rank == 3:
        w.shape = 1, 1, *w.shape
    name = table.add(step.name, 'dense' if rank == 1 else 'conv', inputs, step.output, w,
                     kernel=w.shape)
    return table.activate(step, name)


class Weighted:
    """Reads the weights of a layer of Keras, with the batch normalisation beside it folded in."""

    def __init__(self, kernel, bias, depthwise=False):
        self.kernel, self.bias, self.shape = kernel, bias, tuple(kernel.shape)
        self.outputs = self.shape[2:] if depthwise else self.shape[-1:]
        self.before, self.after = [], []  # functions that read the scale and shift to fold in

    def __call__(self):
        """w and b, float32, or float64 if something is folded in."""
        w = np.asarray(self.kernel).astype(np.float32).reshape(self.shape)
        b = np.zeros(self.outputs) if self.bias is None else np.asarray(self.bias)
        b = b.astype(np.float32).reshape(self.outputs)
        for read in self.before:
            scale, shift = read()
            b = b + (w * shift[:, None]).sum(tuple(range(w.ndim - 1)))
            w = w * scale[0][:, None]
        for read in self.after:
            scale, shift = (part.reshape(self.outputs) for part in read())
            w, b = w * scale, b * scale + shift
        return w, b.reshape(-1)


# Normalisation and rescaling

def batch_normalisation(table, step, inputs):
    """Nothing where it can be folded into the layer before it, else a 'scale'."""
    layer, source = step.operation, table.layers.get(inputs[0])
    if layer.axis not in (-1, len(table.shapes[inputs[0]])):
        refuse(step.name, f'it normalises axis {layer.axis}, not the channels')
    read = partial(normalisation, layer)
    linear = source and source.kind in ('conv', 'depthwise', 'dense')
    if linear and source.activation == 'linear' and table.only_reader(step):
        table.read[inputs[0]].after.append(read)
        return inputs[0]
    return scale(table, step, inputs, read)


def normalisation(layer):
    """The scale [1, channels] and the shift [channels] of a batch normalisation."""
    scale = 1 / np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
    scale = scale * np.asarray(layer.gamma, np.float64) if layer.scale else scale
    shift = -np.asarray(layer.moving_mean, np.float64) * scale
    return scale[None], shift + np.asarray(layer.beta, np.float64) if layer.center else shift


def scale(table, step, inputs, read):
    """A 'scale': each channel times a number, plus a number."""
    shape = 1, table.shapes[inputs[0]][-1]
    return table.add(step.name, 'scale', inputs, step.output, read, kernel=shape)


def rescaling(table, step, inputs):
    """A 'scale' of a Rescaling layer, or of an operation with a number."""
    kind, channels = type(step.operation).__name__, table.shapes[inputs[0]][-1]
    factor, shift = rescaled_by(step, kind)
    try:
        factor, shift = (np.broadcast_to(np.float64(part).reshape(-1), [channels])
                         for part in (factor, shift))
    except ValueError:
        refuse(step.name, f'{kind} by numbers that are not one for each channel')
    return scale(table, step, inputs, partial(tuple, [factor[None], shift]))


def rescaled_by(step, kind):
    """The factor and the shift of a step that rescales."""
    if kind == 'Rescaling':
        return step.operation.scale, step.operation.offset
    if len(step.constants) != 1:
        refuse(step.name, f'{kind} of two signals cannot be explained')
    (value, place), = step.constants
    if place == 0 and 'Divide' in kind:
        refuse(step.name, 'it divides by a signal')
    value = np.float64(value)
    if kind == 'Subtract':
        return (-1.0, value) if place == 0 else (1.0, -value)
    return {'Add': (1.0, value), 'Multiply': (value, 0.0)}.get(kind, (1 / value, 0.0))


# Several inputs

def addition(table, step, inputs):
    """An 'add', for Add and Average of several inputs; of one input and a number a 'scale'."""
    if len(inputs) == 1:
        return rescaling(table, step, inputs)
    if len({table.shapes[name] for name in inputs}) > 1:
        refuse(step.name, 'it adds tensors of different shapes')
    n, kind, read = len(inputs), type(step.operation).__name__, None
    if kind == 'Average':
        read = partial(tuple, [np.full([n, 1], 1 / n), np.zeros(1)])
    if kind == 'CustomScaleLayer':  # of InceptionResNetV2
        read = partial(tuple, [np.float64([[1], [step.operation.scale]]), np.zeros(1)])
    return table.add(step.name, 'add', inputs, step.output, read)


def product(table, step, inputs):
    """A 'gate': a signal times what comes from a sigmoid or is smaller; with a number a 'scale'."""
    if len(inputs) == 1:
        return rescaling(table, step, inputs)
    areas = [math.prod(table.shapes[name]) for name in inputs]
    gates = [i for i, name in enumerate(inputs)
             if areas[i] < max(areas) or is_gate(table, name)]
    if len(inputs) != 2 or not gates:
        refuse(step.name, 'it multiplies signals, none of which is a gate between 0 and 1')
    gate, signal = inputs[gates[-1]], inputs[1 - gates[-1]]
    return table.add(step.name, 'gate', [signal, gate], step.output)


def is_gate(table, name):
    """Whether a layer's outputs lie between 0 and 1, perhaps reshaped."""
    while name in table.layers:
        layer = table.layers[name]
        if layer.activation in ('sigmoid', 'hard_sigmoid'):
            return True
        if layer.kind not in ('flatten', 'scale'):
            return False
        name, = layer.inputs
        if layer.kind == 'scale':  # relu6(x + 3) / 6, written out
            return name in table.layers and table.layers[name].activation == ('relu', 6.0)
    return False


def concatenation(table, step, inputs):
    """A 'concat' of channels."""
    axis = getattr(step.operation, 'axis', -1)
    if axis not in (-1, len(step.output.shape) - 1):
        refuse(step.name, f'it joins along axis {axis}, not the channels')
    return table.add(step.name, 'concat', inputs, step.output)


# Pooling and other shapes

def pooling(table, step, inputs):
    """A 'max' or a 'mean'; of the whole map, where Keras leaves out its sides, a 'flatten', too."""
    layer, shape = step.operation, table.shapes[inputs[0]]
    kind = 'max' if 'Max' in type(layer).__name__ else 'mean'
    if not type(layer).__name__.startswith('Global'):
        return table.add(step.name, kind, inputs, step.output, window=tuple(layer.pool_size),
                         stride=tuple(layer.strides), padding=layer.padding.upper())
    whole = keras.KerasTensor((None, 1, 1, shape[-1]))
    name = table.add(step.name, kind, inputs, whole, window=shape[:2])
    if layer.keepdims:
        return name
    return table.add(f'{step.name}_flatten', 'flatten', [name], step.output, shape=shape[-1:])


def border(table, step, inputs):
    """A 'pad' or a 'crop'."""
    kind = 'pad' if type(step.operation).__name__ == 'ZeroPadding2D' else 'crop'
    padding = step.operation.padding if kind == 'pad' else step.operation.cropping
    return table.add(step.name, kind, inputs, step.output, padding=tuple(map(tuple, padding)))


def reshaping(table, step, inputs):
    """A 'flatten', or nothing where the shape stays."""
    shape = tuple(step.output.shape[1:])
    if shape == tuple(table.shapes[inputs[0]]):
        return inputs[0]
    if len(shape) not in (1, 3):
        refuse(step.name, f'it makes tensors of the shape {shape}')
    return table.add(step.name, 'flatten', inputs, step.output, shape=shape)


def activation(table, step, inputs):
    """An activation of the layer before it, or an 'activation'."""
    return table.activate(step, inputs[0])


MAKERS = {
    'Conv2D': convolution, 'DepthwiseConv2D': convolution,
    'SeparableConv2D': separable_convolution, 'Dense': dense,
    'BatchNormalization': batch_normalisation, 'Rescaling': rescaling, 'Subtract': rescaling,
    'Divide': rescaling, 'TrueDivide': rescaling, 'Add': addition, 'Average': addition,
    'CustomScaleLayer': addition, 'Multiply': product, 'Concatenate': concatenation,
    'MaxPooling2D': pooling, 'AveragePooling2D': pooling, 'GlobalMaxPooling2D': pooling,
    'GlobalAveragePooling2D': pooling, 'ZeroPadding2D': border, 'Cropping2D': border,
    'Flatten': reshaping, 'Reshape': reshaping, 'Squeeze': reshaping, 'ExpandDims': reshaping,
    **dict.fromkeys(('Activation', 'Softmax', 'ReLU', 'LeakyReLU', 'PReLU', 'ELU', 'Relu', 'Relu6',
                     'Sigmoid', 'Silu', 'Gelu', 'Tanh', 'Softplus', 'HardSigmoid', 'HardSilu',
                     'Elu', 'LeakyRelu'), activation)}
