"""Mosaics, on networks whose heatmaps are known, and the one door of all experiments."""
import re

from conftest import scripts
import keras
import numpy as np
from PIL import Image
import pytest
from small_vgg import run

mosaic, main = scripts('vgg').mosaic, scripts('vgg').evaluate.main


def test_quarters_and_mosaic():
    images = [np.full((5, 6, 3), value, np.uint8) for value in (10, 20, 30, 40)]
    whole = mosaic.mosaic(images)
    np.testing.assert_array_equal(whole[..., 0],
                                  np.repeat(np.repeat([[10, 20], [30, 40]], [2, 3], 0), 3, 1))
    for place, value in zip(mosaic.quarters(5, 6), (10, 20, 30, 40)):
        np.testing.assert_array_equal(place, whole[..., 0] == value)


def test_contrast_is_with_the_likeliest_of_the_others():
    maps = np.arange(4.0)[None, :, None, None] * np.ones((1, 1, 2, 2))
    found = mosaic.contrasted(maps, np.array([[5.0, 3.0, 4.0, -1.0]]))
    assert found[0, :, 0, 0].tolist() == [0 - 2, 1 - 0, 2 - 0, 3 - 0]


def test_four_pictures_of_four_classes():
    classes = np.array([0, 0, 1, 2, -1, 3, 4, 4])
    for four in mosaic.draw_mosaics(classes, 50, 0):
        assert len({classes[k] for k in four}) == 4 and 4 not in four


@pytest.fixture
def colours(tmp_path):
    """Options for a network whose classes are red, green, blue and dark, each seen pixel by pixel,
    and two pictures of each. Its logits are weighted means over all pixels: in a mosaic, a colour's
    is positive, dark's is not."""
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(),
                              keras.layers.Dense(4, activation='softmax')])
    w = np.zeros((8, 8, 3, 4), np.float32)
    for k in range(3):
        w[..., k, k] = 20 / 64
    w[..., 3] = -20 / 64
    model.layers[-1].set_weights([w.reshape(-1, 4), np.float32([0, 0, 0, 5])])
    model.save(tmp_path / 'colours.keras')
    paths = []
    for k, name in enumerate(('red', 'green', 'blue', 'dark')):
        for i in (0, 1):
            pixels = np.zeros((8, 8, 3), np.uint8)
            if k < 3:
                pixels[..., k] = 200 + 50 * i
            paths.append(tmp_path / f'{name}{i}.png')
            Image.fromarray(pixels).save(paths[-1])
    return ['mosaic', *paths, '--weights', tmp_path / 'colours.keras', '--preprocessing', 'unit',
            '--results', tmp_path / 'r', '--batch-size', 3]


def shares(lines):
    """{method: [share alone, of the contrast, of all classes]} of the printed table."""
    rows = [line for line in lines if line.endswith(']')]
    return {re.match(r' *(\S.*?) +\d', row)[1]: [float(x) for x in re.findall(r'(\S+) \[', row)]
            for row in rows}


def test_a_rule_that_is_right_and_one_that_is_not(colours, capsys):
    """What a colour weighs is on its own picture alone, and z+ says so. w^2 does not look at the
    pixels: a quarter is its share."""
    end = run(main, capsys, *colours, '--rule', 'zplus', 'epsilon', 'wsquare', '--count', 10)
    assert end.status == 0 and not end.err
    assert any('10 mosaics of 8 pictures, seed 0: 30 classes counted, 10 with a' in line
               for line in end.out), end.out
    found = shares(end.out)
    assert found['zplus'][:2] == found['epsilon'][:2] == found['gradient x input'][:2] == [1, 1]
    assert found['wsquare'][0] == 0.25 and found['Grad-CAM'][0] == 1  # of the picture itself


def test_batches(colours, capsys, tmp_path):
    """The same numbers whatever the batch; a file that is no picture is named."""
    tables = []
    for size in 3, 8:
        end = run(main, capsys, *colours, tmp_path / 'none.png', '--rule', 'wsquare', '--count', 6,
                  '--batch-size', size)
        assert end.status == 1 and len(end.err) == 1 and 'none.png' in end.err[0]
        tables.append((tmp_path / 'r' / 'mosaic.txt').read_text())
        assert tables[-1] in '\n'.join(end.out) + '\n'
    assert tables[0] == tables[1]
    with Image.open(tmp_path / 'r' / 'mosaic.png') as figure:
        assert min(figure.size) > 500


def test_fewer_than_four_classes_are_told(colours, capsys):
    end = run(main, capsys, *colours[:5], *colours[9:])
    assert end.status == 2 and len(end.err) == 1
    assert 'a mosaic needs pictures of four classes' in end.err[0]


def test_one_door(capsys):
    """It explains each of its experiments, and refuses what it does not have."""
    for name, own in ('mosaic', '--count'), ('flip', '--repeats'), ('randomise', '--draws'):
        text = '\n'.join(run(main, capsys, name, '--help').out)
        assert own in text and '--weights' in text and f'evaluate.py {name} ' in text
    end = run(main, capsys, 'mosaics', 'a.png')
    assert end.status == 2 and len(end.err) == 1 and 'mosaics' in end.err[0]
