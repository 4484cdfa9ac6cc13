"""vgg/gallery.py: a page and a table from what the results say of themselves."""
import csv
import json
from pathlib import Path
import re

from conftest import scripts
from PIL import Image
import pytest
from small_vgg import CLASSES, photograph, run, script_in


@pytest.fixture
def gallery(tmp_path, monkeypatch, capsys):
    """A function that runs the gallery in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda: run(scripts('vgg').gallery.main, capsys, '--results', 'results')


def record(**changes):
    return {'version': scripts('vgg').results.VERSION, 'picture': '0', 'network': '0',
            'options': {'against': None},
            'paths': {'picture': 'in/x.png', 'network': 'lite0'}, 'classes': ['cat'],
            'probabilities': [1.0], 'logits': [2.0], 'targets': [0],
            'relevance': {'epsilon': [1.0]}, **changes}


def write(path, comment):
    path.parent.mkdir(exist_ok=True)
    Image.new('RGB', (9, 9)).save(path, comment=json.dumps(comment).encode())


def test_page_and_table(gallery, tmp_path, monkeypatch, capsys):
    """Of two pictures of a small network. Beside their results lie a foreign picture, a sheet of
    another version, which is cut otherwise, and one of concepts.py, which has no classes."""
    lrp = script_in(tmp_path, monkeypatch, capsys)
    for name in ('a&b.png', "it's ü.png"):
        photograph(Path('in') / name, seed=len(name))
    assert lrp('in', '--rule', 'deep-taylor', 'epsilon', '--top', 2).status == 0
    Image.new('RGB', (9, 9)).save('results/holiday.jpg')
    write(Path('results/old.jpg'), record(version=5))
    concepts = record()
    del concepts['relevance']
    write(Path('results/x_concepts.jpg'), concepts)
    assert gallery().out == ['wrote results/index.html and results/results.csv: 2 pictures']
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
    gallery, script = scripts('vgg').gallery, '</script><script>alert(1)</script>'
    paths = {'picture': f'/in/{script}', 'network': '<b>'}
    found = [gallery.entry('x.jpg', record(paths=paths, classes=['=1+1']))]
    page = gallery.page(found)
    assert page.count('</script>') == 1 and '<b>' not in page
    row, = csv.DictReader(gallery.as_csv(found).splitlines())
    assert row['class'] == "'=1+1" and row['logit'] == '2.0'


def test_a_file_of_somebody_else_is_not_replaced(gallery):
    write(Path('results/x.jpg'), record(paths={'picture': 'tw\udcf6.png', 'network': 'n'}))
    for name in 'index.html', 'results.csv':
        assert gallery().status == gallery().status == 0
        Path('results', name).write_text('mine')
        end = gallery()
        assert end.status == 2 and len(end.err) == 1
        assert Path('results', name).read_text() == 'mine'
        Path('results', name).unlink()
