"""What single layers of Keras hold: weights, batch normalisation folded in, and activations."""
from functools import partial

import numpy as np

from common import Refused, keras

NAMES = {'relu6': ('relu', 6.0), 'swish': 'silu', 'hard_swish': 'hard_silu',
         'leaky_relu': ('leaky_relu', 0.2),  # Keras's names that differ from those of model.py
         **{name: name for name in (
             'linear', 'relu', 'elu', 'silu', 'gelu', 'sigmoid', 'tanh', 'softplus', 'softmax',
             'hard_sigmoid', 'hard_silu')}}
OPERATIONS = {'HardSigmoid': 'hard_sigmoid', 'HardSilu': 'hard_silu'}
CAN = ('networks can be explained that consist of convolutions, dense layers, pooling, batch '
       'normalisation, additions, concatenations, gates and the usual activations, with one '
       'picture as input and one number for each class as output')


def refuse(name, reason):
    """Raises Refused: why a layer cannot be explained, and what can be."""
    raise Refused(f'layer {name}: {reason}; {CAN}')


class Weighted:
    """Reads the weights of a Keras layer, with the batch normalisation beside it folded in."""

    def __init__(self, layer, kernel=None):
        self.layer, self.kernel = layer, layer.kernel if kernel is None else kernel
        self.shape = tuple(self.kernel.shape)
        self.before, self.after = [], []  # functions that read the scale and shift to fold in

    def __call__(self):
        """w and b, float32, or float64 if something is folded in."""
        w = np.asarray(self.kernel).astype(np.float32).reshape(self.shape)
        depthwise = 'Depthwise' in type(self.layer).__name__
        outputs = self.shape[2:] if depthwise else self.shape[-1:]
        b = np.asarray(self.layer.bias) if self.layer.use_bias else np.zeros(outputs, np.float32)
        b = b.astype(np.float32).reshape(outputs)
        for read in self.before:
            scale, shift = read()
            b = b + (w * shift[:, None]).sum(tuple(range(w.ndim - 1)))
            w = w * scale[0][:, None]
        for read in self.after:
            scale, shift = (part.reshape(outputs) for part in read())
            w, b = w * scale, b * scale + shift
        return w, b.reshape(-1)


def mirrored(read):
    """Weights that give -z and z where those that are read give z."""
    return [np.concatenate([-x, x], -1) for x in read()]


def normalisation(layer):
    """The scale [1, channels] and the shift [channels] of a batch normalisation."""
    scale = 1 / np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
    scale = scale * np.asarray(layer.gamma, np.float64) if layer.scale else scale
    shift = -np.asarray(layer.moving_mean, np.float64) * scale
    return scale[None], shift + np.asarray(layer.beta, np.float64) if layer.center else shift


def rescaling(step, channels):
    """A function that reads the scale and the shift of a layer or operation that rescales."""
    kind = type(step.operation).__name__
    if kind == 'Rescaling':
        scale, shift = step.operation.scale, step.operation.offset
    else:
        if len(step.constants) != 1:
            refuse(step.name, f'{kind} of two signals cannot be explained')
        (value, place), = step.constants
        value, first = np.float64(value), place == 0
        if first and 'Divide' in kind:
            refuse(step.name, 'it divides by a signal')
        scale, shift = {'Add': (1.0, value), 'Subtract': (-1.0, value) if first else (1.0, -value),
                        'Multiply': (value, 0.0)}.get(kind, (1 / value, 0.0))
    try:
        scale, shift = (np.broadcast_to(np.float64(part).reshape(-1), [channels])
                        for part in (scale, shift))
    except ValueError:
        refuse(step.name, f'{kind} by numbers that are not one for each channel')
    return partial(tuple, [scale[None], shift])


def activation_of(layer):
    """The activation that a layer has or is, or an operation is, as model.py names it."""
    kind = type(layer).__name__
    if kind == 'ReLU':
        return relu_of(layer.max_value, layer.negative_slope, layer.threshold)
    if kind == 'LeakyReLU':
        return relu_of(None, layer.negative_slope, 0.0)
    if kind == 'PReLU':
        return 'leaky_relu', np.asarray(layer.alpha)
    if kind == 'ELU':
        return 'elu', float(layer.alpha)
    if kind == 'Softmax':
        return 'softmax'
    if kind == 'LeakyRelu':
        return 'leaky_relu', layer.negative_slope
    if kind == 'Gelu':
        return 'gelu', layer.approximate
    if not hasattr(layer, 'activation'):  # an operation
        return NAMES[OPERATIONS.get(kind, kind.lower())]
    if isinstance(layer.activation, keras.Layer):
        return activation_of(layer.activation)
    name = keras.activations.serialize(layer.activation)
    if not isinstance(name, str) or name not in NAMES:
        shown = name if isinstance(name, str) else 'a function of its own'
        refuse(layer.name, f'its activation is {shown}')
    return NAMES[name]


def relu_of(largest, slope, threshold):
    """Keras's ReLU with its options."""
    if slope or threshold:
        return 'leaky_relu', slope, largest, threshold
    return 'relu' if largest is None else ('relu', float(largest))
