"""Keras's layers in a chain, each made an entry of a layer table, named as VGG's are by its place.

Conv2D, Dense, ReLU and linear activations, max, average and global pooling, Flatten; batch normalisation is folded into the layers
beside it; softmax or sigmoid at the end is taken off; what only trains or does nothing is left out. Anything else is refused by its name.
"""
import math

import numpy as np

from script import keras
from model import Layer

LEFT_OUT = {'Dropout', 'SpatialDropout2D', 'AlphaDropout', 'GaussianDropout', 'GaussianNoise', 'ActivityRegularization', 'Identity'}
CAN = ('what can be explained is a chain of Conv2D, Dense, ReLU, pooling, Flatten and BatchNormalization, with softmax, sigmoid or '
       'nothing at its end and any preprocessing before its first convolution')


def refuse(name, reason):
    """Raises ValueError: the layer of this name cannot be explained, why, and what can be."""
    raise ValueError(f'layer {name}: {reason}; {CAN}')


def kind_of(layer):
    return type(layer).__name__


class Kernel:
    """The weights of one of Keras's layers, and what is folded into them."""

    def __init__(self, layer, inputs, padding):
        self.layer, self.inputs, self.padding = layer, inputs, padding  # inputs: their shape; padding: zeros around a map, or None
        self.before, self.after = None, None  # (scale, shift) of the inputs and of the outputs
        self.mirrored = False  # whether the one output z is to be two, -z and z

    def __call__(self):
        """Reads w and b, float32 unless something is folded in; b is a map where a shift of the inputs ends at zero padding."""
        w = np.asarray(self.layer.kernel)
        b = np.asarray(self.layer.bias) if self.layer.use_bias else np.zeros(w.shape[-1:], w.dtype)
        if w.ndim == 2 and len(self.inputs) == 3:
            w = w[None, None]  # a dense layer on maps is a convolution of one pixel
        if self.before:
            scale, shift = self.before
            w, b = w * scale[:, None], b + self.of_shift(w, shift)
        if self.after:
            scale, shift = self.after
            w, b = w * scale, b * scale + shift
        return [np.concatenate([-x, x], -1) for x in (w, b)] if self.mirrored else [w, b]

    def of_shift(self, w, shift):
        """What z gains by a shift of the inputs."""
        if w.ndim == 2:
            return shift @ w
        inputs = np.broadcast_to(shift, self.inputs)
        if self.padding is not None:
            inputs = np.pad(inputs, [*self.padding, (0, 0)])
        options = {'strides': self.layer.strides, 'padding': self.layer.padding} if kind_of(self.layer) == 'Conv2D' else {}
        gained = np.asarray(keras.ops.conv(inputs[None], np.float64(w), data_format='channels_last', **options))[0]
        return gained[0, 0] if (np.ptp(gained, axis=(0, 1)) == 0).all() else gained


