"""Long lists through vgg/lrp.py: results that describe themselves, runs that go on, several
machines, bad days."""
import errno
import io
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

from conftest import scripts
import numpy as np
from PIL import Image
import pytest
from small_vgg import CLASSES, photograph, random_weights, script_in


@pytest.fixture
def lrp(tmp_path, monkeypatch, capsys):
    """Runs vgg/lrp.py on a small network in a folder of its own."""
    return script_in(tmp_path, monkeypatch, capsys)


def pictures(n, folder='in'):
    return [photograph(Path(folder) / f'{i}.png', seed=i) for i in range(n)]


def record(name):
    with Image.open(Path('results') / name) as image:
        return json.loads(image.info['comment'])


# Which pictures

@pytest.mark.parametrize('way', ['list', 'standard input', 'folder'])
def test_many_pictures_at_once(tmp_path, monkeypatch, way):
    """Lists may have a byte-order mark, names that are not UTF-8, Windows' ends of lines."""
    files = [photograph(tmp_path / 'in' / name) for name in ('a.JPEG', 'b.png')]
    for name in 'paper.pdf', 'vgg.h5', 'noextension':
        (tmp_path / 'in' / name).write_text('something else')
    expected = list(map(str, files))
    if way != 'folder':
        expected.append(os.fsdecode(b'tw\xf6.png'))
    content = b'\xef\xbb\xbf' + b'\r\n'.join(map(os.fsencode, expected)) + b'\r\n\r\n'
    (tmp_path / 'list.txt').write_bytes(content)
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(content)))
    argument = {'list': f'@{tmp_path / "list.txt"}', 'standard input': '-',
                'folder': str(tmp_path / 'in')}[way]
    assert scripts('vgg').pictures.picture_paths([argument]) == (expected, [])


def test_folders_in_folders_are_told(tmp_path, capsys):
    paths, refused = scripts('vgg').pictures.picture_paths, scripts('vgg').common.Refused
    picture = photograph(tmp_path / 'all' / 'cat' / '1.png')
    found, failed = paths(['a.png', str(tmp_path / 'all')])
    assert found == ['a.png'] and len(failed) == 1 and 'all/*' in failed[0]
    (tmp_path / 'empty.txt').write_text('\n')
    for name, word in [('net.keras', '--weights net.keras'), ('@none.txt', 'none.txt'),
                       (f'@{tmp_path}/empty.txt', 'empty.txt'), (f'{tmp_path}/all', 'no pictures')]:
        with pytest.raises(refused, match=word):
            paths([name])
    assert capsys.readouterr().err == ''
    (picture.parent / 'tabby').mkdir()
    assert paths([str(picture.parent)]) == ([str(picture)], [])
    assert '(1)' in capsys.readouterr().err


def test_no_two_results_have_one_name():
    """Not even where capitals do not count, or where an ending makes them alike."""
    names = scripts('vgg').results.result_names
    assert names(['x/cat.png', 'y/cat.jpg', 'y/cat_2.png', 'z/CAT.png'], ['.npz', '.jpg']) == [
        'cat', 'cat_2', 'cat_2_2', 'CAT_3']
    assert names(['cat.png', 'cat_layers.png'], ['_layers.jpg', '.jpg']) == ['cat', 'cat_layers_2']
    long, = names(['ü' * 120 + '.png'], ['.jpg'])
    assert len(os.fsencode(long)) <= 180


def test_bad_pictures_and_odd_names_among_good_ones(lrp):
    """Each is explained or has its line; the exit status is 1."""
    good = ['with space.png', 'new\nline.png', os.fsdecode(b'\xff\xfe.png'), 'x' * 251 + '.png']
    for name in good:
        shutil.copy(photograph(Path('plain.png')), name)
    Path('bad.png').write_text('text')
    end = lrp(*good[:2], 'bad.png', 'missing.png', *good[2:])
    assert end.status == 1 and end.summary.startswith('4 explained, 0 done before, 2 failed')
    assert [line.split()[1].strip(':') for line in end.err] == ['bad.png', 'missing.png']
    assert len(os.listdir('results')) == 4


# Results that describe themselves

def test_record_says_what_the_result_is(lrp):
    picture, = pictures(1)
    lrp(picture, '--rule', 'epsilon', '--top', 2, '--save-relevance')
    found = record('0.jpg')
    with np.load('results/0.npz') as saved:
        logits, targets = saved['logits'], saved['targets']
        sums = saved['relevance/epsilon'].sum((1, 2, 3), dtype=float)
    assert found['relevance']['epsilon'] == pytest.approx(list(sums), abs=1e-3)
    assert found['paths'] == {'picture': '../in/0.png', 'network': 'caltech101'}
    assert found['network'] == scripts('vgg').network.digest(Path('small.npz'))
    assert found['targets'] == list(targets)
    assert found['classes'] == [CLASSES[target] for target in targets]
    assert found['logits'] == pytest.approx(list(logits[targets]), rel=1e-5)
    assert found['options']['top'] == 2 and found['options']['precision'] == 'float32'


