"""The files that people have: weights of VGG16 and VGG19 alone, networks of Keras 2, other formats,
lists of class names.

keras2/ holds small networks that Keras 2 wrote (tf-keras 2.19, TensorFlow 2.12 and 2.13), and in
outputs.npz what Keras 2 itself gave for picture.png.
"""
import json
from pathlib import Path
import shutil

from conftest import ROOT, scripts
import h5py
import keras
from keras import layers
import keras_models
import numpy as np
from PIL import Image
import pytest
from small_vgg import CLASSES, random_weights, shrink

VGG, KERAS2 = scripts('vgg'), ROOT / 'tests' / 'keras2'
NAMES = ['cat', 'dog', 'eel', 'fox']


# Weights of VGG16 and VGG19 alone

def in_keras(arrays):
    """A VGG in Keras with these arrays, {layer/kernel, layer/bias}."""
    model = keras.Sequential([keras.Input((224, 224, 3))])
    for name in [key.split('/')[0] for key in arrays if key.endswith('kernel')]:
        kernel, bias = arrays[f'{name}/kernel'], arrays[f'{name}/bias']
        if name == 'fc1' or name.endswith('_conv1') and name != 'block1_conv1':
            model.add(layers.MaxPooling2D())
        if name == 'fc1':
            model.add(layers.Flatten(name='flatten'))
        kind, options = layers.Dense, {'activation': None if name == 'predictions' else 'relu'}
        if kernel.ndim == 4:
            kind, options = layers.Conv2D, {**options, 'kernel_size': 3, 'padding': 'same'}
        model.add(kind(len(bias), name=name, **options))
        model.layers[-1].set_weights([kernel, bias])
    return model


def publish(model, path):
    """Writes weights as Keras's published files have them: layers without any stand there, too."""
    with h5py.File(path, 'w') as file:
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f'{layer.name}_{part}_1:0' for part in 'Wb'[:len(layer.weights)]]
            group.attrs['weight_names'] = np.bytes_(names)
            for name, weight in zip(names, layer.get_weights()):
                group.create_dataset(name, data=weight)


@pytest.mark.parametrize('name', ['vgg16', 'vgg19'])
def test_logits_are_those_of_keras(monkeypatch, tmp_path, name):
    """Of the bundled file's layout, which names its classes, and of the two published ones."""
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    path, arrays = tmp_path / VGG.vgg_weights.PUBLISHED[name][0], random_weights(model=name)
    np.savez(tmp_path / 'small.npz', **arrays, classes=CLASSES)
    shrink(monkeypatch, tmp_path / 'small.npz')
    model = in_keras(arrays)
    expected = model(keras.applications.vgg16.preprocess_input(np.float32(images))).numpy()
    publish(model, path)
    for source in [path, 'caltech101'] if name == 'vgg16' else [path]:
        network = VGG.network.open_network(source)
        assert network.classes[0] == ('tench' if source == path else CLASSES[0])
        found = VGG.explainer.Explainer(network, []).classify(images)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize('name, value', [
    ('block3_conv2/kernel', np.zeros((3, 3, 3, 7))), ('fc1/bias', np.zeros(1)),
    ('fc1/bias', np.full(6, np.nan))])
def test_damaged_weights_are_refused(monkeypatch, tmp_path, name, value):
    """Of another shape, or not finite."""
    np.savez(tmp_path / 'small.npz', **{**random_weights(), name: value})
    shrink(monkeypatch, tmp_path / 'small.npz')
    with pytest.raises(VGG.common.Refused, match='small.npz'):
        VGG.explainer.Explainer(VGG.network.open_network('caltech101'), [])


def test_imagenet_weights_that_are_not_downloaded(monkeypatch, tmp_path):
    """A line says which file to copy where."""
    monkeypatch.setattr(keras.utils, 'get_file', lambda *_, **__: open(tmp_path / 'nowhere'))
    monkeypatch.setenv('KERAS_HOME', str(tmp_path))
    words = f'vgg19_weights_.*h5 into {tmp_path / "models"}.*--weights caltech101'
    with pytest.raises(VGG.common.Refused, match=words):
        VGG.network.open_network('imagenet', model='vgg19')


# Networks

