"""What happens to a picture before a network's first layer."""
from typing import Callable, NamedTuple
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


class Preprocessing(NamedTuple):
    """One of MODES, for pictures of a size (height, width, channels), then what the model does."""

    mode: str
    size: tuple
    inside: Callable = None  # a Keras model

    def __call__(self, images):
        """What the first layer sees of images [n, h, w, c]: floats, RGB, 0 to 255."""
        x = images / 255 if self.mode == 'unit' else images.copy()
        if self.mode in ('caffe', 'tf', 'torch'):
            preprocess = keras.applications.imagenet_utils.preprocess_input
            x = preprocess(x, data_format='channels_last', mode=self.mode)
        if self.inside:
            x = run_quietly(self.inside, x)
        return np.asarray(x, images.dtype)

    def suits(self):
        """Whether the mode is one for pictures of this size: some are for three colours."""
        return self.size[-1] == 3 or self.mode not in ('caffe', 'torch')

    def shades(self):
        """What a black and a white picture become: [h, w, c] each."""
        return [self(np.full((1, *self.size), shade, np.float64))[0] for shade in (0, 255)]

    def bounds(self):
        """The least and the greatest value of each channel: [c] each."""
        values = np.stack(self.shades())
        return values.min((0, 1, 2)), values.max((0, 1, 2))

    def in_model(self):
        """Whether the model changes the values of pixels before its first layer."""
        black, white = self._replace(mode='none').shades()
        return bool(black.any() or (white != 255).any())

    def in_words(self):
        inside = self.in_model()
        if self.mode == 'none':
            return 'preprocessing in the model' if inside else 'no preprocessing'
        return f'preprocessing {self.mode}{" and in the model" if inside else ""}'

    def reverses(self):
        """Whether red, green, blue become blue, green, red."""
        if self.size[-1] != 3:
            return False
        red = self(np.ones((1, *self.size)) * np.float64([255, 0, 0]))[0]
        changed = np.abs(red - self.shades()[0]).sum((0, 1))
        return len(changed) == 3 and changed.argmax() == 2

    def check_upright(self):
        """Refuses a model that cuts, pads or turns the picture, by what becomes of a ramp."""
        black, white = self.shades()
        for axis in 0, 1:
            given, expected = (ramp(shape, axis) for shape in (self.size, black.shape))
            seen = (self(255 * given[None])[0] - black) / np.where(white == black, 1, white - black)
            off = np.abs(seen - expected) * (white != black)
            if off.max() > 1 / self.size[axis] + 1 / black.shape[axis]:
                raise Refused('the model cuts, pads or turns the picture before its first layer; '
                              'save it without that, and give it pictures cut and turned so')


def ramp(shape, axis):
    """Rises from 0 to 1 along an axis of [h, w, c]."""
    n = shape[axis]
    rise = ((np.arange(n) + 0.5) / n).reshape([-1 if i == axis else 1 for i in range(3)])
    return np.broadcast_to(rise, shape)


def run_quietly(model, x):
    """What a Keras model makes of x, without warnings of how models of Keras 2 take inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return model(x, training=False)


def ask(path, seen):
    """Lists the modes, with what the network sees in each {mode: words}, and raises Refused."""
    print(f'{path} does not say how pictures were preprocessed for it. Its training script does:')
    for mode, source in TRAINED_WITH.items():
        print(f'  --preprocessing {mode:6} {source:55} {seen[mode]}'.rstrip())
    raise Refused('say how pictures were preprocessed for it, by --preprocessing '
                  f'{"|".join(MODES)}')
