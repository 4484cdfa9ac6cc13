"""What lies in vgg/results: every file says what it is; what is not ours is never replaced."""
from concurrent.futures import ThreadPoolExecutor
import errno
import io
import os
from pathlib import Path
import subprocess
import sys
import time

from conftest import scripts
import numpy as np
from PIL import EpsImagePlugin, Image
import pytest
from small_vgg import photograph, script_in

VGG = scripts('vgg')
Refused, results, Job = VGG.common.Refused, VGG.results, VGG.results.Job
ENDINGS = ['.npz', '_epsilon.png', '_epsilon_over.png', '_layers.jpg', '.jpg']


@pytest.fixture
def lrp(tmp_path, monkeypatch, capsys):
    """Runs vgg/lrp.py on a small network in a folder of its own."""
    return script_in(tmp_path, monkeypatch, capsys)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a.png, another d/a.png, and results/."""
    monkeypatch.chdir(tmp_path)
    Path('results').mkdir()
    photograph(Path('a.png'))
    photograph(Path('d/a.png'), seed=1)


def output(overwrite=False, network='n1', told='lite0', target='cat'):
    options = {'target': target, 'layers': True, 'plain': True, 'save_relevance': True}
    run = {'version': results.VERSION, 'network': network, 'options': options,
           'paths': {'network': told}}
    return results.Output(Path('results'), ['epsilon'], 1, 'seismic', True, True, True, overwrite,
                          run)


def put(path='a.png', name='a', **how):
    """Writes all files of a picture, of which only the records matter."""
    drawn, npz, maps = Image.new('RGB', (9, 9)), io.BytesIO(), VGG.heatmaps
    record = results.record_of(Job(name, path), digest(path), output(**how))
    np.savez(npz, record=np.bytes_(maps.as_json(record)), image=np.zeros(9))
    png, jpeg = maps.png(drawn, record), maps.jpeg(drawn, record, path)
    results.put(Job(name, path), [npz.getvalue(), png, png, jpeg, jpeg], record, output(**how))
    return path


def wrong(path='a.png', name='a', **how):
    return results.what_is_wrong(Job(name, path), output(**how))[1]


def digest(path):
    return VGG.pictures.digest_of(Path(path).read_bytes())


@pytest.mark.parametrize('ending', ENDINGS)
def test_done_means_that_all_files_are_of_this_run_and_whole(ending):
    """One comes from another run, or is cut short, or empty."""
    file = Path(f'results/a{ending}')
    put(target='dog')
    other = file.read_bytes()
    put()
    whole = file.read_bytes()
    for content, reason in [(whole[:-1], 'incomplete'), (whole[:-9], 'incomplete'),
                            (b'', 'incomplete'), (other, 'options changed')]:
        file.write_bytes(content)
        assert wrong() == reason
        put()
        assert wrong() is None and wrong(overwrite=True) == ''


def strangers():
    """Contents of files that are not ours."""
    jpeg, npz = io.BytesIO(), io.BytesIO()
    Image.new('RGB', (9, 9)).save(jpeg, 'JPEG', comment=b'{"relevance": 1}')
    np.savez(npz, **{'relevance/epsilon': np.zeros(3)})
    return [b'my own', b'[' * 10 ** 5, b'{"' * 10 ** 5, jpeg.getvalue(), npz.getvalue()]


@pytest.mark.parametrize('ending', ENDINGS)
def test_a_strangers_file_is_never_replaced(ending):
    file, picture = Path(f'results/a{ending}'), Path('a.png').read_bytes()
    for make in [*(lambda content=each: file.write_bytes(content) for each in strangers()),
                 lambda: file.symlink_to(Path('a.png').resolve()),
                 lambda: file.symlink_to('nowhere'), file.mkdir]:
        put()
        file.unlink()
        make()
        before = file.is_file() and file.read_bytes(), file.is_symlink()
        for act in (wrong, put):
            with pytest.raises(Refused, match=f'a{ending} (is not|cannot be)'):
                act(overwrite=True)
        assert before == (file.is_file() and file.read_bytes(), file.is_symlink())
        assert Path('a.png').read_bytes() == picture
        file.rmdir() if file.is_dir() else file.unlink()


def test_result_of_another_picture_is_never_replaced(monkeypatch):
    """Not of one that has the same path elsewhere, nor a file of another picture's result."""
    put()
    os.symlink('../results', 'd/results')
    monkeypatch.chdir('d')
    for act in (wrong, put):
        with pytest.raises(Refused, match='is the result of .*a.png'):
            act()
    monkeypatch.chdir('..')
    photograph(Path('a_layers.png'), seed=2)
    with pytest.raises(Refused, match='a_layers.jpg is the result of a.png'):
        put('a_layers.png', 'a_layers')
    assert wrong() is None and wrong('d/a.png', overwrite=True) == ''
    put('d/a.png', overwrite=True)
    os.rename('d/a.png', 'moved.png')
    assert wrong('moved.png') is None
    photograph(Path('d/a.png'), seed=3)
    assert wrong('d/a.png') == 'picture changed'


def test_the_jpg_goes_first(monkeypatch):
    """An interruption leaves none that speaks for files of two runs."""
    put()

    def stop(*arguments, **options):
        raise KeyboardInterrupt
    monkeypatch.setattr(results, 'write', stop)
    with pytest.raises(KeyboardInterrupt):
        put(target='dog')
    assert not Path('results/a.jpg').exists() and Path('results/a.npz').exists()


