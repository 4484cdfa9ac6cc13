"""Small models made as Keras's guides and tutorials make them. Each shows several things that
networks do."""
import keras
from keras import layers
import numpy as np

POOLED = (32, 48, 3)  # height, width and channels of most models' pictures


def flat(parts):
    """Layers and lists of layers, as one list."""
    return [layer for part in parts for layer in (part if isinstance(part, list) else [part])]


def chain(*parts, shape=POOLED):
    return keras.Sequential([keras.Input(shape), *flat(parts)])


def functional(function, shape=POOLED):
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


def apply(x, *parts):
    for layer in flat(parts):
        x = layer(x)
    return x


def conv(**options):
    return layers.Conv2D(6, 3, **{'padding': 'same', 'activation': 'relu', **options})


def convolutions(**options):
    """Two blocks as VGG's, of one convolution each."""
    return [conv(**options), layers.MaxPooling2D(), conv(**options), layers.MaxPooling2D()]


def head(classes=3, activation='softmax'):
    return [layers.Flatten(), layers.Dense(8, activation='relu'),
            layers.Dense(classes, activation=activation)]


def scaled(*parts, **options):
    """A chain that divides pixels by 255 itself."""
    return chain(layers.Rescaling(1 / 255), *parts, **options)


def fine_tuned():
    """The guide to transfer learning: augmentation, preprocessing, models inside, dropout."""
    inner, inputs = chain(convolutions()), keras.Input(POOLED)
    base = functional(lambda x: layers.BatchNormalization()(inner(x)))
    x = layers.RandomZoom(0.1)(layers.RandomFlip('horizontal')(inputs))
    x = base(layers.Rescaling(1 / 127.5, -1)(x), training=False)
    x = layers.Dropout(0.2)(layers.GlobalMaxPooling2D()(x))
    return keras.Model(inputs, layers.Dense(4, activation='softmax')(x))


def residual(x):
    """Branches of ResNetV2 and of Inception; Keras's preprocessing inside."""
    x = keras.applications.vgg16.preprocess_input(x)
    x = conv(strides=2)(layers.ZeroPadding2D()(x))
    y = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Add()([layers.Conv2D(6, 1)(y), conv(activation=None)(y)])
    x = layers.Concatenate()([layers.ReLU()(x), layers.Average()([conv()(x), conv()(x)])])
    return apply(x, layers.Cropping2D(((1, 0), (0, 2))), layers.GlobalAveragePooling2D(),
                 layers.Dense(3))


def mobile(x):
    """Depthwise convolutions, a gate of squeeze and excitation, and one written out."""
    x = conv(strides=2)(layers.Rescaling(1 / 127.5, -1)(x))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, use_bias=False)(x)))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(6, 1, activation='sigmoid')(layers.Conv2D(2, 1, activation='relu')(gate))
    x = layers.SeparableConv2D(5, 3, activation='relu')(layers.Multiply()([x, gate]))
    x = x * (keras.ops.relu6(x + 3.0) / 6.0)
    return apply(x, layers.Flatten(), layers.Dense(3))


def moved(x):
    """Channels shuffled (ShuffleNet), split, swapped, sliced; places copied, padded, flipped."""
    ops = keras.ops
    x = conv()(layers.Rescaling(1 / 255)(x)[:, 2:, :40])
    x = layers.Reshape((30, 40, 6))(layers.Permute((1, 2, 4, 3))(layers.Reshape((30, 40, 2, 3))(x)))
    one, two = ops.split(x, 2, axis=-1)
    x = layers.Concatenate()([two, ops.flip(one, 2), ops.roll(x[..., 1:3], 1, axis=1)])
    x = layers.Conv2D(6, 3, activation='relu')(ops.pad(x, [[0, 0], [1, 0], [1, 2], [0, 0]]))
    x = layers.UpSampling2D()(layers.MaxPooling2D(4)(x))
    return apply(ops.swapaxes(x, 1, 2), conv(), head(3, None))


