"""Models that vgg/lrp.py does not explain: one line that names the layer, before anything in the file is executed or anything written."""
import json
from pathlib import Path
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
from small_vgg import photograph, random_weights, run, shrink


@pytest.fixture
def lrp(tmp_path, capsys):
    """A function: runs the script on a model and a picture. Returns how it ended; nothing may have been written."""
    def command(file, *options, status=2):
        end = run(scripts('vgg').lrp.main, capsys, photograph(tmp_path / 'a.png'), '--weights', file, '--results', tmp_path / 'out', *options)
        assert end.status == status, end
        if status:
            assert not list((tmp_path / 'out').glob('*')) and not end.out, end
            line, = end.err
            assert f': {file}: ' in line, line
        return end
    return command


def residual():
    def network(x):
        x = layers.Conv2D(4, 3, padding='same', activation='relu')(x)
        y = layers.Conv2D(4, 3, padding='same', activation='relu')(x)
        return apply(layers.Add(name='shortcut')([x, y]), head())
    return functional(network)


def two_towers():
    def network(x):
        towers = [layers.Flatten()(layers.Conv2D(4, size, activation='relu')(x)) for size in (1, 3)]
        return layers.Dense(3)(layers.Concatenate(name='both')(towers))
    return functional(network)


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


def last(*parts):
    return lambda: chain(convolutions(), *parts)


REFUSED = {  # name: (function that builds the model, words of the message)
    'another activation': (last(layers.Conv2D(4, 3, activation='tanh', name='odd'), head()), ['layer odd', 'tanh']),
    'another activation as a layer': (last(layers.Activation('gelu', name='odd'), head()), ['layer odd', 'gelu']),
    'leaky ReLU': (last(layers.LeakyReLU(name='odd'), head()), ['layer odd', 'LeakyReLU']),
    'ReLU with a slope': (last(layers.ReLU(negative_slope=0.1, name='odd'), head()), ['layer odd', 'slope']),
    'ReLU that ends at 6': (last(layers.ReLU(6.0, name='odd'), head()), ['layer odd', 'largest']),
    'relu6': (last(layers.Dense(4, activation='relu6', name='odd'), head()), ['layer odd', 'relu6']),
    'sigmoid inside': (last(layers.Conv2D(4, 3, activation='sigmoid', name='inner'), layers.Flatten(name='odd'), layers.Dense(3)), ['layer odd', 'sigmoid']),
    'softmax inside': (last(layers.Flatten(), layers.Dense(4, activation='softmax'), layers.Dense(3, name='odd')), ['odd', 'softmax']),
    'separable convolution': (last(layers.SeparableConv2D(4, 3, name='odd'), head()), ['layer odd', 'SeparableConv2D']),
    'depthwise convolution': (last(layers.DepthwiseConv2D(3, name='odd'), head()), ['layer odd', 'DepthwiseConv2D']),
    'dilated convolution': (last(layers.Conv2D(4, 3, dilation_rate=2, name='odd'), head()), ['layer odd', 'dilated']),
    'grouped convolution': (last(layers.Conv2D(6, 3, groups=2, name='odd'), head()), ['layer odd', '2 groups']),
    'transposed convolution': (last(layers.Conv2DTranspose(4, 3, name='odd'), head()), ['layer odd', 'Conv2DTranspose']),
    'layer normalisation': (last(layers.LayerNormalization(name='odd'), head()), ['layer odd', 'LayerNormalization']),
    'rescaling inside': (last(layers.Rescaling(2.0, name='odd'), head()), ['layer odd', 'Rescaling']),
    'augmentation inside': (last(layers.RandomFlip(name='odd'), head()), ['layer odd', 'RandomFlip']),
    'upsampling': (last(layers.UpSampling2D(name='odd'), head()), ['layer odd', 'UpSampling2D']),
    'normalisation before ReLU of pooled maps': (last(layers.BatchNormalization(name='odd'), layers.ReLU(), head()), ['layer odd', 'ReLU']),
    'normalisation that turns signs before pooling': (
        last(layers.BatchNormalization(name='odd', gamma_initializer=keras.initializers.Constant(-1.0)), layers.MaxPooling2D(name='inner'),
             head()), ['layer odd', 'max-pooling']),
    'normalisation of rows': (last(layers.BatchNormalization(axis=1, name='odd'), head()), ['layer odd', 'axis 1']),
    'padding before pooling': (last(layers.ZeroPadding2D(name='zeros'), layers.MaxPooling2D(name='odd'), head()), ['layer odd', 'ZeroPadding2D']),
    'padded twice': (last(layers.ZeroPadding2D(), layers.Conv2D(4, 3, padding='same', name='odd'), head()), ['layer odd', 'twice']),
    'dense before the first convolution': (lambda: chain(layers.Dense(4, name='odd'), convolutions(), head()), ['layer odd', 'Dense']),
    'activation before the first convolution': (lambda: chain(layers.ReLU(name='odd'), convolutions(), head()), ['layer odd', 'ReLU']),
    'shortcut': (residual, ['layer shortcut', 'joins branches']),
    'two towers': (two_towers, ['layer both', 'joins branches']),
    'two inputs': (two_inputs, ['2 inputs']),
    'two outputs': (two_outputs, ['2 outputs']),
    'a layer used twice': (used_twice, ['layer shared', 'more than once']),
    'a recurrent layer': (last(layers.Reshape((-1, 6)), layers.LSTM(4, name='odd'), layers.Dense(3)), ['layer odd', 'LSTM']),
    'maps as outputs': (last(layers.Conv2D(3, 1, name='odd')), ['layer odd', 'map']),
    'one softmax output': (last(layers.Flatten(), layers.Dense(1, activation='softmax', name='odd')), ['layer odd', 'one output']),
    'no layer with weights': (lambda: chain(layers.Rescaling(2.0), layers.GlobalAveragePooling2D()), ['neither']),
    'no picture': (lambda: chain(layers.Dense(4, activation='relu'), layers.Dense(3), shape=(7,)), ['(None, 7)']),
    'five channels': (lambda: chain(convolutions(), head(), shape=(8, 8, 5)), ['(None, 8, 8, 5)']),
}


