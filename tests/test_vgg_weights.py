"""Files of weights alone: VGG16 and VGG19 as they are bundled and as Keras publishes them."""
from conftest import scripts
import h5py
import keras
import numpy as np
import pytest
from small_vgg import CLASSES, random_weights, shrink


@pytest.fixture
def vgg(monkeypatch, tmp_path):
    """The scripts, with a small VGG whose weights stand in for the bundled ones."""
    np.savez(tmp_path / 'small.npz', **random_weights(), classes=CLASSES)
    return shrink(monkeypatch, tmp_path / 'small.npz')


def in_keras(arrays):
    """A VGG in Keras with these arrays, {layer/kernel, layer/bias}."""
    model = keras.Sequential([keras.Input((224, 224, 3))])
    for name in [key.split('/')[0] for key in arrays if key.endswith('kernel')]:
        outputs = arrays[f'{name}/bias'].size
        if name.endswith('_conv1') and name != 'block1_conv1':
            model.add(keras.layers.MaxPooling2D())
        if name == 'fc1':
            model.add(keras.layers.MaxPooling2D())
            model.add(keras.layers.Flatten(name='flatten'))
        if 'conv' in name:
            layer = keras.layers.Conv2D(outputs, 3, padding='same', activation='relu', name=name)
        else:
            activation = None if name == 'predictions' else 'relu'
            layer = keras.layers.Dense(outputs, activation=activation, name=name)
        model.add(layer)
        layer.set_weights([arrays[f'{name}/kernel'], arrays[f'{name}/bias']])
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
def test_logits_are_those_of_keras(vgg, tmp_path, name):
    """Of the bundled file's layout, which names its classes, and of the two published ones."""
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    path = tmp_path / vgg.vgg_weights.PUBLISHED[name][0]
    model = in_keras(random_weights(model=name))
    expected = model(keras.applications.vgg16.preprocess_input(np.float32(images))).numpy()
    publish(model, path)
    for source in [path, 'caltech101'] if name == 'vgg16' else [path]:
        network = vgg.network.open_network(source)
        assert network.classes[0] == ('tench' if source == path else CLASSES[0])
        explainer = vgg.explainer.Explainer(network, [])
        found = explainer.classify(images)
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
        explainer.session.close()


@pytest.mark.parametrize('name, value', [
    ('block3_conv2/kernel', np.zeros((3, 3, 3, 7))), ('fc1/bias', np.zeros(1)),
    ('fc1/bias', np.full(6, np.nan)), (None, None)])
def test_damaged_weights_are_refused(vgg, tmp_path, name, value):
    """Of another shape, not finite, or in a file that is cut."""
    path, arrays = tmp_path / 'small.npz', random_weights()
    np.savez(path, **({**arrays, name: value} if name else arrays))
    if not name:
        path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(vgg.common.Refused, match='small.npz'):
        vgg.explainer.Explainer(vgg.network.open_network('caltech101'), [])


def test_imagenet_weights_that_are_not_downloaded(monkeypatch, tmp_path):
    """A line says which file to copy where."""
    def get_file(name, origin, cache_subdir, file_hash):
        assert origin.endswith(f'keras-applications/vgg19/{name}') and len(file_hash) == 32
        raise OSError('URL fetch failure')
    monkeypatch.setattr(keras.utils, 'get_file', get_file)
    monkeypatch.setenv('KERAS_HOME', str(tmp_path))
    vgg, path = scripts('vgg'), tmp_path / 'models' / 'vgg19_weights_tf_dim_ordering_tf_kernels.h5'
    with pytest.raises(vgg.common.Refused, match=f'{path}.*--weights caltech101'):
        vgg.network.open_network('imagenet', model='vgg19')
