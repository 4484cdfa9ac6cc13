"""Layer tables, those of VGG16 and VGG19 (Simonyan & Zisserman 2015), and the forward graph.

A table is a list of layers in an order in which they can be computed. Each names the layers that it
reads, so a table can describe any acyclic network. It is read down for the forward pass and up for
the relevance.
"""
import math
from typing import Callable, NamedTuple

import numpy as np

from common import keras, open_session, tf

PIXELS = 'pixels'  # what the first layers read: the picture, preprocessed
SIZE = 224  # pixels, width and height of VGG's input
DEPTHS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}  # convolutions in each block
WIDTHS = (64, 128, 256, 512, 512)  # channels of each block
WEIGHTED = {'conv', 'depthwise', 'dense', 'scale', 'gain'}  # kinds with weights from a file
LINEAR = WEIGHTED | {'sum', 'centre'}  # kinds that a rule explains
POSITIVE = {'relu', 'relu6', 'sigmoid', 'hard_sigmoid', 'softplus'}  # are never negative


class Layer(NamedTuple):
    """One layer of a network.

    kind: one of LINEAR; 'max' (pooling); 'move', a function that only moves, copies, drops
    or chooses values: each output is one of its inputs, or 0; 'gate': the first input times the
    second; 'activation'. 'sum' adds its inputs, each times a factor, or is a mean or the like of
    one input. 'scale' and 'gain' are a factor and a bias for each channel; 'gain' and 'centre',
    which takes a mean off, belong to normalisation by the picture's own statistics.
    """

    name: str
    kind: str
    inputs: tuple
    kernel: tuple = ()  # the shape of w, where a file gives it
    function: Callable = None  # of 'move', 'sum' and 'centre', by Keras
    factors: tuple = (1.0,)  # of 'sum', one for each input
    window: tuple = ()  # height and width, of 'max'
    shape: tuple = ()  # of what a transposed 'conv' makes, without the batch
    stride: tuple = (1, 1)
    padding: object = 'VALID'  # or 'SAME', or above and below, left and right: ((1, 1), (1, 1))
    dilation: tuple = (1, 1)
    groups: int = 1
    activation: object = 'linear'  # Keras's name of it, or a function
    place: str = 'upper'  # by which rules are chosen: 'pixels', 'lower', 'upper' or 'dense'
    low: object = 0.0  # bounds of the inputs: a number, or an array like them or their channels
    high: object = math.inf

    @property
    def signed(self):
        """Whether inputs can be negative."""
        return bool(np.min(self.low) < 0)

    @property
    def positive(self):
        """Whether the activation is never negative."""
        return isinstance(self.activation, str) and self.activation in POSITIVE

    @property
    def unsigned_weights(self):
        """Whether no weight is negative: average pooling, additions."""
        return self.kind == 'sum' and min(self.factors) >= 0

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
    add('flatten', 'move', function=keras.layers.Flatten().call)
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
    'dense' [inputs, outputs]; 'scale' and 'gain' [1, ...]; 'sum' [tensors, 1].
    """
    a = tf.cast(a, w.dtype)
    if layer.kind == 'dense':
        return tf.matmul(a, w)
    if layer.kind == 'conv' and layer.shape:
        return deconvolved(layer, a, tf.transpose(w, [0, 1, 3, 2]), [tf.shape(a)[0], *layer.shape])
    if layer.kind == 'conv':
        return convolved(layer, a, w)
    if layer.kind == 'depthwise':
        return tf.raw_ops.DepthwiseConv2dNative(input=a, filter=dilated(layer, w), **layer.geometry)
    if layer.function:
        a = layer.function(a)
    return tf.add_n([x * row for x, row in zip(parts(a, w.shape[0]), tf.unstack(w))])


def transposed(layer, s, w, a):
    """The transpose of `linear`: sends s [like the outputs] back along the weights. Like a."""
    s = tf.cast(s, w.dtype)
    if layer.kind == 'dense':
        c = tf.matmul(s, w, transpose_b=True)
    elif layer.kind == 'conv' and layer.shape:
        c = convolved(layer, s, tf.transpose(w, [0, 1, 3, 2]))
    elif layer.kind == 'conv':
        c = deconvolved(layer, s, w, tf.shape(a))
    elif layer.kind == 'depthwise':
        c = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
            input_sizes=tf.shape(a), filter=dilated(layer, w), out_backprop=s, **layer.geometry)
    else:
        c = joined([s * row for row in tf.unstack(w)])
        if layer.function:
            c, = sent_through(layer.function, [tf.cast(a, w.dtype)], c)
    return tf.cast(c, a.dtype)


def convolved(layer, x, w):
    """A convolution, in groups of channels."""
    groups = zip(parts(x, layer.groups), parts(dilated(layer, w), layer.groups))
    return joined([tf.raw_ops.Conv2D(input=a, filter=v, **layer.geometry) for a, v in groups])


def deconvolved(layer, y, w, shape):
    """Its transpose, for outputs y. shape: of its inputs."""
    sizes = tf.concat([shape[:3], [w.shape[2]]], 0) if layer.groups > 1 else shape
    groups = zip(parts(y, layer.groups), parts(dilated(layer, w), layer.groups))
    return joined([tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes, filter=v, out_backprop=s,
                                                  **layer.geometry) for s, v in groups])


def sent_through(function, inputs, r):
    """r [like the outputs] sent back by the transpose of a function: a list, like the inputs."""
    copies = [tf.identity(x) for x in inputs]  # tf.gradients searches all that reads its inputs
    return tf.gradients(function(*copies), copies, r)


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


def activate(activation, z):
    """Keras's activation of z. Relevance passes through it unchanged."""
    return keras.activations.get(activation)(z)


