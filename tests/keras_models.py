"""Small models made the way Keras's guides and tutorials make them: what users of vgg/lrp.py bring
along."""
import keras
from keras import layers
import numpy as np

POOLED = (32, 48, 3)  # height, width and channels of most models' pictures


def convolutions(depths=(1, 1), width=6, **options):
    """Blocks as VGG's: 3x3 convolutions with ReLU, then 2x2 max-pooling."""
    result = []
    for depth in depths:
        result += [layers.Conv2D(width, 3, padding='same', activation='relu', **options)
                   for _ in range(depth)]
        result.append(layers.MaxPooling2D())
    return result


def chain(*parts, shape=POOLED):
    """A Sequential model of layers and lists of layers."""
    flat = [layer for part in parts for layer in (part if isinstance(part, list) else [part])]
    return keras.Sequential([keras.Input(shape), *flat])


def functional(function, shape=POOLED):
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


def head(classes=3, activation='softmax'):
    return [layers.Flatten(), layers.Dense(8, activation='relu'),
            layers.Dense(classes, activation=activation)]


def apply(x, *parts):
    for part in parts:
        for layer in part if isinstance(part, list) else [part]:
            x = layer(x)
    return x


def vgg(depths=(2, 2), head_layers=None, normalised=False, shape=POOLED):
    """A VGG of a few channels; normalised: batch normalisation between convolution and ReLU."""
    body = []
    for depth in depths:
        for _ in range(depth):
            if normalised:
                body += [layers.Conv2D(6, 3, padding='same', use_bias=False),
                         layers.BatchNormalization(), layers.ReLU()]
            else:
                body += [layers.Conv2D(6, 3, padding='same', activation='relu')]
        body += [layers.MaxPooling2D()]
    return chain(body, head_layers or head(), shape=shape)


def fine_tuned():
    """The guide to transfer learning: preprocessing, a model inside the model, global pooling,
    dropout."""
    base = keras.Model((x := keras.Input(POOLED)), apply(x, convolutions((2, 1))), name='base')
    inputs = keras.Input(POOLED)
    x = keras.applications.vgg16.preprocess_input(inputs)
    x = base(x, training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(4, activation='softmax')(x))


def twice_nested():
    inner = chain(convolutions((1,)))
    middle = functional(lambda x: layers.BatchNormalization()(inner(x)))
    return chain(layers.RandomFlip('horizontal'), layers.Rescaling(1 / 255), middle,
                 convolutions((1,)), head())


def truncated():
    """The lower part of a larger model, cut at one of its layers."""
    whole = vgg((2, 2, 2))
    cut = keras.Model(whole.inputs, whole.layers[5].output)
    return chain(cut, layers.GlobalMaxPooling2D(), layers.Dense(3, activation='softmax'))


def preprocessed(mode):
    return functional(lambda x: apply(keras.applications.imagenet_utils.preprocess_input(x,
        mode=mode), convolutions(), head()))


def normalised_pixels():
    layer = layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[2500.0, 3600.0, 4900.0])
    return chain(layer, convolutions(), head())


def grey_to_colours():
    """A model for colours on grey pictures: the channel three times."""
    return functional(lambda x: apply(layers.Concatenate()([x, x, x]), convolutions(), head()),
                      shape=(28, 28, 1))


def in_16_bits():
    """Trained in mixed precision, as on a GPU."""
    policy = keras.DTypePolicy('mixed_float16')
    return chain(layers.Rescaling(1 / 255), *convolutions((1, 1), dtype=policy), layers.Flatten(),
                 layers.Dense(3, activation='softmax'))


