"""VGG16 and VGG19 (Simonyan & Zisserman 2015): kinds of layers, the layer tables and the forward graph."""
import math
from typing import NamedTuple

import numpy as np

from script import tf

SIZE = 224  # pixels, width and height of the input
DEPTHS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}  # convolutions in each block
WIDTHS = (64, 128, 256, 512, 512)  # channels of each block
MEAN = (103.939, 116.779, 123.68)  # of ImageNet: blue, green, red, which Keras's preprocessing subtracts


class Layer(NamedTuple):
    """One layer, and between which bounds its inputs lie."""

    name: str
    kind: str  # 'conv', 'dense', 'max' or 'flatten'
    size: tuple = ()  # the shape of w, or height and width of the window
    stride: int = 1
    padding: str = 'SAME'
    relu: bool = True
    low: list = 0.0  # for all inputs, or one for each channel
    high: list = math.inf

    @property
    def signed(self):
        """Whether inputs can be negative."""
        return bool(np.min(self.low) < 0)


class Weights:
    """Weights w and bias b of a layer, and parts of w: computed when the session starts, not at every run."""

    def __init__(self, name, w, b):
        self.name, self.w, self.b = name, w, b
        self.kept, self.parts = [], {}

    def read(self):
        """The same, read from its variables once: TensorFlow computes equal ops on the same tensor once."""
        return Weights(self.name, self.w.read_value(), self.b.read_value())

    def keep(self, change, value):
        """Keeps a value, which depends on w alone, in a local variable. Returns what is read from it, once for all rules."""
        if change not in self.parts:
            variable = tf.get_variable(f'{self.name}/{change}', initializer=value, trainable=False, use_resource=True,
                                       collections=[tf.GraphKeys.LOCAL_VARIABLES])
            self.kept.append(variable)
            self.parts[change] = variable.read_value()
        return self.parts[change]

    @property
    def positive(self):
        return self.keep('positive', tf.maximum(self.w, 0.0))

    @property
    def negative(self):
        return self.keep('negative', tf.minimum(self.w, 0.0))

    def raised(self, gamma):
        """Weights and bias with the positive ones 1 + gamma times as large."""
        w, b = (x + gamma * tf.maximum(x, 0.0) for x in (self.w, self.b))
        return Weights(self.name, self.keep(f'raised_{gamma}', w), b)


def layer_table(model, head):
    """The layers of 'vgg16' or 'vgg19', with dense layers of the sizes in `head`, logits last."""
    layers, channels = [], 3
    for block, (depth, width) in enumerate(zip(DEPTHS[model], WIDTHS), 1):
        for i in range(1, depth + 1):
            layers.append(Layer(f'block{block}_conv{i}', 'conv', (3, 3, channels, width)))
            channels = width
        layers.append(Layer(f'block{block}_pool', 'max', (2, 2), 2, 'VALID'))
    layers[0] = layers[0]._replace(low=[-mean for mean in MEAN], high=[255 - mean for mean in MEAN])
    layers.append(Layer('flatten', 'flatten'))
    inputs = (SIZE // 2 ** len(WIDTHS)) ** 2 * channels
    for i, outputs in enumerate(head, 1):
        layers.append(Layer(f'fc{i}', 'dense', (inputs, outputs)))
        inputs = outputs
    layers[-1] = layers[-1]._replace(name='predictions', relu=False)
    return layers


def linear(layer, a, w):
    """The linear part of a layer: convolution or matrix product, in the precision of w."""
    if layer.kind == 'conv':
        return tf.nn.conv2d(tf.cast(a, w.dtype), w, strides=layer.stride, padding=layer.padding)
    return product(a, w)


def product(x, w, transpose=False):
    """The matrix product."""
    return tf.matmul(tf.cast(x, w.dtype), w, transpose_b=transpose)


def affine(layer, a, weights):
    """What a layer computes before its ReLU."""
    return tf.nn.bias_add(linear(layer, a, weights.w), weights.b)


def pool(layer, a):
    """The largest input of each window."""
    return tf.nn.max_pool2d(a, ksize=layer.size, strides=layer.stride, padding=layer.padding)


def forward(pixels, layers, weights, affine=affine):
    """The network from the pixels to the logits.

    pixels: [n, 224, 224, 3], BGR, mean subtracted; layers: a layer table; weights: {layer name: Weights}; affine: computes z.
    Returns the activations a[0..L]: a[i] is the input of layer i, a[0] the pixels, a[L] the logits.
    """
    a = [pixels]
    for layer in layers:
        if layer.kind == 'max':
            a.append(pool(layer, a[-1]))
        elif layer.kind == 'flatten':
            a.append(tf.reshape(a[-1], [-1, math.prod(a[-1].shape[1:].as_list())]))
        else:
            z = affine(layer, a[-1], weights[layer.name])
            a.append(tf.nn.relu(z) if layer.relu else z)
    return a
