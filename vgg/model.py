"""VGG16 and VGG19 (Simonyan & Zisserman 2015): layer tables, the forward graph, and weights from files into variables.

Weights are read layer by layer: at most one layer is held twice while loading, and none is ever part of the graph's definition.
"""
import contextlib
import difflib
import os
from pathlib import Path
import sys
import zipfile
import zlib

import numpy as np

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')


@contextlib.contextmanager
def silence():
    """Discards what is written to standard error: TensorFlow's libraries log while loading, before any setting is read."""
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
import keras

from formats import open_weights

HERE = Path(__file__).resolve().parent
BUNDLED = HERE / 'weights' / 'vgg16_caltech101.npz'
IMAGENET_CLASSES = HERE / 'weights' / 'imagenet_classes.txt'
ORIGIN = 'https://storage.googleapis.com/tensorflow/keras-applications/'
PUBLISHED = {  # Keras's ImageNet files: name, MD5
    'vgg16': ('vgg16_weights_tf_dim_ordering_tf_kernels.h5', '64373286793e3c8b2b4e3219cbf3544b'),
    'vgg19': ('vgg19_weights_tf_dim_ordering_tf_kernels.h5', 'cbe5617147190e668d6c5d5026f83318'),
}
SIZE = 224  # pixels, width and height of the input
DEPTHS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}  # convolutions in each block
WIDTHS = (64, 128, 256, 512, 512)  # channels of each block


def layer_table(model, head):
    """The layers of 'vgg16' or 'vgg19' as (name, kind, weight shape), with dense layers of the sizes in `head`, logits last."""
    layers, channels = [], 3
    for block, (depth, width) in enumerate(zip(DEPTHS[model], WIDTHS), 1):
        for i in range(1, depth + 1):
            layers.append((f'block{block}_conv{i}', 'conv', [3, 3, channels, width]))
            channels = width
        layers.append((f'block{block}_pool', 'pool', None))
    layers.append(('flatten', 'flatten', None))
    inputs = (SIZE // 2 ** len(WIDTHS)) ** 2 * channels
    for i, outputs in enumerate(head, 1):
        layers.append(('predictions' if i == len(head) else f'fc{i}', 'dense', [inputs, outputs]))
        inputs = outputs
    return layers


def linear(layer, a, w):
    """The linear part of a layer: convolution (stride 1, zero padding), matrix product, or w times the 2x2 mean."""
    if layer[1] == 'conv':
        return tf.nn.conv2d(a, w, strides=1, padding='SAME')
    if layer[1] == 'pool':
        return w * tf.nn.avg_pool2d(a, ksize=2, strides=2, padding='VALID')
    return tf.matmul(a, w)


def affine(layer, a, w, b):
    """What a layer computes before its ReLU."""
    return linear(layer, a, w) + b


def forward(pixels, layers, weights, affine=affine):
    """The network from the pixels to the logits.

    pixels: [n, 224, 224, 3], BGR, mean subtracted; layers: a layer table; weights: {layer name: (w, b)}; affine: computes z.
    Returns the activations a[0..L]: a[i] is the input of layer i, a[0] the pixels, a[L] the logits.
    """
    a = [pixels]
    for layer in layers:
        name, kind, _ = layer
        if kind == 'pool':
            a.append(tf.nn.max_pool2d(a[-1], ksize=2, strides=2, padding='VALID'))
        elif kind == 'flatten':
            a.append(tf.reshape(a[-1], [-1, np.prod(a[-1].shape[1:].as_list())]))
        else:
            w, b = weights[name]
            z = affine(layer, a[-1], w, b)
            a.append(z if layer is layers[-1] else tf.nn.relu(z))
    return a


def load(session, model, path):
    """Reads a weight file into variables of the session's graph, layer by layer.

    path: .npz, .h5, .weights.h5 or .keras with the convolutions of `model` and any dense layers after them.
    Returns the layer table, the weights {layer name: (w, b)} as tensors that are read once, so that ops which are the same on
    the same tensor are computed once, and the class names in the file or None.
    Raises FileNotFoundError, or ValueError that names the layer or the fault for a file that holds anything else.
    """
    try:
        with contextlib.ExitStack() as stack:
            entries, classes = open_weights(Path(path), stack)
            layers = match(model, entries)
            named = [(name, shape) for name, _, shape in layers if shape]
            weights = {name: tuple(variables(session, name, shape, read)) for (name, shape), (_, _, read) in zip(named, entries)}
        return layers, weights, classes
    except FileNotFoundError:
        raise FileNotFoundError(f'no weight file {path}') from None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, EOFError, RuntimeError, MemoryError, OverflowError,
            zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f'{path}: {(str(error).splitlines() or ["damaged"])[0]}') from None