@pytest.mark.parametrize('name', REFUSED)
def test_refused_by_the_name_of_its_layer(lrp, tmp_path, name):
    build, words = REFUSED[name]
    keras.utils.clear_session()
    build().save(tmp_path / 'my.keras')
    line, = lrp(tmp_path / 'my.keras').err
    assert all(word in line for word in words), line
    assert 'what can be explained' in line or name in ('no picture', 'five channels'), line


@pytest.mark.filterwarnings('ignore')
def test_channels_first_is_refused(lrp, tmp_path):
    model = chain(layers.Conv2D(4, 3, data_format='channels_first', name='odd'), layers.Flatten(), layers.Dense(3), shape=(3, 16, 16))
    model.save(tmp_path / 'my.keras')
    line, = lrp(tmp_path / 'my.keras').err
    assert 'channels' in line


def test_a_rebuilt_graph_that_differs_is_stopped(lrp, tmp_path, monkeypatch):
    """Break the walk on purpose: ReLU forgotten, then weights of another sign. Nothing is written; the line gives both outputs."""
    keras_models.build('vgg').save(tmp_path / 'my.keras')
    chain_module = scripts('vgg').chain
    with monkeypatch.context() as broken:
        broken.setattr(chain_module, 'activate', lambda chain, name, function: None)
        line, = lrp(tmp_path / 'my.keras').err
        assert 'another one' in line and 'class' in line and 'Keras gives' in line
    call = chain_module.Kernel.__call__
    with monkeypatch.context() as broken:
        broken.setattr(chain_module.Kernel, '__call__', lambda kernel: [call(kernel)[0] * np.float32(1.01), call(kernel)[1]])
        line, = lrp(tmp_path / 'my.keras').err
        assert 'another one' in line
    assert (tmp_path / 'out').exists() and not list((tmp_path / 'out').iterdir())
    lrp(tmp_path / 'my.keras', status=0)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.jpg']


# Files that would do something when read

TOUCH = "open({!r}, 'w').close()"


@pytest.mark.parametrize('file', ['my.keras', 'my.h5'])
def test_lambda_is_not_executed(lrp, tmp_path, file):
    model = chain(convolutions(), layers.Lambda(eval(f'lambda x: (x, {TOUCH.format(str(tmp_path / "done"))})[0]'), name='odd'), head())
    (tmp_path / 'done').unlink()  # Keras ran it while building
    model.save(tmp_path / file)
    line, = lrp(tmp_path / file).err
    assert 'layer odd' in line and 'not executed' in line and not (tmp_path / 'done').exists()


@keras.saving.register_keras_serializable('mine')
class Own(layers.Layer):
    def call(self, x):
        return x


def test_custom_class_is_not_executed(lrp, tmp_path):
    """Not even where the class is known to this process."""
    chain(convolutions(), Own(name='odd'), head()).save(tmp_path / 'my.keras')
    line, = lrp(tmp_path / 'my.keras').err
    assert 'layer odd' in line and 'Own' in line


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (TOUCH.format(str(self.path)),)


def test_pickled_object_is_not_read(lrp, tmp_path):
    np.savez(tmp_path / 'w.npz', **{**random_weights(), 'block3_conv1/kernel': np.array([Malicious(tmp_path / 'done')], dtype=object)})
    (tmp_path / 'raw.npz').write_bytes(pickle.dumps(Malicious(tmp_path / 'done')))
    for file in ('w.npz', 'raw.npz'):
        line, = lrp(tmp_path / file).err
        assert 'pickle' not in line or 'allow_pickle' not in line
    assert not (tmp_path / 'done').exists()


