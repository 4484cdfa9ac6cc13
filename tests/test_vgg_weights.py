"""Weight files as Keras itself writes them: the logits of our graph are those of the Keras model
that was saved."""
import os
import subprocess
import sys

from conftest import ROOT, scripts
import h5py
import keras
import keras_models
import numpy as np
import pytest
from small_vgg import photograph, random_weights, run, shrink

SHAPE = (224, 224, 3)
HEAD = (16, 5)


def flat_model(name):
    """VGG with a small head, one functional model."""
    base = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=SHAPE)
    x = keras.layers.Flatten()(base.output)
    x = keras.layers.Dense(HEAD[0], activation='relu')(x)
    return keras.Model(base.input, keras.layers.Dense(HEAD[1])(x))


def nested_model(name):
    """The same, the convolutions a model inside the model."""
    base = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=SHAPE)
    return keras.Sequential([keras.Input(SHAPE), base, keras.layers.Flatten(),
                             keras.layers.Dense(HEAD[0], activation='relu'),
                             keras.layers.Dense(HEAD[1])])


def nested_features(name):
    """The same, the first dense layer in the inner model too: the outer one, nearer the root of the
    file, comes after it."""
    base = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=SHAPE)
    x = keras.layers.Dense(HEAD[0], activation='relu')(keras.layers.Flatten()(base.output))
    return keras.Sequential([keras.Input(SHAPE), keras.Model(base.input, x),
                             keras.layers.Dense(HEAD[1])])


def randomise(model):
    """Weights that keep the activations' size from layer to layer, and biases that are not zero."""
    rng = np.random.default_rng(4)
    model.set_weights([rng.normal(0, np.sqrt(2 / max(1, w[..., 0].size)) if w.ndim > 1 else 0.1,
                                  w.shape).astype(np.float32)
                       for w in model.get_weights()])
    return model


@pytest.fixture(scope='module')
def pixels():
    """A bundled photograph as the network sees it."""
    return scripts('vgg').pictures.open_picture(ROOT / 'vgg' / 'images' / 'panda.jpg',
                                                (224, 224, 3)).seen[None]


@pytest.fixture(scope='module')
def truths(pixels):
    """A function: a Keras model by name and the logits that Keras computes with it."""
    made = {}

    def truth(build, name):
        if (build, name) not in made:
            model = randomise(build(name))
            inputs = keras.applications.vgg16.preprocess_input(np.float32(pixels))
            made[build, name] = model, model.predict_on_batch(inputs)[0]
        return made[build, name]
    return truth


def logits(path, pixels):
    """The logits of the network in a file."""
    explainer = scripts('vgg').explainer.Explainer(scripts('vgg').network.open_network(path,
        preprocessing='caffe'), [])
    found = explainer.classify(pixels)[0]
    explainer.session.close()
    return found


def assert_logits(path, pixels, expected):
    found = logits(path, pixels)
    assert np.abs(expected).max() > 0.01 and np.std(expected) > 0
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize('file', ['vgg.keras', 'vgg.weights.h5', 'vgg.h5'])
@pytest.mark.parametrize('build', [flat_model, nested_model, nested_features])
def test_file_of_keras(truths, pixels, tmp_path, build, file):
    model, expected = truths(build, 'VGG16')
    if file.endswith('.weights.h5'):
        model.save_weights(tmp_path / file)
    else:
        model.save(tmp_path / file)
    assert_logits(tmp_path / file, pixels, expected)


def test_vgg19(truths, pixels, tmp_path):
    model, expected = truths(nested_model, 'VGG19')
    model.save(tmp_path / 'vgg.keras')
    assert_logits(tmp_path / 'vgg.keras', pixels, expected)


def test_layout_of_the_published_weights(truths, pixels, tmp_path):
    """That of Keras 2: the file and each of its groups list what they hold; layers without weights
    stand there too."""
    model, expected = truths(flat_model, 'VGG16')
    with h5py.File(tmp_path / 'published.h5', 'w') as file:
        file.attrs['layer_names'] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f'{layer.name}_{part}_1:0'.encode() for part in 'Wb'[:len(layer.weights)]]
            group.attrs['weight_names'] = names
            for name, weight in zip(names, layer.get_weights()):
                group.create_dataset(name.decode(), data=weight)
    assert_logits(tmp_path / 'published.h5', pixels, expected)


