"""What happens to a picture before a network's first layer."""
import itertools
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
OTHERWISE = """  --bgr as well, if pictures were read as blue, green, red, as by cv2.imread
If none of these fits, put yours into the model, for pixels from 0 to 255, and save it again:
  first = keras.layers.Normalization(mean=[...], variance=[...])  # or Rescaling(scale, offset)
  keras.Sequential([keras.Input(model.input_shape[1:]), first, model]).save('whole.keras')"""


class Preprocessing(NamedTuple):
    """One of MODES, for pictures of a size (height, width, channels), then what the model does."""

    mode: str
    size: tuple
    inside: Callable = None  # a Keras model
    bgr: bool = False  # whether pictures were read as blue, green, red

    def __call__(self, images):
        """What the first layer sees of images [n, h, w, c]: floats, RGB, 0 to 255."""
        x = images[..., ::-1] if self.bgr else images
        x = x / 255 if self.mode == 'unit' else x.copy()
        if self.mode in ('caffe', 'tf', 'torch'):
            preprocess = keras.applications.imagenet_utils.preprocess_input
            x = preprocess(x, data_format='channels_last', mode=self.mode)
        if self.inside:
            with warnings.catch_warnings(action='ignore'):  # of how models of Keras 2 take inputs
                x = keras.tree.flatten(self.inside(x, training=False))[0]  # it may be in a dict
        return np.asarray(x, images.dtype)

    def suits(self):
        """Whether pictures of this size can be prepared so: some modes are for three colours."""
        return self.size[-1] == 3 or not (self.bgr or self.mode in ('caffe', 'torch'))

    def shades(self):
        """What a black and a white picture become: [h, w, c] each."""
        return [self(np.full((1, *self.size), shade, np.float64))[0] for shade in (0, 255)]

    def bounds(self):
        """The least and the greatest value of each channel, of all pure colours: [c] each."""
        colours = itertools.product([0.0, 255.0], repeat=self.size[-1])
        values = self(np.stack([np.broadcast_to(colour, self.size) for colour in colours]))
        return values.min((0, 1, 2)), values.max((0, 1, 2))

    def in_model(self):
        """Whether the model changes the values of pixels before its first layer."""
        black, white = self._replace(mode='none').shades()
        return bool(black.any() or (white != 255).any())

    def in_words(self):
        words = ['BGR'] if self.bgr else []
        words += [self.mode] if self.mode != 'none' else []
        words += ['in the model'] if self.in_model() else []
        return f'preprocessing {" and ".join(words)}' if words else 'no preprocessing'

    def reverses(self):
        """Whether red, green, blue become blue, green, red."""
        red = self(np.ones((1, *self.size)) * np.eye(self.size[-1])[0] * 255)[0]
        changed = np.abs(red - self.shades()[0]).sum((0, 1))
        return len(changed) == 3 and changed.argmax() == 2

    def check_upright(self):
        """Refuses preprocessing by Keras that cuts, pads or turns the picture, as Resizing may, by
        what becomes of a ramp."""
        black, white = self.shades()
        for axis in 0, 1:
            given, expected = (ramp(shape, axis) for shape in (self.size, black.shape))
            off = np.abs(self(255 * given[None])[0] - black - expected * (white - black))
            side = min(self.size[axis], black.shape[axis])
            allowed = max(0.6 / side, 0.004)  # half a pixel of resizing; rounding in bfloat16
            if off.max() > allowed * np.abs(white - black).max():
                raise Refused('before its first layer the model cuts, pads or turns the picture or '
                              'bends its values; save it without that, and give it such pictures')


def ramp(shape, axis):
    """Rises from 0 to 1 along an axis of [h, w, c]."""
    n = shape[axis]
    rise = ((np.arange(n) + 0.5) / n).reshape([-1 if i == axis else 1 for i in range(3)])
    return np.broadcast_to(rise, shape)


def ask(path, seen):
    """Lists the modes, with what the network sees in each {mode: words}, and raises Refused."""
    print(f'{path} does not say how pictures were preprocessed for it. Its training script does:')
    for mode, source in TRAINED_WITH.items():
        print(f'  --preprocessing {mode:6} {source:55} {seen[mode]}'.rstrip())
    print(OTHERWISE)
    raise Refused('say how pictures were preprocessed for it, by --preprocessing '
                  f'{"|".join(MODES)}')
