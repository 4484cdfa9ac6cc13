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
from functools import partial
import os
from pathlib import Path
import time

import matplotlib

from common import Parser, Refused, collected, count, make_folder
from explainer import open_explainer
from networks.class_names import class_names, find_target
from networks.network import BUNDLED, digest, weight_file
from pictures import picture_paths, read_file
from results import VERSION, Job, Output, Question, relative, result_names
from rules import DEFAULT, composites_of, one_sign
from run import add_network_options, explain_pictures, left, worker


def explain(args):
    """Explains the pictures named on the command line. Returns a line for each that failed."""
    begin = time.time()
    paths, failed = picture_paths(args.image)
    if not any(map(os.path.exists, paths)):  # said before anything is downloaded
        return failed + collected([partial(read_file, path) for path in paths])[1]
    make_folder(args.results)
    files = [weight_file(args.weights, args.model), args.classes]
    before = state(files)
    output = Output(args.results, list(composites_of(args.rule)), args.top, args.cmap, args.layers,
                    args.save_relevance, args.plain, args.overwrite, run_of(args, *files))
    own, workers = worker()  # this one takes every n-th picture
    share = list(map(Job, result_names(paths, output.endings), paths))[own::workers]
    jobs, refused = left(share, output)
    failed += refused
    if not share:
        print(f'worker {own + 1} of {workers}: nothing to do')
    if jobs:
        explainer = open_explainer(args.weights, args.rule, args.model, args.preprocessing,
                                   args.precision, args.layers, bgr=args.bgr,
                                   pictures=[job.path for job in jobs])
        question = question_of(args, explainer)
        if state(files) != before:
            raise Refused(f'{files[0]} or --classes was written to while it was read: start again')
        explained = explain_pictures(explainer, jobs, question, output, failed, args.batch_size)
        if len(paths) > 1:
            print(f'{explained} explained, {len(share) - len(jobs) - len(refused)} done before, '
                  f'{len(failed)} failed; {time.time() - begin:.0f} seconds; results in '
                  f'{args.results}')
        elif explained:
            print(f'wrote {output.files(jobs[0].name)[-1]}')
    return failed


def state(files):
    """What changes when one of these files is written to or replaced."""
    found = [file.stat() for file in files if file and file.is_file()]
    return [(each.st_size, each.st_mtime_ns, each.st_ino) for each in found]


def question_of(args, explainer):
    """What the options ask of every picture."""
    network, against = explainer.network, None
    classes = class_names(network, args.classes)
    targets = [-1 - k for k in range(args.top)]
    if args.target is not None:
        targets = [find_target(args.target, classes, '--target', args.classes)]
    if args.against is not None:
        against = find_target(args.against, classes, '--against', args.classes)
    if against in targets:
        raise Refused(f'--against {args.against} is the target itself')
    if args.top > len(set(range(len(classes))) - {against}):
        raise Refused(f'--top {args.top}: the network has {len(classes)} classes')
    single = {name for name, composite in composites_of(args.rule).items()
              if one_sign(composite, explainer.table)}
    return Question(network, classes, targets, against, single)


def run_of(args, weights, classes):
    """What decides a result, beside the picture: version, network and options. Then, only to be
    told, the network's name or path."""
    names = ('model', 'target', 'top', 'against', 'preprocessing', 'bgr', 'precision', 'layers',
             'plain', 'save_relevance', 'cmap')
    options = {name: getattr(args, name) for name in names}
    options.update(rule=list(composites_of(args.rule)), classes=digest_of(classes))
    bundled = args.weights in ('imagenet', *BUNDLED)
    name = args.weights if bundled else relative(weights, args.results)
    return {'version': VERSION, 'network': digest_of(weights), 'options': options,
            'paths': {'network': name}}


def digest_of(path):
    """The digest of a file; None where there is none, about which its reader complains."""
    try:
        return digest(path) if path and path.is_file() else None
    except OSError as error:
        raise Refused(f'{path} cannot be read ({error.strerror})') from None


def add_options(parser, rules):
    """Adds the options that concepts.py has, too.

    rules: the default of --rule. Returns the groups of what is explained, of which class is, and of
    what is written.
    """
    network, what, how = add_network_options(parser, rules)
    network.add_argument('--classes', type=Path, metavar='FILE',
                         help='names of the classes, one on each line')
    which = what.add_mutually_exclusive_group()
    which.add_argument('--target', metavar='CLASS',
                       help='explain this class, by name or index, instead of the predicted one')
    what.add_argument('--against', metavar='CLASS',
                      help='explain why the target rather than this class; without --target, why '
                           'the predicted class')
    written = parser.add_argument_group('what is written')
    written.add_argument('--save-relevance', action='store_true',
                         help='also the relevance as numbers: an .npz')
    written.add_argument('--cmap', choices=matplotlib.colormaps, default='seismic',
                         metavar='NAME', help='a colour map of matplotlib (default: seismic)')
    how.add_argument('--overwrite', action='store_true',
                     help='explain again what is done, and replace results of other pictures')
    return what, which, written


def main(argv=None):
    parser = Parser(__doc__)
    _, which, written = add_options(parser, DEFAULT)
    which.add_argument('--top', type=count, default=1, metavar='K',
                       help='explain the K most likely classes, a row for each')
    written.add_argument('--layers', action='store_true',
                         help='also <name>_layers.jpg: the relevance where maps become smaller')
    written.add_argument('--plain', action='store_true',
                         help='also each heatmap for papers and slides, alone and over the '
                              'photograph, at its size: <name>_<rule>.png, <name>_<rule>_over.png')
    parser.run(explain, argv)


if __name__ == '__main__':
    main()
