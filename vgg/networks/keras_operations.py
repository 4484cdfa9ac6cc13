"""What operations without weights become in a layer table: sums, gates, pooling, activations, and
whatever moves values. The functions are like those of keras_layers.py."""
from functools import partial
import math

import numpy as np

from common import Refused, keras

MOVES = {  # each output is one of the inputs or 0
    'Flatten', 'Reshape', 'Permute', 'RepeatVector', 'ZeroPadding1D', 'ZeroPadding2D',
    'Cropping1D', 'Cropping2D', 'CenterCrop', 'UpSampling1D', 'Concatenate', 'Stack', 'Split',
    'Unstack', 'GetItem', 'Slice', 'Take', 'Pad', 'Transpose', 'Swapaxes', 'Moveaxis', 'Ravel',
    'Squeeze', 'ExpandDims', 'Flip', 'Roll', 'Repeat', 'Tile', 'BroadcastTo', 'DepthToSpace',
    'SpaceToDepth', 'CropImages', 'PadImages', 'Maximum', 'Minimum', 'Max', 'Min', 'Amax', 'Amin',
    'GlobalMaxPooling1D', 'GlobalMaxPooling2D', 'MaxPooling1D'}
CROPS = {'GetItem', 'Flip', 'Cropping2D', 'CenterCrop'}  # those of the picture
MEANS = {  # of one input, without negative weights
    'AveragePooling1D', 'AveragePooling2D', 'AdaptiveAveragePooling2D', 'GlobalAveragePooling1D',
    'GlobalAveragePooling2D', 'AveragePool', 'AdaptiveAveragePool', 'Mean', 'Sum'}
ACTIVATIONS = {  # layers and operations, and Keras's names of those that have no options
    **dict.fromkeys(('Activation', 'ReLU', 'LeakyReLU', 'PReLU', 'ELU', 'LeakyRelu', 'Elu', 'Celu',
                     'Selu', 'Gelu', 'Silu', 'Mish', 'Tanh', 'TanhShrink', 'Softsign', 'HardSilu',
                     'HardTanh', 'LogSigmoid', 'SoftShrink', 'HardShrink', 'Threshold',
                     'Squareplus', 'SparsePlus', 'Clip', 'Absolute')),
    'Relu': 'relu', 'Relu6': 'relu6', 'Sigmoid': 'sigmoid', 'HardSigmoid': 'hard_sigmoid',
    'SparseSigmoid': 'sparse_sigmoid', 'Softplus': 'softplus', 'Softmax': 'softmax',
    'LogSoftmax': 'log_softmax'}
RANGES = {'sigmoid': (0, 1), 'hard_sigmoid': (0, 1), 'sparse_sigmoid': (0, 1), 'relu6': (0, 6)}
CAN = ('networks can be explained that consist of convolutions, dense layers, pooling, '
       "normalisation, additions, gates, Keras's activations and whatever moves values, with one "
       'picture as input and one number for each class as output')


def refuse(name, reason):
    """Raises Refused: why a layer cannot be explained, and what can be."""
    raise Refused(f'layer {name}: {reason}; {CAN}')


# Sums and products

def rescaling(table, step, inputs):
    """A 'scale' of a Rescaling layer, or of an operation with numbers: what it makes of 0 and 1."""
    layer, kind, shape = step.operation, type(step.operation).__name__, table.shapes[inputs[0]]
    function = step.function if kind != 'Rescaling' else (  # which Keras has only in float32
        lambda x: x * np.float64(layer.scale) + np.float64(layer.offset))
    if len(inputs) > 1 or tuple(step.output.shape[1:]) != shape:
        refuse(step.name, f'{kind} of two signals cannot be explained')
    shift, both = (np.asarray(function(np.full((1, *shape), value))).reshape(-1, shape[-1])
                   for value in (0.0, 1.0))
    if not np.isfinite(shift).all() or (shift != shift[0]).any() or (both != both[0]).any():
        refuse(step.name, 'it does not multiply each channel by one number')
    return table.add(step.name, 'scale', inputs, step.output,
                     partial(tuple, [both[:1] - shift[:1], shift[0]]), kernel=(1, shape[-1]))


def addition(table, step, inputs):
    """A 'sum' of several inputs; of one input and a number a 'scale'."""
    if len(inputs) == 1:
        return rescaling(table, step, inputs)
    n, kind = len(inputs), type(step.operation).__name__
    factors = {'Average': (1 / n,) * n, 'Subtract': (1.0, -1.0)}.get(kind, (1.0,) * n)
    if kind == 'CustomScaleLayer':  # of InceptionResNetV2
        factors = 1.0, step.operation.scale
    inputs = [spread(table, step, name, step.output.shape[1:]) for name in inputs]
    return table.add(step.name, 'sum', inputs, step.output, factors=factors)


