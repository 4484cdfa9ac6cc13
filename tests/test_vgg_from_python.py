"""What a user of the module sees: pictures of any kind in, arrays out."""
from conftest import scripts
import keras_models
import numpy as np
from PIL import Image
import pytest
from small_vgg import photograph

RULE = 'epsilon-gamma-box'


@pytest.fixture(scope='module')
def explainer(tmp_path_factory):
    path = tmp_path_factory.mktemp('python') / 'my.keras'
    keras_models.chain(keras_models.convolutions(), keras_models.head(5, 'softmax')).save(path)
    return scripts('vgg').explainer.open_explainer(path, RULE, preprocessing='tf')


def test_one_picture_or_many_of_any_kind(explainer, tmp_path):
    path = photograph(tmp_path / 'a.png')
    image = Image.open(path)
    expected = explainer([path]).relevance[RULE]
    for pictures in (path, str(path), image, np.asarray(image), [str(path)] * 2, [image, image],
                     [np.asarray(image), path], np.stack([np.asarray(image)] * 3)):
        found = explainer(pictures).relevance[RULE]
        several = isinstance(pictures, list) or getattr(pictures, 'ndim', 0) == 4
        assert found.shape == (len(pictures) if several else 1, *explainer.network.size)
        np.testing.assert_allclose(found[:1], expected, atol=1e-6 * np.abs(expected).max())


def test_grey_and_transparent_pictures_are_seen_as_their_files_are(explainer, tmp_path):
    for mode in 'L', 'RGBA', 'I;16':
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 4), np.uint8))
        image = image.convert('L').convert(mode) if mode != 'RGBA' else image
        image.save(tmp_path / 'a.png')
        np.testing.assert_array_equal(explainer.classify(image),
                                      explainer.classify(tmp_path / 'a.png'))


def test_one_target_or_many(explainer, tmp_path):
    paths = [photograph(tmp_path / f'{i}.png', seed=i) for i in range(2)]
    assert explainer(paths, 3).targets.tolist() == [3, 3]
    assert explainer(paths, [3, 1]).targets.tolist() == [3, 1]


def test_what_is_no_picture_or_no_rule(explainer):
    refused = scripts('vgg').common.Refused
    for picture in np.zeros((4, 4, 3)), np.zeros(4, np.uint8), 'nothing.png':
        with pytest.raises(refused):
            explainer(picture)
    with pytest.raises(refused, match='gama'):
        scripts('vgg').explainer.open_explainer('lite0', 'gama')