def mixed(x):
    """Linear without weights of its own, the largest of two, one convolution used twice."""
    ops, shared = keras.ops, conv()
    x = layers.MaxPooling2D()(conv()(layers.Rescaling(1 / 255)(x)))
    y = layers.UpSampling2D(interpolation='bilinear')(layers.MaxPooling2D()(shared(shared(x))))
    x = layers.ReLU()(layers.Subtract()([conv()(x), y]) + ops.mean(x, (1, 2), keepdims=True))
    x = layers.Maximum()([conv()(x), layers.Conv2DTranspose(6, 3, padding='same')(x)])
    x = ops.average_pool(ops.max_pool(x, 2, 2), 2)
    x = layers.Conv2DTranspose(4, 3, strides=2, activation='relu')(x)
    return layers.Dense(3)(ops.mean(x, (1, 2)) + ops.max(x, (1, 2)))


def mixer(x):
    """Patches, then dense layers over places and over channels, each after LayerNormalization."""
    x = layers.Reshape((4, 8, 6, 8, 3))(layers.Rescaling(1 / 255)(x))
    x = layers.Reshape((24, 192))(layers.Permute((1, 3, 2, 4, 5))(x))
    x = layers.Dense(8)(x)
    y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
    y = layers.Dense(24)(layers.Dense(12, activation='gelu')(y))
    x = x + layers.Permute((2, 1))(y)
    x = x + layers.Dense(8)(layers.Dense(12, activation='gelu')(layers.LayerNormalization()(x)))
    return apply(layers.UnitNormalization()(x), layers.GlobalAveragePooling1D(), layers.Dense(3))


def attentive(x):
    """CBAM: gates over channels, by dense layers used twice, and over places; 1 - t as a gate."""
    ops = keras.ops
    x = conv()(layers.Rescaling(1 / 255)(x))
    shared = [layers.Dense(3, activation='relu'), layers.Dense(6)]
    mean = apply(layers.GlobalAveragePooling2D()(x), shared)
    t = layers.Activation('sigmoid')(mean + apply(layers.GlobalMaxPooling2D()(x), shared))
    x = x * layers.Reshape((1, 1, 6))(t) + conv()(x) * (1 - layers.Reshape((1, 1, 6))(t))
    places = layers.Concatenate()([ops.mean(x, -1, keepdims=True), ops.max(x, -1, keepdims=True)])
    x = layers.Multiply()([x, layers.Conv2D(1, 7, padding='same', activation='sigmoid')(places)])
    return apply(x, layers.MaxPooling2D(4), head(3, None))


def curved(x):
    """Activations of Keras, and normalisation by the picture's own statistics."""
    x = conv(activation='selu')(layers.Rescaling(1 / 255)(x))
    x = layers.GroupNormalization(3)(conv(activation='mish', strides=2)(x))
    x = layers.PReLU()(layers.LeakyReLU(0.1)(conv(activation=None)(x)))
    x = layers.Activation('celu')(conv(activation='softsign')(x))
    x = layers.LayerNormalization([1, 2, 3])(conv(activation=keras.layers.LeakyReLU(0.3))(x))
    x = layers.RMSNormalization()(keras.ops.hard_tanh(layers.MaxPooling2D()(x)))
    return apply(x, layers.DepthwiseConv2D(3), layers.Flatten(), layers.Dense(3, 'log_softmax'))


def one_of_two(x):
    """The first of two outputs of a model inside, in a dict."""
    base = chain(convolutions(), head())
    outputs = [base.outputs[0], layers.Flatten()(base.layers[0].output)]
    return {'classes': keras.Model(base.inputs, outputs)(x)[0]}