@pytest.mark.parametrize('file', sorted(p.name for p in KERAS2.glob('*.[hk]*')))
def test_network_of_keras_2(file):
    """Our graph gives the outputs of Keras 2, and epsilon is gradient x input."""
    name = Path(file).stem
    with Image.open(KERAS2 / 'picture.png') as image:
        image = image.resize((32, 32), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)[None]
    inside = name in ('unit', 'caffe', 'tf', 'torch')
    explainer = VGG.explainer.open_explainer(KERAS2 / file, ['epsilon'], gradient=True,
                                             preprocessing=None if inside else 'unit')
    found = explainer(pixels)
    with np.load(KERAS2 / 'outputs.npz') as outputs:
        np.testing.assert_allclose(explainer.network.probabilities(found.logits)[0], outputs[name],
                                   atol=1e-5)
    expected = explainer.gradient_times_input(pixels, found.targets)
    np.testing.assert_allclose(found.relevance['epsilon'].sum(-1), expected.sum(-1),
                               atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize('entry, other', [
    ('"class_name": "Conv2D"', '"class_name": "Lambda"'),  # code of its own
    ('"start": null, "stop": null, "step": -1', '"start": 1, "stop": null, "step": null')])
def test_unknown_network_of_keras_2_is_refused(tmp_path, entry, other):
    path = shutil.copy(KERAS2 / 'caffe.h5', tmp_path)
    with h5py.File(path, 'r+') as file:
        assert entry in file.attrs['model_config']
        file.attrs['model_config'] = file.attrs['model_config'].replace(entry, other)
    with pytest.raises(VGG.common.Refused, match='caffe.h5'):
        VGG.network.open_network(path)


def test_content_says_what_a_file_is(tmp_path):
    """Not the suffix; and what is no network is named with what to do with it."""
    whole = ['build the model', 'load_weights(', "save('my.keras')"]
    model, files = keras_models.build('vgg'), {  # name: content, if not written below; words
        'network.json': (b'{}', ['model_from_json', 'load_weights', 'save(']),
        'pointer.h5': (b'version https://git-lfs.github.com/spec/v1\nsize 5\n', ['git lfs pull']),
        'saved/saved_model.pb': (b'\x08\x01', ["model.save('my.keras')", "load_model('"]),
        'cp.ckpt.index': (b'\0', ['checkpoint', "cp.ckpt')"]), 'model.pt': (b'', ['PyTorch']),
        'cut.keras': (b'PK\3\4' + bytes(2000), ['a part of the file']),
        'saved': (None, ['SavedModel']), 'my.weights.h5': (None, whole), 'my.npz': (None, whole),
        'ResNet50': (None, ["ResNet50().save('resnet50.keras')"])}
    (tmp_path / 'saved').mkdir()
    model.save_weights(tmp_path / 'my.weights.h5')
    np.savez(tmp_path / 'my.npz', **random_weights())
    for name, (content, words) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(VGG.common.Refused) as error:
            VGG.network.open_network(tmp_path / name, 'caffe')
        assert all(word in str(error.value) for word in [name, *words]), error.value
    for saved, name in ('net.h5', 'net.model'), ('net.keras', 'zipped.h5'):
        model.save(tmp_path / saved)
        (tmp_path / saved).rename(tmp_path / name)
        assert VGG.network.open_network(tmp_path / name, 'caffe').count == 3


# Class names

CONTENTS = {
    'windows': '\r\n'.join(NAMES).encode('utf-8-sig') + b'\r\n\r\n',
    'utf16': '\r\n'.join(NAMES).encode('utf-16'),
    'from one': b'1: cat\n2: dog\n3: eel\n4: fox\n',
    'unsorted': b'2 eel\n0 cat\n3 fox\n1 dog\n',
    'wordnet': b'n02123045 cat\nn02123046 dog\nn02123047 eel\nn02123048 fox\n',
    'list': json.dumps(NAMES).encode(),
    'class_indices': json.dumps({'dog': 1, 'cat': 0, 'fox': 3, 'eel': 2}).encode(),
    'by index': json.dumps({str(i): [f'n0212304{5 + i}', name]
                            for i, name in enumerate(NAMES)}).encode()}


@pytest.mark.parametrize('kind', CONTENTS)
def test_class_names(tmp_path, kind):
    (tmp_path / 'names').write_bytes(CONTENTS[kind])
    class_names = VGG.class_names
    assert class_names.names_in(class_names.text_of(tmp_path / 'names')) == NAMES
    if kind in ('wordnet', 'by index'):
        target = 'n02123047'
        assert class_names.find_target(target, NAMES, path=tmp_path / 'names') == 2
        with pytest.raises(VGG.common.Refused, match='WordNet'):
            class_names.find_target(target, NAMES)


def test_names_with_numbers_of_their_own_are_kept():
    for names in (['7 up', '3 musketeers'], ['0', '1'], ['1 euro', '2 euro', '5 euro']):
        assert VGG.class_names.names_in('\n'.join(names)) == names


def test_target_by_name_or_index(capsys):
    """Where names are numbers a notice says so; what is not there or not clear is refused."""
    find_target, classes = VGG.class_names.find_target, ['3', '10', '2', 'ten', '0']
    assert find_target('10', classes) == 1
    line, = capsys.readouterr().out.splitlines()
    assert 'class named 10, whose index is 1' in line and "'#10'" in line
    assert find_target('#3', classes) == 3 and find_target('1', classes) == 1
    assert find_target('2', classes) == 2 and find_target('Ten', classes) == 3
    assert capsys.readouterr().out == ''
    for text, names, words in [
            ('#10', classes, '0 to 4'), ('cat', ['class 0', 'class 1'], '--classes'),
            ('Goldn', ['tench', 'Golden retriever'], 'mean golden retriever'),
            ('crane', ['crane', 'kite', 'crane'], '0, 2')]:
        with pytest.raises(VGG.common.Refused, match=words):
            find_target(text, names)


# The machine

def test_batch_is_as_large_as_memory_allows():
    """At most eight pictures; of these as many as take 2 GB in the outputs of all layers."""
    model = keras.Sequential([keras.Input((1024, 1024, 1)), layers.Conv2D(64, 3, padding='same'),
                              layers.GlobalAveragePooling2D(), layers.Dense(2)])
    network = VGG.network.open_network(model, 'unit')
    assert VGG.explainer.Explainer(network, []).batch_size == 7


def test_float32_keeps_its_bits_on_a_gpu():
    tf = VGG.common.tf
    tf.config.experimental.enable_tensor_float_32_execution(True)
    with tf.Graph().as_default():
        VGG.common.open_session()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