@pytest.mark.parametrize('paths, winners', [(['a.png', 'd/a.png'], 1), (['a.png', 'a.png'], 2)])
def test_two_runs_at_once_with_pictures_of_one_name(paths, winners):
    for _ in range(30):
        with ThreadPoolExecutor(2) as pool:
            tasks = [pool.submit(put, path) for path in paths]
            done, _ = VGG.common.collected([task.result for task in tasks])
        assert len(done) == winners and wrong(done[0]) is None
        for file in Path('results').iterdir():
            file.unlink()


def test_results_of_another_version_are_made_again(monkeypatch, capsys):
    """And why is said."""
    with monkeypatch.context() as before:
        before.setattr(results, 'VERSION', results.VERSION - 1)
        put(network='n2')
    todo, failed = VGG.run.left([Job('a', 'a.png')], output())
    said = capsys.readouterr().out
    assert said == '1 to make again: version and network changed\n' and todo and not failed


def test_what_the_system_cannot_read_is_a_failed_picture(lrp, monkeypatch):
    photograph(Path('0.png'))
    put('0.png', '0')

    def fails(path):
        if str(path) in ('a.png', 'results/0.jpg'):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        with open(path, 'rb') as file:
            return file.read()
    monkeypatch.setattr(Path, 'read_bytes', fails)
    end = lrp('a.png', '0.png', 'd/a.png')
    assert end.status == 1 and end.summary.startswith('1 explained, 0 done before, 2 failed')
    assert ['cannot be read (Input/output error)' in line for line in end.err] == [True, True]


def test_temporary_files(monkeypatch):
    """Names are this process's own; links there are not followed; what a dead one left goes."""
    common, folder, content = VGG.common, Path('results'), Path('a.png').read_bytes()
    dead, own = subprocess.Popen([sys.executable, '-c', '']), f'{common.platform.node()}-'
    dead.wait()
    for name in (f'{own}{dead.pid}-1', f'{own}1-1', 'there-7-1', 'there-7-2', 'x.jpg'):
        (folder / f'.unfinished-{name}').touch()
    os.utime(folder / '.unfinished-there-7-2', (time.time() - 10 ** 5,) * 2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(common.make_folder, [folder] * 200))
    common.write(folder / 'x', b'x')
    assert {path.name.removeprefix('.unfinished-') for path in folder.iterdir()} == {
        f'{own}1-1', 'there-7-1', 'x.jpg', 'x'}
    monkeypatch.setattr(common.secrets, 'token_hex', str)
    (folder / f'.unfinished-{own}{os.getpid()}-8').symlink_to('../a.png')
    with pytest.raises(FileExistsError):
        common.write(folder / 'y', b'y')
    assert Path('a.png').read_bytes() == content


@pytest.mark.parametrize('end, shown', [('os._exit(1)', 'why'), ('pass', '')])
def test_what_is_silenced_is_shown_if_the_process_dies_of_it(end, shown):
    code = f'import common, os\nwith common.silence():\n os.write(2, b"why")\n {end}'
    found = subprocess.run([sys.executable, '-c', code], cwd=Path(VGG.common.__file__).parent,
                           capture_output=True, text=True)
    assert found.stderr == shown


def test_weights_that_are_replaced_while_they_are_read(lrp, monkeypatch):
    opened = VGG.lrp.open_explainer
    monkeypatch.setattr(VGG.lrp, 'open_explainer', lambda *arguments, **options: (
        opened(*arguments, **options), os.utime('small.npz', (1, 1)))[0])
    end = lrp('a.png')
    assert end.status == 2 and 'small.npz' in end.err[0] and not os.listdir('results')


def test_names_of_many_pictures_of_one_name():
    begin = time.process_time()
    names = results.result_names([f'{i}/a:b.png' for i in range(4000)] + ['x' * 10 ** 6], ENDINGS)
    assert len(set(names)) == 4001 and names[0] == 'a_b' and time.process_time() - begin < 5


def test_other_programs_are_not_started(monkeypatch):
    """By an EPS that is named .jpg, for example."""
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *_: pytest.fail('started'))
    with pytest.raises(Refused, match='Pillow decodes'):
        VGG.pictures.decoded('a.jpg', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n')


def test_large_photographs_and_long_names(lrp):
    """At most 4,096 pixels a side under a heatmap; a name that no JPEG's comment holds is cut. What
    the photograph's file says of it does not get in the way of the record."""
    Path('names.txt').write_text('ü ' * 35000 + '\nb\nc\nd\ne\n')
    about = {'icc_profile': bytes(range(256)) * 20, 'dpi': (300, 300), 'comment': b'mine'}
    picture = photograph(Path('large.jpg'), (5000, 20), **about)
    for _ in range(2):
        end = lrp(picture, '--plain', '--classes', 'names.txt', '--target', 0)
        assert (end.status, end.err) == (0, [])
    with Image.open('results/large_deep-taylor_over.png') as image:
        assert image.size == (4096, 16)


def test_letters_that_the_terminal_does_not_have(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), 'ascii'))
    VGG.common.Parser('').run(lambda args: print('ü'), [])
    assert sys.stdout.buffer.getvalue() == b'\\xfc\n'


def test_what_other_systems_do_not_have(lrp, monkeypatch):
    """Names with a colon, hard links."""
    def link(*paths):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    monkeypatch.setattr(os, 'link', link)
    assert lrp(photograph(Path('a:b.png')), '--plain').status == 0
    assert Path('results/a_b.jpg').exists()
    with pytest.raises(FileExistsError):
        VGG.common.write(Path('a.png'), b'', new=True)
