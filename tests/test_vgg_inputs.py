"""Wrong weight files and wrong usage of vgg/lrp.py: one line that names the value, and the exit
status."""
import io
import os
from pathlib import Path
import subprocess
import sys

from conftest import ROOT, scripts
import h5py
import numpy as np
import pytest
from small_vgg import photograph, random_weights, run, script_in

OPTIONS = ['--model', '--weights', '--classes', '--rule', '--target', '--top', '--batch-size',
           '--precision', '--layers',
           '--save-relevance', '--cmap', '--results', '--help']


@pytest.fixture
def lrp(tmp_path, monkeypatch, capsys):
    return script_in(tmp_path, monkeypatch, capsys, 'vgg16')


def vgg19(path):
    np.savez(path, **random_weights(model='vgg19'))


def arrays(**changes):
    """A function that writes the small network's weights with some arrays replaced, or left out
    where None."""
    def write(path):
        kept = {key: array for key,
                array in {**random_weights(), **changes}.items() if array is not None}
        np.savez(path, **kept)
    return write


def truncated(path):
    np.savez(path, **random_weights())
    path.write_bytes(path.read_bytes()[:-500])


def other_h5(path):
    with h5py.File(path, 'w') as file:
        file['temperatures'] = np.arange(9.0)


def text(path):
    path.write_text('no weights')


def nothing(path):
    """The file is missing."""


def array_alone(path):
    with open(path, 'wb') as file:
        np.save(file, np.zeros(3))


def pickled(path):
    np.savez(path, **{**random_weights(),
                      'block3_conv1/kernel': np.array([None, {}], dtype=object)})


BAD_WEIGHTS = {  # name: file name, function that writes it, words of the message
    'missing .npz': ('w.npz', nothing, []),
    'missing .h5': ('w.h5', nothing, []),
    'missing .keras': ('w.keras', nothing, []),
    'text as .npz': ('w.npz', text, []),
    'text as .h5': ('w.weights.h5', text, []),
    'text as .keras': ('w.keras', text, []),
    'unknown kind': ('w.pt', text, []),
    'truncated': ('w.npz', truncated, []),
    'array alone': ('w.npz', array_alone, []),
    'pickled': ('w.npz', pickled, []),
    'wrong shape': ('w.npz', arrays(**{'block3_conv2/kernel': np.zeros((3, 3, 3, 7))}),
                    ['block3_conv2', '[3, 3, 3, 7]', '[3, 3, 3, 3]']),
    '5x5 kernel': ('w.npz', arrays(**{'block1_conv1/kernel': np.zeros((5, 5, 3, 2))}),
                   ['block1_conv1', '[5, 5, 3, 2]', '[3, 3, 3, 2]']),
    'wrong shape of a bias': ('w.npz', arrays(**{'fc1/bias': np.zeros(7)}),
                              ['fc1', '[7]', '[196, 6]']),
    'dense after average pooling': ('w.npz', arrays(**{'fc1/kernel': np.zeros((4, 6))}),
                                    ['fc1', '[4, 6]', '[196, 6]']),
    'missing layer': ('w.npz', arrays(**{'block4_conv1/kernel': None}),
                      ['block4_conv2', 'block4_conv1']),
    'missing bias': ('w.npz', arrays(**{'block4_conv2/bias': None}), ['block4_conv2/bias']),
    'no head': ('w.npz', arrays(**{f'{name}/kernel': None for name in ('fc1', 'predictions')}),
                ['dense']),
    'NaN': ('w.npz', arrays(**{'block2_conv1/kernel': np.full((3, 3, 2, 3), np.nan)}),
            ['block2_conv1', 'finite']),
    'infinite bias': ('w.npz', arrays(**{'fc1/bias': np.full(6, np.inf)}), ['fc1', 'finite']),
    'no VGG': ('w.h5', other_h5, ['block1_conv1']),
    'folder': ('w.npz', os.mkdir, []),
}


@pytest.mark.parametrize('kind', BAD_WEIGHTS)
def test_bad_weights(lrp, tmp_path, kind):
    name, make, words = BAD_WEIGHTS[kind]
    make(tmp_path / name)
    end = lrp(photograph(tmp_path / 'a.png'), weights=name)
    assert (end.status, end.out, len(end.err)) == (2, [], 1)
    assert all(word in end.err[0] for word in [name, *words]), end.err[0]


USAGE = {  # name: arguments behind a good picture, words of the message
    'rule': (['--rule', 'lrp'], ['lrp', 'deep-taylor']),
    'cmap': (['--cmap', 'rainbows'], ['rainbows', 'seismic']),
    'top zero': (['--top', '0'], ['--top', '0']),
    'top text': (['--top', 'all'], ['--top', 'all']),
    'top too many': (['--top', '6'], ['--top', '6', '5 classes']),
    'target and top': (['--target', '1', '--top', '2'], ['--target', '--top']),
    'batch size': (['--batch-size', '-3'], ['--batch-size', '-3']),
    'precision': (['--precision', 'float16'], ['float16', 'bfloat16']),
    'model': (['--model', 'resnet'], ['resnet', 'vgg19']),
    'unknown option': (['--colour', 'red'], ['--colour']),
    'missing classes': (['--classes', 'names.txt'], ['names.txt']),
    'classes too few': (['--classes', 'four.txt'], ['four.txt', '4', '5']),
    'binary classes': (['--classes', 'binary'], ['binary']),
    'missing list': (['@nolist.txt'], ['nolist.txt']),
    'binary list': (['@binary'], ['binary']),
    'list that is a folder': (['@empty'], ['empty']),
}


