"""Explains what VGG16, EfficientNet-Lite0 or your own Keras network sees in photographs, by
Layer-wise Relevance Propagation.

    python vgg/lrp.py cat.jpg --weights lite0            a bundled network
    python vgg/lrp.py cat.jpg dog.jpg                    VGG16, once 553 MB
    python vgg/lrp.py vgg/images --weights caltech101    bundled photographs
    python vgg/lrp.py cat.jpg --against lynx             why not a lynx?
    python vgg/lrp.py cat.jpg --weights my.keras --classes names.txt

Writes results/<name>.jpg for each picture: the photograph, with the class that is explained and its
probability, beside a heatmap for each rule. Red pixels speak for the class, blue ones against it,
white is zero. Each heatmap has its own scale, on which the 99.5th percentile of the absolute values
gets the full colour. The line that is printed for each picture gives the logit, and the sum of the
relevance divided by the value it started from: 1 if nothing was lost.
"""
import math
from pathlib import Path
import time

import matplotlib

from networks.class_names import class_names, find_target
from common import Parser, Refused, check_spared, count, make_folder, once
from explainer import open_explainer
from networks.network import digest, weight_file
from results import Output, check_height, result_names
from pictures import find
from rules import DEFAULT
from run import add_network_options, explain_pictures, inputs, left, own_share

VERSION = 3  # of what is computed and drawn: results of another version are made again
WALKS = 4  # most targets of a picture explained in one run: each takes memory of its own


def explain(args):
    """Explains the pictures named on the command line. Returns a line for each that failed."""
    begin = time.time()
    paths, failed = find(args.image)
    args.rule = once(args.rule)
    if args.cmap not in matplotlib.colormaps:
        raise Refused(f'--cmap {args.cmap}: no such colour map; there are seismic, bwr, coolwarm, '
                      'RdBu_r, PiYG and others')
    check_height(args)
    make_folder(args.results)
    output = Output(args.results, args.rule, args.cmap, args.layers, args.save_relevance,
                    args.top * args.plain, settings(args))
    names = result_names(paths, output.endings)
    files = [file for name in names for file in output.files(name)]
    check_spared(files, inputs(args, paths))
    jobs, done, taken = left(own_share(list(zip(names, paths))), output, args.overwrite)
    if done:
        hint = '' if jobs else ' (--overwrite explains them again)'
        print(f'{done} done before, {len(jobs)} to do{hint}', flush=True)
    failed += taken
    if jobs:
        broken = explain_with(args, jobs, output)
        failed += broken
        if len(paths) > 1:
            print(f'{len(jobs) - len(broken)} explained, {done} done before, {len(failed)} failed; '
                  f'{time.time() - begin:.0f} seconds; results in {args.results}')
        elif not broken:
            print(f'wrote {files[-1]}')
    return failed


def explain_with(args, jobs, output):
    """Opens the network and explains pictures [(name, path)]. Returns a line for each failure."""
    walks = math.ceil(args.top / math.ceil(args.top / WALKS))  # runs of equal length: 5 is 3 + 2
    explainer = open_explainer(args.weights, args.rule, args.model, args.preprocessing,
                               args.precision, walks, args.layers,
                               pictures=[path for _, path in jobs])
    classes = class_names(explainer.network, args.classes)
    targets = [-1 - k for k in range(args.top)]
    if args.target is not None:
        targets = [find_target(args.target, classes)]
    against = None
    if args.against is not None:
        against = find_target(args.against, classes, '--against')
    if args.top > len(classes) - (against is not None):
        raise Refused(f'--top {args.top}: the network has {len(classes)} classes')
    if against in targets:
        raise Refused(f'--against {args.against} is the target itself')
    return explain_pictures(explainer, jobs, targets, against, classes, args.batch_size, output)


def settings(args):
    """What decides a result, beside the picture: the network's file and the options."""
    path = weight_file(args.weights, args.model)
    names = ('model', 'rule', 'target', 'top', 'against', 'preprocessing', 'precision', 'layers',
             'plain', 'save_relevance', 'cmap')
    options = {name: getattr(args, name) for name in names}
    options['classes'] = digest_of(args.classes)
    return {'version': VERSION, 'weights': path.name, 'digest': digest_of(path), 'options': options}


def digest_of(path):
    """The digest of a file; None where there is none, about which its reader complains."""
    return digest(path) if path and path.is_file() else None


def main(argv=None):
    parser = Parser(__doc__)
    network, what, how = add_network_options(parser, DEFAULT)
    network.add_argument('--classes', type=Path, metavar='FILE',
                         help='names of the classes, one on each line')
    which = what.add_mutually_exclusive_group()
    which.add_argument('--target', metavar='CLASS',
                       help='explain this class, by name or index, instead of the predicted one')
    which.add_argument('--top', type=count, default=1, metavar='K',
                       help='explain the K most likely classes, a row for each')
    what.add_argument('--against', metavar='CLASS',
                      help='explain why the target rather than this class; without --target, why '
                           'the predicted class')
    written = parser.add_argument_group('what is written')
    written.add_argument('--layers', action='store_true',
                         help='also <name>_layers.jpg: the relevance where maps become smaller')
    written.add_argument('--plain', action='store_true',
                         help='also each heatmap for papers and slides, alone and over the '
                              'photograph, at its size: <name>_<rule>.png, <name>_<rule>_over.png')
    written.add_argument('--save-relevance', action='store_true',
                         help='also <name>.npz: the relevance as numbers, that of --layers, too')
    written.add_argument('--cmap', default='seismic', metavar='NAME',
                         help='a colour map of matplotlib (default: seismic)')
    how.add_argument('--overwrite', action='store_true', help='replace what stands in the way')
    parser.run(explain, argv)


if __name__ == '__main__':
    main()
