"""vgg/frame.py: what is on the frame, what is lost with it, what it does to other pictures; on a
network that reads its frame."""
import re

from conftest import scripts
import numpy as np
from PIL import Image
import pytest
from small_vgg import run

frame, main = scripts('vgg').frame, scripts('vgg').evaluate.main
SIDE, MARGIN = 8, 1  # pixels of the network's input and of the frame


@pytest.fixture
def reader(tmp_path):
    """Options for a network of two classes: how bright the frame is, and the inside; two pictures
    of each class."""
    keras = scripts('vgg').common.keras
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)),
                              keras.layers.Conv2D(2, SIDE, activation='relu'),
                              keras.layers.Flatten(),
                              keras.layers.Dense(2)])
    place = frame.frame_of((SIDE, SIDE), MARGIN)
    kernel = np.zeros((SIDE, SIDE, 3, 2), np.float32)
    kernel[place, :, 0] = kernel[~place, :, 1] = 1
    model.set_weights([kernel, np.zeros(2), np.eye(2), np.zeros(2)])
    model.save(tmp_path / 'reader.keras')
    for name, on_frame, inside in ('framed', 255, 51), ('plain', 51, 255), ('grey', 51, 153):
        pixels = np.uint8(np.where(place, on_frame, inside))
        Image.fromarray(pixels).convert('RGB').save(tmp_path / f'{name}.png')
    return ['--weights', tmp_path / 'reader.keras', '--preprocessing', 'unit', '--results',
            tmp_path / 'r', '--margin', MARGIN]


def row(lines, start):
    """The numbers of the line that starts so."""
    line, = [line.strip() for line in lines if line.strip().startswith(start)]
    return [float(word) for word in re.findall(r'-?\d+\.\d+', line[len(start):])]


def test_a_class_that_hangs_on_its_frame(reader, capsys, tmp_path):
    """All that speaks for the class of framed.png is on the frame and is lost with it, down to what
    lay inside; plain.png loses nothing. The frame, three colours of 28 pixels, brings the class
    into other pictures; one of their own colour does not."""
    framed, plain, grey = (tmp_path / f'{name}.png' for name in ('framed', 'plain', 'grey'))
    end = run(main, capsys, 'frame', framed, *reader, '--others', plain, grey, framed, '--rule',
              'zplus')
    assert end.status == 0 and not end.err
    first, second, third, dark = 3 * 28, 3 * 36, 3 * 36 * 0.6, 0.2
    assert row(end.out, 'class 0')[:4] == pytest.approx([first, (1 - dark) * first,
        (1 - dark) * first, 1], abs=0.01)
    assert row(end.out, 'mean of 2 others')[::3][:3] == pytest.approx([(second + third) / 2, 0, 0],
        abs=0.01)
    gain, = [line for line in end.out if 'around 2 others' in line]
    rise = f'{(1 - dark) * first:.2f}'
    assert f'gains {rise} [{rise}, {rise}]' in gain
    assert 'plain frame 0.00 [0.00, 0.00]' in gain
    assert f'difference {rise}' in gain


def test_pictures_are_enlarged_and_framed():
    image = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    np.testing.assert_array_equal(frame.cut(np.repeat(np.repeat(image, 2, 0), 2, 1),
                                            2)[[1, 1, -2, -2], [1, -2, 1, -2]],
                                            image[[1, 1, 4, 4], [1, 4, 1, 4]])
    other = np.full((6, 6, 1), 99, np.uint8)
    inside = frame.framed(other, image, 2)
    assert (inside[2:4, 2:4] == 99).all()
    assert (inside[frame.frame_of((6, 6), 2)] == image[frame.frame_of((6, 6), 2)]).all()
    over = frame.painted(image, 2)
    # (14 + 15 + 20 + 21) / 4, rounded to even
    assert (over[2:4, 2:4] == image[2:4, 2:4]).all()
    assert (over[frame.frame_of((6, 6), 2)] == 18).all()


def test_copies_are_no_evidence(reader, capsys, tmp_path):
    """Neither of the pictures nor among the others; what is not positive has no share of it to
    lose."""
    framed, plain, grey = (tmp_path / f'{name}.png' for name in ('framed', 'plain', 'grey'))
    tables = []
    for own, others in ([framed], [plain, grey]), ([framed, framed], [plain, framed, grey, plain]):
        end = run(main, capsys, 'frame', *own, *reader, '--others', *others)
        tables.append([line for line in end.out if 'others' in line or 'rank' in line])
    assert tables[0] == tables[1]
    assert 'rank correlation over 3 pictures with a positive logit' in '\n'.join(tables[0])


def test_wrong_usage_is_told(reader, capsys, tmp_path):
    picture = tmp_path / 'framed.png'
    end = run(main, capsys, 'frame', picture, *reader, '--margin', 4)
    assert end.status == 2 and len(end.err) == 1 and '--margin 4' in end.err[0]
    end = run(main, capsys, 'frame', picture, *reader, '--others', tmp_path / 'none.png', picture)
    assert end.status == 2 and len(end.err) == 1 and 'none.png' in end.err[0]


# Networks that cut, turn or resize pictures by layers of their own

def network_that(path, *layers, side=32):
    """Saves a small network that begins with these layers."""
    keras = scripts('vgg').common.keras
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((side, side, 3)), *layers,
                              keras.layers.Conv2D(4, 1, activation='relu'), keras.layers.Flatten(),
                              keras.layers.Dense(2, kernel_initializer='ones')])
    model.save(path)
    return path


def dot(path, row, column, side=320):
    """A black picture with a white dot of 20 pixels around a place."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[row - 10:row + 10, column - 10:column + 10] = 255
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize('kind', ['CenterCrop', 'Permute', 'cut and enlarged'])
def test_networks_that_cut_or_turn_pictures_are_refused(tmp_path, capsys, kind):
    vgg, layers = scripts('vgg'), scripts('vgg').common.keras.layers
    steps = {'CenterCrop': [layers.CenterCrop(16, 16)], 'Permute': [layers.Permute((2, 1, 3))],
             'cut and enlarged': [layers.CenterCrop(16, 16), layers.Resizing(32, 32)]}[kind]
    weights = network_that(tmp_path / 'w.keras', layers.Rescaling(1 / 255), *steps)
    options = [dot(tmp_path / 'dot.png', 110, 200), '--weights', weights, '--results',
               tmp_path / 'r']
    end = run(vgg.lrp.main, capsys, *options, '--rule', 'zplus')
    assert end.status == 2 and len(end.err) == 1 and 'w.keras' in end.err[0]


def test_a_network_may_resize_pictures(tmp_path, capsys):
    """A white dot is red where it is drawn."""
    vgg, layers = scripts('vgg'), scripts('vgg').common.keras.layers
    weights = network_that(tmp_path / 'w.keras', layers.Rescaling(1 / 255), layers.Resizing(24, 24))
    options = [dot(tmp_path / 'dot.png', 110, 200), '--weights', weights, '--results',
               tmp_path / 'r']
    end = run(vgg.lrp.main, capsys, *options, '--rule', 'zplus', '--plain')
    assert end.status == 0 and not end.err
    plain = np.asarray(Image.open(tmp_path / 'r' / 'dot_zplus.png'), int)
    red = plain[..., 0] - plain[..., 1]  # where it is white, none
    place = np.argwhere(red > 0.7 * red.max()).mean(0) / red.shape
    np.testing.assert_allclose(place, (110 / 320, 200 / 320), atol=0.04)
