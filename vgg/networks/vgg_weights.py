"""VGG16 and VGG19 with the weights in a file that holds nothing else: the bundled .npz, or one of
the two of ImageNet that Keras publishes and downloads."""
from functools import partial
import os
from pathlib import Path

import numpy as np

from common import Refused, keras
from model import layer_table
from networks.keras2 import open_h5, reading

ORIGIN = 'https://storage.googleapis.com/tensorflow/keras-applications/'
PUBLISHED = {  # Keras's files, and their MD5
    'vgg16': ('vgg16_weights_tf_dim_ordering_tf_kernels.h5', '64373286793e3c8b2b4e3219cbf3544b'),
    'vgg19': ('vgg19_weights_tf_dim_ordering_tf_kernels.h5', 'cbe5617147190e668d6c5d5026f83318'),
}


def downloaded(model):
    """The path of the ImageNet weights of 'vgg16' or 'vgg19', from Keras's cache or its server."""
    name, md5 = PUBLISHED[model]
    cache = Path(os.environ.get('KERAS_HOME', Path.home() / '.keras')) / 'models'
    with reading(f'no ImageNet weights: put {name} into {cache}, or use --weights caltech101 or '
                 'lite0, which need no download'):
        url = f'{ORIGIN}{model}/{name}'
        return Path(keras.utils.get_file(name, url, cache_subdir='models', file_hash=md5))


def read_weights(path, model):
    """The layer table of 'vgg16' or 'vgg19', with the weights in a file of VGG's layer names.

    Returns the layers, {layer name: function that returns w and b} and the class names or None.
    Raises Refused if the file cannot be read or holds other weights.
    """
    with reading('a damaged file'):
        arrays, classes = npz_arrays(path) if path.suffix == '.npz' else h5_arrays(path)
    head = [w.shape[-1] for w, _ in arrays.values() if w.ndim == 2]
    layers = layer_table(model, head)
    shapes = {layer.name: (layer.kernel, layer.kernel[-1:]) for layer in layers if layer.kernel}
    if shapes != {name: (w.shape, b.shape) for name, (w, b) in arrays.items()}:
        raise Refused(f'it does not hold the weights of {model}')
    return layers, {name: partial(tuple, pair) for name, pair in arrays.items()}, classes


def npz_arrays(path):
    """{layer name: (w, b)} of an .npz with <layer>/kernel and <layer>/bias, and its `classes`."""
    with open(path, 'rb') as opened, np.load(opened, allow_pickle=False) as file:
        names = [key.removesuffix('/kernel') for key in file.files if key.endswith('/kernel')]
        arrays = {name: (np.float32(file[f'{name}/kernel']), np.float32(file[f'{name}/bias']))
                  for name in names}
        return arrays, [str(name) for name in file['classes']] if 'classes' in file else None


def h5_arrays(path):
    """{layer name: (w, b)} of a published file, in which each group lists its arrays."""
    with open_h5(path) as file:
        groups = {name: group for name, group in file.items() if len(group)}
        return {name: tuple(group[array][()] for array in group.attrs['weight_names'])
                for name, group in groups.items()}, None
