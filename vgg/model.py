"""Layer tables, those of VGG16 and VGG19 (Simonyan & Zisserman 2015), and the forward graph.

A table is a list of layers in an order in which they can be computed. Each names the layers that it
reads, so a table can describe any acyclic network. It is read down for the forward pass and up for
the relevance.
"""
import math
from typing import NamedTuple

import numpy as np

from common import tf

PIXELS = 'pixels'  # what the first layers read: the picture, preprocessed
SIZE = 224  # pixels, width and height of VGG's input
DEPTHS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}  # convolutions in each block
WIDTHS = (64, 128, 256, 512, 512)  # channels of each block
LINEAR = {'conv', 'depthwise', 'dense', 'mean', 'scale', 'add'}  # kinds that a rule explains
WEIGHTED = {'conv', 'depthwise', 'dense', 'scale'}  # those whose weights come from a file
POSITIVE = {'relu', 'sigmoid', 'hard_sigmoid', 'softplus'}  # activations that are never negative


class Layer(NamedTuple):
    """One layer of a network.

    kind: one of LINEAR, 'max' (pooling), or one that moves its inputs without changing them:
    'flatten' (to any shape), 'pad', 'crop', 'concat', 'gate' (the first input times the second),
    'activation'. padding: 'SAME', 'VALID', or rows above and below, columns left and right: ((1,
    1), (1, 1)). activation: a name in ACTIVATIONS, with its parameters if it has any: ('relu',
    6.0). Where it stands (place, low, high) is set by `placed` in explainer.py.
    """

    name: str
    kind: str
    inputs: tuple
    kernel: tuple = ()  # the shape of w, where a file gives it
    window: tuple = ()  # height and width, of 'mean' and 'max'
    shape: tuple = ()  # that 'flatten' makes, without the batch
    stride: tuple = (1, 1)
    padding: object = 'VALID'
    dilation: tuple = (1, 1)
    groups: int = 1
    activation: object = 'linear'
    place: str = 'upper'  # by which rules are chosen: 'pixels', 'lower', 'upper' or 'dense'
    low: object = 0.0  # bounds of the inputs: a number, or a list with one for each channel
    high: object = math.inf

    @property
    def signed(self):
        """Whether inputs can be negative."""
        return bool(np.min(self.low) < 0)

    @property
    def positive(self):
        """Whether the activation is never negative."""
        name = self.activation if isinstance(self.activation, str) else self.activation[0]
        return name in POSITIVE

    @property
    def unsigned_weights(self):
        """Whether no weight is negative: average pooling, additions."""
        return self.kind in ('mean', 'add')

    @property
    def both_signs(self):
        """Whether inputs or outputs can be negative."""
        return self.signed or not (self.positive or self.unsigned_weights)

    @property
    def geometry(self):
        """Stride and padding, as TensorFlow's raw ops take them."""
        if isinstance(self.padding, str):
            return {'strides': [1, *self.stride, 1], 'padding': self.padding}
        return {'strides': [1, *self.stride, 1], 'padding': 'EXPLICIT',
                'explicit_paddings': [0, 0, *self.padding[0], *self.padding[1], 0, 0]}

    @property
    def pooling(self):
        """Window, stride and padding of a pooling layer, likewise."""
        return {'ksize': [1, *self.window, 1], **self.geometry}


