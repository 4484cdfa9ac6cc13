"""Where a network comes from: bundled, ImageNet's by Keras, a user's file or a live model.

A file says by its content what it is. Whatever the source, the result is a Network: a layer table,
functions that read one layer's weights, and what happens to a picture before the first layer.
"""
import hashlib
from importlib.util import find_spec
import json
from pathlib import Path
import shutil
import tempfile
from typing import Callable, NamedTuple
import zipfile

import h5py
import numpy as np

from common import Refused, keras, silence
from model import SIZE, WEIGHTED
from networks.keras_graph import read_model
from networks.keras2 import decoded, every_layer, open_h5, open_keras2, reading
from networks.preprocessing import MODES, Preprocessing, ask
from networks.vgg_weights import PUBLISHED, downloaded, read_weights
from pictures import first_picture

HERE = Path(__file__).resolve().parent.parent
BUNDLED = {'caltech101': HERE / 'weights' / 'vgg16_caltech101.npz',
           'lite0': HERE / 'weights' / 'efficientnet_lite0.keras'}
IMAGENET_CLASSES = HERE / 'weights' / 'imagenet_classes.txt'
SAVED_MODEL = ("a SavedModel of TensorFlow; where it was made, save the model itself: "
               "model.save('my.keras'). If Keras 2 saved it, model = tf.keras.models.load_model("
               "'{}') there, then model.save('my.h5')")
WEIGHTS_ALONE = ("weights without their layers; build the model as your training script does, then "
                 "model.load_weights('{}') and model.save('my.keras')")
LAYERS_ALONE = ("a network without its weights; model = model_from_json(open('{}').read()), then "
                "model.load_weights(...) and model.save('my.keras')")
OTHERS = {'.onnx': 'ONNX', '.tflite': 'TensorFlow Lite', '.pt': 'PyTorch', '.pth': 'PyTorch'}
TOLERANCE = 1e-3  # by which our outputs may differ from Keras's
TOLERANCE_IN_HALF = 0.05  # by which the most likely class may be less likely to Keras
FARTHEST = 256  # black and white are no farther apart to a network, or something is missing
TWICE = '; a script that divides by 255 as well needs --preprocessing unit'


class Network(NamedTuple):
    """A network that can be explained."""

    path: Path  # of a live model: its name
    layers: list  # the layer table
    read: dict  # {layer name: function that reads w and b}
    preprocess: Preprocessing
    bounds: tuple  # the least and the greatest value of each channel that the first layer sees
    bgr: bool  # whether these channels are blue, green, red
    end: str = 'softmax'  # or 'sigmoid'; 'value' for one linear output
    classes: list = None  # their names, if they are known
    keras: Callable = None  # the user's model
    gives_logits: bool = False  # whether the model's outputs are logits, not probabilities

    @property
    def name(self):
        return self.path.name

    @property
    def size(self):
        """Height, width and channels of a picture."""
        return self.preprocess.size

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
        logits = f' (the {self.end} of its logits)' if self.gives_logits else ''
        outputs = 'one value' if self.end == 'value' else f'{self.count} classes{logits}'
        alone = self.preprocess.mode == 'none' and self.preprocess.in_model() and not self.classes
        return (f'{self.name}: {plural(convolutions, "convolution")}, '
                f'{plural(kinds.count("dense"), "dense layer")}, {self.size[0]}x{self.size[1]}, '
                f'{self.preprocess.in_words()}, {outputs}{TWICE if alone else ""}')

    def probabilities(self, logits):
        """Softmax of logits [..., classes], or each class's own sigmoid; a value as it is."""
        logits = np.asarray(logits, np.float64)
        if self.end == 'value':
            return logits
        with np.errstate(invalid='ignore', over='ignore'):  # run.py refuses what is not finite
            if self.end == 'sigmoid':
                return 1 / (1 + np.exp(-logits))
            shifted = np.exp(logits - np.max(logits, -1, keepdims=True))
            return shifted / shifted.sum(-1, keepdims=True)

    def by_keras(self, images):
        """The probabilities [n, classes] that the user's model gives to images [n, h, w, c]."""
        outputs = self.preprocess._replace(inside=self.keras)(images.astype(np.float32))
        outputs = outputs.astype(np.float64)
        if self.end == 'sigmoid' and outputs.shape[-1] == 1:
            outputs = np.concatenate([1 - outputs, outputs], -1)
        return self.probabilities(outputs) if self.gives_logits else outputs

    def compare(self, classify, pictures, precision):
        """Compares our graph with the user's model, for noise and the first of `pictures` (paths).

        classify: a function from images [n, h, w, c] to our logits. Raises Refused if the
        probabilities differ. Returns whether there is a model to compare with.
        """
        if self.keras is None:
            return False
        noise = np.random.default_rng(0).integers(0, 256, self.size, np.uint8)
        images = {'random noise': noise, **first_picture(pictures, self.size)}
        batch = np.stack(list(images.values()))
        half = precision == 'bfloat16' or any(
            layer.compute_dtype in ('float16', 'bfloat16') for layer in every_layer(self.keras))
        ours = self.probabilities(classify(batch))
        for name, expected, found in zip(images, self.by_keras(batch), ours):
            self.check_outputs(name, expected, found, half)
        return True

    def check_outputs(self, picture, expected, found, half):
        """Raises Refused if the probabilities found [classes] are not those expected.

        They must agree to TOLERANCE, and where they are near 0 so must their logarithms, as far as
        these are exact. In half precision, ours or Keras's, the most likely class must be the same.
        """
        apart, tolerance = np.abs(expected - found), TOLERANCE_IN_HALF if half else TOLERANCE
        if self.end == 'value':
            apart = apart / (1 + np.abs(expected))
        elif half:
            apart = np.where(np.isfinite(found), expected.max() - expected[found.argmax()], np.nan)
        else:
            least = 1e-4 if self.end == 'sigmoid' else 1e-30  # 1 - sigmoid is rounded off
            logs, others = (np.log(np.maximum(each, least)) for each in (expected, found))
            apart = np.maximum(apart, np.abs(logs - others) / (1 + np.abs(logs).max()))
        if not apart.max() <= tolerance:  # nor if it is NaN
            k = apart.argmax()
            raise Refused(f'{self.path}: our copy of this network computes something else: for '
                          f'{picture} it gives class {k} {found[k]:.3g}, Keras gives '
                          f'{expected[k]:.3g}')