MODELS = {  # functions that build them
    'vgg': lambda: chain(convolutions(), head()),
    'vgg with batch normalisation': lambda: chain(
        conv(use_bias=False, activation=None), layers.BatchNormalization(), layers.ReLU(),
        layers.MaxPooling2D(), head()),
    'fine-tuned': fine_tuned,
    'resizing inside': lambda: chain(
        layers.Resizing(28, 26), layers.CenterCrop(24, 24),
        layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[2500.0, 3600.0, 4900.0]),
        convolutions(), head(), shape=(40, 30, 3)),
    'one sigmoid': lambda: scaled(convolutions(), layers.GlobalAveragePooling2D(),
                                  layers.Dense(1, activation='sigmoid')),
    'one sigmoid of maps': lambda: scaled(
        conv(), layers.Conv2D(1, 3, strides=4), layers.GlobalAveragePooling2D(),
        layers.Activation('sigmoid')),
    'one value': lambda: scaled(convolutions(), head(1, None)),
    'several sigmoids': lambda: scaled(convolutions(), head(5, 'sigmoid')),
    'batch normalisation': lambda: scaled(  # before and after ReLU, twice, after dense
        conv(activation=None), layers.BatchNormalization(), layers.BatchNormalization(),
        layers.ReLU(), layers.BatchNormalization(), layers.AveragePooling2D(2),
        layers.BatchNormalization(), conv(), layers.Flatten(), layers.Dense(8, activation='relu'),
        layers.BatchNormalization(), layers.Dense(3)),
    'batch normalisation of pixels and logits': lambda: chain(
        layers.BatchNormalization(), conv(padding='valid'), layers.Flatten(), layers.Dense(3),
        layers.BatchNormalization(scale=False), layers.Softmax()),
    'strides, padding, groups': lambda: scaled(
        layers.ZeroPadding2D(((1, 2), (3, 0))),
        layers.Conv2D(6, (5, 3), strides=2, activation='relu'),
        layers.Conv2D(6, 2, strides=(2, 1), padding='same', activation='relu'),
        layers.MaxPooling2D(3, 2, padding='same'), conv(groups=2, dilation_rate=2),
        layers.AveragePooling2D((2, 3), padding='same'), head()),
    'convolutions alone, with what only trains': lambda: chain(
        layers.GaussianNoise(0.1), layers.Rescaling(1 / 255), layers.Identity(), convolutions(),
        layers.SpatialDropout2D(0.3), layers.Conv2D(3, 1), layers.GlobalAveragePooling2D(),
        layers.Dropout(0.5), layers.Softmax()),
    'dense on maps': lambda: scaled(convolutions(), layers.Dense(5, activation='relu'),
                                    layers.Reshape((-1,)), layers.Dense(3)),
    'grey': lambda: chain(convolutions(), head(), shape=(28, 28, 1)),
    'grey, three times': lambda: functional(lambda x: apply(
        layers.Concatenate()([x, x, x]), convolutions(), head()), (28, 28, 1)),
    'no convolution': lambda: chain(layers.Flatten(), layers.Dense(30, activation='relu'),
                                    layers.Dense(3), shape=(12, 10, 3)),
    'any size': lambda: scaled(
        layers.Conv2D(4, 7, strides=4, activation='relu'), layers.MaxPooling2D(4),
        layers.GlobalAveragePooling2D(), layers.Dense(3), shape=(None, None, 3)),
    'residual': lambda: functional(residual), 'moved': lambda: functional(moved),
    'mixed': lambda: functional(mixed), 'mixer': lambda: functional(mixer),
    'attentive': lambda: functional(attentive), 'curved': lambda: functional(curved),
    'mobile': lambda: functional(mobile), 'one of two': lambda: functional(one_of_two),
    'mixed precision': lambda: scaled(
        convolutions(dtype=keras.DTypePolicy('mixed_float16')), layers.Flatten(),
        layers.Dense(3, activation='softmax'))}
MODES = {  # of preprocessing, for those that do not preprocess pictures themselves
    'vgg': 'caffe', 'vgg with batch normalisation': 'torch', 'no convolution': 'tf',
    'batch normalisation of pixels and logits': 'unit', 'grey': 'none',
    'grey, three times': 'unit', 'one of two': 'caffe'}


def randomise(model, seed=0):
    """Gives a model weights that keep units alive, some by their bias alone, so that they have no
    input to pass relevance to."""
    rng = np.random.default_rng(seed)

    def drawn(weight):
        shape = weight.shape
        if weight.name.endswith('kernel'):
            return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        if weight.name == 'gamma':
            return rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        if weight.name == 'moving_variance':
            return rng.uniform(0.5, 1.5, shape)
        return rng.normal(0, 0.1, shape)

    for weight in model.weights:
        if weight.name not in ('mean', 'variance', 'count'):  # of pixels
            weight.assign(drawn(weight))
    return model


def build(name):
    """The model of this name, with random weights of the same seed."""
    return randomise(MODELS[name]())