# name: (function that builds it, options of the command line, words of the first line of output)
MODELS = {
    'vgg': (vgg, '--preprocessing caffe',
            '4 convolutions, 2 dense layers, 32x48, preprocessing caffe, 3 classes'),
    'vgg11': (lambda: vgg((1, 1, 2, 2, 2)), '--preprocessing caffe', '8 convolutions, 2 dense'),
    'vgg13, tf': (lambda: vgg((2, 2, 2, 2, 2)), '--preprocessing tf',
                  '10 convolutions, 2 dense layers, 32x48, preprocessing tf'),
    'vgg with batch normalisation, torch': (lambda: vgg(normalised=True), '--preprocessing torch',
                                            'preprocessing torch, 3 classes'),
    'fine-tuned, global pooling': (fine_tuned, '',
                                   '3 convolutions, 1 dense layer, 32x48, preprocessing in the '
                                   'model, 4 classes'),
    'truncated': (truncated, '--preprocessing unit',
                  '4 convolutions, 1 dense layer, 32x48, preprocessing unit'),
    'twice nested': (twice_nested, '',
                     '2 convolutions, 2 dense layers, 32x48, preprocessing in the model'),
    'Identity, which is an initialiser, too': (lambda: chain(
        layers.Rescaling(1 / 255), layers.Identity(), convolutions(), layers.Identity(), head()),
        '', 'preprocessing in the model'),
    'rescaling': (lambda: chain(layers.Rescaling(1 / 255), convolutions(), head()), '',
                  'preprocessing in the model'),
    'rescaling around zero, augmentation': (lambda: chain(
        layers.RandomFlip('horizontal'), layers.RandomRotation(0.1),
        layers.Rescaling(1 / 127.5, -1), layers.RandomZoom(0.1),
        convolutions(), head()), '', 'preprocessing in the model'),
    'preprocess_input inside, caffe': (lambda: preprocessed('caffe'), '',
                                       'preprocessing in the model'),
    'preprocess_input inside, tf': (lambda: preprocessed('tf'), '', 'preprocessing in the model'),
    'preprocess_input inside, torch': (lambda: preprocessed('torch'), '',
                                       'preprocessing in the model'),
    'normalization of pixels': (normalised_pixels, '', 'preprocessing in the model'),
    'resizing inside': (lambda: chain(layers.Resizing(24, 24), layers.Rescaling(1 / 255),
                                      convolutions(), head(), shape=(40, 30, 3)),
                        '', '2 convolutions, 2 dense layers, 40x30'),
    'one sigmoid': (lambda: chain(layers.Rescaling(1 / 255), convolutions(),
                                  layers.GlobalAveragePooling2D(),
                                  layers.Dense(1, activation='sigmoid')), '',
                                  '1 dense layer, 32x48, preprocessing in the model, 2 classes'),
    'one logit': (lambda: chain(layers.Rescaling(1 / 255), convolutions(), head(1, None)), '',
                  'one value'),
    'several sigmoids': (lambda: chain(layers.Rescaling(1 / 255), convolutions(),
                                       head(5, 'sigmoid')), '', '5 classes'),
    'logits': (lambda: chain(layers.Rescaling(1 / 255), convolutions(), head(3, None)), '',
               '3 classes'),
    'softmax as a layer': (lambda: chain(layers.Rescaling(1 / 255), convolutions(), head(3, None),
                                         layers.Softmax()), '', '3 classes'),
    'activations as layers': (lambda: chain(
        layers.Rescaling(1 / 255), layers.Conv2D(6, 3), layers.Activation('relu'),
        layers.Conv2D(6, 3), layers.ReLU(),
        layers.MaxPooling2D(), layers.Flatten(), layers.Dense(8), layers.Activation('relu'),
        layers.Dense(3),
        layers.Activation('softmax')), '', '2 convolutions, 2 dense layers'),
    'batch normalisation after ReLU': (lambda: chain(
        layers.Rescaling(1 / 255), layers.Conv2D(6, 3, padding='same', activation='relu'),
        layers.BatchNormalization(),
        layers.Conv2D(6, 3, padding='same', activation='relu'), layers.BatchNormalization(),
        layers.AveragePooling2D(2),
        layers.Flatten(), layers.Dense(8, activation='relu'), layers.BatchNormalization(),
        layers.Dense(3, activation='softmax')),
        '', '2 convolutions, 2 dense layers'),
    'batch normalisation twice, before and after ReLU': (lambda: chain(
        layers.Rescaling(1 / 255), layers.Conv2D(6, 3), layers.BatchNormalization(),
        layers.BatchNormalization(), layers.ReLU(),
        layers.BatchNormalization(), layers.AveragePooling2D(2), layers.BatchNormalization(),
        layers.Conv2D(6, 3, padding='same'),
        layers.ReLU(), head()), '', '2 convolutions, 2 dense layers'),
    'batch normalisation of pixels and logits': (lambda: chain(
        layers.BatchNormalization(), layers.Conv2D(6, 3, activation='relu'), layers.Flatten(),
        layers.Dense(3),
        layers.BatchNormalization(scale=False), layers.Softmax()), '--preprocessing unit',
        '1 convolution, 1 dense layer'),
    'strides, padding, sizes': (lambda: chain(
        layers.Rescaling(1 / 255), layers.ZeroPadding2D(((1, 2), (3, 0))),
        layers.Conv2D(6, (5, 3), strides=2, activation='relu'),
        layers.Conv2D(6, 2, strides=(2, 1), padding='same', activation='relu'),
        layers.MaxPooling2D(3, 2, padding='same'),
        layers.Conv2D(5, 1, activation='relu'), head()), '', '3 convolutions, 2 dense layers'),
    'average pooling': (lambda: chain(
        layers.Rescaling(1 / 255), layers.Conv2D(6, 3, activation='relu'),
        layers.AveragePooling2D(3, 2, padding='same'),
        layers.Conv2D(6, 3, activation='relu'), layers.AveragePooling2D((2, 3)), head()), '',
        '2 convolutions'),
    'linear layers': (lambda: chain(
        layers.Rescaling(1 / 255), layers.Conv2D(6, 3), layers.Conv2D(6, 3, activation='relu'),
        layers.Flatten(), layers.Dense(8),
        layers.Dense(8), layers.Dense(3, activation='softmax')), '',
        '2 convolutions, 3 dense layers'),
    'linear maps, averaged': (lambda: chain(
        layers.Rescaling(1 / 255), layers.Conv2D(6, 3), layers.AveragePooling2D(2),
        layers.Conv2D(6, 3), layers.MaxPooling2D(), head()),
        '', '2 convolutions'),
    'convolutions alone': (lambda: chain(
        layers.Rescaling(1 / 255), convolutions(), layers.Conv2D(3, 1),
        layers.GlobalAveragePooling2D(), layers.Softmax()),
        '', '3 convolutions, 0 dense layers, 32x48, preprocessing in the model, 3 classes'),
    'dense on maps': (lambda: chain(
        layers.Rescaling(1 / 255), convolutions(), layers.Dense(5, activation='relu'),
        layers.Reshape((-1,)), layers.Dense(3)), '',
        '3 convolutions, 1 dense layer'),
    'what only trains': (lambda: chain(
        layers.GaussianNoise(0.1), layers.Rescaling(1 / 255),
        layers.Conv2D(6, 3, activation='relu'), layers.SpatialDropout2D(0.3),
        layers.MaxPooling2D(), layers.Dropout(0.5), layers.Flatten(), layers.GaussianDropout(0.3),
        layers.Dense(3)), '', '1 convolution'),
    'global pooling that keeps its dimensions': (lambda: chain(
        layers.Rescaling(1 / 255), convolutions(), layers.GlobalMaxPooling2D(keepdims=True),
        head()), '', '2 dense layers'),
    'grey': (lambda: chain(convolutions(), head(), shape=(28, 28, 1)), '--preprocessing none',
             '28x28, no preprocessing, 3 classes'),
    'grey, three times': (grey_to_colours, '--preprocessing unit', '28x28, preprocessing unit'),
    'no convolution': (lambda: chain(layers.Rescaling(1 / 255), layers.Flatten(),
                                     layers.Dense(30, activation='relu'), layers.Dense(3),
                                      shape=(12, 10, 3)), '',
                                      '0 convolutions, 2 dense layers, 12x10'),
    'any size': (lambda: chain(layers.Rescaling(1 / 255),
                               layers.Conv2D(4, 7, strides=4, activation='relu'),
                               layers.MaxPooling2D(4),
                               layers.GlobalAveragePooling2D(), layers.Dense(3),
                               shape=(None, None, 3)), '', '224x224'),
    'mixed precision': (in_16_bits, '', '2 convolutions, 1 dense layer'),
}