class Chain:
    """Grows a layer table from Keras's layers, named as VGG's are by their place."""

    def __init__(self, shape):
        self.shape, self.signed = list(shape), True  # of what has come out so far, without the batch; whether it can be negative
        self.layers, self.kernels = [], {}
        self.block, self.pools = 1, 0  # the number of the block of convolutions; how many pooling layers it has
        self.padding = self.scaling = self.end = None  # what waits for the next layer with weights; 'softmax' or 'sigmoid'

    def add(self, name, kind, shape, size=(), stride=(1, 1), padding='VALID', linear=False):
        """A layer whose output has this shape; linear: its output can be negative."""
        self.layers.append(Layer(name, kind, tuple(size), tuple(stride), padding, low=-math.inf if self.signed else 0.0))
        self.shape, self.signed = list(shape), self.signed or linear

    def name_of_convolution(self):
        if self.pools:
            self.block, self.pools = self.block + 1, 0
        return f'block{self.block}_conv{1 + sum(layer.name.startswith(f"block{self.block}_conv") for layer in self.layers)}'

    def scale(self, name, scale, shift):
        """Batch normalisation: into the layer before it, else it waits for the next one."""
        last = self.layers[-1]
        kernel = self.kernels.get(last.name)
        if kernel and not last.relu and not self.scaling:
            before = kernel.after or (1.0, 0.0)
            kernel.after = before[0] * scale, before[1] * scale + shift
        else:
            _, before = self.scaling or (None, (1.0, 0.0))
            self.scaling = name, (before[0] * scale, before[1] * scale + shift)

    def weigh(self, layer, name, kind, size, shape, **geometry):
        """A layer with weights."""
        self.kernels[name] = Kernel(layer, self.shape, self.padding)
        if self.scaling:
            self.kernels[name].before, self.scaling = self.scaling[1], None
        self.padding = None
        self.add(name, kind, shape, size, linear=True, **geometry)
        activate(self, layer.name, layer.activation)

    def pool(self, layer, kind, size, stride, padding):
        if self.padding is not None:
            refuse(layer.name, 'ZeroPadding2D before pooling')
        if kind == 'max' and self.scaling and (self.scaling[1][0] <= 0).any():
            refuse(self.scaling[0], 'it turns signs before max-pooling, which cannot be folded exactly')
        self.pools += 1
        name = f'block{self.block}_pool{"" if self.pools == 1 else self.pools}'
        shape = keras.ops.max_pool(np.zeros([1, *self.shape], np.float32), size, stride, padding, data_format='channels_last').shape[1:]
        self.add(name, kind, shape, size, stride, padding.upper())


def activate(chain, name, function):
    """What follows the chain's last layer: ReLU, nothing, or at the end softmax or sigmoid."""
    function = function if isinstance(function, str) else keras.activations.serialize(function)
    if function == 'relu':
        if chain.scaling:
            refuse(chain.scaling[0], 'ReLU follows it, so it cannot be folded exactly')
        chain.layers[-1] = chain.layers[-1]._replace(relu=True)
        chain.signed = False
    elif function in ('softmax', 'sigmoid'):
        chain.end = function
    elif function != 'linear':
        refuse(name, f'its activation is {function if isinstance(function, str) else "a function of its own"}')


def take(chain, layer):
    """Adds one of Keras's layers to the chain. Raises ValueError that names it if it cannot be explained."""
    kind = kind_of(layer)
    if kind in LEFT_OUT:
        return
    if chain.end:
        refuse(layer.name, f'it follows the {chain.end}')
    if kind not in TAKEN:
        refuse(layer.name, f'{kind} is not explained after the first convolution')
    if getattr(layer, 'data_format', 'channels_last') != 'channels_last':
        refuse(layer.name, 'its channels come first')
    TAKEN[kind](chain, layer)


def take_convolution(chain, layer):
    if layer.groups != 1 or tuple(layer.dilation_rate) != (1, 1):
        refuse(layer.name, f'{layer.groups} groups, dilated by {layer.dilation_rate}')
    padding, inputs = layer.padding.upper(), list(chain.shape)
    if chain.padding is not None:
        if padding != 'VALID':
            refuse(layer.name, 'padded twice')
        inputs[:2] = [side + sum(zeros) for side, zeros in zip(inputs, chain.padding)]
        padding = chain.padding
    shape = layer.compute_output_shape((1, *inputs))[1:]
    size = *layer.kernel_size, inputs[-1], layer.filters
    chain.weigh(layer, chain.name_of_convolution(), 'conv', size, shape, stride=layer.strides, padding=padding)


def take_dense(chain, layer):
    if chain.padding is not None:
        refuse(layer.name, 'ZeroPadding2D before it')
    if len(chain.shape) == 3:
        shape = [*chain.shape[:2], layer.units]
        chain.weigh(layer, chain.name_of_convolution(), 'conv', (1, 1, chain.shape[-1], layer.units), shape)
    else:
        number = 1 + sum(each.kind == 'dense' for each in chain.layers)
        chain.weigh(layer, f'fc{number}', 'dense', (*chain.shape, layer.units), [layer.units])


def take_padding(chain, layer):
    if chain.padding is not None:
        refuse(layer.name, 'padded twice')
    chain.padding = tuple(map(tuple, layer.padding))


