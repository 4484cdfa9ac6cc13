"""The results of vgg/lrp.py as a page to browse and a table, from what their JPEG comments say.

    python vgg/gallery.py                    vgg/results/index.html, results.csv
    python vgg/gallery.py --results elsewhere

The page needs no server and no network: open index.html in a browser. Search by name and class,
sort, choose a rule; a click shows a picture large, with a slider that lays the heatmap over the
photograph; arrow keys go on to the next, Escape goes back. Pictures that are not results of
this version of vgg/lrp.py are passed over. results.csv has a line for each picture and target.
"""
import csv
import html
import io
import json
import os
from pathlib import Path
from urllib.parse import quote

from common import Parser, Refused, make_folder, write
from heatmaps import record_in
from pictures import read_file
from results import VERSION

HERE = Path(__file__).resolve().parent
HEAD = ['result', 'picture', 'weights', 'target', 'class', 'against', 'probability', 'logit']
OURS = {'index.html': b'of the sheets that vgg/lrp.py draws',
        'results.csv': ','.join(HEAD).encode()}  # what these files hold if we wrote them


def entries(folder):
    """What the page and the table need of each result in a folder, by name."""
    records = {path: record_in(read_file(path)) for path in sorted(folder.glob('[!.]*.jpg'))}
    return [entry(path.name, record) for path, record in records.items()
            if record and record['version'] == VERSION and 'relevance' in record]


def entry(name, record):
    """What the page and the table need of a result."""
    paths, relevance = record['paths'], record['relevance']
    return {'file': quote(os.fsencode(name)), 'result': name, 'name': Path(paths['picture']).name,
            'picture': paths['picture'], 'weights': paths['network'],
            'against': record['options']['against'] or '', 'rules': list(relevance),
            'sums': list(relevance.values()),
            **{key: record[key] for key in ('targets', 'classes', 'probabilities', 'logits')}}


def as_csv(found):
    """results.csv: a line for each picture and target."""
    rules = list(dict.fromkeys(rule for each in found for rule in each['rules']))
    table = io.StringIO()
    lines = csv.writer(table, lineterminator='\n')
    lines.writerow([*HEAD, *(text(f'sum {rule}') for rule in rules)])
    for each in found:
        sums = dict(zip(each['rules'], each['sums']))
        for k, target in enumerate(each['targets']):
            lines.writerow([*map(text, (each['result'], each['picture'], each['weights'])), target,
                            text(each['classes'][k]), text(each['against']),
                            each['probabilities'][k], each['logits'][k],
                            *(sums[rule][k] if rule in sums else '' for rule in rules)])
    return table.getvalue()


def text(cell):
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(('=', '+', '-', '@', '\t', '\r')) else cell


def page(found):
    """index.html."""
    data = json.dumps(found, separators=(',', ':')).replace('<', '\\u003c')
    weights = ', '.join(dict.fromkeys(each['weights'] for each in found))
    template = (HERE / 'gallery.html').read_text(encoding='utf-8')
    title = html.escape(f'Relevance in {len(found)} pictures by {weights}')
    return template.replace('$TITLE', title).replace('$DATA', data)


def put(path, content):
    """Writes one of the gallery's files. Raises Refused if what is in its place is not ours."""
    old = read_file(path) if os.path.lexists(path) else b''
    if old and OURS[path.name] not in old:
        raise Refused(f'{path} was not written by this script: delete it, or rename it')
    write(path, content.encode('utf-8', 'backslashreplace'))  # file names may not be UTF-8


def make(args):
    """Writes index.html and results.csv."""
    if not args.results.is_dir():
        raise Refused(f'no folder {args.results}')
    make_folder(args.results)
    found = entries(args.results)
    if not found:
        raise Refused(f'{args.results} holds no results of vgg/lrp.py')
    put(args.results / 'results.csv', as_csv(found))
    put(args.results / 'index.html', page(found))
    print(f'wrote {args.results}/index.html and {args.results}/results.csv: {len(found)} pictures')


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR',
                        help='default: vgg/results')
    parser.run(make, argv)


if __name__ == '__main__':
    main()