def match(model, entries):
    """The layer table of the entries of a file. Raises ValueError that names the first layer which is not the model's."""
    layers = layer_table(model, [shape[-1] for _, shape, _ in entries if len(shape) == 2])
    expected = [layer for layer in layers if layer[2]]
    for (name, _, shape), (found_name, found, _) in zip(expected, entries):
        if list(found) != shape:
            raise ValueError(f'layer {found_name} has shape {list(found)}, expected {shape} for {name} of {model}')
    if len(entries) < len(expected):
        raise ValueError(f'no weights for {expected[len(entries)][0]} of {model}')
    if len(expected[-1][2]) != 2:
        raise ValueError(f'no dense layers after the convolutions of {model}, so no classes to explain')
    return layers


def variables(session, name, shape, read):
    """Yields kernel and bias of one layer as tensors, read from variables that now hold what `read` reads."""
    kernel, bias = read()
    for part, array, shape in (('kernel', kernel, shape), ('bias', bias, shape[-1:])):
        if list(array.shape) != shape or not np.isfinite(array).all():
            raise ValueError(f'{part} of {name} has shape {list(array.shape)} or is not finite; expected {shape}')
        value = tf.placeholder(tf.float32, shape)
        variable = tf.get_variable(f'{name}/{part}', initializer=value, trainable=False, use_resource=True)
        session.run(variable.initializer, {value: array})
        with tf.name_scope(name):
            yield variable.read_value()


def stored(w, change, value):
    """`value`, which depends on the weights w alone, as a variable: computed when the session starts, not again at every run."""
    known = dict(tf.get_collection('stored'))
    if (w.name, change) not in known:
        variable = tf.get_variable(f'{w.op.name}/{change}', initializer=value, trainable=False, use_resource=True,
                                   collections=[tf.GraphKeys.LOCAL_VARIABLES])
        known[w.name, change] = variable.read_value()
        tf.add_to_collection('stored', ((w.name, change), known[w.name, change]))
    return known[w.name, change]


def weight_file(model, source):
    """The file of a --weights argument: the bundled one, Keras's ImageNet one (cached or downloaded by Keras), or a path."""
    if source == 'caltech101':
        if model != 'vgg16':
            raise ValueError(f'--weights caltech101 is a vgg16, not a {model}')
        return BUNDLED
    if source != 'imagenet':
        return Path(source)
    name, digest = PUBLISHED[model]
    try:
        return Path(keras.utils.get_file(name, f'{ORIGIN}{model}/{name}', cache_subdir='models', file_hash=digest))
    except Exception as error:  # Keras raises plain Exception when it cannot download
        cache = Path(os.environ.get('KERAS_HOME', Path.home() / '.keras')) / 'models'
        raise OSError(f'no ImageNet weights: {cache / name} does not exist and could not be downloaded '
                      f'({str(error).splitlines()[0]}); copy it there, or use --weights caltech101, which works offline') from None


def class_names(path, own, classes_file, count):
    """Names of the classes: from --classes FILE (one a line), the weight file's own, ImageNet's, or 'class 0' and so on."""
    if classes_file:
        try:
            names = Path(classes_file).read_text(encoding='utf-8').splitlines()
        except UnicodeDecodeError:
            raise ValueError(f'{classes_file} is no text: expected the name of a class on each line') from None
        if len(names) != count:
            raise ValueError(f'{classes_file} has {len(names)} lines, but {path} has {count} classes')
        return names
    if path.name in (name for name, _ in PUBLISHED.values()):
        own = IMAGENET_CLASSES.read_text(encoding='utf-8').splitlines()
    return own if own and len(own) == count else [f'class {i}' for i in range(count)]


def probabilities(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def find_target(text, classes):
    """The index of a class given by index or name. Raises ValueError if no class or more than one fits."""
    if text.isdecimal():
        if int(text) >= len(classes):
            raise ValueError(f'--target {text}: the classes are 0 to {len(classes) - 1}')
        return int(text)
    fitting = [i for i, name in enumerate(classes) if name.lower() == text.lower()]
    if not fitting:
        close = difflib.get_close_matches(text.lower(), dict.fromkeys(name.lower() for name in classes), 3)
        raise ValueError(f'--target {text}: no such class' + (f'; did you mean {" or ".join(close)}?' if close else ''))
    if len(fitting) > 1:
        raise ValueError(f'--target {text} fits several classes: give one of the indices {", ".join(map(str, fitting))}')
    return fitting[0]


def session_config(precision):
    """A session's settings; for bfloat16 TensorFlow rewrites the graph, unless the processor does not have it: then says so."""
    config = tf.ConfigProto()
    if precision == 'bfloat16':
        cpu = Path('/proc/cpuinfo')
        if cpu.exists() and any(flag in cpu.read_text() for flag in ('avx512_bf16', 'amx_bf16')):
            rewrites = config.graph_options.rewrite_options
            rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
        else:
            print('this processor has no bfloat16 instructions: going on in float32', file=sys.stderr)
    return config
