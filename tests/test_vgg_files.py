"""vgg/lrp.py and the files that people have: networks of Keras 2, other names and formats, lists of
class names; and what it says where something was forgotten.

keras2/ holds small networks that Keras 2 wrote (tf-keras 2.19, TensorFlow 2.12 and 2.13), and in
outputs.npz what Keras 2 itself gave for picture.png.
"""
import json
from pathlib import Path
import shutil
import zipfile

from conftest import ROOT, scripts
import h5py
import keras
from keras import layers
import numpy as np
from PIL import Image
import pytest
from small_vgg import photograph, random_weights, run

KERAS2 = ROOT / 'tests' / 'keras2'
NAMES = ['cat', 'dog', 'eel', 'fox']


@pytest.fixture
def lrp(tmp_path, monkeypatch, capsys):
    """Runs the script in a folder of its own, which holds a picture a.png."""
    monkeypatch.chdir(tmp_path)
    photograph(Path('a.png'))

    def command(*arguments):
        return run(scripts('vgg').lrp.main, capsys, *arguments, '--results', 'results')
    return command


def network():
    """Saved as net.keras and net.h5."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((16, 16, 3)), layers.Conv2D(4, 3, activation='relu'), layers.MaxPooling2D(),
        layers.Flatten(), layers.Dense(len(NAMES), activation='softmax')])
    model.save('net.keras')
    model.save('net.h5')
    return model


# Networks

@pytest.mark.parametrize('file', sorted(p.name for p in KERAS2.glob('*.[hk]*')))
def test_network_of_keras_2(file):
    """Our graph gives the outputs of Keras 2, and epsilon is gradient x input."""
    vgg, name = scripts('vgg'), Path(file).stem
    with Image.open(KERAS2 / 'picture.png') as image:
        image = image.resize((32, 32), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)[None]
    inside = name in ('unit', 'caffe', 'tf', 'torch')
    explainer = vgg.explainer.open_explainer(KERAS2 / file, ['epsilon'], gradient=True,
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
def test_unknown_network_of_keras_2_is_refused(lrp, entry, other):
    shutil.copy(KERAS2 / 'caffe.h5', 'net.h5')
    with h5py.File('net.h5', 'r+') as file:
        assert entry in file.attrs['model_config']
        file.attrs['model_config'] = file.attrs['model_config'].replace(entry, other)
    end = lrp('a.png', '--weights', 'net.h5')
    assert end.status == 2 and len(end.err) == 1 and 'net.h5' in end.err[0]


@pytest.mark.parametrize('name', ['net.model', 'zipped.h5'])
def test_content_and_not_suffix_says_what_a_file_is(lrp, name):
    network()
    Path('net.keras' if name == 'zipped.h5' else 'net.h5').rename(name)
    end = lrp('a.png', '--weights', name, '--preprocessing', 'unit')
    assert (end.status, end.err) == (0, []) and 'outputs match Keras' in end.network


def other_files(model):
    """Writes files that are no network: {path: words of what to do with it}."""
    Path('saved').mkdir()
    contents = {
        'network.json': (model.to_json().encode(), ['model_from_json', 'load_weights', 'save(']),
        'pointer.h5': (b'version https://git-lfs.github.com/spec/v1\nsize 5\n', ['git lfs pull']),
        'saved/saved_model.pb': (b'\x08\x01', ["model.save('my.keras')", "load_model('saved')"]),
        'cp.ckpt.index': (b'\0', ['checkpoint', "load_weights('cp.ckpt')"]),
        'model.onnx': (b'\x08\x08\x12\x07pytorch', ['ONNX', 'Keras']),
        'cut.keras': (Path('net.keras').read_bytes()[:2000], ['a part of the file'])}
    for name, (content, _) in contents.items():
        Path(name).write_bytes(content)
    with zipfile.ZipFile('model.pt', 'w') as archive:
        archive.writestr('model/data.pkl', b'\x80\x02}q\0.')
    model.save_weights('my.weights.h5')
    np.savez('my.npz', **random_weights())
    whole = ['build the model', 'load_weights(', "save('my.keras')"]
    return {**{name: words for name, (_, words) in contents.items()}, 'saved': ['SavedModel'],
            'model.pt': ['PyTorch', 'Zennit'], 'my.weights.h5': whole, 'my.npz': whole,
            'ResNet50': ["keras.applications.ResNet50().save('resnet50.keras')"]}


def test_other_files_are_named_with_what_to_do(lrp):
    for name, words in other_files(network()).items():
        end = lrp('a.png', '--weights', name)
        line, = end.err
        assert end.status == 2 and all(word in line for word in [name, *words]), line


# Class names

CONTENTS = {
    'blank': '\n'.join(NAMES).encode() + b'\n\n',
    'windows': '\r\n'.join(NAMES).encode(),
    'utf8 with its mark': '\n'.join(NAMES).encode('utf-8-sig'),
    'utf16': '\r\n'.join(NAMES).encode('utf-16'),
    'numbered': b'0 cat\n1 dog\n2 eel\n3 fox\n',
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
    class_names = scripts('vgg').class_names
    assert class_names.names_in(class_names.text_of(tmp_path / 'names')) == NAMES
    if kind in ('wordnet', 'by index'):
        target = 'n02123047'
        assert class_names.find_target(target, NAMES, path=tmp_path / 'names') == 2
        with pytest.raises(scripts('vgg').common.Refused, match='WordNet'):
            class_names.find_target(target, NAMES)


def test_names_with_numbers_of_their_own_are_kept():
    for names in (['7 up', '3 musketeers'], ['0', '1'], ['1 euro', '2 euro', '5 euro']):
        assert scripts('vgg').class_names.names_in('\n'.join(names)) == names


def test_classes_that_are_not_named_or_not_there(lrp):
    network()
    Path('three.txt').write_text('cat\ndog\neel\n')
    Path('odd.json').write_text('{"cat": [1]}')
    for options, words in [
            (['--classes', 'nowhere.txt'], ['nowhere.txt: no file', '--target']),
            (['--target', 'cat'], ['cat', '--classes']),
            (['--classes', 'three.txt'], ['three.txt has 3 names', '4 classes']),
            (['--classes', 'odd.json'], ['odd.json'])]:
        end = lrp('a.png', '--weights', 'net.keras', '--preprocessing', 'unit', *options)
        line, = end.err
        assert end.status == 2 and all(word in line for word in words), line


@pytest.mark.parametrize('side, pictures', [(64, 8), (1024, 7)])
def test_batch_is_as_large_as_memory_allows(side, pictures):
    """Eight pictures, or as many as take 2 GB in the outputs of all layers."""
    model = keras.Sequential([keras.Input((side, side, 1)), layers.Conv2D(64, 3, padding='same'),
                              layers.GlobalAveragePooling2D(), layers.Dense(2)])
    vgg = scripts('vgg')
    network = vgg.network.open_network(model, 'unit')
    assert vgg.explainer.Explainer(network, []).batch_size == pictures


def test_float32_keeps_its_bits_on_a_gpu():
    tf = scripts('vgg').common.tf
    tf.config.experimental.enable_tensor_float_32_execution(True)
    with tf.Graph().as_default():
        scripts('vgg').common.open_session()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