def layer_table(model, head):
    """The layers of 'vgg16' or 'vgg19', with dense layers of the sizes in `head`, logits last."""
    layers, inputs, channels = [], PIXELS, 3

    def add(name, kind, **geometry):
        nonlocal inputs
        layers.append(Layer(name, kind, (inputs,), **geometry))
        inputs = name

    for block, (depth, width) in enumerate(zip(DEPTHS[model], WIDTHS), 1):
        for i in range(1, depth + 1):
            add(f'block{block}_conv{i}', 'conv', kernel=(3, 3, channels, width), padding='SAME',
                activation='relu')
            channels = width
        add(f'block{block}_pool', 'max', window=(2, 2), stride=(2, 2))
    units = (SIZE // 2 ** len(WIDTHS)) ** 2 * channels
    add('flatten', 'flatten', shape=(units,))
    for i, outputs in enumerate(head, 1):
        last = i == len(head)
        add('predictions' if last else f'fc{i}', 'dense', kernel=(units, outputs),
            activation='linear' if last else 'relu')
        units = outputs
    return layers


class Weights:
    """Weights w and bias b of a layer, and what rules derive from w: computed once."""

    def __init__(self, w, b):
        self.w, self.b = w, b
        self.kept, self.values = [], {}

    def keep(self, name, value):
        """Keeps a value that depends on w alone in a variable, which all rules read."""
        if name not in self.values:
            variable = tf.Variable(value, trainable=False, use_resource=True,
                                   collections=[tf.GraphKeys.LOCAL_VARIABLES])
            self.kept.append(variable)
            self.values[name] = variable.read_value()
        return self.values[name]

    @property
    def positive(self):
        return self.keep('positive', tf.maximum(self.w, 0.0))

    @property
    def negative(self):
        return self.keep('negative', tf.minimum(self.w, 0.0))


# Linear layers.

def linear(layer, a, w):
    """The outputs of a linear layer for inputs a, without the bias, in the precision of w.

    w: 'conv' [height, width, inputs, outputs]; 'depthwise' [height, width, channels, multiplier];
    'dense' [inputs, outputs]; 'mean', 'scale' and 'add' [tensors, channels or 1].
    """
    a = tf.cast(a, w.dtype)
    if layer.kind == 'dense':
        return tf.matmul(a, w)
    if layer.kind == 'conv':
        groups = zip(parts(a, layer.groups), parts(dilated(layer, w), layer.groups))
        return joined([tf.raw_ops.Conv2D(input=x, filter=v, **layer.geometry) for x, v in groups])
    if layer.kind == 'depthwise':
        return tf.raw_ops.DepthwiseConv2dNative(input=a, filter=dilated(layer, w), **layer.geometry)
    if layer.kind == 'mean':
        a = tf.raw_ops.AvgPool(value=a, **layer.pooling)
    return tf.add_n([x * row for x, row in zip(parts(a, w.shape[0]), tf.unstack(w))])


def transposed(layer, s, w, a):
    """The transpose of `linear`: sends s [like the outputs] back along the weights. Like a."""
    s = tf.cast(s, w.dtype)
    if layer.kind == 'dense':
        c = tf.matmul(s, w, transpose_b=True)
    elif layer.kind == 'conv':
        groups = zip(parts(a, layer.groups), parts(s, layer.groups),
                     parts(dilated(layer, w), layer.groups))
        c = joined([tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=v, out_backprop=y, **layer.geometry)
            for x, y, v in groups])
    elif layer.kind == 'depthwise':
        c = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
            input_sizes=tf.shape(a), filter=dilated(layer, w), out_backprop=s, **layer.geometry)
    else:
        c = joined([s * row for row in tf.unstack(w)])
        if layer.kind == 'mean':
            c = tf.raw_ops.AvgPoolGrad(orig_input_shape=tf.shape(a), grad=c, **layer.pooling)
    return tf.cast(c, a.dtype)


def dilated(layer, w):
    """The kernel with zeros between its weights, as the layer's dilation says."""
    if layer.dilation == (1, 1):
        return w
    (down, right), (height, width, *channels) = layer.dilation, w.shape.as_list()
    w = tf.pad(w[:, None, :, None], [[0, 0], [0, down - 1], [0, 0], [0, right - 1], [0, 0], [0, 0]])
    w = tf.reshape(w, [height * down, width * right, *channels])
    return w[:height * down - down + 1, :width * right - right + 1]


def parts(x, n):
    """A tensor cut into n parts along its channels."""
    return tf.split(x, n, -1) if n > 1 else [x]


def joined(tensors):
    """The tensors side by side along their channels."""
    return tf.concat(tensors, -1) if len(tensors) > 1 else tensors[0]


