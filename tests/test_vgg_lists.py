"""Long lists through vgg/lrp.py: what is explained, records, runs that go on, several machines."""
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
from small_vgg import CLASSES, photograph, script_in

VGG = scripts('vgg')


@pytest.fixture
def lrp(tmp_path, monkeypatch, capsys):
    """Runs vgg/lrp.py on a small network in a folder of its own."""
    return script_in(tmp_path, monkeypatch, capsys)


def pictures(n):
    return [photograph(Path(f'in/{i}.png'), seed=i) for i in range(n)]


def record(name):
    with Image.open(Path('results') / name) as image:
        return json.loads(image.info['comment'])


# Which pictures

def test_lists_and_folders(tmp_path, monkeypatch):
    """Lists may have a byte-order mark, names that are not UTF-8, Windows' ends of lines."""
    paths, folder = VGG.pictures.picture_paths, tmp_path / 'in'
    files = [str(photograph(folder / name)) for name in ('a.JPEG', 'b.png')]
    for name in 'paper.pdf', 'vgg.h5', 'noextension':
        (folder / name).write_text('something else')
    assert paths([str(folder)]) == (files, [])
    listed = [*files, os.fsdecode(b'tw\xf6.png')]
    content = b'\xef\xbb\xbf' + b'\r\n'.join(map(os.fsencode, listed)) + b'\r\n\r\n'
    (tmp_path / 'list.txt').write_bytes(content)
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(content)))
    for argument in f'@{tmp_path}/list.txt', '-':
        assert paths([argument]) == (listed, [])


