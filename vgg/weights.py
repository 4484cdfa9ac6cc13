"""Where a network comes from: the bundled VGG16, Keras's ImageNet weights or a user's file; to layers, weights, preprocessing and
class names.

A model that Keras saved whole (.keras, .h5) says what it is. Files of weights alone (.npz, .weights.h5, .h5) do not: they are
taken for VGG16 or VGG19. Weights are read one layer at a time, and none is ever part of the graph's definition.
"""
import contextlib
import difflib
import hashlib
from functools import partial
import os
from pathlib import Path
from typing import Callable, NamedTuple
import warnings

import numpy as np

from script import check_regular, keras, tf
from model import CONVOLUTIONS, SIZE, Weights, layer_table
from chain import chain_of
from formats import SAVE_WHOLE, VGG_NAME, arranged, open_weights
from whole import open_model, split

HERE = Path(__file__).resolve().parent
BUNDLED = HERE / 'weights' / 'vgg16_caltech101.npz'
IMAGENET_CLASSES = HERE / 'weights' / 'imagenet_classes.txt'
ORIGIN = 'https://storage.googleapis.com/tensorflow/keras-applications/'
PUBLISHED = {  # Keras's ImageNet files: name, MD5
    'vgg16': ('vgg16_weights_tf_dim_ordering_tf_kernels.h5', '64373286793e3c8b2b4e3219cbf3544b'),
    'vgg19': ('vgg19_weights_tf_dim_ordering_tf_kernels.h5', 'cbe5617147190e668d6c5d5026f83318'),
}
MAX_NAMES = 2 ** 24  # bytes of a file of class names
MODES = ['caffe', 'tf', 'torch', 'unit', 'none']  # of preprocessing


class Preparation(NamedTuple):
    """What happens to a picture before the first layer: one of MODES, then what stands in the user's model, run by Keras."""

    mode: str
    within: list = ()

    def __call__(self, images):
        """Pixels of the first layer, of the dtype of `images` [n, h, w, channels], RGB, 0 to 255, floats."""
        x = images
        if self.mode == 'unit':
            x = images / 255
        elif self.mode != 'none':
            x = keras.applications.imagenet_utils.preprocess_input(images.copy(), data_format='channels_last', mode=self.mode)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of how models of Keras 2 take their inputs
            for step in self.within:
                x = step(x, training=False) if isinstance(step, keras.Layer) else step(x)
        return np.asarray(x, images.dtype)


class Network(NamedTuple):
    """A network that can be explained."""

    path: Path
    layers: list  # the layer table; the bounds of its first layer are what preparation makes of black and white
    read: dict  # {layer name: function that reads w and b}
    prepare: Preparation
    size: tuple = (SIZE, SIZE, 3)  # of a picture
    whole: bool = True  # whether the first layer sees the whole picture, as it lies
    bgr: bool = True  # whether the channels of the first layer's inputs stand the other way round
    end: str = 'softmax'  # or 'sigmoid'
    said: str = ''  # what was read or assumed of it
    classes: list = None  # their names, if the file has them
    keras: Callable = None  # the user's whole model
    gives_logits: bool = False  # whether those are that model's outputs, not probabilities
    files: contextlib.ExitStack = contextlib.ExitStack()  # what is open until all is read

    def title(self, count):
        """What the first line of output says of a network of so many classes."""
        kinds = [layer.kind for layer in self.layers]
        return (f'{self.path.name}: {plural(kinds.count("conv"), "convolution")}, {plural(kinds.count("dense"), "dense layer")}, '
                f'{self.size[0]}x{self.size[1]}, {self.said}, {count} classes'
                + f' (the {self.end} of its logits)' * self.gives_logits)

    def first_sees(self, image):
        """What the first layer sees of an image [h, w, channels], as a picture again: uint8, RGB or grey."""
        x, black, white = self.prepare(np.stack([np.float64(image), np.zeros(self.size), np.full(self.size, 255.0)]))
        x = 255 * (x - black) / np.where(white == black, 1, white - black)
        return np.uint8(np.clip(np.rint(x[..., ::-1] if self.bgr else x), 0, 255))

    def probabilities(self, logits):
        """Softmax, or with sigmoids at the end each class's own, of logits [..., classes]."""
        with np.errstate(invalid='ignore', over='ignore'):  # of logits that are not finite, about which others complain
            if self.end == 'sigmoid':
                return 1 / (1 + np.exp(-np.float64(logits)))
            shifted = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
            return shifted / shifted.sum(-1, keepdims=True)


