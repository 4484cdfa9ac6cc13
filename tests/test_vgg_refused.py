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

VGG = scripts('vgg')


def refusal(source, name=None):
    """The one line with which a file, or a live model of this name, is refused."""
    with pytest.raises(VGG.common.Refused) as error:
        VGG.network.open_network(source, 'unit')
    line = str(error.value)
    assert line.startswith(f'{name or source}: ') and '\n' not in line
    return line


def small(*parts, shape=(12, 16, 3)):
    return chain(layers.Conv2D(6, 3, activation='relu'), *parts, shape=shape)


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


class Subclassed(keras.Model):
    """Layers that only Python code connects."""


def test_refused_with_the_reason():
    for model, words in [
            (small(head(), layers.Dense(3)), 'softmax inside'),
            (small(layers.UpSampling2D(interpolation='bicubic'), head()), 'is bicubic'),
            (small(layers.BatchNormalization(axis=1, name='odd'), head()), 'layer odd.* axis 1'),
            (functional(lambda x: apply(conv()(x) * conv()(x), head())), 'layer multiply.* gate'),
            (functional(lambda x: apply(2 / conv()(x), head())), 'layer true_divide.* one number'),
            (functional(attention), 'layer odd.* Attention'), (two_inputs(), '2 inputs'),
            (functional(lambda x: [apply(x, head()), apply(x, head())]), '2 outputs.* keras.Model'),
            (quantised(), 'layer odd are quantised'), (Subclassed(), 'Keras cannot read'),
            (small(layers.Conv2D(3, 1, name='odd')), r'layer odd.* \(10, 14, 3\)'),
            (small(layers.GlobalMaxPooling2D(data_format='channels_first')), 'channels come first'),
            (chain(layers.Resizing(12, 12, crop_to_aspect_ratio=True), conv(), head()), 'cuts'),
            (chain(layers.ZeroPadding2D(), layers.Rescaling(2.0), conv(), head()), 'in front'),
            (chain(layers.RandomCrop(6, 6, name='odd'), head()), 'layer odd')]:
        assert re.search(words, refusal(model, model.name))


def test_a_rebuilt_graph_that_differs_is_stopped(monkeypatch):
    """The table is broken on purpose; the line gives both outputs."""
    wrong = np.ones((1, 6)), np.ones(6)
    monkeypatch.setattr(VGG.keras_layers, 'normalisation', lambda layer: wrong)
    model = keras_models.build('vgg with batch normalisation')
    with pytest.raises(VGG.common.Refused, match='something else.*class .*Keras gives'):
        VGG.explainer.open_explainer(model, preprocessing='torch')


def test_a_value_that_differs_in_half_precision():
    network = VGG.network.Network(Path('n'), [], {}, None, (), False, 'value')
    network.check_outputs('a.png', np.array([0.3]), np.array([0.31]), half=True)
    with pytest.raises(VGG.common.Refused):
        network.check_outputs('a.png', np.array([0.3]), np.array([0.4]), half=True)


@pytest.mark.parametrize('end', ['softmax', 'sigmoid', 'value'])
@pytest.mark.parametrize('half', [False, True])
def test_outputs_that_are_no_numbers(end, half):
    network = VGG.network.Network(Path('n'), [], {}, None, (), False, end)
    with pytest.raises(VGG.common.Refused):
        network.check_outputs('a.png', np.array([0.3, 0.7]), np.full(2, np.nan), half)


# Files that would do something when read

TOUCH = "open({!r}, 'w').close()"


@pytest.mark.parametrize('file', ['my.keras', 'my.h5'])
def test_lambda_is_not_executed(tmp_path, file):
    done = tmp_path / 'done'
    model = small(layers.Lambda(eval(f'lambda x: (x, {TOUCH.format(str(done))})[0]')), head())
    done.unlink()  # Keras ran it while building
    model.save(tmp_path / file)
    assert 'ambda' in refusal(tmp_path / file) and not done.exists()


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
    monkeypatch.setitem(VGG.network.BUNDLED, 'caltech101', tmp_path / 'w.npz')
    refusal(tmp_path / 'w.npz')
    assert not (tmp_path / 'done').exists()


@pytest.mark.parametrize('module, words', [('malicious', 'cannot read'),
                                           ('keras_hub.layers', 'pip install keras-hub')])
def test_a_layer_that_is_not_one_of_keras(tmp_path, module, words):
    """Its module is another one: nothing is imported."""
    (tmp_path / 'malicious.py').write_text(TOUCH.format(str(tmp_path / 'done')))
    keras_models.build('vgg').save(tmp_path / 'whole.keras')
    with zipfile.ZipFile(tmp_path / 'whole.keras') as old:
        contents = {name: old.read(name) for name in old.namelist()}
    config = json.loads(contents['config.json'])
    config['config']['layers'][2]['module'] = module
    with zipfile.ZipFile(tmp_path / 'my.keras', 'w') as new:
        for name, content in {**contents, 'config.json': json.dumps(config)}.items():
            new.writestr(name, content)
    assert words in refusal(tmp_path / 'my.keras') and not (tmp_path / 'done').exists()


def test_weights_stored_in_another_file_are_refused(tmp_path):
    """In a file of Keras 2, which we read ourselves."""
    shutil.copy(ROOT / 'tests' / 'keras2' / 'sequential.h5', tmp_path / 'my.h5')
    with h5py.File(tmp_path / 'my.h5', 'r+') as file:
        name = file.visititems(lambda name, each: name if hasattr(each, 'shape') else None)
        shape = file[name].shape
        del file[name]
        file.create_dataset(name, shape, 'f4', external=[('secret', 0, 10 ** 6)])
    assert 'another file' in refusal(tmp_path / 'my.h5')