def plural(number, noun):
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def open_network(source, preprocessing=None, pictures=(), model=None, bgr=False):
    """Opens the network of a --weights argument: 'imagenet', 'caltech101', 'lite0' or a file; or a
    copy of a live keras.Model, which stays as it is.

    preprocessing: one of MODES, or None where it is known. Where it is not, lists the modes, with
    what the network sees in the first of `pictures` (paths), and raises Refused: a wrong guess
    would be a wrong heatmap. model: 'vgg16' or 'vgg19', for 'imagenet'. bgr: whether pictures were
    read as blue, green, red. Raises Refused, too, naming the file, for what cannot be explained.
    """
    if preprocessing not in (None, *MODES):
        raise Refused(f'preprocessing {preprocessing}: expected one of {", ".join(MODES)}')
    live = not isinstance(source, (str, Path))
    path = Path(source.name) if live else weight_file(source, model)
    try:
        if vgg_in(path):
            return vgg_network(path, preprocessing or 'caffe', bgr)
        opened = open_model(source if live else path)
        return keras_network(path, opened, preprocessing, pictures, bgr)
    except Refused as error:
        raise Refused(f'{path}: {error}') from None


def weight_file(source, model=None):
    """The path of a --weights argument: bundled, downloaded by Keras into its cache, or a file."""
    if source == 'imagenet':
        return downloaded(model or 'vgg16')
    path = BUNDLED.get(source) or Path(source)
    if model not in (None, vgg_in(path)):
        raise Refused(f'--weights {source} is no {model}')
    return path


def vgg_in(path):
    """'vgg16' or 'vgg19' if a file is known to hold its weights alone; None for any other."""
    names = {BUNDLED['caltech101'].name: 'vgg16',
             **{name: model for model, (name, _) in PUBLISHED.items()}}
    return names.get(path.name)


