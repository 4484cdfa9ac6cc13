"""What each of Keras's layers becomes in a layer table.

Each function takes the table (Table of keras_model.py), a step of the model and the names of the
layers it reads, adds to the table, and returns the name of what it made.
"""
from functools import partial
import math

import numpy as np

from common import keras
from networks.keras_weights import Weighted, activation_of, normalisation, refuse, rescaling

LEFT_OUT = {  # active only during training
    'InputLayer', 'Dropout', 'SpatialDropout2D', 'AlphaDropout', 'GaussianDropout', 'GaussianNoise',
    'ActivityRegularization', 'Identity', 'StopGradient'}
PREPARING = {  # left to Keras where they stand in front of all weights
    'Rescaling', 'Normalization', 'Resizing', 'Pipeline', 'GetItem', 'Stack', 'Cast', 'Add',
    'Subtract', 'Multiply', 'Divide', 'TrueDivide', 'Concatenate'}
ACTIVATIONS = {
    'Activation', 'Softmax', 'ReLU', 'LeakyReLU', 'PReLU', 'ELU', 'Relu', 'Relu6', 'Sigmoid',
    'Silu', 'Gelu', 'Tanh', 'Softplus', 'HardSigmoid', 'HardSilu', 'Elu', 'LeakyRelu'}
WEIGHING = {'Conv2D', 'DepthwiseConv2D', 'SeparableConv2D', 'Dense'}


def convolution(table, step, inputs):
    layer, w = step.operation, Weighted(step.operation)
    padding, source = layer.padding.upper(), table.layers.get(inputs[0])
    kind = 'depthwise' if type(layer).__name__ == 'DepthwiseConv2D' else 'conv'
    padded = source and source.kind == 'pad' and table.only_reader(step)
    if padded and padding == 'VALID' and kind == 'conv':  # TensorFlow pads no depthwise convolution
        padding, inputs = source.padding, source.inputs
        table.remove(source.name)
    exact = padding == 'VALID' and kind == 'conv' and layer.groups == 1
    inputs = folded(table, step, inputs, w) if exact else inputs
    name = table.add(step.name, kind, inputs, step.output, w, kernel=w.shape,
                     stride=tuple(layer.strides), padding=padding,
                     dilation=tuple(layer.dilation_rate), groups=getattr(layer, 'groups', 1))
    return table.activate(step, name, activation_of(layer))


def folded(table, step, inputs, w):
    """Folds batch normalisation before a layer into its weights. Returns what the layer reads."""
    scale = table.layers.get(inputs[0])
    alone = scale and scale.kind == 'scale' and scale.activation == 'linear'
    if not (alone and table.only_reader(step)):
        return inputs
    w.before.append(table.read.pop(scale.name))
    return table.remove(scale.name).inputs


def separable_convolution(table, step, inputs):
    layer, channels = step.operation, table.shapes[inputs[0]][-1]
    outputs = channels * layer.depth_multiplier
    middle = keras.KerasTensor((*step.output.shape[:-1], outputs))
    depthwise = table.add(f'{step.name}_depthwise', 'depthwise', inputs, middle,
                          partial(without_bias, layer.depthwise_kernel, outputs),
                          kernel=tuple(layer.depthwise_kernel.shape), stride=tuple(layer.strides),
                          padding=layer.padding.upper(), dilation=tuple(layer.dilation_rate))
    w = Weighted(layer, layer.pointwise_kernel)
    name = table.add(step.name, 'conv', [depthwise], step.output, w, kernel=w.shape)
    return table.activate(step, name, activation_of(layer))


def without_bias(kernel, outputs):
    return np.asarray(kernel), np.zeros(outputs, np.float32)


def dense(table, step, inputs):
    w, rank = Weighted(step.operation), len(table.shapes[inputs[0]])
    if rank not in (1, 3):
        refuse(step.name, f'its inputs have the shape {table.shapes[inputs[0]]}')
    inputs = folded(table, step, inputs, w)
    if rank == 3:  # on maps it is a convolution of one pixel
        w.shape = 1, 1, *w.shape
    kind = 'dense' if rank == 1 else 'conv'
    name = table.add(step.name, kind, inputs, step.output, w, kernel=w.shape)
    return table.activate(step, name, activation_of(step.operation))


