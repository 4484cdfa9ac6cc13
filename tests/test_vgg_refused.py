"""Models that vgg/lrp.py does not explain: one line that names the layer, before anything in the
file is executed or anything written."""
import json
import pickle
import zipfile

from conftest import scripts
import h5py
import keras
from keras import layers
import keras_models
from keras_models import apply, chain, convolutions, functional, head
import numpy as np
import pytest
from small_vgg import photograph, random_weights, run


@pytest.fixture
def lrp(tmp_path, capsys):
    """A function: runs the script on a model and a picture. Returns how it ended; nothing may have
    been written."""
    def command(file, *options, status=2):
        end = run(scripts('vgg').lrp.main, capsys, photograph(tmp_path / 'a.png'), '--weights',
                  file, '--results', tmp_path / 'out', *options)
        assert end.status == status, end
        if status:
            assert not list((tmp_path / 'out').glob('*')) and not end.out, end
            line, = end.err
            assert f': {file}: ' in line, line
        return end
    return command


def two_inputs():
    inputs = [keras.Input(keras_models.POOLED), keras.Input((4,))]
    x = layers.Flatten()(layers.Conv2D(4, 3, activation='relu')(inputs[0]))
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()([x, inputs[1]])))


def two_outputs():
    inputs = keras.Input(keras_models.POOLED)
    x = apply(inputs, convolutions(), layers.Flatten())
    return keras.Model(inputs, [layers.Dense(3)(x), layers.Dense(2)(x)])


def used_twice():
    layer = layers.Conv2D(3, 3, padding='same', activation='relu', name='shared')
    return functional(lambda x: apply(layer(layer(x)), head()))


def product():
    def network(x):
        x = layers.Conv2D(4, 3, activation='relu')(x)
        return apply(layers.Multiply(name='odd')([x, layers.Conv2D(4, 1)(x)]), head())
    return functional(network)


def difference():
    def network(x):
        x = layers.Conv2D(4, 3, activation='relu')(x)
        return apply(layers.Subtract(name='odd')([x, layers.Conv2D(4, 1)(x)]), head())
    return functional(network)


def attention():
    def network(x):
        x = layers.Reshape((-1, 4), name='odd')(layers.Conv2D(4, 3)(x))
        return apply(layers.Attention()([x, x]), layers.GlobalAveragePooling1D(), layers.Dense(3))
    return functional(network)


def last(*parts):
    return lambda: chain(convolutions(), *parts)