@pytest.mark.parametrize('kind', USAGE)
def test_wrong_usage(lrp, kind):
    """One line that names the value; nothing is explained; exit status 2."""
    arguments, words = USAGE[kind]
    photograph(Path('a.png'))
    Path('four.txt').write_text('a\nb\nc\nd\n')
    Path('binary').write_bytes(b'\xff\xfe\x00\x81')
    os.mkdir('empty')
    end = lrp('a.png', *arguments)
    assert (end.status, end.out, len(end.err)) == (2, [], 1)
    assert all(word in end.err[0] for word in words), end.err[0]
    assert not os.path.exists('results') or not os.listdir('results')


@pytest.mark.parametrize('argument', ['empty', '@empty.txt', '-'])
def test_nothing_to_explain(lrp, monkeypatch, argument):
    """A folder or a list without pictures is no success."""
    os.mkdir('empty')
    Path('empty.txt').write_text('\n')
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'')))
    end = lrp(argument)
    assert end.status in (1, 2) and end.out == []
    assert len(end.err) == 1
    assert argument.removeprefix('@') in end.err[0] or 'standard input' in end.err[0]


def test_vgg19_that_is_said_to_be_vgg16(lrp, tmp_path):
    vgg19(tmp_path / 'w.npz')
    end = lrp(photograph(tmp_path / 'a.png'), '--model', 'vgg16', weights='w.npz')
    assert end.status == 2 and len(end.err) == 1 and all(word in end.err[0]
        for word in ('block3_conv4', 'vgg16')), end.err


def test_caltech101_is_no_vgg19(lrp, tmp_path):
    end = lrp(photograph(tmp_path / 'a.png'), '--model', 'vgg19', weights='caltech101')
    assert end.status == 2 and len(end.err) == 1
    assert all(word in end.err[0] for word in ('caltech101', 'vgg19'))


def test_message_for_a_number_says_what_is_right(lrp, tmp_path):
    """In the words of the command line, not in those of the script."""
    end = lrp(photograph(tmp_path / 'a.png'), '--top', '0')
    assert 'positive_int' not in end.err[0]


def test_results_below_a_file(lrp, tmp_path):
    end = lrp(photograph(tmp_path / 'a.png'), results='small.npz/results')
    assert end.status == 2 and len(end.err) == 1 and 'small.npz/results' in end.err[0]


def test_logit_of_zero(lrp, tmp_path):
    """A network without a way from the pixels to the logits: nothing to share out, but no
    failure."""
    dead = {key: np.zeros_like(array) for key, array in random_weights().items()}
    np.savez(tmp_path / 'dead.npz', **dead)
    end = lrp(photograph(tmp_path / 'a.png'), '--rule', 'deep-taylor', 'epsilon', 'alpha2beta1',
              weights='dead.npz')
    assert (end.status, end.err, len(end.out)) == (0, [], 1)


def script(*arguments, cwd):
    """Runs vgg/lrp.py with the bundled weights as a process of its own, from another directory."""
    command = [sys.executable, ROOT / 'vgg' / 'lrp.py', *arguments, '--weights', 'caltech101',
               '--results', 'out']
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_script_explains_and_names_what_it_cannot(tmp_path):
    (tmp_path / 'broken.jpg').write_text('text')
    end = script(ROOT / 'vgg' / 'images' / 'pizza.jpg', 'broken.jpg', cwd=tmp_path)
    assert end.returncode == 1
    assert len(end.stderr.splitlines()) == 1 and 'broken.jpg' in end.stderr
    network, picture, summary = end.stdout.splitlines()
    assert summary.startswith('1 explained, 0 done before, 1 failed; ')
    assert network == ('vgg16_caltech101.npz: 13 convolutions, 3 dense layers, 224x224, vgg16, '
                       'preprocessing caffe, 101 classes')
    assert 'pizza.jpg: pizza 1.00' in picture
    assert os.listdir(tmp_path / 'out') == ['pizza.jpg']
    # it conserves
    assert float(picture.split('deep-taylor ')[1].split(',')[0]) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize('arguments, word',
                         [(['--target', 'unicorn'], 'unicorn'), (['--rule', 'unicorn'], 'unicorn'),
                                             (['--target', 'grand pian'], 'grand piano')])
def test_bundled_network_with_wrong_usage(capsys, tmp_path, arguments, word):
    end = run(scripts('vgg').lrp.main, capsys, photograph(tmp_path / 'a.png'), *arguments,
              '--weights', 'caltech101', '--results', tmp_path)
    assert (end.status, end.out, len(end.err)) == (2, [], 1) and word in end.err[0]


def test_help(capsys):
    vgg = scripts('vgg')
    end = run(vgg.lrp.main, capsys, '--help')
    assert (end.status, end.err) == (0, [])
    words = ''.join(''.join(end.out).split())  # lines break within the names of rules, too
    assert all(option in words for option in OPTIONS)
    assert all(rule in words for rule in vgg.rules.COMPOSITES)
    assert f'{vgg.heatmaps.PERCENTILE}thpercentile' in words
