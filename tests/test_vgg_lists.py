"""Long lists through vgg/lrp.py: results that describe themselves, runs that go on, several
machines, bad days."""
import errno
import hashlib
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import time

from conftest import command, scripts
import keras
import numpy as np
from PIL import Image
import pytest
from small_vgg import CLASSES, photograph, random_weights, run, script_in


@pytest.fixture
def lrp(tmp_path, monkeypatch, capsys):
    """Runs vgg/lrp.py on a small network in a folder of its own."""
    return script_in(tmp_path, monkeypatch, capsys)


def pictures(n, folder='in'):
    return [photograph(Path(folder) / f'{i}.png', seed=i) for i in range(n)]


def record(name):
    with Image.open(Path('results') / name) as image:
        return json.loads(image.info['comment'])


def stamps():
    return {path.name: path.stat().st_mtime_ns for path in Path('results').iterdir()}


# Results that describe themselves

def test_comment_says_what_the_result_is(lrp):
    picture, = pictures(1)
    end = lrp(picture, '--rule', 'deep-taylor', 'epsilon', '--top', 2, '--against', 'kite',
              '--save-relevance')
    found = record('0.jpg')
    with np.load('results/0.npz') as saved:
        logits, targets = saved['logits'], saved['targets']
        sums = {rule: saved[f'relevance/{rule}'].sum((1, 2, 3), dtype=float)
                for rule in ('deep-taylor', 'epsilon')}
    assert found['picture'] == str(picture)
    assert found['stamp'] == [picture.stat().st_size,
                              hashlib.sha256(picture.read_bytes()).hexdigest()[:16]]
    assert found['weights'] == 'small.npz'
    assert found['digest'] == scripts('vgg').network.digest(Path('small.npz'))
    assert len(found['digest']) == 64
    assert found['targets'] == list(targets)
    assert found['classes'] == [CLASSES[target] for target in targets]
    assert found['logits'] == pytest.approx(list(logits[targets]), rel=1e-5)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert found['probabilities'] == pytest.approx(list(shares[targets]), rel=1e-5)
    assert set(found['relevance']) == set(sums)
    for rule in sums:
        assert found['relevance'][rule] == pytest.approx(list(sums[rule]), abs=1e-3)
    assert found['options']['against'] == 'kite'
    assert found['options']['top'] == 2
    assert found['options']['precision'] == 'float32'
    assert len(end.out) == 2


def test_second_run_does_what_is_left(lrp):
    files = pictures(3)
    first = lrp(*files[:2], '--save-relevance')
    assert first.summary.startswith('2 explained, 0 done before, 0 failed')
    before = stamps()
    end = lrp(*files, '--save-relevance')
    assert end.out[0] == '2 done before, 1 to do'
    assert len(end.out) == 2
    assert end.summary.startswith('1 explained, 2 done before, 0 failed')
    after = stamps()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {'2.jpg', '2.npz'}
    assert lrp(*files, '--save-relevance',
               '--overwrite').summary.startswith('3 explained, 0 done before')
    assert all(stamps()[name] > after[name] for name in after)


def change_picture():
    photograph(Path('in/0.png'), seed=9)


def touch_picture():
    os.utime('in/0.png', ns=(1, 1))


def change_weights():
    np.savez('small.npz', **random_weights(seed=5, model='short'), classes=CLASSES)


@pytest.mark.parametrize('change, options, redone', [
    (change_picture, [], 1), (touch_picture, [], 0), (change_weights, [], 2),
    (None, ['--rule', 'epsilon'], 2), (None, ['--top', 2], 2),
    (None, ['--target', 'kite'], 2), (None, ['--against', 'kite'], 2),
    (None, ['--cmap', 'bwr'], 2), (None, ['--save-relevance'], 2),
    (None, ['--layers'], 2), (None, ['--precision', 'float64'], 2),
    (None, ['--preprocessing', 'unit'], 2), (None, ['--batch-size', 1], 0),
    (lambda: os.unlink('results/1.jpg'), [], 1),
    (lambda: Path('results/1.jpg').write_bytes(b''), [], None)])
