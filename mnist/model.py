"""The digit classifier: one layer table, its weights and the forward graph that the table describes.

The network: two 3x3 convolutions with ReLU, 2x2 max-pooling, a dense layer of 512 with ReLU, ten logits (6.45 million weights).
Whoever edits LAYERS has edited all of it: shapes, training, relevance and pictures follow.
"""
import math
from typing import NamedTuple

from script import silence, tf

BEST = 'best_checkpoint'  # the file in the logdir in which TensorFlow notes the checkpoint of best validation accuracy
SIDE = 28  # of a digit, in pixels
CLASSES = 10


class Layer(NamedTuple):
    """One layer. What comes into it follows from the layers before it; ReLU follows every one with weights but the last."""

    name: str
    kind: str
    size: tuple = ()
    stride: int = 1
    padding: str = 'SAME'

    @property
    def geometry(self):
        """Stride and padding, as TensorFlow's raw ops take them."""
        return {'strides': [1, self.stride, self.stride, 1], 'padding': self.padding}

    @property
    def window(self):
        """Window, stride and padding of a pooling layer, likewise."""
        return {'ksize': [1, *self.size, 1], **self.geometry}


LAYERS = [  # read down for the forward pass, up for the relevance
    Layer('conv1', 'conv', (3, 3, 32)),  # height and width of the kernel, channels
    Layer('conv2', 'conv', (3, 3, 64)),
    Layer('pool', 'max', (2, 2), 2),  # height and width of the window
    Layer('flatten', 'flatten'),
    Layer('dense1', 'dense', (512,)),
    Layer('dense2', 'dense', (CLASSES,)),
]


class Weights:
    """Weights w and bias b of a layer, and parts of w: computed when the session starts, not at every run."""

    def __init__(self, name, w, b):
        self.name, self.w, self.b = name, w, b
        self.parts = {}

    def read(self):
        """The same, read from its variables once: TensorFlow computes equal ops on the same tensor once."""
        return Weights(self.name, self.w.read_value(), self.b.read_value())

    def keep(self, change, value):
        """Keeps a value, which depends on w alone, in a local variable. Returns what is read from it, once for all rules."""
        if change not in self.parts:
            variable = tf.get_variable(f'{self.name}/{change}', initializer=value, trainable=False, use_resource=True,
                                       collections=[tf.GraphKeys.LOCAL_VARIABLES])
            self.parts[change] = variable.read_value()
        return self.parts[change]

    @property
    def positive(self):
        return self.keep('positive', tf.maximum(self.w, 0.0))

    @property
    def negative(self):
        return self.keep('negative', tf.minimum(self.w, 0.0))


def weight_shapes():
    """{layer name: shape of its w}. Raises ValueError that names the first entry of LAYERS which cannot be."""
    shapes, inputs = {}, [SIDE, SIDE, 1]
    for layer in LAYERS:
        where = f'LAYERS of mnist/model.py: {layer.name}'
        if layer.name in shapes or layer.kind not in ('conv', 'max', 'flatten', 'dense'):
            raise ValueError(f'{where} stands twice, or is neither conv, max, flatten nor dense but {layer.kind}')
        if (len(inputs) == 3) != (layer.kind != 'dense'):
            raise ValueError(f'{where}, {layer.kind}, cannot follow there: flatten stands once, between maps and dense layers')
        if layer.kind == 'conv':
            shapes[layer.name] = [*layer.size[:2], inputs[-1], layer.size[-1]]
        elif layer.kind == 'dense':
            shapes[layer.name] = [*inputs, *layer.size]
        inputs = output_shape(layer, inputs)
    if inputs != [CLASSES]:
        raise ValueError(f'{where} gives {inputs}; the last layer must be dense, with {CLASSES} logits')
    return shapes


def output_shape(layer, inputs):
    """The shape of what a layer makes of inputs of this shape, without the batch."""
    if layer.kind == 'flatten':
        return [math.prod(inputs)]
    if layer.kind == 'dense':
        return list(layer.size)
    window = layer.size[:2] if layer.padding == 'VALID' else (1, 1)
    sides = [math.ceil((side - over + 1) / layer.stride) for side, over in zip(inputs, window)]
    return [*sides, layer.size[-1] if layer.kind == 'conv' else inputs[-1]]


