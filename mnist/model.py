"""The digit classifier: one layer table, its weights and the forward graph that the table describes.

The network: two 3x3 convolutions with ReLU, 2x2 max-pooling, a dense layer of 512 with ReLU, ten logits (6.45 million weights).
"""
import contextlib
import os
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')


@contextlib.contextmanager
def silence():
    """Discards what is written to standard error: some of TensorFlow's libraries log whatever the settings say."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, 'w') as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


with silence():
    import tensorflow.compat.v1 as tf
tf.logging.set_verbosity(tf.logging.ERROR)

BEST = 'best_checkpoint'  # the file in the logdir that names the checkpoint of best validation accuracy
LAYERS = [  # name, kind, weight shape: read down for the forward pass, up for the relevance
    ('conv1', 'conv', [3, 3, 1, 32]),
    ('conv2', 'conv', [3, 3, 32, 64]),
    ('pool', 'pool', None),
    ('flatten', 'flatten', None),
    ('dense1', 'dense', [14 * 14 * 64, 512]),
    ('dense2', 'dense', [512, 10]),
]


def variables(seed=0):
    """Makes the weights: {layer name: (w, b)}, w drawn by He et al. (2015) from the seed, b zero."""
    weights = {}
    for i, (name, _, shape) in enumerate(layer for layer in LAYERS if layer[2]):
        inputs = tf.reduce_prod(tf.constant(shape[:-1], tf.float32))
        w = tf.random.stateless_truncated_normal(shape, [seed, i], stddev=tf.sqrt(2.0 / inputs))
        weights[name] = (tf.get_variable(f'{name}/kernel', initializer=w, use_resource=True),
                         tf.get_variable(f'{name}/bias', initializer=tf.zeros(shape[-1:]), use_resource=True))
    return weights


def linear(layer, a, w):
    """The linear part of a layer: convolution (stride 1, zero padding) or matrix product."""
    return tf.nn.conv2d(a, w, strides=1, padding='SAME') if layer[1] == 'conv' else tf.matmul(a, w)


def forward(images, weights, dropout_seed=None):
    """The network from the pixels to the logits.

    images: [n, 28, 28, 1] in [0, 1]; weights: as `variables` returns them; dropout_seed: two integers, given while training only.
    Returns the activations a[0..L]: a[i] is the input of layer i, a[0] the pixels, a[L] the logits [n, 10].
    """
    a = [images]
    for layer in LAYERS:
        name, kind, _ = layer
        if kind == 'pool':
            a.append(tf.nn.max_pool2d(a[-1], ksize=2, strides=2, padding='SAME'))
        elif kind == 'flatten':
            a.append(tf.reshape(a[-1], [-1, 14 * 14 * 64]))
        else:
            w, b = weights[name]
            z = tf.nn.bias_add(linear(layer, a[-1], w), b)
            a.append(z if layer is LAYERS[-1] else tf.nn.relu(z))
        if name == 'dense1' and dropout_seed is not None:
            a[-1] = tf.nn.experimental.stateless_dropout(a[-1], rate=0.5, seed=dropout_seed)
    return a


def best_checkpoint(logdir):
    """The checkpoint of best validation accuracy. Raises FileNotFoundError if nothing was trained there."""
    best = tf.train.get_checkpoint_state(str(logdir), BEST)
    if not best:
        raise FileNotFoundError(f'no trained network in {logdir}: run mnist/train.py first, or give its --logdir')
    return best.model_checkpoint_path


def restore(session, saver, checkpoint, wanted):
    """Reads the wanted variables from a checkpoint. Raises ValueError if it is damaged or of a network of another shape."""
    try:
        shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
        for variable in wanted:
            name, shape = variable.op.name, variable.shape.as_list()
            if shapes.get(name) != shape:
                raise TypeError(f'{name} is {shapes.get(name, "missing")}, expected {shape}')
        with silence():  # TensorFlow logs what it also raises
            saver.restore(session, checkpoint)
    except TypeError as error:
        raise ValueError(f'checkpoint {checkpoint} is of another network: {error}; use another --logdir') from None
    except (tf.errors.OpError, LookupError, ValueError, RuntimeError):
        raise ValueError(f'checkpoint {checkpoint} is damaged; delete its folder and train again') from None
