"""The digit classifier: its layer table, its weights and the forward graph.

Two 3x3 convolutions with ReLU, 2x2 max-pooling, a dense layer of 512 with ReLU, ten logits (6.45
million weights). To make another network, edit LAYERS and nothing else: shapes, training, relevance
and pictures follow from it.
"""
import math
from typing import NamedTuple

from common import Refused, tf

SIDE = 28  # pixels, width and height of a digit
CLASSES = 10
LINEAR = {'conv', 'dense'}  # kinds of layers that have weights


class Layer(NamedTuple):
    """One layer. It reads the layer before; all with weights but the last have a ReLU.

    kind: 'conv', 'dense', 'max' (pooling) or 'flatten'. outputs: of 'conv' and 'dense', how many
    (channels or units). window: height and width, of 'conv' and 'max'.
    """

    name: str
    kind: str
    outputs: int = 0
    window: tuple = ()
    stride: int = 1
    padding: str = 'SAME'

    @property
    def geometry(self):
        """Stride and padding, as TensorFlow's raw ops take them."""
        return {'strides': [1, self.stride, self.stride, 1], 'padding': self.padding}

    @property
    def pooling(self):
        """Window, stride and padding of a pooling layer, likewise."""
        return {'ksize': [1, *self.window, 1], **self.geometry}


LAYERS = [  # read down for the forward pass, up for the relevance
    Layer('conv1', 'conv', 32, (3, 3)),
    Layer('conv2', 'conv', 64, (3, 3)),
    Layer('pool', 'max', window=(2, 2), stride=2),
    Layer('flatten', 'flatten'),
    Layer('dense1', 'dense', 512),
    Layer('dense2', 'dense', CLASSES),
]


class Weights:
    """Weights w and bias b of a layer, and what rules derive from w: computed once."""

    def __init__(self, w, b):
        self.w, self.b = w, b
        self.values = {}

    def keep(self, name, value):
        """Keeps a value that depends on w alone in a variable, which all rules read."""
        if name not in self.values:
            variable = tf.Variable(value, trainable=False, use_resource=True,
                                   collections=[tf.GraphKeys.LOCAL_VARIABLES])
            self.values[name] = variable.read_value()
        return self.values[name]

    @property
    def positive(self):
        return self.keep('positive', tf.maximum(self.w, 0.0))

    @property
    def negative(self):
        return self.keep('negative', tf.minimum(self.w, 0.0))


def weight_shapes():
    """{layer name: shape of its w}, from what TensorFlow computes for a picture of zeros."""
    shapes = {}
    if len({layer.name for layer in LAYERS}) < len(LAYERS):
        raise Refused('LAYERS of mnist/model.py: two layers have the same name')
    with tf.Graph().as_default():
        a = tf.zeros([1, SIDE, SIDE, 1])
        for layer in LAYERS:
            weights = None
            if layer.kind in LINEAR:
                shapes[layer.name] = [*layer.window, a.shape[-1], layer.outputs]
                weights = Weights(tf.zeros(shapes[layer.name]), tf.zeros([layer.outputs]))
            a = outputs(layer, a, weights)
    if LAYERS[-1].kind != 'dense' or a.shape.as_list() != [1, CLASSES]:
        raise Refused(f'LAYERS of mnist/model.py: the last layer is of kind {LAYERS[-1].kind} and '
                      f'gives {a.shape[1:]}; it must be dense and give {CLASSES} logits')
    return shapes


def variables(seed=0):
    """Makes the weights {layer name: Weights}: w drawn from the seed (He et al. 2015), b zero."""
    weights = {}
    for i, (name, shape) in enumerate(weight_shapes().items()):
        deviation = math.sqrt(2 / math.prod(shape[:-1]))
        w = tf.random.stateless_truncated_normal(shape, [seed, i], stddev=deviation)
        w = tf.get_variable(f'{name}/kernel', initializer=w, use_resource=True)
        b = tf.get_variable(f'{name}/bias', initializer=tf.zeros(shape[-1:]), use_resource=True)
        weights[name] = Weights(w, b)
    return weights


def linear(layer, a, w):
    """The outputs of a layer with weights for inputs a, without the bias."""
    if layer.kind == 'dense':
        return tf.matmul(a, w)
    return tf.raw_ops.Conv2D(input=a, filter=w, **layer.geometry)


def transposed(layer, s, w, a):
    """The transpose of `linear`: sends s [like the outputs] back along the weights. Like a."""
    if layer.kind == 'dense':
        return tf.matmul(s, w, transpose_b=True)
    return tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(a), filter=w, out_backprop=s,
                                          **layer.geometry)


def affine(layer, a, weights):
    """What a layer with weights computes before its ReLU."""
    return tf.nn.bias_add(linear(layer, a, weights.w), weights.b)


def pool(layer, a):
    """The largest input of each window."""
    return tf.raw_ops.MaxPool(input=a, **layer.pooling)


def outputs(layer, a, weights):
    """The outputs of a layer for inputs a. weights: None if it has none."""
    if layer.kind == 'max':
        return pool(layer, a)
    if layer.kind == 'flatten':
        return tf.reshape(a, [-1, math.prod(a.shape[1:].as_list())])
    z = affine(layer, a, weights)
    return z if layer is LAYERS[-1] else tf.nn.relu(z)


def forward(images, weights, dropout_seed=None):
    """The network from the pixels to the logits.

    images: [n, 28, 28, 1] in [0, 1]; weights: as `variables` returns them; dropout_seed: two
    integers, for training only, which drops half of the last layer's inputs.
    Returns the activations: the images and the outputs of each layer.
    """
    a = [images]
    for layer in LAYERS:
        x = a[-1]
        if layer is LAYERS[-1] and dropout_seed is not None:
            x = tf.nn.experimental.stateless_dropout(x, rate=0.5, seed=dropout_seed)
        a.append(outputs(layer, x, weights.get(layer.name)))
    return a
