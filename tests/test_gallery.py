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
    return lambda folder='results': run(scripts('vgg').gallery.main, capsys, '--results', folder)


def record(**changes):
    return {'version': scripts('vgg').results.VERSION, 'picture': '0', 'network': '0',
            'options': {'against': None},
            'paths': {'picture': 'in/x.png', 'network': 'lite0'}, 'classes': ['cat'],
            'probabilities': [1.0], 'logits': [2.0], 'targets': [0],
            'relevance': {'epsilon': [1.0]}, **changes}


def write(path, comment):
    path.parent.mkdir(exist_ok=True)
    Image.new('RGB', (9, 9)).save(path, comment=json.dumps(comment).encode())


def data_of(page):
    return json.loads(re.search(r'const RESULTS = (.*);\n', page)[1])


def test_page_and_table(gallery, tmp_path, monkeypatch, capsys):
    """Of two pictures of a small network; two foreign files lie beside their results."""
    lrp = script_in(tmp_path, monkeypatch, capsys)
    for name in ('a&b.png', "it's ü.png"):
        photograph(Path('in') / name, seed=len(name))
    assert lrp('in', '--rule', 'deep-taylor', 'epsilon', '--top', 2).status == 0
    Image.new('RGB', (9, 9)).save('results/holiday.jpg')
    Path('results/note.txt').write_text('mine')
    assert gallery().out == ['wrote results/index.html and results/results.csv: 2 pictures']
    page = Path('results/index.html').read_text(encoding='utf-8')
    found = data_of(page)
    assert [each['name'] for each in found] == ['a&b.png', "it's ü.png"]
    assert [each['file'] for each in found] == ['a%26b.jpg', 'it%27s%20%C3%BC.jpg']
    assert 'http://' not in page and 'https://' not in page and 'src=' not in page  # no network
    with open('results/results.csv', newline='', encoding='utf-8') as file:
        rows = iter(list(csv.DictReader(file)))
    for each in found:
        assert each['rules'] == ['deep-taylor', 'epsilon'] and set(each['classes']) <= set(CLASSES)
        for k, row in zip(range(2), rows):
            assert (Path(row['picture']).name, row['class']) == (each['name'], each['classes'][k])
            for column, value in [('logit', each['logits'][k]), ('sum epsilon', each['sums'][1][k]),
                                  ('probability', each['probabilities'][k])]:
                assert float(row[column]) == value


def test_nothing_in_a_name_is_run():
    """Not by the page, and not as a formula by a spreadsheet."""
    gallery, script = scripts('vgg').gallery, '</script><script>alert(1)</script>'
    paths = {'picture': f'/in/{script}', 'network': '<b>'}
    for name in ('=1+1', '+1', '-1', '@SUM(1)', '\t=1'):
        found = [gallery.entry('x.jpg', record(paths=paths, classes=[name]))]
        page = gallery.page(found)
        assert page.count('</script>') == 1 and '<b>' not in page
        row, = csv.DictReader(gallery.as_csv(found).splitlines())
        assert row['class'] == f"'{name}" and row['logit'] == '2.0'


def test_other_sheets_are_passed_over(tmp_path):
    """Those of another version are cut otherwise; those of concepts.py have no classes."""
    write(tmp_path / '1.jpg', record(version=5))
    write(tmp_path / '2.jpg', {key: value for key, value in record().items() if key != 'relevance'})
    write(tmp_path / '3.jpg', record())
    write(tmp_path / '.4.jpg', record())
    assert [each['result'] for each in scripts('vgg').gallery.entries(tmp_path)] == ['3.jpg']


@pytest.mark.parametrize('name', ['index.html', 'results.csv'])
def test_a_file_of_somebody_else_is_not_replaced(gallery, name):
    write(Path('results/x.jpg'), record(paths={'picture': 'tw\udcf6.png', 'network': 'n'}))
    assert gallery().status == gallery().status == 0
    Path('results', name).write_text('mine')
    end = gallery()
    assert end.status == 2 and len(end.err) == 1 and Path('results', name).read_text() == 'mine'


@pytest.mark.parametrize('folder, word', [('none', 'no folder'), ('in', 'holds no results')])
def test_folders_without_results(gallery, folder, word):
    Path('in').mkdir()
    end = gallery(folder)
    assert end.status == 2 and len(end.err) == 1 and word in end.err[0]