def test_trained_model_with_its_optimizer(pixels, tmp_path):
    """The optimiser's arrays, of the same shapes as the weights, are no layers."""
    model = randomise(flat_model('VGG16'))
    for layer in model.layers[:-2]:
        layer.trainable = False  # fine-tuned: momenta of the head only
    model.compile(keras.optimizers.Adam(1e-3), 'mse')
    inputs = keras.applications.vgg16.preprocess_input(np.float32(pixels))
    model.train_on_batch(inputs, np.ones((1, HEAD[1])))
    for file in ('vgg.keras', 'vgg.h5'):
        model.save(tmp_path / file)
        assert_logits(tmp_path / file, pixels, model.predict_on_batch(inputs)[0])


@pytest.fixture
def small_model(monkeypatch, tmp_path):
    """A function: saves a VGG of two channels with this layer inside its head. Returns the model
    and its file."""
    monkeypatch.setattr(scripts('vgg').model, 'WIDTHS', (2, 2, 2, 2, 2))

    def saved(layer, file):
        layers = [keras.Input(SHAPE)]
        for depth in (2, 2, 3, 3, 3):
            layers += [keras.layers.Conv2D(2, 3, padding='same', activation='relu')
                       for _ in range(depth)]
            layers += [keras.layers.MaxPooling2D()]
        layers += [keras.layers.Flatten(), keras.layers.Dense(6, activation='relu'), layer,
                   keras.layers.Dense(5)]
        model = keras.Sequential(layers)
        (model.save_weights if 'weights' in file else model.save)(tmp_path / file)
        return model, tmp_path / file
    return saved