def test_what_is_stale_is_done_again(lrp):
    files = pictures(2)
    lrp(*files)
    photograph(files[0], seed=9)
    os.utime(files[1], ns=(1, 1))
    assert lrp(*files).summary.startswith('1 explained, 1 done before')
    assert lrp(*files).out == ['2 done before, 0 to do (--overwrite explains them again)']
    np.savez('small.npz', **random_weights(seed=5, model='short'))
    assert lrp(*files).summary.startswith('2 explained, 0 done before')


# Several machines

def test_workers_by_tf_config(monkeypatch):
    """A chief is one of them."""
    cluster, found = {'chief': ['a:1'], 'worker': ['b:1', 'c:1']}, []
    for kind, addresses in cluster.items():
        for index in range(len(addresses)):
            task = {'cluster': cluster, 'task': {'type': kind, 'index': index}}
            monkeypatch.setenv('TF_CONFIG', json.dumps(task))
            found.append(scripts('vgg').run.worker())
    assert found == [(0, 3), (1, 3), (2, 3)]


def test_workers_share_a_list(lrp, monkeypatch):
    """Names are those of the whole list."""
    files = [photograph(Path(f'in{i}') / 'image.png', seed=i) for i in range(3)]
    for i in range(2):
        monkeypatch.setattr(scripts('vgg').lrp, 'worker', lambda: (i, 2))
        assert [line.split(':')[0] for line in lrp(*files).out] == list(map(str, files[i::2]))
    for i, file in enumerate(files):
        name = f'image_{i + 1}.jpg' if i else 'image.jpg'
        assert record(name)['paths']['picture'] == f'../{file}'


def test_workers_by_slurm(monkeypatch):
    for name, value in {'PROCID': 1, 'STEP_NUM_TASKS': 2, 'STEP_NODELIST': 'node[1-2]',
                        'STEP_TASKS_PER_NODE': '1(x2)'}.items():
        monkeypatch.setenv(f'SLURM_{name}', str(value))
    assert scripts('vgg').run.worker() == (1, 2)


@pytest.mark.parametrize('text', [
    '{', '{"cluster": 3}',
    '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}'])
def test_malformed_tf_config(monkeypatch, text):
    monkeypatch.setenv('TF_CONFIG', text)
    with pytest.raises(scripts('vgg').common.Refused, match='TF_CONFIG'):
        scripts('vgg').run.worker()
    monkeypatch.setenv('TF_CONFIG', '{}')
    assert scripts('vgg').run.worker() == (0, 1)


# Bad days

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize('error, status, words', [
    (KeyboardInterrupt(), 130, 'stopped'), (NO_SPACE, 2, 'results/1_layers.jpg (No space left')])
def test_interrupted_run_goes_on_to_the_same_files(lrp, monkeypatch, error, status, words):
    """By Ctrl-C, or a full disk, in the middle of a picture's files."""
    pictures(6)
    Path('in/2.png').write_text('no picture')
    options = ['in', '--batch-size', 1, '--plain', '--save-relevance', '--layers', '--rule',
               'epsilon']
    lrp(*options, results='undisturbed')
    written, rename = [], scripts('vgg').common.rename

    def fails(path, new):
        if len(written) == 8:
            raise error
        written.append(new)
        rename(path, new)
    with monkeypatch.context() as bad:
        bad.setattr(scripts('vgg').common, 'rename', fails)
        end = lrp(*options)
    assert end.status == status and len(end.err) == 1 and words in end.err[0]
    assert sorted(os.listdir('results')) == sorted(path.name for path in written)
    end = lrp(*options)
    assert end.status == 1 and end.summary.startswith('4 explained, 1 done before, 1 failed')
    expected = {path.name: path.read_bytes() for path in Path('undisturbed').iterdir()}
    assert len(expected) == 5 * 5
    assert {path.name: path.read_bytes() for path in Path('results').iterdir()} == expected


def test_nobody_reads_on():
    """| head -1: no traceback."""
    code = 'import common; common.Parser("").run(lambda args: print("x" * 10 ** 6))'
    end = subprocess.run(f'{sys.executable} -c \'{code}\' | head -c 1', shell=True, text=True,
                         cwd=Path(scripts('vgg').common.__file__).parent, capture_output=True)
    assert (end.stdout, end.stderr) == ('x', '')
