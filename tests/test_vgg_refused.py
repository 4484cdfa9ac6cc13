"""Models that vgg/lrp.py does not explain: one line that names the layer, before anything in the
file is executed or anything written."""
import json
from pathlib import Path
import pickle
import re
import shutil
import zipfile

from conftest import ROOT, scripts
import h5py
import keras
from keras import layers
import keras_models
from keras_models import apply, chain, conv, functional, head
import numpy as np
import pytest
from small_vgg import photograph, run


def refusal(source, name=None):
    """The one line with which a file, or a live model of this name, is refused."""
    vgg = scripts('vgg')
    with pytest.raises(vgg.common.Refused) as error:
        vgg.network.open_network(source, 'unit')
    line = str(error.value)
    assert line.startswith(f'{name or source}: ') and '\n' not in line
    return line


def two_inputs():
    inputs = [keras.Input(keras_models.POOLED), keras.Input(keras_models.POOLED)]
    return keras.Model(inputs, apply(layers.Concatenate()(inputs), head()))


def attention(x):
    x = layers.Reshape((-1, 6))(conv()(x))
    return apply(layers.Attention(name='odd')([x, x]), layers.Flatten(), layers.Dense(3))


def quantised():
    model = small(layers.Flatten(), layers.Dense(4, name='odd'))
    model.layers[-1].quantize('int8')
    return model


def small(*parts, shape=(12, 16, 3)):
    return chain(layers.Conv2D(6, 3, activation='relu'), *parts, shape=shape)


REFUSED = [  # a function that builds the model, and words of the message
    (lambda: small(head(), layers.Dense(3)), 'softmax inside'),
    (lambda: small(layers.UpSampling2D(interpolation='bicubic'), head()), 'is bicubic'),
    (lambda: small(layers.BatchNormalization(axis=1, name='odd'), head()), 'layer odd.* axis 1'),
    (lambda: functional(lambda x: apply(
        layers.Multiply(name='odd')([conv()(x), conv()(x)]), head())), 'layer odd.* gate'),
    (lambda: functional(lambda x: apply(conv()(x) / conv()(x), head())), 'true_divide.* signals'),
    (lambda: functional(lambda x: apply(2 / conv()(x), head())), 'layer true_divide.* one number'),
    (lambda: functional(attention), 'layer odd.* Attention'),
    (two_inputs, '2 inputs'),
    (lambda: functional(lambda x: [apply(x, head()), apply(x, head())]), '2 outputs.* keras.Model'),
    (lambda: keras.Sequential([layers.Conv2D(4, 3)]), 'had seen a picture'),
    (quantised, 'layer odd are quantised'),
    (lambda: small(layers.Conv2D(3, 1, name='odd')), r'layer odd.* \(10, 14, 3\)'),
    (lambda: small(layers.Flatten(), layers.Dense(1, activation='softmax')), 'one output'),
    (lambda: chain(layers.Rescaling(2.0), layers.GlobalAveragePooling2D()), 'no layers'),
    (lambda: small(head(), shape=(8, 8, 5)), r'\(None, 8, 8, 5\)'),
    (lambda: small(layers.GlobalMaxPooling2D(data_format='channels_first')), 'channels come first'),
    (lambda: chain(layers.Resizing(12, 12, crop_to_aspect_ratio=True), conv(), head()), 'cuts'),
    (lambda: chain(layers.CenterCrop(8, 8), layers.Rescaling(2.0), conv(), head()), 'in front'),
    (lambda: chain(layers.RandomCrop(6, 6, name='odd'), head()), 'layer odd')]


@pytest.mark.filterwarnings('ignore:You are saving a model that has not yet been built')
@pytest.mark.parametrize('build, words', REFUSED)
def test_refused_with_the_reason(build, words):
    model = build()
    line = refusal(model, model.name)
    assert re.search(words, line), line
    assert ('networks can be explained that' in line) == (': layer ' in line), line


def test_a_rebuilt_graph_that_differs_is_stopped(tmp_path, monkeypatch, capsys):
    """The table is broken on purpose. Nothing is written; the line gives both outputs."""
    keras_models.build('vgg with batch normalisation').save(tmp_path / 'my.keras')
    monkeypatch.setattr(scripts('vgg').keras_layers, 'normalisation',
                        lambda layer: (np.ones((1, 6)), np.ones(6)))
    end = run(scripts('vgg').lrp.main, capsys, photograph(tmp_path / 'a.png'), '--weights',
              tmp_path / 'my.keras', '--preprocessing', 'torch', '--results', tmp_path / 'out')
    line, = end.err
    assert 'something else' in line and 'class' in line and 'Keras gives' in line
    assert end.status == 2 and not list((tmp_path / 'out').iterdir())