def test_what_is_stale_is_done_again(lrp, change, options, redone):
    files = pictures(2)
    lrp(*files)
    before = stamps()
    if change:
        change()
    end = lrp(*files, *options)
    if redone is None:  # something else lies there
        assert end.status == 1 and 'is not a result of this script' in end.err[0]
    elif not redone:
        assert '2 done before, 0 to do' in end.out[0]
    else:
        words = f'{redone} explained, {2 - redone} done before, 0 failed'
        assert end.summary.startswith(words), end
        assert sum(stamps()[name] != before[name] for name in before
                   if name in stamps()) + (change and len(before) - 2 or 0) >= min(redone, 1)


def test_missing_numbers_are_made_again(lrp):
    files = pictures(2)
    lrp(*files, '--save-relevance')
    os.unlink('results/1.npz')
    assert lrp(*files, '--save-relevance').summary.startswith('1 explained, 1 done before')
    assert Path('results/1.npz').exists()


@pytest.mark.parametrize('content', [b'my own', None])
def test_what_is_no_result_is_never_overwritten(lrp, content):
    files = pictures(2)
    mine = Path('results/0.jpg')
    mine.parent.mkdir()
    if content is None:
        Image.new('RGB', (9, 9)).save(mine, comment=b'holiday')
    else:
        mine.write_bytes(content)
    before = mine.read_bytes()
    end = lrp(*files)
    assert end.status == 1
    assert len(end.err) == 1
    assert 'results/0.jpg' in end.err[0]
    assert '--overwrite' in end.err[0]
    assert mine.read_bytes() == before and Path('results/1.jpg').exists()


def test_result_of_another_picture_is_never_replaced(lrp):
    """a/cat.png, then b/cat.png: one line says so. The same picture elsewhere is no other one."""
    one, other = (photograph(Path(name) / 'cat.png', seed=i) for i, name in enumerate('ab'))
    assert lrp(one).status == 0
    before = Path('results/cat.jpg').read_bytes()
    end = lrp(other)
    assert end.status == 1 and len(end.err) == 1
    assert f'{other}: results/cat.jpg is the result of {one}' in end.err[0]
    assert '--overwrite' in end.err[0] and Path('results/cat.jpg').read_bytes() == before
    assert lrp(other, '--overwrite').status == 0 and record('cat.jpg')['picture'] == str(other)
    shutil.move('b', 'moved')
    assert lrp('moved/cat.png').status == 0


def test_a_link_to_a_photograph_is_not_written_through(lrp):
    """results/0.jpg is a link to a picture elsewhere: with --overwrite it is the link that goes."""
    picture, other = pictures(2)
    Path('results').mkdir()
    os.symlink(other.resolve(), 'results/0.jpg')
    before = other.read_bytes()
    assert lrp(picture).status == 1
    assert lrp(picture, '--overwrite').status == 0 and other.read_bytes() == before


# Several machines

@pytest.mark.parametrize('job', ['worker', 'chief'])
def test_workers_share_the_list(lrp, monkeypatch, job):
    """By TF_CONFIG: every third picture each; a chief is one of them. Names are those of the whole
    list."""
    files = [photograph(Path(f'in{i}') / 'image.png', seed=i) for i in range(7)]
    hosts = ['localhost:1', 'localhost:2', 'localhost:3']
    cluster = {'worker': hosts} if job == 'worker' else {'chief': hosts[:1], 'worker': hosts[1:]}
    done = []
    for kind, index in [(kind, i) for kind,
                        addresses in cluster.items() for i in range(len(addresses))]:
        monkeypatch.setenv('TF_CONFIG',
                           json.dumps({'cluster': cluster, 'task': {'type': kind, 'index': index}}))
        done.append([line.split(':')[0] for line in lrp(*files).out])
    assert [len(each) for each in done] == [3, 2, 2]
    assert sorted(sum(done, [])) == sorted(map(str, files))
    assert done[0] == list(map(str, files[::3]))
    for i, file in enumerate(files):
        assert record(f'image{f"_{i + 1}" * (i > 0)}.jpg')['picture'] == str(file)


def test_slurm(lrp, monkeypatch):
    files = pictures(4)
    for nodes, per_node, i in ('node[1-2]', '1(x2)', 0), ('node7', '2', 1):
        for name, value in {'PROCID': i, 'STEP_NUM_TASKS': 2, 'STEP_NODELIST': nodes,
                            'STEP_TASKS_PER_NODE': per_node}.items():
            monkeypatch.setenv(f'SLURM_{name}', str(value))
        assert [line.split(':')[0] for line in lrp(*files).out] == list(map(str, files[i::2]))