@pytest.mark.parametrize('file', ['vgg.keras', 'vgg.weights.h5', 'vgg.h5'])
def test_dropout_in_the_head_does_nothing(small_model, pixels, file):
    """Though Keras saves the state of its random numbers, which is no weight."""
    model, path = small_model(keras.layers.Dropout(0.5), file)
    inputs = keras.applications.vgg16.preprocess_input(np.float32(pixels))
    expected = model.predict_on_batch(inputs)[0]
    assert np.abs(logits(path, pixels) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize('file', ['vgg.keras', 'vgg.h5'])
def test_batch_normalisation_in_the_head(small_model, pixels, file):
    model, path = small_model(keras.layers.BatchNormalization(), file)
    keras_models.randomise(model)
    model.save(path)
    inputs = keras.applications.vgg16.preprocess_input(np.float32(pixels))
    expected = model.predict_on_batch(inputs)[0]
    assert np.abs(logits(path, pixels) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_batch_normalisation_among_weights_alone_is_refused(small_model):
    """To leave it out would explain another network."""
    _, path = small_model(keras.layers.BatchNormalization(), 'vgg.weights.h5')
    with pytest.raises(scripts('vgg').common.Refused, match='batch_normalization'):
        scripts('vgg').network.open_network(path, preprocessing='caffe')


def test_classes_of_the_published_weights(monkeypatch, tmp_path):
    """Published files have ImageNet's 1,000 names, another file with as many classes has not."""
    shrink(monkeypatch)
    vgg, found = scripts('vgg'), []
    for name in vgg.network.PUBLISHED['vgg16'][0], 'other.npz':
        np.savez(tmp_path / 'w.npz', **random_weights(head=(6, 1000)))
        (tmp_path / 'w.npz').rename(tmp_path / name)
        network = vgg.network.of_weights(tmp_path / name, None, 'caffe', True)
        found.append(vgg.class_names.class_names(network))
    assert len(found[0]) == 1000 and found[0][0] == 'tench' and found[0].count('crane') == 2
    assert found[1][17] == 'class 17'


def test_imagenet_without_network_says_which_file_to_copy(tmp_path):
    nowhere = {key: 'http://127.0.0.1:9'
               for key in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY')}
    end = subprocess.run([sys.executable, ROOT / 'vgg' / 'lrp.py', photograph(tmp_path / 'a.png'),
                          '--results', tmp_path / 'out'],
                         cwd=tmp_path, env={**os.environ, **nowhere, 'no_proxy': '',
                                            'KERAS_HOME': str(tmp_path / 'keras')},
                         capture_output=True, text=True)
    assert end.returncode == 2
    assert len(end.stderr.splitlines()) == 1
    copy = tmp_path / 'keras' / 'models' / 'vgg16_weights_tf_dim_ordering_tf_kernels.h5'
    assert str(copy) in end.stderr and '--weights caltech101' in end.stderr


def test_imagenet_weights_are_taken_from_the_cache(monkeypatch, tmp_path):
    """A file of the right name but not of the right contents is not taken: Keras checks its
    digest."""
    weights, asked = scripts('vgg').network, {}

    def get_file(name, origin, cache_subdir, file_hash):
        asked.update(name=name, origin=origin, folder=cache_subdir, digest=file_hash)
        return str(tmp_path / name)
    monkeypatch.setattr(keras.utils, 'get_file', get_file)
    assert weights.weight_file('imagenet',
                               'vgg19') == tmp_path / 'vgg19_weights_tf_dim_ordering_tf_kernels.h5'
    assert asked['origin'].endswith('keras-applications/vgg19/' + asked['name'])
    assert asked['folder'] == 'models'
    assert asked['digest'] == 'cbe5617147190e668d6c5d5026f83318'


# Files of weights alone: which layer is which

@pytest.fixture
def small_npz(monkeypatch, tmp_path):
    """A function: writes a small VGG's arrays in this order of layers, under these names. Returns
    the file."""
    vgg = shrink(monkeypatch)
    arrays = random_weights(widths := (2, 2, 3, 3, 3))
    monkeypatch.setattr(vgg.model, 'WIDTHS', widths)

    def write(order=None, names=None):
        order = order or [key[:-len('/kernel')] for key in arrays if key.endswith('/kernel')]
        path = tmp_path / f'{len(list(tmp_path.iterdir()))}.npz'
        np.savez(path, **{f'{name}/{part}': arrays[f'{layer}/{part}'] for layer,
                          name in zip(order, names or order)
                          for part in ('kernel', 'bias')})
        return path
    write.layers = [key[:-len('/kernel')] for key in arrays if key.endswith('/kernel')]
    return write


def exchanged(names, one, other):
    return [{one: other, other: one}.get(name, name) for name in names]


def test_names_of_vgg_decide_not_the_order_of_the_file(small_npz, pixels):
    """Two layers of one shape the other way round in the file: the same network."""
    expected = logits(small_npz(), pixels)
    found = logits(small_npz(exchanged(small_npz.layers, 'block5_conv1', 'block5_conv2')), pixels)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(logits(small_npz(small_npz.layers[::-1]), pixels), expected)


def test_names_that_contradict_the_order_are_refused(small_npz):
    """Numbered otherwise than they stand: one of the two is wrong, and which one cannot be told."""
    names = [f'conv2d_{i}' for i in range(13)] + ['dense', 'dense_1']
    vgg = scripts('vgg')
    vgg.network.open_network(small_npz(names=names), preprocessing='caffe')
    with pytest.raises(scripts('vgg').common.Refused, match='numbers.*model.save'):
        vgg.network.open_network(small_npz(names=exchanged(names, 'conv2d_11', 'conv2d_12')))
    with pytest.raises(scripts('vgg').common.Refused, match='block3_conv1 has shape'):
        vgg.network.open_network(small_npz(names
                                           =exchanged(small_npz.layers, 'block3_conv1',
                                                      'block3_conv2')))


@pytest.mark.parametrize('depth', ['vgg16', 'vgg19'])
def test_weights_alone_are_taken_for_the_vgg_that_fits(tmp_path, monkeypatch, capsys, depth):
    shrink(monkeypatch)
    np.savez(tmp_path / 'w.npz', **random_weights(model=depth))
    end = run(scripts('vgg').lrp.main, capsys, photograph(tmp_path / 'a.png'), '--weights',
              tmp_path / 'w.npz', '--preprocessing', 'caffe', '--results', tmp_path)
    assert end.status == 0
    assert (f'taken for {depth}, preprocessing caffe, ReLU between dense layers, softmax at the '
            'end, 5 classes') in end.network


def test_a_head_on_global_pooling_is_told_to_save_the_whole_model(monkeypatch, tmp_path):
    monkeypatch.setattr(scripts('vgg').model, 'WIDTHS', (2, 2, 2, 2, 2))
    arrays = random_weights((2, 2, 2, 2, 2))
    arrays['fc1/kernel'] = np.zeros((2, 6), np.float32)
    np.savez(tmp_path / 'pooled.npz', **arrays)
    with pytest.raises(scripts('vgg').common.Refused,
                       match=r"fc1 has shape \[2, 6\].*whole model.*model.save\('my.keras'\)"):
        scripts('vgg').network.open_network(tmp_path / 'pooled.npz')


def test_target_by_name_or_index_where_names_are_numbers(capsys):
    weights = scripts('vgg').class_names
    classes = ['3', '10', '2', 'ten', '0']
    assert weights.find_target('10', classes) == 1
    line, = capsys.readouterr().out.splitlines()
    assert 'class named 10, whose index is 1' in line and "'#10'" in line
    assert weights.find_target('#3', classes) == 3 and weights.find_target('1', classes) == 1
    assert weights.find_target('2', classes) == 2 and weights.find_target('Ten', classes) == 3
    assert capsys.readouterr().out == ''
    with pytest.raises(scripts('vgg').common.Refused, match='0 to 4'):
        weights.find_target('#10', classes)