def spread(table, step, name, shape):
    """Copies a layer's outputs to a shape, as Keras does. Returns the layer that has it."""
    own, shape = table.shapes[name], tuple(shape)
    if own == shape:
        return name
    if len(own) < len(shape) and not isinstance(step.operation, keras.Layer):
        refuse(step.name, f'it combines tensors of the shapes {own} and {shape}')
    sides = [1] * (len(shape) - len(own)) + list(own)  # those that it lacks come first
    return table.add(f'{step.name}_spread', 'move', [name], keras.KerasTensor((None, *shape)),
                     function=lambda x: keras.ops.broadcast_to(
                         keras.ops.reshape(x, [-1, *sides]), [keras.ops.shape(x)[0], *shape]))


def product(table, step, inputs):
    """A 'gate': a signal times what is broadcast or between 0 and 1; of one input a 'scale'."""
    if len(inputs) == 1:
        return rescaling(table, step, inputs)
    shape = tuple(step.output.shape[1:])
    gates = [name for name in reversed(inputs)
             if table.shapes[name] != shape or within(range_of(table, name), 0, 1)]
    if len(inputs) != 2 or not gates:
        refuse(step.name, 'it multiplies signals, none of which is a gate between 0 and 1')
    gate = min(gates, key=lambda name: math.prod(table.shapes[name]))
    signal = inputs[1 - inputs.index(gate)]
    if len(table.shapes[gate]) < len(shape):
        gate = spread(table, step, gate, shape)
    return table.add(step.name, 'gate', [spread(table, step, signal, shape), gate], step.output)


def within(bounds, low, high):
    return low <= min(bounds) and max(bounds) <= high


def range_of(table, name):
    """The least and the greatest value of a layer's outputs, as far as they are known."""
    layer = table.layers.get(name)
    if layer and layer.activation in RANGES:
        return RANGES[layer.activation]
    if not layer or layer.activation != 'linear' or layer.kind not in ('move', 'scale'):
        return -math.inf, math.inf
    low, high = zip(*(range_of(table, each) for each in layer.inputs))
    if layer.kind == 'move':
        return min(low), max(high)
    factor, shift = table.read[name]()
    values = [factor * bound + shift for bound in (*low, *high)]
    return np.min(values), np.max(values)


# Pooling and what moves

def max_pooling(table, step, inputs):
    """A 'max'."""
    layer = step.operation
    window, stride = (tuple(np.broadcast_to(sides, 2).tolist())
                      for sides in (layer.pool_size, layer.strides or layer.pool_size))
    return table.add(step.name, 'max', inputs, step.output, window=window, stride=stride,
                     padding=layer.padding.upper())


def resizing(table, step, inputs):
    """A 'move' or a 'sum'."""
    kind = {'nearest': 'move', 'bilinear': 'sum'}.get(step.operation.interpolation)
    if kind is None:
        refuse(step.name, f'its interpolation is {step.operation.interpolation}')
    return move(table, step, inputs, kind)


def move(table, step, inputs, kind='move'):
    """A 'move', or a 'sum' of one input. Of ZeroPadding2D it notes the zeros around the map, which
    a convolution can add."""
    pads = type(step.operation).__name__ == 'ZeroPadding2D'
    padding = tuple(map(tuple, step.operation.padding)) if pads else 'VALID'
    return table.add(step.name, kind, inputs, step.output, function=step.function, padding=padding)


# Activations

def activation(table, step, inputs):
    """An activation of the layer before it, or an 'activation'."""
    return table.activate(step, inputs[0])


def activation_of(layer, function):
    """The activation that a layer has or is, or an operation is: Keras's name, or a function."""
    kind, own = type(layer).__name__, getattr(layer, 'activation', None)
    if isinstance(own, keras.Layer):
        return activation_of(own, own.call)
    if own is not None:
        if not hasattr(keras.activations, own.__name__):
            refuse(layer.name, 'its activation is a function of its own')
        return own.__name__
    if kind == 'PReLU':
        slopes = np.asarray(layer.alpha)
        return lambda z: keras.ops.where(z >= 0, z, keras.ops.cast(slopes, z.dtype) * z)
    if kind == 'ReLU' and not (layer.negative_slope or layer.threshold):
        return {None: 'relu', 6: 'relu6'}.get(layer.max_value, function)
    return ACTIVATIONS.get(kind) or function
