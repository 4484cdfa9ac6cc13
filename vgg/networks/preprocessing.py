"""What happens to a picture before a network's first layer."""
from typing import NamedTuple
import warnings

import numpy as np

from common import Refused, keras

TRAINED_WITH = {  # modes of preprocessing, and what a training script says
    'caffe': 'vgg16.preprocess_input or resnet50.preprocess_input',
    'tf': 'mobilenet.preprocess_input, or rescaling to -1 .. 1',
    'torch': 'densenet.preprocess_input',
    'unit': 'rescale=1/255',
    'none': 'nothing: pixels from 0 to 255',
}
MODES = list(TRAINED_WITH)


class Preparation(NamedTuple):
    """What happens to a picture before the first layer: one of MODES, then steps of the model."""

    mode: str
    steps: list = ()  # run by Keras

    def __call__(self, images):
        """What the first layer sees of images [n, h, w, c]: floats, RGB, 0 to 255."""
        x = images / 255 if self.mode == 'unit' else images.copy()
        if self.mode in ('caffe', 'tf', 'torch'):
            preprocess = keras.applications.imagenet_utils.preprocess_input
            x = preprocess(x, data_format='channels_last', mode=self.mode)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of how models of Keras 2 take their inputs
            for step in self.steps:
                x = step(x, training=False) if isinstance(step, keras.Layer) else step(x)
        return np.asarray(x, images.dtype)


def shades(prepare, size):
    """What preparation makes of a black and of a white picture: [h, w, c] each."""
    return (prepare(np.full((1, *size), shade, np.float64))[0] for shade in (0, 255))


def check_upright(path, prepare, size):
    """Refuses preparation that cuts, pads or turns the picture, by what it does to a ramp."""
    black, white = shades(prepare, size)
    for axis in 0, 1:
        given, expected = (ramp(shape, axis) for shape in (size, black.shape))
        seen = (prepare(255 * given[None])[0] - black) / np.where(white == black, 1, white - black)
        off = np.abs(seen - expected) * (white != black)
        if off.max() > 1 / size[axis] + 1 / black.shape[axis]:
            raise Refused(f'{path}: the model cuts, pads or turns the picture before its first '
                          'layer; save it without that, and give it pictures cut and turned so')


def ramp(shape, axis):
    """Rises from 0 to 1 along an axis of [h, w, c]."""
    n = shape[axis]
    rise = ((np.arange(n) + 0.5) / n).reshape([-1 if i == axis else 1 for i in range(3)])
    return np.broadcast_to(rise, shape)


def reverses(prepare, size):
    """Whether preparation turns red, green, blue into blue, green, red."""
    if size[-1] != 3:
        return False
    black, red = (prepare(np.ones((1, *size)) * np.float64([shade, 0, 0])) for shade in (0, 255))
    changed = np.abs(red - black).reshape(-1, black.shape[-1]).sum(0)
    return len(changed) == 3 and changed.argmax() == 2
