"""Experiments that ask whether heatmaps are right.

    python vgg/evaluate.py mosaic vgg/images --weights caltech101

    mosaic      Does the heatmap of a class lie on the right picture?
    flip        Does the class depend on what the heatmap marks?
    randomise   Does the heatmap depend on what the network learned?
    concepts    Is a channel what it seems?

Each writes its table to results/<experiment>.txt and a figure to results/<experiment>.png. For more
about one of them: python vgg/evaluate.py mosaic --help
"""
from functools import partial
import sys

from common import Parser, make_folder, write_report
from evaluation import concepts, flip, mosaic, randomise
from explainer import open_explainer
from pictures import open_pictures, picture_paths
from run import add_network_options

# An experiment has RULES, the default of --rule; GRADIENT, whether it needs gradients; add_options
# for options of its own; and measure, which returns the figure, a title and the table.
EXPERIMENTS = {'mosaic': mosaic, 'flip': flip, 'randomise': randomise, 'concepts': concepts}


def evaluate(name, args):
    """Measures and reports. Returns a line for each picture that could not be read."""
    make_folder(args.results)
    paths, failed = picture_paths(args.image)
    explainer = open_explainer(args.weights, args.rule, args.model, args.preprocessing,
                               args.precision, gradient=EXPERIMENTS[name].GRADIENT, pictures=paths,
                               bgr=args.bgr, channels_of=getattr(args, 'layer', None))
    args.batch_size = args.batch_size or explainer.batch_size
    pictures, unread = open_pictures(paths, explainer.network.size)
    if pictures:
        report = EXPERIMENTS[name].measure(explainer, pictures, args)
        write_report(args.results, name, *report)
    return failed + unread


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    door = Parser(__doc__)
    door.add_argument('experiment', choices=EXPERIMENTS, metavar='EXPERIMENT')
    name = door.parse_args(argv[:1]).experiment
    parser = Parser(EXPERIMENTS[name].__doc__)
    parser.prog += f' {name}'
    add_network_options(parser, EXPERIMENTS[name].RULES)
    EXPERIMENTS[name].add_options(parser.add_argument_group('the experiment'))
    parser.run(partial(evaluate, name), argv[1:])


if __name__ == '__main__':
    main()