@pytest.mark.parametrize('text',
                         ['{', '{"cluster": {"worker": ["a:1", "b:1"]}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 4}}',
    '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}'])
def test_malformed_tf_config(lrp, monkeypatch, text):
    monkeypatch.setenv('TF_CONFIG', text)
    end = lrp(*pictures(1))
    assert end.status == 2 and len(end.err) == 1 and 'TF_CONFIG' in end.err[0]


def test_tf_config_without_a_cluster_is_one_machine(lrp, monkeypatch):
    monkeypatch.setenv('TF_CONFIG', '{}')
    assert lrp(*pictures(2)).summary.startswith('2 explained')


# Bad days, in processes of their own

@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """A small network of 32x32 pixels that any process can read."""
    layers, path = keras.layers, tmp_path_factory.mktemp('network') / 'my.keras'
    keras.utils.set_random_seed(0)
    keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(4, 3, activation='relu'),
                      layers.MaxPooling2D(), layers.Flatten(),
                      layers.Dense(3, activation='softmax')]).save(path)
    return path


def start(network, *options, cwd):
    return subprocess.Popen(command('vgg/lrp.py', 'in', '--weights', network, '--preprocessing',
                                    'unit', '--results', 'results',
                                    '--batch-size', 2, *options), cwd=cwd, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True)


def wait_for(folder, n, process):
    while process.poll() is None and len(list(folder.glob('[!.]*.jpg'))) < n:
        time.sleep(0.02)


