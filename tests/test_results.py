"""What lies in vgg/results: every file says what it is; what is not ours is never replaced; and the
page and the table that vgg/gallery.py makes of it."""
from concurrent.futures import ThreadPoolExecutor
import csv
import errno
import io
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import time

from conftest import scripts
import numpy as np
from PIL import EpsImagePlugin, Image
import pytest
from small_vgg import CLASSES, photograph, run, script_in

VGG = scripts('vgg')
Refused, results, Job = VGG.common.Refused, VGG.results, VGG.results.Job
ENDINGS = ['.npz', '_epsilon.png', '_epsilon_over.png', '_layers.jpg', '.jpg']


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a.png, another d/a.png, and results/."""
    monkeypatch.chdir(tmp_path)
    Path('results').mkdir()
    photograph(Path('a.png'))
    photograph(Path('d/a.png'), seed=1)


def output(overwrite=False, target='cat', **changes):
    run = {'version': results.VERSION, 'network': 'n1', 'options': {'target': target},
           'paths': {'network': 'lite0'}, **changes}
    return results.Output(Path('results'), ['epsilon'], 1, 'seismic', True, True, True, overwrite,
                          run)


def put(path='a.png', name='a', **how):
    """Writes all files of a picture, of which only the records matter."""
    drawn, npz, maps = Image.new('RGB', (9, 9)), io.BytesIO(), VGG.heatmaps
    digest = VGG.pictures.digest_of(Path(path).read_bytes())
    record = results.record_of(Job(name, path), digest, output(**how))
    np.savez(npz, record=np.bytes_(maps.as_json(record)), image=np.zeros(9))
    png, jpeg = maps.png(drawn, record), maps.jpeg(drawn, record, path)
    results.put(Job(name, path), [npz.getvalue(), png, png, jpeg, jpeg], record, output(**how))
    return path


def wrong(path='a.png', name='a', **how):
    return results.what_is_wrong(Job(name, path), output(**how))[1]


@pytest.mark.parametrize('ending', ENDINGS)
def test_done_means_that_all_files_are_of_this_run_and_whole(ending):
    """One comes from another run, of another version, or is cut short, or empty."""
    file = Path(f'results/a{ending}')
    put(version=0, network='n2')
    older = file.read_bytes()
    put(target='dog')
    other = file.read_bytes()
    put()
    whole = file.read_bytes()
    for content, reason in [(whole[:-1], 'incomplete'), (b'', 'incomplete'),
                            (other, 'options changed'), (older, 'version and network changed')]:
        file.write_bytes(content)
        assert wrong() == reason
        put()
        assert wrong() is None and wrong(overwrite=True) == ''


@pytest.mark.parametrize('ending', ENDINGS)
def test_a_strangers_file_is_never_replaced(ending):
    """Nor a picture to which a link leads, nor a folder."""
    file, picture = Path(f'results/a{ending}'), Path('a.png').read_bytes()
    jpeg, npz = io.BytesIO(), io.BytesIO()
    Image.new('RGB', (9, 9)).save(jpeg, 'JPEG', comment=b'{"relevance": 1}')
    np.savez(npz, **{'relevance/epsilon': np.zeros(3)})
    put()
    contents = b'my own', b'{"' * 10 ** 5, jpeg.getvalue(), npz.getvalue(), 'a link', 'a folder'
    for content in contents:
        file.unlink()
        if content == 'a link':
            file.symlink_to(Path('a.png').resolve())
        elif content == 'a folder':
            file.mkdir()
        else:
            file.write_bytes(content)
        for act in (wrong, put):
            with pytest.raises(Refused, match=f'a{ending} (is not|cannot be)'):
                act(overwrite=True)
        assert file.is_dir() or file.read_bytes() == (picture if file.is_symlink() else content)


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
    monkeypatch.setattr(results, 'write', lambda *_, **__: pytest.fail('interrupted'))
    with pytest.raises(pytest.fail.Exception):
        put(target='dog')
    assert not Path('results/a.jpg').exists() and Path('results/a.npz').exists()


@pytest.mark.parametrize('paths, winners', [(['a.png', 'd/a.png'], 1), (['a.png', 'a.png'], 2)])
def test_two_runs_at_once_with_pictures_of_one_name(paths, winners):
    for _ in range(20):
        with ThreadPoolExecutor(2) as pool:
            tasks = [pool.submit(put, path) for path in paths]
            done, _ = VGG.common.collected([task.result for task in tasks])
        assert len(done) == winners and wrong(done[0]) is None
        for file in Path('results').iterdir():
            file.unlink()


def test_temporary_files(monkeypatch):
    """Names are this process's own; links there are not followed; what a dead one left goes."""
    common, folder, content = VGG.common, Path('results'), Path('a.png').read_bytes()
    dead, own = subprocess.Popen([sys.executable, '-c', '']), f'{common.platform.node()}-'
    dead.wait()
    for name in (f'{own}{dead.pid}-1', f'{own}1-1', 'there-7-1', 'there-7-2', 'x.jpg'):
        (folder / f'.unfinished-{name}').touch()
    os.utime(folder / '.unfinished-there-7-2', (time.time() - 10 ** 5,) * 2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(common.make_folder, [folder] * 100))
    common.write(folder / 'x', b'x')
    assert {path.name.removeprefix('.unfinished-') for path in folder.iterdir()} == {
        f'{own}1-1', 'there-7-1', 'x.jpg', 'x'}
    monkeypatch.setattr(common.secrets, 'token_hex', str)
    (folder / f'.unfinished-{own}{os.getpid()}-8').symlink_to('../a.png')
    with pytest.raises(FileExistsError):
        common.write(folder / 'y', b'y')
    assert Path('a.png').read_bytes() == content