def digest(path):
    """The SHA-256 of a file."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def imagenet_classes():
    return IMAGENET_CLASSES.read_text(encoding='utf-8').splitlines()


def vgg_network(path, mode, bgr):
    """VGG16 or VGG19 with the weights in a file."""
    layers, read, classes = read_weights(path, vgg_in(path))
    preprocess = Preprocessing(mode, (SIZE, SIZE, 3), bgr=bgr)
    return Network(path, layers, read, preprocess, preprocess.bounds(), preprocess.reverses(),
                   classes=classes or imagenet_classes())


def keras_network(path, model, preprocessing, pictures, bgr=False):
    """The network of a Keras model."""
    layers, read, size, inside, end = read_model(model)
    preprocess = Preprocessing(preprocessing or 'none', size, inside, bgr)
    if not preprocess.suits():
        raise Refused('--bgr, --preprocessing caffe and torch are for pictures in three colours')
    preprocess.check_upright()
    network = Network(path, layers, read, preprocess, preprocess.bounds(), preprocess.reverses(),
                      end or ('value' if model.outputs[0].shape[-1] == 1 else 'softmax'),
                      imagenet_classes() if path == BUNDLED['lite0'] else None, model,
                      gives_logits=end is None)
    whole = preprocess.in_model() and np.ptp(network.bounds, 0).max() <= FARTHEST
    if not (preprocessing or whole):
        picture = first_picture(pictures, size)
        ask(path, {mode: seen_with(mode, network, picture) for mode in MODES})
    return network


def seen_with(mode, network, picture):
    """What the network sees in a picture {path: [h, w, c]}, preprocessed in this mode, in words."""
    network = network._replace(preprocess=network.preprocess._replace(mode=mode))
    if not network.preprocess.suits():
        return 'not for grey pictures'
    for path, image in picture.items():
        outputs = network.by_keras(image[None])[0]
        name = 'output' if network.end == 'value' else f'class {outputs.argmax()}'
        return f'{name} {outputs.max():.2f} in {path}'
    return ''


# What a file is: its content says so.

def open_model(source):
    """The Keras model in a file (a path), or a copy of a live one. Raises Refused for any other
    file: what it is, and what to do."""
    with reading('Keras cannot read this model'), tempfile.TemporaryDirectory() as folder:
        path = source
        if not isinstance(source, Path):
            path = Path(folder) / 'live.keras'
            source.save(path)
        if keras_version(path).startswith(('1', '2')):
            return open_keras2(path)
        suffix = '.keras' if zipfile.is_zipfile(path) else '.h5'  # by which Keras goes
        if path.suffix != suffix:
            path = shutil.copy(path, Path(folder) / f'model{suffix}')
        with silence():
            return keras.saving.load_model(path, compile=False)


def keras_version(path):
    """The version of Keras that saved the whole model in a file. Raises Refused as open_model."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if {'config.json', 'metadata.json'} <= set(archive.namelist()):
                check_package(archive.read('config.json').decode())
                return json.loads(archive.read('metadata.json'))['keras_version']
    elif h5py.is_hdf5(path):
        with open_h5(path) as file:
            if 'model_config' in file.attrs:
                return decoded(file.attrs.get('keras_version', '2'))
        raise Refused(WEIGHTS_ALONE.format(path))
    raise Refused(other_kind(path))


def check_package(config):
    """Raises Refused if a model has layers of Keras's other package and that is not installed."""
    if '"module": "keras_hub.' in config and not find_spec('keras_hub'):
        raise Refused('it has layers of keras_hub: pip install keras-hub, then the same command '
                      'again, which explains it or names the layer that it cannot explain')


def other_kind(path):
    """What a path names that no model of Keras is saved in, and what to do."""
    folder = path.parent if path.name == 'saved_model.pb' else path
    if (folder / 'saved_model.pb').is_file():
        return SAVED_MODEL.format(folder)
    prefix = path.with_name(path.name.split('.index')[0].split('.data-')[0])
    if prefix.with_name(f'{prefix.name}.index').is_file():
        return f'a checkpoint of TensorFlow, {WEIGHTS_ALONE.format(prefix)}'
    families = {name.lower(): name for name in dir(keras.applications) if name[0].isupper()}
    if not path.exists() and path.name.lower() in families:
        return ('no such file; save that network first: keras.applications.'
                f"{families[path.name.lower()]}().save('{path.name.lower()}.keras')")
    if not path.is_file():
        return 'a folder' if path.is_dir() else 'no such file'
    suffix = path.suffix.lower()
    if suffix in OTHERS:
        return (f'a network of {OTHERS[suffix]}; only those of Keras can be explained here (for '
                'PyTorch there are Zennit and Captum)')
    if suffix in ('.json', '.npz'):
        return (LAYERS_ALONE if suffix == '.json' else WEIGHTS_ALONE).format(path)
    with open(path, 'rb') as file:
        if file.read(64).startswith(b'version https://git-lfs'):
            return 'a pointer of Git LFS, not the file itself; run: git lfs pull'
    return 'not a whole model that Keras saved (.keras, .h5), or only a part of the file'