def affine(layer, a, weights):
    """What a linear layer computes before its activation."""
    return linear(layer, a, weights.w) + weights.b


def pool(layer, a):
    """The largest input of each window."""
    return tf.raw_ops.MaxPool(input=a, **layer.pooling)


# Layers that move values without changing them. (A gate scales its signal.)

def moved(layer, inputs):
    """The outputs of such a layer."""
    x = inputs[0]
    if layer.kind == 'concat':
        return tf.concat(inputs, -1)
    if layer.kind == 'flatten':
        return tf.reshape(x, [-1, *layer.shape])
    if layer.kind == 'pad':
        return tf.pad(x, [[0, 0], *layer.padding, [0, 0]])
    if layer.kind == 'crop':
        (top, bottom), (left, right) = layer.padding
        return x[:, top:x.shape[1] - bottom, left:x.shape[2] - right]
    return x * inputs[1] if layer.kind == 'gate' else x


def moved_back(layer, inputs, r):
    """The relevance of its inputs. A gate passes all on to its signal (Arras et al. 2017)."""
    if layer.kind == 'concat':
        return tf.split(r, [x.shape[-1] for x in inputs], -1)
    if layer.kind == 'flatten':
        return [tf.reshape(r, tf.shape(inputs[0]))]
    if layer.kind == 'pad':
        (top, bottom), (left, right) = layer.padding
        return [r[:, top:r.shape[1] - bottom, left:r.shape[2] - right]]
    return [tf.pad(r, [[0, 0], *layer.padding, [0, 0]]) if layer.kind == 'crop' else r]


# Activations. Relevance passes through them unchanged.

def activate(activation, z):
    """The activation of z. activation: a name, or a name and its parameters."""
    name, *parameters = [activation] if isinstance(activation, str) else activation
    return ACTIVATIONS[name](z, *parameters)


def relu(z, largest=math.inf):
    return tf.nn.relu(z) if largest == math.inf else tf.minimum(tf.nn.relu(z), largest)


def leaky_relu(z, slope, largest=None, threshold=0.0):
    """Keras's ReLU with a slope below its threshold, and perhaps a largest value."""
    above = z if largest is None else tf.minimum(z, largest)
    return tf.where_v2(z >= threshold, above, tf.cast(slope, z.dtype) * (z - threshold))


def gelu(z, approximate=False):
    """z times the normal distribution function of z (Hendrycks & Gimpel 2016)."""
    if approximate:
        return 0.5 * z * (1 + tf.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z ** 3)))
    return 0.5 * z * (1 + tf.math.erf(z / math.sqrt(2)))


def hard_sigmoid(z):
    return tf.nn.relu6(z + 3.0) / 6.0


ACTIVATIONS = {
    'linear': lambda z: z,
    'relu': relu,
    'leaky_relu': leaky_relu,
    'elu': lambda z, alpha=1.0: tf.nn.relu(z) + alpha * tf.math.expm1(tf.minimum(z, 0.0)),
    'silu': lambda z: z * tf.sigmoid(z),
    'gelu': gelu,
    'sigmoid': lambda z: tf.sigmoid(z),
    'tanh': lambda z: tf.tanh(z),
    'softplus': lambda z: tf.nn.softplus(z),
    'hard_sigmoid': hard_sigmoid,
    'hard_silu': lambda z: z * hard_sigmoid(z),
}


def forward(pixels, layers, weights):
    """The network from the pixels to the logits.

    pixels: [n, height, width, channels], preprocessed; weights: {layer name: Weights}.
    Returns the activations {layer name: tensor}, the pixels among them as 'pixels'.
    """
    a = {PIXELS: pixels}
    for layer in layers:
        inputs = [a[name] for name in layer.inputs]
        if layer.kind in LINEAR:
            z = affine(layer, joined(inputs), weights[layer.name])
        else:
            z = pool(layer, inputs[0]) if layer.kind == 'max' else moved(layer, inputs)
        a[layer.name] = activate(layer.activation, z)
    return a
