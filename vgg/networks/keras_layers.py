"""What each of Keras's layers becomes in a layer table.

A function of MAKERS takes the table (Table of keras_graph.py), a step of the model and the names of
the layers it reads. It adds to the table and returns the name of the last layer that it made.
"""
from functools import partial
import math

import numpy as np

from common import keras
from networks.keras_operations import (ACTIVATIONS, MEANS, MOVES, activation, addition,
                                       max_pooling, move, product, refuse, rescaling, resizing)

LEFT_OUT = {  # active only during training
    'InputLayer', 'Dropout', 'SpatialDropout1D', 'SpatialDropout2D', 'AlphaDropout',
    'GaussianDropout', 'GaussianNoise', 'ActivityRegularization', 'Identity', 'StopGradient',
    'StochasticDepth', 'RandAugment', 'AugMix', 'MixUp', 'CutMix'}
PREPROCESSING = {  # left to Keras where they stand in front of all weights
    'Rescaling', 'Normalization', 'Resizing', 'Pipeline', 'Cast', 'Add', 'Subtract', 'Multiply',
    'Divide', 'TrueDivide'}


# Layers with weights

def convolution(table, step, inputs):
    """A 'conv' or a 'depthwise', with the padding and the normalisation before it where exact."""
    layer, source = step.operation, table.layers.get(inputs[0])
    kind, groups = type(layer).__name__, getattr(layer, 'groups', 1)
    w, padding = Weighted(layer.kernel, layer.bias, kind), layer.padding.upper()
    if 1 < groups == table.shapes[inputs[0]][-1]:  # one channel in each group: ConvNeXt
        kind, w.outputs, groups = 'DepthwiseConv2D', (groups, w.shape[-1] // groups), 1
        w.shape = *w.shape[:2], *w.outputs
    if kind == 'Conv2D' and padding == 'VALID':
        pads = source and source.kind == 'move' and source.padding != 'VALID'
        if pads and table.only_reader(step):
            padding, inputs = source.padding, source.inputs
            del table.layers[source.name]
        elif groups == 1:
            inputs = folded_into(w, table, step, inputs)
    shape = step.output.shape[1:] if kind == 'Conv2DTranspose' else ()
    name = table.add(step.name, 'depthwise' if kind == 'DepthwiseConv2D' else 'conv', inputs,
                     step.output, w, kernel=w.shape, shape=shape, stride=tuple(layer.strides),
                     padding=padding, dilation=tuple(layer.dilation_rate), groups=groups)
    return table.activate(step, name)


def folded_into(w, table, step, inputs):
    """Folds normalisation before a layer into its weights. Returns what the layer reads."""
    scale = table.layers.get(inputs[0])
    alone = scale and scale.kind in ('scale', 'gain') and scale.activation == 'linear'
    if not (alone and len(scale.kernel) == 2 and table.only_reader(step)):
        return inputs
    w.before.append(table.read.pop(scale.name))
    return table.layers.pop(scale.name).inputs


def separable_convolution(table, step, inputs):
    """A 'depthwise', and a 'conv' of one pixel behind it."""
    layer = step.operation
    w = Weighted(layer.depthwise_kernel, None, 'DepthwiseConv2D')
    middle = keras.KerasTensor((*step.output.shape[:-1], math.prod(w.shape[2:])))
    depthwise = table.add(f'{step.name}_depthwise', 'depthwise', inputs, middle, w, kernel=w.shape,
                          stride=tuple(layer.strides), padding=layer.padding.upper(),
                          dilation=tuple(layer.dilation_rate))
    w = Weighted(layer.pointwise_kernel, layer.bias)
    name = table.add(step.name, 'conv', [depthwise], step.output, w, kernel=w.shape)
    return table.activate(step, name)


def dense(table, step, inputs):
    """A 'dense'; on maps a 'conv' of one pixel."""
    w, rank = Weighted(step.operation.kernel, step.operation.bias), len(step.output.shape)
    inputs = folded_into(w, table, step, inputs)
    if rank == 4:
        w.shape = 1, 1, *w.shape
    name = table.add(step.name, 'conv' if rank == 4 else 'dense', inputs, step.output, w,
                     kernel=w.shape)
    return table.activate(step, name)


class Weighted:
    """Reads the weights of a layer of Keras, with the normalisation beside it folded in."""

    def __init__(self, kernel, bias, kind='Dense'):
        self.kernel, self.bias, self.shape = kernel, bias, tuple(kernel.shape)
        self.turned = kind == 'Conv2DTranspose'  # its kernel has the outputs first
        if self.turned:
            self.shape = *self.shape[:2], self.shape[3], self.shape[2]
        self.outputs = self.shape[2:] if kind == 'DepthwiseConv2D' else self.shape[-1:]
        self.before, self.after = [], []  # functions that read the scale and shift to fold in

    def __call__(self):
        """w and b, float32, or float64 if something is folded in."""
        w = np.asarray(self.kernel).astype(np.float32)
        w = (w.swapaxes(2, 3) if self.turned else w).reshape(self.shape)
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


# Normalisation

def batch_normalisation(table, step, inputs):
    """Nothing where it can be folded into the layer before it, else a 'scale'."""
    layer = step.operation
    if layer.axis not in (-1, len(table.shapes[inputs[0]])):
        refuse(step.name, f'it normalises axis {layer.axis}, not the channels')
    return scale(table, step, inputs, partial(normalisation, layer))


def normalisation(layer):
    """The scale [1, channels] and the shift [channels] of a batch normalisation."""
    scale = 1 / np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
    scale = scale * np.asarray(layer.gamma, np.float64) if layer.scale else scale
    shift = -np.asarray(layer.moving_mean, np.float64) * scale
    return scale[None], shift + np.asarray(layer.beta, np.float64) if layer.center else shift


def scale(table, step, inputs, read, kind='scale'):
    """Folds each channel's factor and shift into the layer before, or adds a 'scale' or 'gain'."""
    source = table.layers.get(inputs[0])
    linear = source and source.kind in ('conv', 'depthwise', 'dense')
    if linear and source.activation == 'linear' and table.only_reader(step):
        table.read[inputs[0]].after.append(read)
        return inputs[0]
    return table.add(step.name, kind, inputs, step.output, read,
                     kernel=(1, table.shapes[inputs[0]][-1]))


def own_statistics(table, step, inputs):
    """A 'centre' that takes the mean off, if any, an activation for the deviation, and a 'gain'.

    The deviation counts as a constant (Ali et al. 2022).
    """
    layer, kind, shape = step.operation, type(step.operation).__name__, step.output.shape
    axes = sorted(np.arange(len(shape))[layer.axis].reshape(-1).tolist())
    if kind == 'GroupNormalization' and axes != [len(shape) - 1]:
        refuse(step.name, f'it normalises axis {layer.axis}, not the channels')
    if kind in ('UnitNormalization', 'RMSNormalization'):
        rms = partial(keras.ops.rms_normalization, axis=axes, epsilon=getattr(layer, 'epsilon', 0))
        name = table.activate(step, inputs[0], rms if layer.weights else step.function)
    else:
        functions = centred, partial(keras.ops.layer_normalization, epsilon=layer.epsilon)
        centre, over_deviation = (
            partial(grouped, function, layer.groups) if kind == 'GroupNormalization'
            else partial(function, axis=axes) for function in functions)
        name = table.add(f'{step.name}_centred', 'centre', inputs, step.output, function=centre,
                         activation=over_deviation)
    if not layer.weights:
        return name
    shape = [side if i in axes else 1 for i, side in enumerate(shape)][axes[0]:]
    return table.add(step.name, 'gain', [name], step.output, partial(gain, layer, shape),
                     kernel=(1, *shape))


def centred(x, axis):
    return x - keras.ops.mean(x, axis, keepdims=True)


def grouped(function, groups, x):
    """What a function of x and axes makes of each group of channels."""
    *sides, channels = x.shape[1:]
    y = keras.ops.reshape(x, [-1, *sides, groups, channels // groups])
    y = function(y, axis=[*range(1, len(sides) + 1), len(sides) + 2])
    return keras.ops.reshape(y, [-1, *sides, channels])


def gain(layer, shape):
    """The factor [1, ...] and the shift behind a normalisation, of this shape."""
    values = {weight.name == 'beta': np.asarray(weight, np.float64).reshape(shape)
              for weight in layer.weights}
    return values.get(False, np.ones(shape))[None], values.get(True, np.zeros(shape))


def layer_scale(table, step, inputs):
    """ConvNeXt's factor for each channel."""
    return scale(table, step, inputs, partial(gain, step.operation, step.output.shape[-1:]), 'gain')


MAKERS = {
    **dict.fromkeys(MOVES, move), **dict.fromkeys(MEANS, partial(move, kind='sum')),
    **dict.fromkeys(ACTIVATIONS, activation),
    'Conv2D': convolution, 'Conv2DTranspose': convolution, 'DepthwiseConv2D': convolution,
    'SeparableConv2D': separable_convolution, 'Dense': dense,
    'BatchNormalization': batch_normalisation, 'LayerNormalization': own_statistics,
    'GroupNormalization': own_statistics, 'RMSNormalization': own_statistics,
    'UnitNormalization': own_statistics, 'LayerScale': layer_scale, 'Rescaling': rescaling,
    'Subtract': addition, 'Divide': rescaling, 'TrueDivide': rescaling, 'Add': addition,
    'Average': addition, 'CustomScaleLayer': addition, 'Multiply': product,
    'MaxPooling2D': max_pooling, 'MaxPool': max_pooling, 'UpSampling2D': resizing,
    'Resizing': resizing, 'Resize': resizing}
