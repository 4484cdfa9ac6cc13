"""VGG16 and VGG19 (Simonyan & Zisserman 2015): kinds of layers, the layer tables and the forward graph."""
import math
from typing import NamedTuple

import numpy as np

from script import tf

SIZE = 224  # pixels, width and height of the input
DEPTHS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}  # convolutions in each block
CONVOLUTIONS = {model: sum(depths) for model, depths in DEPTHS.items()}
WIDTHS = (64, 128, 256, 512, 512)  # channels of each block


class Layer(NamedTuple):
    """One layer, and between which bounds its inputs lie."""

    name: str
    kind: str  # 'conv', 'dense', 'max', 'mean' or 'flatten'
    size: tuple = ()  # the shape of w, or height and width of the window
    stride: tuple = (1, 1)
    padding: str = 'SAME'  # or 'VALID', or how many rows of zeros above and below, columns left and right: ((1, 1), (1, 1))
    relu: bool = False  # whether ReLU follows
    low: list = 0.0  # for all inputs, or one for each channel
    high: list = math.inf

    @property
    def signed(self):
        """Whether inputs can be negative."""
        return bool(np.min(self.low) < 0)

    @property
    def place(self):
        """What composites go by: the kind, or 'pixels' for weights whose inputs are those, and the name."""
        weighs_pixels = self.kind in ('conv', 'dense') and np.max(self.high) < math.inf
        return f'{"pixels" if weighs_pixels else self.kind} {self.name}'

    @property
    def geometry(self):
        """Stride and padding, as TensorFlow's raw ops take them."""
        explicit = [] if isinstance(self.padding, str) else [0, 0, *self.padding[0], *self.padding[1], 0, 0]
        return {'strides': [1, *self.stride, 1], 'padding': 'EXPLICIT' if explicit else self.padding, 'explicit_paddings': explicit}

    @property
    def window(self):
        """Window, stride and padding of a pooling layer, likewise."""
        return {'ksize': [1, *self.size, 1], 'strides': [1, *self.stride, 1], 'padding': self.padding}


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
            layers.append(Layer(f'block{block}_conv{i}', 'conv', (3, 3, channels, width), relu=True))
            channels = width
        layers.append(Layer(f'block{block}_pool', 'max', (2, 2), (2, 2), 'VALID'))
    layers.append(Layer('flatten', 'flatten'))
    inputs = (SIZE // 2 ** len(WIDTHS)) ** 2 * channels
    for i, outputs in enumerate(head, 1):
        layers.append(Layer(f'fc{i}', 'dense', (inputs, outputs), relu=True))
        inputs = outputs
    layers[-1] = layers[-1]._replace(name='predictions', relu=False)
    return layers


def linear(layer, a, w):
    """The linear part of a layer, in the precision of w: convolution, matrix product, or the mean of each window.

    w of a mean: [1, channels], ones; or more rows, one for each of as many parts of the channels, whose weighted sum it is.
    """
    a = tf.cast(a, w.dtype)
    if layer.kind == 'conv':
        return tf.raw_ops.Conv2D(input=a, filter=w, **layer.geometry)
    if layer.kind == 'mean':
        means = tf.split(tf.raw_ops.AvgPool(value=a, **layer.window), w.shape[0], -1)
        return tf.add_n([mean * row for mean, row in zip(means, tf.unstack(w))])
    return tf.matmul(a, w)


def transposed(layer, s, w, a):
    """The transpose of `linear`: sends s, shaped like the layer's output, back along the weights to the shape of a."""
    s, shape = tf.cast(s, w.dtype), tf.shape(a)
    if layer.kind == 'conv':
        c = tf.raw_ops.Conv2DBackpropInput(input_sizes=shape, filter=w, out_backprop=s, **layer.geometry)
    elif layer.kind == 'mean':
        s = tf.concat([s * row for row in tf.unstack(w)], -1)
        c = tf.raw_ops.AvgPoolGrad(orig_input_shape=shape, grad=s, **layer.window)
    else:
        c = tf.matmul(s, w, transpose_b=True)
    return tf.cast(c, a.dtype)


def affine(layer, a, weights):
    """What a layer computes before its ReLU."""
    return linear(layer, a, weights.w) + weights.b


def pool(layer, a):
    """The largest input of each window."""
    return tf.raw_ops.MaxPool(input=a, **layer.window)


def forward(pixels, layers, weights, affine=affine):
    """The network from the pixels to the logits.

    pixels: [n, height, width, channels], prepared; layers: a layer table; weights: {layer name: Weights}; affine: computes z.
    Returns the activations a[0..L]: a[i] is the input of layer i, a[0] the pixels, a[L] the logits.
    """
    a = [pixels]
    for layer in layers:
        if layer.kind == 'max':
            z = pool(layer, a[-1])
        elif layer.kind == 'flatten':
            z = tf.reshape(a[-1], [-1, math.prod(a[-1].shape[1:].as_list())])
        else:
            z = affine(layer, a[-1], weights[layer.name])
        a.append(tf.nn.relu(z) if layer.relu else z)
    return a
