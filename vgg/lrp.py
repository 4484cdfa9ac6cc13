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
from pathlib import Path
import time

import matplotlib

from common import Parser, Refused, check_spared, count, make_folder
from explainer import open_explainer
from networks.class_names import class_names, find_target
from networks.network import digest, weight_file
from pictures import picture_paths
from results import Job, Output, Question, left, result_names
from rules import DEFAULT, composites_of, one_sign
from run import add_network_options, explain_pictures, inputs, worker

VERSION = 4  # of what is computed and drawn: results of another version are made again


def explain(args):
    """Explains the pictures named on the command line. Returns a line for each that failed."""
    begin = time.time()
    paths, failed = picture_paths(args.image)
    make_folder(args.results)
    output = Output(args.results, list(composites_of(args.rule)), args.top, args.cmap, args.layers,
                    args.save_relevance, args.plain, settings(args))
    names = result_names(paths, output.endings)
    check_spared([file for name in names for file in output.files(name)], inputs(args, paths))
    own, workers = worker()  # this one takes every n-th picture
    jobs, done, refused = left(list(map(Job, names, paths))[own::workers], output, args.overwrite)
    failed += refused
    if done:
        hint = '' if jobs else ' (--overwrite explains them again)'
        print(f'{done} done before, {len(jobs)} to do{hint}', flush=True)
    if jobs:
        broken = explain_with(args, jobs, output)
        failed += broken
        if len(paths) > 1:
            print(f'{len(jobs) - len(broken)} explained, {done} done before, {len(failed)} failed; '
                  f'{time.time() - begin:.0f} seconds; results in {args.results}')
        elif not broken:
            print(f'wrote {output.files(names[0])[-1]}')
    return failed


def explain_with(args, jobs, output):
    """Opens the network and explains pictures. Returns a line for each that failed."""
    explainer = open_explainer(args.weights, args.rule, args.model, args.preprocessing,
                               args.precision, args.layers, pictures=[job.path for job in jobs],
                               bgr=args.bgr)
    question = question_of(args, explainer)
    return explain_pictures(explainer, jobs, question, output, args.batch_size)


def question_of(args, explainer):
    """What the options ask of every picture."""
    network, against = explainer.network, None
    classes = class_names(network, args.classes)
    targets = [-1 - k for k in range(args.top)]
    if args.target is not None:
        targets = [find_target(args.target, classes, '--target')]
    if args.against is not None:
        against = find_target(args.against, classes, '--against')
    if against in targets:
        raise Refused(f'--against {args.against} is the target itself')
    if args.top > len(set(range(len(classes))) - {against}):
        raise Refused(f'--top {args.top}: the network has {len(classes)} classes')
    single = {name for name, composite in composites_of(args.rule).items()
              if one_sign(composite, explainer.table)}
    return Question(network, classes, targets, against, single)


def settings(args):
    """What decides a result, beside the picture: the network's file and the options."""
    path = weight_file(args.weights, args.model)
    names = ('model', 'rule', 'target', 'top', 'against', 'preprocessing', 'bgr', 'precision',
             'layers', 'plain', 'save_relevance', 'cmap')
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
    written.add_argument('--cmap', choices=matplotlib.colormaps, default='seismic',
                         metavar='NAME', help='a colour map of matplotlib (default: seismic)')
    how.add_argument('--overwrite', action='store_true', help='replace what stands in the way')
    parser.run(explain, argv)


if __name__ == '__main__':
    main()