def forward(pixels, layers, weights):
    """The network from the pixels to the logits.

    pixels: [n, height, width, channels], preprocessed; weights: {layer name: Weights}.
    Returns the activations {layer name: tensor}, the pixels among them as 'pixels'.
    """
    a = {PIXELS: pixels}
    for layer in layers:
        inputs = [a[name] for name in layer.inputs]
        a[layer.name] = activate(layer.activation, computed(layer, inputs, weights))
    return a


def computed(layer, inputs, weights):
    """What a layer computes of its inputs before its activation."""
    if layer.kind in LINEAR:
        return affine(layer, joined(inputs), weights[layer.name])
    if layer.kind == 'max':
        return pool(layer, inputs[0])
    if layer.kind == 'move':
        return layer.function(*inputs)
    return inputs[0] * inputs[1] if layer.kind == 'gate' else inputs[0]


def placed(layers, a, low, high):
    """The layers with the place by which rules are chosen, and the bounds of their inputs.

    a: {layer name: activation}, of which only the shapes count; low, high: [channels], the bounds
    of the pixels.
    """
    bounds, result = {PIXELS: (np.float64(low), np.float64(high))}, []
    for layer in layers:
        given = [bounds[name] for name in layer.inputs]
        low, high = given[0]
        if len(given) > 1:
            low, high = min(np.min(each) for each, _ in given), math.inf
        place = place_of(layer, a, seen=np.isfinite(high).all())
        result.append(layer._replace(place=place, low=low, high=high))
        shapes = [a[name].shape for name in layer.inputs]
        bounds[layer.name] = bounds_behind(result[-1], given, shapes)
    return result


def place_of(layer, a, seen):
    """The place of a layer. seen: whether it reads the picture, whose values have bounds."""
    inputs, outputs = a[layer.inputs[0]].shape, a[layer.name].shape
    if seen and layer.kind in WEIGHTED:
        return 'pixels'
    if inputs.rank < 3 or layer.kind == 'conv' and outputs[1:3] == [1, 1]:
        return 'dense'
    side = inputs[1] if inputs.rank == 4 else math.sqrt(math.prod(inputs[1:-1]))  # of tokens
    return 'lower' if 8 * side > a[PIXELS].shape[1] else 'upper'


def bounds_behind(layer, given, shapes):
    """The bounds of a layer's outputs, from those of its inputs and their shapes."""
    if layer.positive:
        return 0.0, math.inf
    if layer.kind in WEIGHTED or layer.activation != 'linear' or min(layer.factors) < 0:
        return -math.inf, math.inf
    if layer.function and all(np.isfinite(high).all() for _, high in given):
        with tf.Graph().as_default(), open_session() as session:
            return session.run([layer.function(*(
                tf.constant(np.broadcast_to(pair[i], [1, *shape[1:]]))
                for pair, shape in zip(given, shapes)))[0] for i in range(2)])
    return layer.low, layer.high