def test_a_value_that_differs_in_half_precision():
    vgg, expected = scripts('vgg'), np.float64([0.3])
    network = vgg.network.Network(Path('my.keras'), [], {}, None, (), False, 'value')
    network.check_outputs('a.png', expected, expected + 0.01, half=True)
    with pytest.raises(vgg.common.Refused):
        network.check_outputs('a.png', expected, expected + 0.1, half=True)


# Files that would do something when read

TOUCH = "open({!r}, 'w').close()"


@pytest.mark.parametrize('file', ['my.keras', 'my.h5'])
def test_lambda_is_not_executed(tmp_path, file):
    done = tmp_path / 'done'
    model = small(layers.Lambda(eval(f'lambda x: (x, {TOUCH.format(str(done))})[0]')), head())
    done.unlink()  # Keras ran it while building
    model.save(tmp_path / file)
    assert 'ambda' in refusal(tmp_path / file) and not done.exists()


def test_custom_class_is_not_executed(tmp_path):
    class Own(layers.Layer):
        def call(self, x):
            return x
    small(Own(name='odd'), head()).save(tmp_path / 'my.keras')
    assert 'cannot read' in refusal(tmp_path / 'my.keras')


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (TOUCH.format(str(self.path)),)


def test_pickled_object_is_not_read(monkeypatch, tmp_path):
    """Not even in the file that is bundled."""
    bad = np.array([Malicious(tmp_path / 'done')], dtype=object)
    np.savez(tmp_path / 'w.npz', **{'block1_conv1/kernel': bad, 'block1_conv1/bias': bad})
    (tmp_path / 'raw.keras').write_bytes(pickle.dumps(Malicious(tmp_path / 'done')))
    refusal(tmp_path / 'raw.keras')
    monkeypatch.setitem(scripts('vgg').network.BUNDLED, 'caltech101', tmp_path / 'w.npz')
    refusal(tmp_path / 'w.npz')
    assert not (tmp_path / 'done').exists()


def rewritten(path, member, change):
    """Saves a model with a member of its file changed by change(bytes), or left out where None."""
    whole = path.with_name('whole.keras')
    keras_models.build('vgg').save(whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, 'w') as new:
        for name in old.namelist():
            content = change(old.read(name)) if name == member else old.read(name)
            if content is not None:
                new.writestr(name, content)
    return path


@pytest.mark.parametrize('member, content', [
    ('config.json', '[1, 2]'), ('config.json', None), ('metadata.json', '{"keras_version": [2]}'),
    ('metadata.json', '[' * 10 ** 5)])
def test_odd_configurations(tmp_path, member, content):
    refusal(rewritten(tmp_path / 'my.keras', member, lambda text: content))


@pytest.mark.parametrize('module, words', [('malicious', 'cannot read'),
                                           ('keras_hub.layers', 'pip install keras-hub')])
def test_a_layer_that_is_not_one_of_keras(tmp_path, module, words):
    """Its module is another one: nothing is imported."""
    (tmp_path / 'malicious.py').write_text(TOUCH.format(str(tmp_path / 'done')))

    def change(text):
        config = json.loads(text)
        config['config']['layers'][2]['module'] = module
        return json.dumps(config)
    line = refusal(rewritten(tmp_path / 'my.keras', 'config.json', change))
    assert words in line and not (tmp_path / 'done').exists()


def test_weights_stored_in_another_file_are_refused(tmp_path):
    """In a file of Keras 2, which we read ourselves."""
    shutil.copy(ROOT / 'tests' / 'keras2' / 'sequential.h5', tmp_path / 'my.h5')
    with h5py.File(tmp_path / 'my.h5', 'r+') as file:
        name = file.visititems(lambda name, each: name if hasattr(each, 'shape') else None)
        shape = file[name].shape
        del file[name]
        file.create_dataset(name, shape, 'f4', external=[('secret', 0, 10 ** 6)])
    assert 'another file' in refusal(tmp_path / 'my.h5')