def test_what_has_no_pictures_is_named(tmp_path, capsys):
    paths, folder = VGG.pictures.picture_paths, str(tmp_path / 'all')
    picture = photograph(tmp_path / 'all' / 'cat' / '1.png')
    (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00\x81')
    for name in 'net.keras', '@none.txt', f'@{tmp_path}/binary', folder:
        with pytest.raises(VGG.common.Refused, match=name.removeprefix('@')):
            paths([name])
    found, failed = paths(['a.png', folder])
    assert found == ['a.png'] and len(failed) == 1
    (picture.parent / 'tabby').mkdir()
    assert paths([str(picture.parent)]) == ([str(picture)], [])
    assert '(1)' in capsys.readouterr().err  # folders are left out


def test_no_two_results_have_one_name():
    """Not even where capitals do not count, or where an ending makes them alike."""
    names = VGG.results.result_names
    assert names(['x/cat.png', 'y/cat.jpg', 'y/cat_2.png', 'z/CAT.png'], ['.npz', '.jpg']) == [
        'cat', 'cat_2', 'cat_2_2', 'CAT_3']
    assert names(['cat.png', 'cat_layers.png'], ['_layers.jpg', '.jpg']) == ['cat', 'cat_layers_2']
    assert names(['a:b.png'], ['.jpg']) == ['a_b']


def test_bad_pictures_and_odd_names_among_good_ones(lrp):
    """Each is explained or has its line; the exit status is 1."""
    good = ['with space.png', 'new\nline.png', os.fsdecode(b'\xff\xfe.png'), 'ü' * 125 + '.png']
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
    assert found['network'] == VGG.network.digest(Path('small.npz'))
    assert found['targets'] == list(targets)
    assert found['classes'] == [CLASSES[target] for target in targets]
    assert found['logits'] == pytest.approx(list(logits[targets]), rel=1e-5)
    assert found['options']['top'] == 2 and found['options']['precision'] == 'float32'


def test_records_beside_long_names_and_what_the_photograph_says_of_itself(lrp):
    Path('names.txt').write_text('ü ' * 35000 + '\nb\nc\nd\ne\n')
    picture = photograph(Path('b.jpg'), icc_profile=bytes(range(256)) * 20, comment=b'mine')
    options = picture, '--plain', '--classes', 'names.txt', '--target', 0
    assert lrp(*options).status == 0
    assert lrp(*options).out[0].startswith('1 done before, 0 to do')


def test_weights_that_are_replaced_while_they_are_read(lrp, monkeypatch):
    opened, picture = VGG.lrp.open_explainer, pictures(1)[0]
    monkeypatch.setattr(VGG.lrp, 'open_explainer', lambda *arguments, **options: (
        opened(*arguments, **options), os.utime('small.npz', (1, 1)))[0])
    end = lrp(picture)
    assert end.status == 2 and 'small.npz' in end.err[0] and not os.listdir('results')


# Several machines

def test_workers_by_tf_config(monkeypatch):
    """A chief is one of them; what does not say which worker this is, is refused."""
    addresses = {'chief': ['a:1'], 'worker': ['b:1', 'c:1'], 'ps': ['d:1']}

    def worker(kind, index):
        config = {'cluster': addresses, 'task': {'type': kind, 'index': index}}
        monkeypatch.setenv('TF_CONFIG', json.dumps(config))
        return VGG.run.worker()
    assert [worker('chief', 0), worker('worker', 1)] == [(0, 3), (2, 3)]
    with pytest.raises(VGG.common.Refused, match='TF_CONFIG'):
        worker('ps', 0)
    monkeypatch.setenv('TF_CONFIG', '{}')
    assert VGG.run.worker() == (0, 1)


def test_workers_by_slurm(monkeypatch):
    for name, value in {'PROCID': 1, 'STEP_NUM_TASKS': 2, 'STEP_NODELIST': 'node[1-2]',
                        'STEP_TASKS_PER_NODE': '1(x2)'}.items():
        monkeypatch.setenv(f'SLURM_{name}', str(value))
    assert VGG.run.worker() == (1, 2)


def test_workers_share_a_list(lrp, monkeypatch):
    """Names are those of the whole list."""
    files = [photograph(Path(f'in{i}') / 'image.png', seed=i) for i in range(3)]
    for i in range(2):
        monkeypatch.setattr(VGG.lrp, 'worker', lambda: (i, 2))
        assert [line.split(':')[0] for line in lrp(*files).out] == list(map(str, files[i::2]))
    for name, file in zip(['image', 'image_2', 'image_3'], files):
        assert record(f'{name}.jpg')['paths']['picture'] == f'../{file}'


# Bad days

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize('error, status, words', [
    (KeyboardInterrupt(), 130, 'stopped'), (NO_SPACE, 2, 'results/1_layers.jpg (No space left')])
def test_interrupted_run_goes_on_to_the_same_files(lrp, monkeypatch, error, status, words):
    """By Ctrl-C, or a full disk, in the middle of a picture's files."""
    pictures(4)
    Path('in/2.png').write_text('no picture')
    options = ['in', '--batch-size', 1, '--plain', '--save-relevance', '--layers', '--rule',
               'epsilon']
    lrp(*options, results='undisturbed')
    written, rename = [], VGG.common.rename

    def fails(path, new):
        if len(written) == 8:
            raise error
        written.append(new)
        rename(path, new)
    with monkeypatch.context() as bad:
        bad.setattr(VGG.common, 'rename', fails)
        end = lrp(*options)
    assert end.status == status and len(end.err) == 1 and words in end.err[0]
    assert sorted(os.listdir('results')) == sorted(path.name for path in written)
    end = lrp(*options)
    assert end.status == 1 and end.summary.startswith('2 explained, 1 done before, 1 failed')
    expected = {path.name: path.read_bytes() for path in Path('undisturbed').iterdir()}
    assert len(expected) == 3 * 5
    assert {path.name: path.read_bytes() for path in Path('results').iterdir()} == expected


def test_nobody_reads_on():
    """| head -1: no traceback."""
    code = 'import common; common.Parser("").run(lambda args: print("x" * 10 ** 6))'
    end = subprocess.run(f'{sys.executable} -c \'{code}\' | head -c 1', shell=True, text=True,
                         cwd=Path(VGG.common.__file__).parent, capture_output=True)
    assert (end.stdout, end.stderr) == ('x', '')