@pytest.mark.parametrize('kind', ['external link', 'soft link', 'external data'])
def test_h5_that_refers_elsewhere_is_not_followed(lrp, tmp_path, monkeypatch, kind):
    shrink(monkeypatch)
    with h5py.File(tmp_path / 'secret.h5', 'w') as file:
        for key, value in random_weights().items():
            file[key] = value
    (tmp_path / 'secret.bin').write_bytes(random_weights()['block1_conv1/kernel'].tobytes())
    with h5py.File(tmp_path / 'w.weights.h5', 'w') as file:
        for i, name in enumerate(key[:-7] for key in random_weights() if key.endswith('kernel')):
            group = file.create_group(f'layers/layer_{i}/vars')
            if kind == 'external link':
                group['0'] = h5py.ExternalLink(str(tmp_path / 'secret.h5'), f'{name}/kernel')
            elif kind == 'soft link':
                group['0'] = h5py.SoftLink('/layers/layer_0/vars/0')
            else:
                group.create_dataset('0', (3, 3, 3, 2), np.float32, external=[(str(tmp_path / 'secret.bin'), 0, 216)])
            group['1'] = random_weights()[f'{name}/bias']
    line, = lrp(tmp_path / 'w.weights.h5').err
    assert 'layers/layer_0/vars/0' in line and 'not' in line


@pytest.mark.parametrize('name', ['../escaped.txt', '/escaped.txt', 'assets/../../escaped.txt', 'model.pkl'])
def test_strange_names_in_the_zip_are_not_extracted(lrp, tmp_path, name):
    keras_models.build('vgg').save(tmp_path / 'my.keras')
    with zipfile.ZipFile(tmp_path / 'my.keras', 'a') as archive:
        archive.writestr(name, 'escaped')
    line, = lrp(tmp_path / 'my.keras').err
    assert name in line
    assert not any(list(place.glob('escaped.txt')) for place in (tmp_path, tmp_path.parent, Path('/')))


@pytest.mark.parametrize('change', ['config is a list', 'config nests deep', 'no config', 'not json'])
def test_odd_configurations(lrp, tmp_path, change):
    keras_models.build('vgg').save(tmp_path / 'whole.keras')
    text = {'config is a list': '[1, 2]', 'config nests deep': '[' * 100000 + ']' * 100000, 'not json': 'no'}.get(change)
    with zipfile.ZipFile(tmp_path / 'whole.keras') as whole, zipfile.ZipFile(tmp_path / 'my.keras', 'w') as archive:
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
    with zipfile.ZipFile(tmp_path / 'whole.keras') as whole, zipfile.ZipFile(tmp_path / 'my.keras', 'w') as archive:
        config = json.loads(whole.read('config.json'))
        config['config']['layers'][2]['module'] = 'malicious'
        for name in whole.namelist():
            archive.writestr(name, json.dumps(config) if name == 'config.json' else whole.read(name))
    line, = lrp(tmp_path / 'my.keras').err
    assert 'malicious' in line and not (tmp_path / 'done').exists()


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
            layer = next(path for path in ('layers/dense/vars', 'layers/dense_1/vars') if path in file)
            for variable in list(file[layer]):
                del file[layer][variable]
        return path.read_bytes()
    rewritten(tmp_path / 'whole.keras', tmp_path / 'part.keras', without)
    lrp(tmp_path / 'part.keras')


def test_archive_that_unpacks_to_more_than_it_can_hold_is_not_unpacked(lrp, tmp_path, monkeypatch):
    chain(convolutions(), head()).save(tmp_path / 'whole.keras')
    rewritten(tmp_path / 'whole.keras', tmp_path / 'bomb.keras', lambda name, data: data if name.endswith('.json') else bytes(3 * 10 ** 8))
    monkeypatch.setattr(zipfile.ZipFile, 'extract', None)
    assert '300 MB' in lrp(tmp_path / 'bomb.keras').err[0]


def test_every_compressed_array_is_tried(tmp_path):
    """Not the first alone."""
    h5py = scripts('vgg').formats.h5py
    with h5py.File(tmp_path / 'w.h5', 'w') as file:
        for name in 'abc':
            file.create_dataset(name, data=np.random.default_rng(0).random((50, 50)), compression='gzip')
        place = file['b'].id.get_chunk_info(0).byte_offset
    scripts('vgg').formats.check_reading(tmp_path / 'w.h5')
    content = bytearray((tmp_path / 'w.h5').read_bytes())
    content[place + 100:place + 2000] = bytes(1900)
    (tmp_path / 'w.h5').write_bytes(content)
    with pytest.raises(ValueError, match='damaged'):
        scripts('vgg').formats.check_reading(tmp_path / 'w.h5')