def whole(folder):
    """All pictures in a folder as bytes; each can be decoded and says what it is."""
    for path in folder.glob('[!.]*'):
        with Image.open(path) as image:
            image.load()
            assert json.loads(image.info['comment'])['relevance']
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_interrupted_run_writes_its_batch_and_says_how_to_go_on(network, tmp_path):
    """By Ctrl-C; then, from where it stopped, by SIGTERM."""
    for i in range(100):
        photograph(tmp_path / 'in' / f'{i}.png', seed=i)
    found = {}
    for number in signal.SIGINT, signal.SIGTERM:
        before, process = len(found), start(network, cwd=tmp_path)
        wait_for(tmp_path / 'results', before + 5, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        lines = [line for line in out.splitlines() if line.startswith('in/')]
        assert process.returncode == 128 + number and len(err.splitlines()) == 1, err
        assert f'stopped: {len(lines)} of {100 - before}' in err
        assert 'the same command goes on' in err
        assert not before or f'{before} done before, {100 - before} to do' in out
        found = whole(tmp_path / 'results')
        assert len(found) == before + len(lines) and before + 5 <= len(found) < 100


def test_nobody_reads_on(network, tmp_path):
    """| head -1: no traceback, and what was done stays."""
    photograph(tmp_path / 'in' / '0.png')
    process = start(network, cwd=tmp_path)
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == '' and process.wait(60) in (0, 141)


# Bad days, in this process

def test_full_disk_stops_with_one_line_that_names_the_file(lrp, monkeypatch):
    files, written = pictures(6), []

    def fills(path, data):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with open(path, 'wb') as file:
            file.write(data)
        written.append(path)
    monkeypatch.setattr(Path, 'write_bytes', fills)
    end = lrp(*files, '--batch-size', 2)
    assert end.status == 2
    assert len(end.err) == 1
    assert 'results/3.jpg' in end.err[0]
    assert 'No space left' in end.err[0]
    assert sorted(os.listdir('results')) == ['0.jpg', '1.jpg', '2.jpg']
    monkeypatch.undo()


def test_pictures_are_not_written_by_pillow_itself(tmp_path, monkeypatch):
    """It passes over a full disk: half a picture, and no error."""
    def full(path, data):
        raise OSError(errno.ENOSPC, 'No space left on device')
    for folder in ('mnist', 'vgg'):
        script = scripts(folder).common
        monkeypatch.setattr(Path, 'write_bytes', full)
        with pytest.raises(script.Refused, match='cannot write .*x.jpg .No space'):
            script.write(tmp_path / 'x.jpg', script.encoded(Image.new('RGB', (9, 9)).save, 'JPEG'))
    assert not os.listdir(tmp_path)


def test_result_whose_place_is_a_folder_fails_alone(lrp):
    files = pictures(3)
    os.makedirs('results/1.jpg')
    end = lrp(*files)
    assert end.status == 1 and len(end.err) == 1 and '1.jpg' in end.err[0]
    assert sorted(os.listdir('results')) == ['0.jpg', '1.jpg', '2.jpg']


NAMES = ['with space.png', "quote's \"double\".png", 'new\nline.png', b'\xff\xfe.png', 'tab\t.png',
         'ü' * 120 + '.png', 'x' * 251 + '.png', '-dash.png']


@pytest.mark.parametrize('name', NAMES, ids=range(len(NAMES)))
def test_odd_names(lrp, capsys, name):
    """Each is explained, with one line of output; the result's name is cut where it would be too
    long. Again: it is done."""
    name = os.fsdecode(name)
    shutil.copy(photograph(Path('plain.png')), name)
    for printed in ('2 explained, 0 done before', '2 done before, 0 to do'):
        if name.startswith('-'):
            end = run(scripts('vgg').lrp.main, capsys, '--weights', 'small.npz', '--preprocessing',
                      'caffe', '--results', 'results', 'plain.png', '--', name)
        else:
            end = lrp('plain.png', name)
        assert end.status == 0 and not end.err, end
        assert printed in (end.summary or end.out[0])
    assert len(os.listdir('results')) == 2


def test_odd_names_in_a_list(lrp):
    """A byte-order mark, no UTF-8, Windows' ends of lines."""
    for name in ('one.png', os.fsdecode(b'tw\xf6.png')):
        shutil.copy(photograph(Path('plain.png')), name)
    Path('list.txt').write_bytes(b'\xef\xbb\xbfone.png\r\ntw\xf6.png\r\n')
    end = lrp('@list.txt')
    assert end.status == 0
    assert [line.split(':')[0] for line in end.out] == ['one.png', 'tw\\udcf6.png']


def test_classes_file_with_a_byte_order_mark(lrp):
    Path('names.txt').write_bytes(b'\xef\xbb\xbf'
                                  + '\n'.join(['eins', 'zwei', 'drei', 'vier', 'fünf']).encode())
    end = lrp(*pictures(1), '--classes', 'names.txt', '--target', 'eins')
    assert end.status == 0 and ': eins ' in end.out[0]


def test_empty_folder_among_good_ones(lrp):
    pictures(2)
    os.mkdir('empty')
    end = lrp('in', 'empty')
    assert end.status == 1
    assert len(end.out) == 2
    assert len(end.err) == 1
    assert 'empty: no pictures' in end.err[0]


def test_inputs_are_never_overwritten(lrp):
    picture, = pictures(1)
    shutil.copy('small.npz', 'in/0.npz')
    shutil.copy(picture, 'in/flipping.png')
    vgg, before = scripts('vgg'), {path: path.read_bytes() for path in Path('in').iterdir()}
    end = lrp(picture, '--save-relevance', weights='in/0.npz', results='in')
    assert end.status == 2 and 'in/0.npz is an input' in end.err[0]
    for script in (vgg.flip, vgg.randomise):
        with pytest.raises(SystemExit) as stop:
            script.main([f'in/{script.__name__.replace("flip", "flipping")}.png', '--weights',
                         'small.npz', '--preprocessing', 'caffe', '--results', 'in'])
        assert stop.value.code in (1, 2)
    assert {path: path.read_bytes() for path in Path('in').iterdir()} == before


def test_relevance_that_is_not_finite_is_not_drawn(lrp):
    arrays = random_weights(model='short')
    arrays['fc1/kernel'] *= np.float32(1e30)
    arrays['predictions/kernel'] *= np.float32(1e30)
    np.savez('large.npz', **arrays)
    end = lrp(*pictures(1), weights='large.npz')
    assert end.status == 1
    assert len(end.err) == 1
    assert 'not finite' in end.err[0]
    assert not os.listdir('results')


def test_sheet_that_no_jpeg_holds_is_told_before_any_work(lrp):
    end = lrp(*pictures(1), '--top', 300)
    assert end.status == 2 and end.network is None and '65500' in end.err[0]


def test_floats_without_end_in_a_tiff(lrp):
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    values[3, 4] = np.inf
    Image.fromarray(values).save('a.tif')
    end = lrp('a.tif')
    assert end.status == 1 and len(end.err) == 1 and 'not finite' in end.err[0]