def test_where_there_are_no_hard_links(monkeypatch):
    def link(*paths):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    monkeypatch.setattr(os, 'link', link)
    VGG.common.write(Path('new'), b'mine', new=True)
    with pytest.raises(FileExistsError):
        VGG.common.write(Path('new'), b'', new=True)
    assert Path('new').read_bytes() == b'mine'


@pytest.mark.parametrize('end, shown', [('os._exit(1)', 'why'), ('pass', '')])
def test_what_is_silenced_is_shown_if_the_process_dies_of_it(end, shown):
    code = f'import common, os\nwith common.silence():\n os.write(2, b"why")\n {end}'
    found = subprocess.run([sys.executable, '-c', code], cwd=Path(VGG.common.__file__).parent,
                           capture_output=True, text=True)
    assert found.stderr == shown


def test_other_programs_are_not_started(monkeypatch):
    """By an EPS that is named .jpg, for example."""
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *_: pytest.fail('started'))
    with pytest.raises(Refused, match='Pillow decodes'):
        VGG.pictures.decoded('a.jpg', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n')


# The page

def gallery(capsys):
    return run(VGG.gallery.main, capsys, '--results', 'results')


def record(**changes):
    return {'version': results.VERSION, 'picture': '0', 'network': '0', 'classes': ['cat'],
            'options': {'against': None}, 'paths': {'picture': 'in/x.png', 'network': 'lite0'},
            'probabilities': [1.0], 'logits': [2.0], 'targets': [0],
            'relevance': {'epsilon': [1.0]}, **changes}


def write(name, comment):
    Image.new('RGB', (9, 9)).save(f'results/{name}', comment=json.dumps(comment).encode())


def test_page_and_table(tmp_path, monkeypatch, capsys):
    """Of two pictures of a small network. Beside their results lie a foreign picture, a sheet of
    another version, which is cut otherwise, and one of concepts.py, which has no classes."""
    lrp = script_in(tmp_path, monkeypatch, capsys)
    for name in ('a&b.png', "it's ü.png"):
        photograph(Path('in') / name, seed=len(name))
    assert lrp('in', '--rule', 'deep-taylor', 'epsilon', '--top', 2).status == 0
    write('holiday.jpg', 'mine')
    write('old.jpg', record(version=5))
    concepts = record()
    del concepts['relevance']
    write('x_concepts.jpg', concepts)
    assert gallery(capsys).out == ['wrote results/index.html and results/results.csv: 2 pictures']
    page = Path('results/index.html').read_text(encoding='utf-8')
    found = json.loads(re.search(r'const RESULTS = (.*);\n', page)[1])
    assert [each['name'] for each in found] == ['a&b.png', "it's ü.png"]
    assert [each['file'] for each in found] == ['a%26b.jpg', 'it%27s%20%C3%BC.jpg']
    assert 'http://' not in page and 'https://' not in page and 'src=' not in page  # no network
    with open('results/results.csv', newline='', encoding='utf-8') as file:
        rows = iter(list(csv.DictReader(file)))
    for each in found:
        assert each['rules'] == ['deep-taylor', 'epsilon'] and set(each['classes']) <= set(CLASSES)
        for k, row in zip(range(2), rows):
            assert (Path(row['picture']).name, row['class']) == (each['name'], each['classes'][k])
            assert [float(row[key]) for key in ('logit', 'probability', 'sum epsilon')] == [
                each['logits'][k], each['probabilities'][k], each['sums'][1][k]]


def test_nothing_in_a_name_is_run():
    """Not by the page, and not as a formula by a spreadsheet."""
    paths = {'picture': '/in/</script><script>alert(1)</script>', 'network': '<b>'}
    found = [VGG.gallery.entry('x.jpg', record(paths=paths, classes=['=1+1']))]
    page = VGG.gallery.page(found)
    assert page.count('</script>') == 1 and '<b>' not in page
    row, = csv.DictReader(VGG.gallery.as_csv(found).splitlines())
    assert row['class'] == "'=1+1" and row['logit'] == '2.0'


def test_page_of_somebody_else_is_not_replaced(capsys):
    write('x.jpg', record(paths={'picture': 'tw\udcf6.png', 'network': 'n'}))
    for name in 'index.html', 'results.csv':
        assert gallery(capsys).status == gallery(capsys).status == 0
        Path('results', name).write_text('mine')
        end = gallery(capsys)
        assert end.status == 2 and len(end.err) == 1
        assert Path('results', name).read_text() == 'mine'
        Path('results', name).unlink()