REFUSED = {  # name: (function that builds the model, words of the message)
    'softmax inside': (last(layers.Flatten(), layers.Dense(4, activation='softmax'),
                            layers.Dense(3, name='odd')), ['softmax']),
    'transposed convolution': (last(layers.Conv2DTranspose(4, 3, name='odd'), head()),
                               ['layer odd', 'Conv2DTranspose']),
    'layer normalisation': (last(layers.LayerNormalization(name='odd'), head()),
                            ['layer odd', 'LayerNormalization']),
    'upsampling': (last(layers.UpSampling2D(name='odd'), head()), ['layer odd', 'UpSampling2D']),
    'normalisation of rows': (last(layers.BatchNormalization(axis=1, name='odd'), head()),
                              ['layer odd', 'axis 1']),
    'a product of signals': (product, ['layer odd', 'gate']),
    'a difference of signals': (difference, ['layer odd', 'Subtract']),
    'attention': (attention, ['layer odd']),
    'two inputs': (two_inputs, ['2 inputs']),
    'two outputs': (two_outputs, ['2 outputs']),
    'a layer used twice': (used_twice, ['layer shared', 'more than once']),
    'a recurrent layer': (last(layers.Reshape((-1, 6), name='odd'), layers.LSTM(4),
                               layers.Dense(3)), ['layer odd']),
    'maps as outputs': (last(layers.Conv2D(3, 1, name='odd')), ['layer odd', '(8, 12, 3)']),
    'one softmax output': (last(layers.Flatten(),
                                layers.Dense(1, activation='softmax', name='odd')),
                                ['layer odd', 'one output']),
    'no layer with weights': (lambda: chain(layers.Rescaling(2.0),
                                            layers.GlobalAveragePooling2D()), ['no layers']),
    'no picture': (lambda: chain(layers.Dense(4, activation='relu'), layers.Dense(3), shape=(7,)),
                   ['(None, 7)']),
    'five channels': (lambda: chain(convolutions(), head(), shape=(8, 8, 5)), ['(None, 8, 8, 5)']),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_by_the_name_of_its_layer(lrp, tmp_path, name):
    build, words = REFUSED[name]
    keras.utils.clear_session()
    build().save(tmp_path / 'my.keras')
    line, = lrp(tmp_path / 'my.keras').err
    assert all(word in line for word in words), line
    assert 'networks can be explained' in line or name in ('no picture', 'five channels',
        'no layer with weights'), line


@pytest.mark.filterwarnings('ignore')
def test_channels_first_is_refused(lrp, tmp_path):
    model = chain(layers.Conv2D(4, 3, data_format='channels_first', name='odd'), layers.Flatten(),
                  layers.Dense(3), shape=(3, 16, 16))
    model.save(tmp_path / 'my.keras')
    line, = lrp(tmp_path / 'my.keras').err
    assert 'channels' in line


@pytest.mark.parametrize('module, name, broken', [
    ('keras_layers', 'activation_of', lambda layer: 'linear'),
    ('keras_layers', 'normalisation', lambda layer: (np.ones((1, 6)), np.ones(6)))])
def test_a_rebuilt_graph_that_differs_is_stopped(lrp, tmp_path, monkeypatch, module, name, broken):
    """The walk is broken on purpose. Nothing is written; the line gives both outputs."""
    keras_models.build('vgg with batch normalisation, torch').save(tmp_path / 'my.keras')
    with monkeypatch.context() as patch:
        patch.setattr(getattr(scripts('vgg'), module), name, broken)
        line, = lrp(tmp_path / 'my.keras', '--preprocessing', 'torch').err
        assert 'something else' in line and 'class' in line and 'Keras gives' in line
    lrp(tmp_path / 'my.keras', '--preprocessing', 'torch', status=0)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.jpg']


# Files that would do something when read

TOUCH = "open({!r}, 'w').close()"


@pytest.mark.parametrize('file', ['my.keras', 'my.h5'])
def test_lambda_is_not_executed(lrp, tmp_path, file):
    model = chain(convolutions(),
                  layers.Lambda(eval(f'lambda x: (x, {TOUCH.format(str(tmp_path / "done"))})[0]'),
                                name='odd'), head())
    (tmp_path / 'done').unlink()  # Keras ran it while building
    model.save(tmp_path / file)
    line, = lrp(tmp_path / file).err
    assert 'ambda' in line and not (tmp_path / 'done').exists()


def test_custom_class_is_not_executed(lrp, tmp_path):
    class Own(layers.Layer):
        def call(self, x):
            return x
    chain(convolutions(), Own(name='odd'), head()).save(tmp_path / 'my.keras')
    line, = lrp(tmp_path / 'my.keras').err
    assert 'cannot read' in line


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (TOUCH.format(str(self.path)),)


def test_pickled_object_is_not_read(lrp, tmp_path):
    np.savez(tmp_path / 'w.npz',
             **{**random_weights(),
                'block3_conv1/kernel': np.array([Malicious(tmp_path / 'done')], dtype=object)})
    (tmp_path / 'raw.npz').write_bytes(pickle.dumps(Malicious(tmp_path / 'done')))
    for file in ('w.npz', 'raw.npz'):
        line, = lrp(tmp_path / file).err
        assert 'cannot be read' in line or 'neither a model' in line
    assert not (tmp_path / 'done').exists()


def test_link_to_another_file_is_not_followed(lrp, tmp_path):
    """Keras refuses an external link in the weights of a model."""
    keras_models.build('vgg').save(tmp_path / 'whole.keras')

    def linked(name, data):
        if name != 'model.weights.h5':
            return data
        path = tmp_path / 'part.h5'
        path.write_bytes(data)
        with h5py.File(path, 'r+') as file:
            place = next(name for name in ('layers/dense/vars/0', 'layers/dense_1/vars/0')
                         if name in file)
            with h5py.File(tmp_path / 'secret.h5', 'w') as secret:
                secret['w'] = file[place][...]
            del file[place]
            file[place] = h5py.ExternalLink(str(tmp_path / 'secret.h5'), 'w')
        return path.read_bytes()
    rewritten(tmp_path / 'whole.keras', tmp_path / 'my.keras', linked)
    lrp(tmp_path / 'my.keras')


@pytest.mark.parametrize('change', ['config is a list', 'no config', 'not json'])
def test_odd_configurations(lrp, tmp_path, change):
    keras_models.build('vgg').save(tmp_path / 'whole.keras')
    text = {'config is a list': '[1, 2]', 'not json': 'no'}.get(change)
    with zipfile.ZipFile(tmp_path / 'whole.keras') as whole, zipfile.ZipFile(tmp_path / 'my.keras',
        'w') as archive:
        for name in whole.namelist():
            if name != 'config.json':
                archive.writestr(name, whole.read(name))
            elif text:
                archive.writestr(name, text)
    lrp(tmp_path / 'my.keras')


def test_a_layer_that_only_claims_to_be_one_of_keras(lrp, tmp_path):
    """Its module is another one: nothing is imported."""
    keras_models.build('vgg').save(tmp_path / 'whole.keras')
    (tmp_path / 'malicious.py').write_text(TOUCH.format(str(tmp_path / 'done')))
    with zipfile.ZipFile(tmp_path / 'whole.keras') as whole, zipfile.ZipFile(tmp_path / 'my.keras',
        'w') as archive:
        config = json.loads(whole.read('config.json'))
        config['config']['layers'][2]['module'] = 'malicious'
        for name in whole.namelist():
            archive.writestr(name,
                             json.dumps(config) if name == 'config.json' else whole.read(name))
    line, = lrp(tmp_path / 'my.keras').err
    assert 'cannot read' in line and not (tmp_path / 'done').exists()


def rewritten(source, target, change):
    """Copies a .keras file; change(name, bytes) gives what its members become."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w', zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def test_model_without_the_weights_of_a_layer_is_refused(lrp, tmp_path):
    """None are made up for it."""
    chain(convolutions(), head()).save(tmp_path / 'whole.keras')

    def without(name, data):
        if name != 'model.weights.h5':
            return data
        path = tmp_path / 'part.h5'
        path.write_bytes(data)
        with h5py.File(path, 'r+') as file:
            layer = next(path for path in ('layers/dense/vars', 'layers/dense_1/vars')
                         if path in file)
            for variable in list(file[layer]):
                del file[layer][variable]
        return path.read_bytes()
    rewritten(tmp_path / 'whole.keras', tmp_path / 'part.keras', without)
    lrp(tmp_path / 'part.keras')
