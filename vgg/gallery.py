"""The results of vgg/lrp.py as a page to browse and a table, from what their JPEG comments say.

    python vgg/gallery.py                    vgg/results/index.html, results.csv
    python vgg/gallery.py --results elsewhere

The page needs no server and no network: open index.html in a browser. Search by name and class,
sort, choose a rule; a click shows a picture large, with a slider that lays the heatmap over the
photograph; arrow keys go on to the next, Escape goes back. Pictures that are not results of
vgg/lrp.py are passed over. results.csv has a line for each picture and target.
"""
import csv
import html
import io
import json
from pathlib import Path
from urllib.parse import quote

from common import Parser, Refused, make_folder, write
from results import recorded

HERE = Path(__file__).resolve().parent


def read_records(folder):
    """[(file name, record)] of all results in a folder, by name."""
    found = [(path.name, recorded(path)) for path in sorted(folder.glob('*.jpg'))]
    return [(name, record) for name, record in found if record]


def entry(name, record):
    """What the page needs of a result."""
    return {'file': quote(name.encode('utf-8', 'surrogateescape')),
            'name': encodable(Path(record['picture']).name), 'weights': record['weights'],
            'classes': list(map(encodable, record['classes'])),
            'probabilities': record['probabilities'], 'logits': record['logits'],
            'rules': list(record['relevance']), 'sums': list(record['relevance'].values())}


def as_csv(records):
    """results.csv: a line for each picture and target."""
    rules = list(dict.fromkeys(rule for _, record in records for rule in record['relevance']))
    table = io.StringIO()
    lines = csv.writer(table, lineterminator='\n')
    lines.writerow(['result', 'picture', 'weights', 'target', 'class', 'against', 'probability',
                    'logit', *(f'sum {rule}' for rule in rules)])
    for name, record in records:
        for k, target in enumerate(record['targets']):
            sums = [record['relevance'][rule][k] if rule in record['relevance'] else ''
                    for rule in rules]
            lines.writerow([encodable(name), encodable(record['picture']), record['weights'],
                            target, encodable(record['classes'][k]),
                            record['options'].get('against') or '', record['probabilities'][k],
                            record['logits'][k], *sums])
    return table.getvalue()


def encodable(text):
    """The text, with what UTF-8 cannot hold escaped."""
    return text.encode('utf-8', 'backslashreplace').decode()


def page(records):
    """index.html."""
    data = json.dumps([entry(name, record) for name, record in records],
                      separators=(',', ':')).replace('<', '\\u003c')
    weights = ', '.join(dict.fromkeys(record['weights'] for _, record in records))
    template = (HERE / 'gallery.html').read_text(encoding='utf-8')
    title = html.escape(f'Relevance in {len(records)} pictures by {encodable(weights)}')
    return template.replace('$TITLE', title).replace('$DATA', data)


def make(args):
    """Writes index.html and results.csv."""
    if not args.results.is_dir():
        raise Refused(f'no folder {args.results}')
    make_folder(args.results)
    records = read_records(args.results)
    if not records:
        raise Refused(f'{args.results} holds no results of vgg/lrp.py')
    write(args.results / 'results.csv', as_csv(records))
    write(args.results / 'index.html', page(records))
    print(f'wrote {args.results / "index.html"} and {args.results / "results.csv"}: '
          f'{len(records)} pictures')


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument('--results', type=Path, default=HERE / 'results', metavar='DIR',
                        help='default: vgg/results')
    parser.run(make, argv)


if __name__ == '__main__':
    main()
