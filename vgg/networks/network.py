"""Where a network comes from: bundled, ImageNet's by Keras, or a user's file; its preprocessing and
class names.

A model that Keras saved whole (.keras, .h5) says what it is. Files of weights alone are taken for
VGG16 or VGG19. Whatever the source, the result is a layer table and functions that read one layer's
weights.
"""
from functools import partial
import hashlib
import os
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

from common import Refused, keras
from networks.file_types import kind_of
from networks.keras_graph import open_model, read_model
from networks.keras_weights import mirrored
from model import SIZE, WEIGHTED
from pictures import first_picture
from networks.preprocessing import MODES, TRAINED_WITH, Preparation, check_upright, reverses, shades
from networks.vgg_weights import read_weights

HERE = Path(__file__).resolve().parent.parent
BUNDLED = {'caltech101': HERE / 'weights' / 'vgg16_caltech101.npz',
           'lite0': HERE / 'weights' / 'efficientnet_lite0.keras'}
IMAGENET_CLASSES = HERE / 'weights' / 'imagenet_classes.txt'
ORIGIN = 'https://storage.googleapis.com/tensorflow/keras-applications/'
PUBLISHED = {  # Keras's files of ImageNet weights, and their MD5
    'vgg16': ('vgg16_weights_tf_dim_ordering_tf_kernels.h5', '64373286793e3c8b2b4e3219cbf3544b'),
    'vgg19': ('vgg19_weights_tf_dim_ordering_tf_kernels.h5', 'cbe5617147190e668d6c5d5026f83318'),
}


class Network(NamedTuple):
    """A network that can be explained."""

    path: Path
    layers: list  # the layer table
    read: dict  # {layer name: function that reads w and b}
    prepare: Preparation
    size: tuple = (SIZE, SIZE, 3)  # of a picture
    bgr: bool = True  # whether the first layer's channels are blue, green, red
    end: str = 'softmax'  # or 'sigmoid'; 'value' for one linear output
    said: str = ''  # what was read or assumed
    classes: list = None  # their names, if the file has them
    keras: Callable = None  # the user's model
    gives_logits: bool = False  # whether the model's outputs are logits, not probabilities

    @property
    def name(self):
        return self.path.name

    @property
    def bounds(self):
        """The bounds of the first layers' inputs, low and high: [channels] each."""
        extremes = np.concatenate([shade.reshape(-1, shade.shape[-1])
                                   for shade in shades(self.prepare, self.size)])
        return extremes.min(0), extremes.max(0)

    @property
    def count(self):
        """The number of classes."""
        last = [layer for layer in self.layers if layer.kind in WEIGHTED][-1]
        return last.kernel[-1]

    @property
    def title(self):
        """What the first line of output says of the network."""
        kinds = [layer.kind for layer in self.layers]
        convolutions = kinds.count('conv') + kinds.count('depthwise')
        logits = f' (the {self.end} of its logits)' * self.gives_logits
        outputs = 'one value' if self.end == 'value' else f'{self.count} classes{logits}'
        return (f'{self.name}: {plural(convolutions, "convolution")}, '
                f'{plural(kinds.count("dense"), "dense layer")}, {self.size[0]}x{self.size[1]}, '
                f'{self.said}, {outputs}')

    def compare(self, classify, pictures, precision):
        """Raises Refused if `classify` does not give Keras's outputs, for noise and for the first of
        `pictures`. Returns whether there is a model of Keras to compare with."""
        if not self.keras:
            return False
        noise = np.random.default_rng(0).integers(0, 256, self.size, np.uint8)
        images = {'random noise': noise, **first_picture(pictures, self.size)}
        batch = np.stack(list(images.values()))
        compare(self, by_keras(self, batch), self.probabilities(classify(batch)), list(images),
                precision)
        return True

    def probabilities(self, logits):
        """Softmax of logits [..., classes], or each class's own sigmoid; a value as it is."""
        if self.end == 'value':
            return np.asarray(logits, np.float64)
        with np.errstate(invalid='ignore', over='ignore'):  # run.py refuses what is not finite
            if self.end == 'sigmoid':
                return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
            shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, -1, keepdims=True))
            return shifted / shifted.sum(-1, keepdims=True)


def open_network(source, preprocessing=None, pictures=(), model=None):
    """Opens the network of a --weights argument: 'imagenet', 'caltech101', 'lite0' or a file.

    model: 'vgg16' or 'vgg19' for weights alone, or None for the one that fits; preprocessing: one
    of MODES, or None where it is known. Where it is not, lists the modes, with what the network
    sees in the first of `pictures` (paths), and raises Refused: a wrong guess would be a wrong
    heatmap. Raises Refused, too, naming the file, for what cannot be read or explained.
    """
    path = weight_file(source, model)
    kind = kind_of(path)
    if kind == 'weights':
        return of_weights(path, model, preprocessing, source in ('imagenet', *BUNDLED))
    if model:
        raise Refused(f'--model {model} is for files of weights alone; {path} holds a whole model')
    return of_model(path, open_model(path, kind), preprocessing, pictures)


def weight_file(source, model):
    """The path of a --weights argument: bundled, downloaded by Keras into its cache, or a file."""
    if source in BUNDLED:
        if model not in (None, 'vgg16') or model and source != 'caltech101':
            raise Refused(f'--weights {source} is no {model}')
        return BUNDLED[source]
    if source != 'imagenet':
        return Path(source)
    model = model or 'vgg16'
    name, md5 = PUBLISHED[model]
    try:
        url = f'{ORIGIN}{model}/{name}'
        return Path(keras.utils.get_file(name, url, cache_subdir='models', file_hash=md5))
    except Exception as error:  # Keras raises of all kinds when it cannot download
        cache = Path(os.environ.get('KERAS_HOME', os.path.expanduser('~/.keras'))) / 'models'
        raise Refused(f'no ImageNet weights: {cache / name} does not exist and could not be '
                      f'downloaded ({str(error).splitlines()[0]}); copy it there, or use --weights '
                      'caltech101 or --weights lite0, which need no download') from None