def batch_normalisation(table, step, inputs):
    layer, source = step.operation, table.layers.get(inputs[0])
    if layer.axis not in (-1, len(table.shapes[inputs[0]])):
        refuse(step.name, f'it normalises axis {layer.axis}, not the channels')
    read = partial(normalisation, layer)
    linear = source and source.kind in ('conv', 'depthwise', 'dense')
    if linear and source.activation == 'linear' and table.only_reader(step):
        table.read[inputs[0]].after.append(read)
        return inputs[0]
    return scale(table, step, inputs, read)


def scale(table, step, inputs, read):
    channels = table.shapes[inputs[0]][-1]
    return table.add(step.name, 'scale', inputs, step.output, read, kernel=(1, channels))


def rescale(table, step, inputs):
    return scale(table, step, inputs, rescaling(step, table.shapes[inputs[0]][-1]))


def addition(table, step, inputs):
    """Add and Average of several inputs; of one input and a number it is a shift."""
    if len(inputs) == 1:
        return rescale(table, step, inputs)
    if len({table.shapes[name] for name in inputs}) > 1:
        refuse(step.name, 'it adds tensors of different shapes')
    n, kind, read = len(inputs), type(step.operation).__name__, None
    if kind == 'Average':
        read = partial(tuple, [np.full([n, 1], 1 / n), np.zeros(1)])
    if kind == 'CustomScaleLayer':  # of InceptionResNetV2
        read = partial(tuple, [np.float64([[1], [step.operation.scale]]), np.zeros(1)])
    return table.add(step.name, 'add', inputs, step.output, read)


def product(table, step, inputs):
    """Multiply: by a number, or a signal by a gate, which comes from a sigmoid or is smaller."""
    if len(inputs) == 1:
        return rescale(table, step, inputs)
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
    axis = getattr(step.operation, 'axis', -1)
    if axis not in (-1, len(step.output.shape) - 1):
        refuse(step.name, f'it joins along axis {axis}, not the channels')
    return table.add(step.name, 'concat', inputs, step.output)


def pooling(table, step, inputs):
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
    kind = 'pad' if type(step.operation).__name__ == 'ZeroPadding2D' else 'crop'
    padding = getattr(step.operation, 'padding' if kind == 'pad' else 'cropping')
    return table.add(step.name, kind, inputs, step.output, padding=tuple(map(tuple, padding)))


def reshaping(table, step, inputs):
    shape = tuple(step.output.shape[1:])
    if shape == tuple(table.shapes[inputs[0]]):
        return inputs[0]
    if len(shape) not in (1, 3):
        refuse(step.name, f'it makes tensors of the shape {shape}')
    return table.add(step.name, 'flatten', inputs, step.output, shape=shape)


def activation(table, step, inputs):
    return table.activate(step, inputs[0], activation_of(step.operation))


TAKEN = {
    'Conv2D': convolution, 'DepthwiseConv2D': convolution,
    'SeparableConv2D': separable_convolution, 'Dense': dense,
    'BatchNormalization': batch_normalisation, 'Rescaling': rescale, 'Subtract': rescale,
    'Divide': rescale, 'TrueDivide': rescale, 'Add': addition, 'Average': addition,
    'CustomScaleLayer': addition, 'Multiply': product, 'Concatenate': concatenation,
    'MaxPooling2D': pooling, 'AveragePooling2D': pooling, 'GlobalMaxPooling2D': pooling,
    'GlobalAveragePooling2D': pooling, 'ZeroPadding2D': border, 'Cropping2D': border,
    'Flatten': reshaping, 'Reshape': reshaping, 'Squeeze': reshaping, 'ExpandDims': reshaping,
    **dict.fromkeys(ACTIVATIONS, activation)}