def randomise(model, lifted=True, seed=0):
    """Weights that keep activations alive, biases that are not zero, statistics that are not
    trivial; lifted: some units by their bias alone, so that they have nobody to give their
    relevance to."""
    rng = np.random.default_rng(seed)
    for layer in everything(model):
        values = []
        for weight in layer.weights if not isinstance(layer,
                                                      (layers.Normalization, keras.Model)) else []:
            shape = weight.shape
            if weight.name == 'kernel':
                values.append(rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape))
            elif weight.name == 'gamma':
                values.append(rng.uniform(0.5, 1.5, shape)
                              * (rng.choice([-1, 1], shape) if lifted else 1))
            elif weight.name == 'moving_variance':
                values.append(rng.uniform(0.5, 1.5, shape))
            elif weight.name in ('bias', 'beta', 'moving_mean'):
                drawn = rng.normal(0, 0.1, shape)
                values.append(drawn if lifted else abs(drawn)
                              if weight.name == 'moving_mean' else -abs(drawn))
            else:
                values.append(weight.numpy())  # the state of random numbers
        layer.set_weights(values) if values else None
    return model


def everything(model):
    """All layers, those of models inside the model too."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from everything(layer)


def build(name, lifted=True):
    """The model of this name, with random weights of the same seed."""
    keras.utils.clear_session()
    return randomise(MODELS[name][0](), lifted)