def open_network(source, model=None, preprocessing=None):
    """Opens the network of a --weights argument: 'imagenet', 'caltech101' or a file.

    model: 'vgg16' or 'vgg19', or None for the one that fits; preprocessing: one of MODES, or None for what fits.
    Raises FileNotFoundError, OSError, or ValueError that names the layer or the fault for what cannot be explained.
    """
    path = weight_file(source, model)
    with named(path):
        check_regular(path)
        whole = open_model(path) if path.suffix in ('.keras', '.h5', '.hdf5') else None
        if whole and model:
            raise ValueError(f'--model {model} is for files of weights alone; this one holds a whole model')
        if whole:
            return of_model(path, whole, preprocessing)
        return of_weights(path, model, preprocessing or 'caffe', source in ('imagenet', 'caltech101'))


def weight_file(source, model):
    """The file of a --weights argument: the bundled one, Keras's ImageNet one (cached or downloaded by Keras), or a path."""
    if source == 'caltech101':
        if model not in (None, 'vgg16'):
            raise ValueError(f'--weights caltech101 is a vgg16, not a {model}')
        return BUNDLED
    if source != 'imagenet':
        return Path(source)
    model = model or 'vgg16'
    name, digest = PUBLISHED[model]
    try:
        return Path(keras.utils.get_file(name, f'{ORIGIN}{model}/{name}', cache_subdir='models', file_hash=digest))
    except Exception as error:  # Keras raises plain Exception when it cannot download
        cache = Path(os.environ.get('KERAS_HOME', os.path.expanduser('~/.keras'))) / 'models'
        raise OSError(f'no ImageNet weights: {cache / name} does not exist and could not be downloaded '
                      f'({str(error).splitlines()[0]}); copy it there, or use --weights caltech101, which works offline') from None


def digest(path):
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, 'rb') as file:
        while part := file.read(2 ** 20):
            found.update(part)
    return found.hexdigest()


def class_names(network, classes_file, count):
    """Names of the classes: from --classes FILE (one a line), the weight file's own, ImageNet's, or 'class 0' and so on."""
    if classes_file:
        check_regular(classes_file)
        with open(classes_file, 'rb') as file:
            text = file.read(MAX_NAMES)
        try:
            names = text.decode('utf-8-sig').splitlines()
        except UnicodeDecodeError:
            names = None
        if names is None or b'\0' in text or len(text) == MAX_NAMES:
            raise ValueError(f'{classes_file} is no text: expected the name of a class on each line')
        if len(names) != count:
            raise ValueError(f'{classes_file} has {len(names)} lines, but {network.path} has {count} classes')
        return names
    own = network.classes
    if network.path.name in (name for name, _ in PUBLISHED.values()):
        own = IMAGENET_CLASSES.read_text(encoding='utf-8').splitlines()
    return own if own and len(own) == count else [f'class {i}' for i in range(count)]


def find_target(text, classes, option='--target'):
    """The index of a class given by its name, or by its index: 7 or #7. Where 7 is another class's name, that is taken, and said.

    Raises ValueError if no class or more than one fits.
    """
    number = text.removeprefix('#')
    fitting = [i for i, name in enumerate(classes) if name.lower() == text.lower()]
    if len(fitting) == 1 and text.isdecimal() and int(text) != fitting[0]:
        print(f"{option} {text}: the class named {text}, whose index is {fitting[0]}; for the class of index {text} say '#{text}'")
    if number.isdecimal() and not fitting:
        if int(number) >= len(classes):
            raise ValueError(f'{option} {text}: the classes are 0 to {len(classes) - 1}')
        return int(number)
    if not fitting:
        close = difflib.get_close_matches(text.lower(), dict.fromkeys(name.lower() for name in classes), 3)
        raise ValueError(f'{option} {text}: no such class' + (f'; did you mean {" or ".join(close)}?' if close else ''))
    if len(fitting) > 1:
        raise ValueError(f'{option} {text} fits several classes: give one of the indices {", ".join(map(str, fitting))}')
    return fitting[0]