def variables(seed=0):
    """Makes the weights: {layer name: Weights}, w drawn by He et al. (2015) from the seed, b zero."""
    weights = {}
    for i, (name, shape) in enumerate(weight_shapes().items()):
        w = tf.random.stateless_truncated_normal(shape, [seed, i], stddev=math.sqrt(2 / math.prod(shape[:-1])))
        weights[name] = Weights(name, tf.get_variable(f'{name}/kernel', initializer=w, use_resource=True),
                                tf.get_variable(f'{name}/bias', initializer=tf.zeros(shape[-1:]), use_resource=True))
    return weights


def linear(layer, a, w):
    """The linear part of a layer: convolution or matrix product."""
    if layer.kind == 'conv':
        return tf.raw_ops.Conv2D(input=a, filter=w, **layer.geometry)
    return tf.matmul(a, w)


def transposed(layer, s, w, a):
    """The transpose of `linear`: sends s, shaped like the layer's output, back along the weights to the shape of a."""
    if layer.kind == 'conv':
        return tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(a), filter=w, out_backprop=s, **layer.geometry)
    return tf.matmul(s, w, transpose_b=True)


def affine(layer, a, weights):
    """What a layer computes before its ReLU."""
    return tf.nn.bias_add(linear(layer, a, weights.w), weights.b)


def pool(layer, a):
    """The largest input of each window."""
    return tf.raw_ops.MaxPool(input=a, **layer.window)


def forward(images, weights, dropout_seed=None):
    """The network from the pixels to the logits.

    images: [n, 28, 28, 1] in [0, 1]; weights: as `variables` returns them; dropout_seed: two integers, given while training only,
    when half of what comes into the last layer is dropped.
    Returns the activations a[0..L]: a[i] is the input of layer i, a[0] the pixels, a[L] the logits [n, 10].
    """
    a = [images]
    for layer in LAYERS:
        if layer is LAYERS[-1] and dropout_seed is not None:
            a[-1] = tf.nn.experimental.stateless_dropout(a[-1], rate=0.5, seed=dropout_seed)
        if layer.kind == 'max':
            a.append(pool(layer, a[-1]))
        elif layer.kind == 'flatten':
            a.append(tf.reshape(a[-1], [-1, math.prod(a[-1].shape[1:].as_list())]))
        else:
            z = affine(layer, a[-1], weights[layer.name])
            a.append(z if layer is LAYERS[-1] else tf.nn.relu(z))
    return a


def checkpoints(logdir, kind):
    """The checkpoints 'last' or 'best' in a folder, the oldest first: by their files, whatever TensorFlow's note of them says."""
    found = {path.with_suffix('') for path in logdir.glob(f'{kind}-*.index')}
    return [str(path) for path in sorted(found, key=lambda path: int(path.name.split('-')[1])) if path.name.split('-')[1].isdecimal()]


def best_checkpoint(logdir):
    """The checkpoint of best validation accuracy, the last one saved. Raises FileNotFoundError if nothing was trained there, ValueError
    for a folder that TensorFlow cannot read."""
    check_logdir(logdir)
    best = checkpoints(logdir, 'best')
    if not best:
        raise FileNotFoundError(f'no trained network in {logdir}: run mnist/train.py first, or give its --logdir')
    return best[-1]


def check_logdir(logdir):
    """Raises ValueError for a folder whose name TensorFlow takes for a pattern."""
    if set('[]*?') & set(str(logdir.absolute())):
        raise ValueError(f'--logdir {logdir}: TensorFlow finds no checkpoints in a folder with one of [ ] * ? in its path')


class Damaged(ValueError):
    """A checkpoint that cannot be read."""


def restore(session, saver, checkpoint, wanted):
    """Reads the wanted variables {name in the checkpoint: variable} from a checkpoint.

    Raises ValueError if it is damaged or of a network of another shape.
    """
    try:
        shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
        for name, variable in wanted.items():
            shape = variable.shape.as_list()
            if shapes.get(name) != shape:
                raise TypeError(f'{name} is {shapes.get(name, "missing")}, expected {shape}')
        with silence():  # TensorFlow logs what it also raises
            saver.restore(session, checkpoint)
    except TypeError as error:
        raise ValueError(f'checkpoint {checkpoint} is of another network: {error}; use another --logdir') from None
    except (tf.errors.OpError, LookupError, ValueError, RuntimeError):
        raise Damaged(f'checkpoint {checkpoint} is damaged; delete its folder and train again') from None