def digest(path):
    """The SHA-256 of a file."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def plural(number, noun):
    return f'{number} {noun}{"s" * (number != 1)}'


# A model that Keras saved whole

def of_model(path, model, preprocessing, pictures=()):
    """The network of a Keras model."""
    try:
        found = read_model(model)
    except Refused as error:
        raise Refused(f'{path}: {error}') from None
    black, white = shades(Preparation('none', found.preparation), found.size)
    inside = bool(black.any() or (white != 255).any())
    mode, size = preprocessing or 'none', found.size
    if size[-1] == 1 and mode in ('caffe', 'torch'):
        raise Refused(f'{path}: --preprocessing {mode} is for pictures in three colours')
    prepare = Preparation(mode, found.preparation)
    check_upright(path, prepare, size)
    said = [f'preprocessing {mode}'] * (mode != 'none') + ['preprocessing in the model'] * inside
    said = ' and '.join(said) or 'no preprocessing'
    end = found.end or ('value' if model.output_shape[-1] == 1 else 'softmax')
    classes = imagenet_classes() if path == BUNDLED['lite0'] else None
    layers, bgr = found.layers, reverses(prepare, size)
    network = Network(path, layers, found.read, prepare, size, bgr, end, said, classes, model,
                      gives_logits=found.end is None)
    if not (preprocessing or inside):
        ask(path, {mode: seen_with(network, mode, pictures) for mode in MODES})
    return network


def seen_with(network, mode, pictures):
    """What the network sees in the first picture that can be read, prepared in this mode."""
    if network.size[-1] == 1 and mode in ('caffe', 'torch'):
        return 'not for grey pictures'
    network = network._replace(prepare=network.prepare._replace(mode=mode))
    for path, image in first_picture(pictures, network.size).items():
        outputs = by_keras(network, image[None])[0]
        name = 'output' if network.end == 'value' else f'class {outputs.argmax()}'
        return f'{name} {outputs.max():.2f} in {path}'
    return ''


def ask(path, seen):
    """Lists the modes of preprocessing, with what is seen in each, and raises Refused."""
    print(f'{path} does not say how pictures were prepared for it. Its training script does:')
    for mode, source in TRAINED_WITH.items():
        print(f'  --preprocessing {mode:6} {source:55} {seen[mode]}'.rstrip())
    raise Refused(f'{path}: say how pictures were prepared for it, by --preprocessing '
                  f'{"|".join(MODES)}')


def imagenet_classes():
    return IMAGENET_CLASSES.read_text(encoding='utf-8').splitlines()


def by_keras(network, images):
    """The probabilities [n, classes] that Keras gives to images [n, h, w, c], uint8."""
    outputs = Preparation(network.prepare.mode, [network.keras])(images.astype(np.float32))
    outputs = outputs.astype(np.float64)
    if network.end == 'sigmoid' and outputs.shape[-1] == 1:
        outputs = np.concatenate([1 - outputs, outputs], -1)
    return network.probabilities(outputs) if network.gives_logits else outputs


def compare(network, expected, found, names, precision):
    """Raises Refused if the probabilities of our graph [n, classes] are not those that Keras gives.

    They must agree to 1e-3, and where they are near 0 so must their logarithms, as far as these are
    exact. A value must agree to a thousandth. In bfloat16 the most likely class must be the same.
    """
    least = 1e-4 if network.end == 'sigmoid' else 1e-30  # 1 - sigmoid is rounded off
    for name, theirs, ours in zip(names, expected, found):
        logs = [np.log(np.maximum(each, least)) for each in (theirs, ours)]
        relative = np.abs(logs[0] - logs[1]) / (1 + np.abs(logs[0]).max())
        apart = np.maximum(np.abs(theirs - ours), relative)
        if network.end == 'value':
            apart = np.abs(theirs - ours) / (1 + np.abs(theirs))
        same = apart.max() <= 1e-3
        if precision == 'bfloat16':
            same = np.isfinite(ours).all() and theirs.max() - theirs[ours.argmax()] <= 0.05
        if not same:
            k = apart.argmax()
            raise Refused(f'{network.path}: our copy of this network computes something else: for '
                          f'{name} it gives class {k} {ours[k]:.3g}, Keras gives {theirs[k]:.3g}')


# Files of weights alone

def of_weights(path, model, preprocessing, known):
    """VGG16 or VGG19 with the weights of a file. known: it is known to be that network."""
    model, layers, read, classes = read_weights(path, model)
    known = known or path.name in (name for name, _ in PUBLISHED.values())
    if not (known or preprocessing):
        ask(path, dict.fromkeys(MODES, ''))
    end = 'softmax'
    if layers[-1].kernel[-1] == 1:  # one output z becomes two classes, -z and z
        end, read['predictions'] = 'sigmoid', partial(mirrored, read['predictions'])
        layers[-1] = layers[-1]._replace(kernel=(layers[-1].kernel[0], 2))
    if path.name in (name for name, _ in PUBLISHED.values()):
        classes = imagenet_classes()
    prepare, size = Preparation(preprocessing or 'caffe'), (SIZE, SIZE, 3)
    said = f'{model}, preprocessing {prepare.mode}'
    said = said if known else f'taken for {said}, ReLU between dense layers, {end} at the end'
    return Network(path, layers, read, prepare, size,
                   reverses(prepare, size), end, said, classes)