@contextlib.contextmanager
def named(path):
    """Makes one line that names the file of whatever is wrong with it."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f'no weight file {path}') from None
    except Exception as error:  # readers of damaged files raise of all kinds
        reason = 'it holds pickled objects, which are not read' if 'allow_pickle' in str(error) else (str(error).splitlines() or ['damaged'])[0]
        raise ValueError(f'{path}: {reason}') from None


def plural(number, noun):
    return f'{number} {noun}{"s" * (number != 1)}'


def load(session, network, precision):
    """Reads a network's weights into variables of the session's graph: {layer name: Weights}. It can be read once."""
    with named(network.path), network.files:
        made = {}
        for layer in network.layers:
            if layer.name in network.read:
                arrays = network.read.pop(layer.name)()
                with session.graph.as_default():
                    made[layer.name] = variables(session, layer, arrays, precision)
        return made


def variables(session, layer, arrays, precision):
    """The variables of one layer, which now hold the arrays, its w and b. In bfloat16 the logits alone keep 32 bits."""
    dtype = tf.float32 if precision == 'bfloat16' and layer.name == 'predictions' else tf.as_dtype(precision)
    made = []
    for part, array in zip(('kernel', 'bias'), arrays):
        fits = array.shape == layer.size if part == 'kernel' else array.shape[-1:] == layer.size[-1:] and array.ndim in (1, 3)
        if not fits:
            expected = list(layer.size if part == 'kernel' else layer.size[-1:])
            raise ValueError(f'{part} of {layer.name} has shape {list(array.shape)}, expected {expected}')
        if not np.isfinite(array).all():
            raise ValueError(f'{part} of {layer.name} is not finite')
        value = tf.placeholder(dtype, array.shape)
        made.append(tf.get_variable(f'{layer.name}/{part}', initializer=value, trainable=False, use_resource=True))
        session.run(made[-1].initializer, {value: array.astype(dtype.as_numpy_dtype, copy=False)})
    return Weights(layer.name, *made)


def with_pixels(layers, prepare, size):
    """The layers, those up to the first with weights bounded by what preparation makes of black and white."""
    black, white = (prepare(np.full((1, *size), shade, np.float64))[0] for shade in (0, 255))
    low, high = (extreme(extreme([black, white], 0).reshape(-1, black.shape[-1]), 0) for extreme in (np.min, np.max))
    result = list(layers)
    for i, layer in enumerate(layers):
        repeats = 1 if layer.kind != 'dense' else layer.size[0] // len(low)  # behind Flatten there is a number for each pixel
        result[i] = layer._replace(low=np.tile(low, repeats).tolist(), high=np.tile(high, repeats).tolist())
        if layer.kind in ('conv', 'dense'):
            return result


def keeps_places(prepare, size):
    """Whether the first layer sees the whole picture as it lies, maybe of another size: not cut, turned or padded."""
    black, white = (prepare(np.full((1, *size), shade, np.float64))[0] for shade in (0, 255))
    span = white - black
    for axis in 0, 1:
        ramps = [((np.arange(n) + 0.5) / n).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1)) for n in (size[axis], span.shape[axis])]
        seen = (prepare(255 * ramps[0] * np.ones((1, *size)))[0] - black) / np.where(span == 0, 1, span)
        if (np.abs(seen - ramps[1]) * (span != 0)).max() > 1 / size[axis] + 1 / span.shape[axis]:
            return False
    return True


def reverses(prepare, size):
    """Whether preparation turns red, green, blue into blue, green, red."""
    black, red = (prepare(np.float64([[[values]]]) * np.ones((1, *size))) for values in ([0] * size[-1], [255] + [0] * (size[-1] - 1)))
    changed = np.abs(red - black).reshape(-1, black.shape[-1]).sum(0)
    return len(changed) == size[-1] == 3 and changed.argmax() == 2


# A model that Keras saved whole

def of_model(path, model, preprocessing):
    """The network of a Keras model. Raises ValueError that names the layer which cannot be explained."""
    within, chain = split(model)
    size = tuple(side or SIZE for side in model.input_shape[1:3]) + model.input_shape[3:]
    if len(size) != 3 or size[-1] not in (1, 3):
        raise ValueError(f'its input has the shape {model.input_shape}; expected pictures, channels last')
    black, white = (Preparation('none', within)(np.full((1, *size), shade, np.float32)) for shade in (0, 255))
    inside = bool(black.any() or (white != 255).any())
    prepare = Preparation(preprocessing or ('none' if inside or size[-1] == 1 else 'caffe'), within)
    layers, read, end = chain_of(chain, black.shape[1:])
    assumed = ' (none stands in the model; see --preprocessing)' * (preprocessing is None)
    said = [f'preprocessing {prepare.mode}{assumed}'] * (prepare.mode != 'none') + ['preprocessing in the model'] * inside
    default = 'sigmoid' if model.output_shape[-1] == 1 else 'softmax'
    return Network(path, with_pixels(layers, prepare, size), read, prepare, size, keeps_places(prepare, size), reverses(prepare, size), end or default,
                   ' and '.join(said) or 'no preprocessing', keras=model, gives_logits=end is None)


def by_keras(network, images):
    """The probabilities [n, classes] that Keras itself gives to images [n, h, w, channels], uint8."""
    outputs = Preparation(network.prepare.mode, [network.keras])(images.astype(np.float32)).astype(np.float64)
    if outputs.shape[-1] == 1:
        outputs = np.concatenate([-outputs if network.gives_logits else 1 - outputs, outputs], -1)
    return network.probabilities(outputs) if network.gives_logits else outputs


def compare(network, expected, found, names, precision):
    """Raises ValueError if the probabilities found in our graph [n, classes] are not those that Keras gives: to 1e-3, and where they
    are near 0 their logarithms to as much, as far as these are exact; in bfloat16, if the class is another one."""
    least = 1e-4 if network.end == 'sigmoid' else 1e-30  # one sigmoid near 1 leaves the other class its rounding
    for name, theirs, ours in zip(names, expected, found):
        logs = [np.log(np.maximum(each, least)) for each in (theirs, ours)]
        apart = np.maximum(np.abs(theirs - ours), np.abs(logs[0] - logs[1]) / (1 + np.abs(logs[0]).max()))
        same = apart.max() <= 1e-3
        if precision == 'bfloat16':
            same = np.isfinite(ours).all() and theirs.max() - theirs[ours.argmax()] <= 0.05
        if not same:
            k = apart.argmax()
            raise ValueError(f'{network.path}: the network rebuilt from it is another one: for {name} it gives class {k} {ours[k]:.3g} '
                             f'where Keras gives {theirs[k]:.3g}')


# Files of weights alone

def of_weights(path, model, preprocessing, known):
    """VGG16 or VGG19 with the weights of a file and any dense layers, ReLU between them; known: it is known to be so."""
    with contextlib.ExitStack() as stack:
        entries, classes = open_weights(path, stack)
        entries = arranged(entries)
        model, layers = match(model, entries)
        files = stack.pop_all()
    read = {layer.name: entry.read for layer, entry in zip([layer for layer in layers if layer.kind in ('conv', 'dense')], entries)}
    end = 'softmax'
    if layers[-1].size[-1] == 1:
        end, read['predictions'] = 'sigmoid', partial(mirrored, read['predictions'])
        layers[-1] = layers[-1]._replace(size=(layers[-1].size[0], 2))
    prepare, size = Preparation(preprocessing), (SIZE, SIZE, 3)
    said = f'{model}, preprocessing {preprocessing}'
    said = said if known else f'taken for {said}, ReLU between dense layers, {end} at the end'
    return Network(path, with_pixels(layers, prepare, size), read, prepare, size, True, reverses(prepare, size), end, said, classes,
                   files=files)


def mirrored(read):
    """One output z, behind a sigmoid, as two: -z and z."""
    return [np.concatenate([-x, x], -1) for x in read()]


def match(model, entries):
    """'vgg16' or 'vgg19', whichever fits, and the layer table of the entries of a file.

    Raises ValueError that names the first layer which is not the model's.
    """
    count = sum(len(entry.shape) == 4 for entry in entries)
    model = model or ('vgg19' if count > CONVOLUTIONS['vgg16'] else 'vgg16')
    layers = layer_table(model, [entry.shape[-1] for entry in entries if len(entry.shape) == 2])
    expected = [layer for layer in layers if layer.kind in ('conv', 'dense')]
    for layer, entry in zip(expected, entries):
        if layer.kind == 'conv' and VGG_NAME.fullmatch(entry.name) and entry.name != layer.name:
            raise ValueError(f'layer {entry.name} stands where {model} has {layer.name}')
        if tuple(entry.shape) != layer.size:
            raise ValueError(f'layer {entry.name} has shape {list(entry.shape)}, expected {list(layer.size)} for {layer.name} of {model}; '
                             f'if it is no {model}, {SAVE_WHOLE}')
    if len(entries) < len(expected):
        raise ValueError(f'no weights for {expected[len(entries)].name} of {model}')
    if expected[-1].kind != 'dense':
        raise ValueError(f'no dense layers after the convolutions of {model}, so no classes to explain')
    return model, layers