def take_normalisation(chain, layer):
    if layer.axis not in (-1, len(chain.shape)):
        refuse(layer.name, f'it normalises axis {layer.axis}, not the channels')
    if chain.padding is not None:
        refuse(layer.name, 'ZeroPadding2D before it')
    mean, variance = (np.float64(each) for each in (layer.moving_mean, layer.moving_variance))
    scale = (np.float64(layer.gamma) if layer.scale else 1.0) / np.sqrt(variance + layer.epsilon)
    chain.scale(layer.name, scale, (np.float64(layer.beta) if layer.center else 0.0) - mean * scale)


def take_pooling(chain, layer):
    kind = 'max' if 'Max' in kind_of(layer) else 'mean'
    if not kind_of(layer).startswith('Global'):
        chain.pool(layer, kind, layer.pool_size, layer.strides, layer.padding)
        return
    chain.pool(layer, kind, chain.shape[:2], (1, 1), 'valid')
    if not layer.keepdims:
        take_flatten(chain, layer)


def take_flatten(chain, layer):
    if chain.padding is not None:
        refuse(layer.name, 'ZeroPadding2D before it')
    if kind_of(layer) == 'Reshape' and math.prod(layer.target_shape) not in (-1, math.prod(chain.shape)):
        refuse(layer.name, 'it does not flatten the maps')
    if len(chain.shape) == 3:
        if chain.scaling:
            name, values = chain.scaling
            chain.scaling = name, tuple(np.tile(value, math.prod(chain.shape[:2])) for value in values)
        chain.add('flatten', 'flatten', [math.prod(chain.shape)])


def take_relu(chain, layer):
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        refuse(layer.name, 'ReLU with a slope, a threshold or a largest value')
    activate(chain, layer.name, 'relu')


def take_activation(chain, layer):
    activate(chain, layer.name, 'softmax' if kind_of(layer) == 'Softmax' else layer.activation)


TAKEN = {'Conv2D': take_convolution, 'Dense': take_dense, 'ZeroPadding2D': take_padding, 'BatchNormalization': take_normalisation,
         'MaxPooling2D': take_pooling, 'AveragePooling2D': take_pooling, 'GlobalMaxPooling2D': take_pooling,
         'GlobalAveragePooling2D': take_pooling, 'Flatten': take_flatten, 'Reshape': take_flatten, 'ReLU': take_relu,
         'Activation': take_activation, 'Softmax': take_activation}


def chain_of(layers, shape):
    """The layer table of Keras's layers for inputs of this shape; {layer name: function that reads w and b}; 'softmax' or
    'sigmoid', or None where the outputs are logits. One output z is made two, -z and z."""
    chain = Chain(shape)
    for layer in layers:
        take(chain, layer)
    if chain.scaling or chain.padding is not None:
        refuse(chain.scaling[0] if chain.scaling else layers[-1].name, 'nothing follows that it could be folded into')
    if len(chain.shape) != 1:
        refuse(layers[-1].name, f'the output is a map of shape {chain.shape}, not one number for each class')
    return finished(chain, layers[-1].name)


def finished(chain, name):
    """Names the last dense layer as VGG's, and makes two classes of one output."""
    last = max(i for i, layer in enumerate(chain.layers) if layer.name in chain.kernels)
    if chain.shape == [1]:
        if chain.end == 'softmax' or any(layer.relu or layer.kind == 'max' for layer in chain.layers[last:]):
            refuse(name, 'one output with a softmax, or with ReLU, is no choice between classes')
        chain.kernels[chain.layers[last].name].mirrored = True
        chain.layers[last] = chain.layers[last]._replace(size=(*chain.layers[last].size[:-1], 2))
    if chain.layers[last].kind == 'dense':
        kernel = chain.kernels.pop(chain.layers[last].name)
        chain.layers[last] = chain.layers[last]._replace(name='predictions')
        chain.kernels['predictions'] = kernel
    return chain.layers, chain.kernels, chain.end
