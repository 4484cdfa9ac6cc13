"""What single channels of a network saw, by Concept Relevance Propagation (Achtibat et al. 2023).

    python vgg/concepts.py vgg/images/leopard.jpg --weights caltech101
    python vgg/concepts.py cat.jpg --weights my.keras --among photographs
    python vgg/concepts.py cat.jpg --weights my.keras --layer list

A heatmap says where the network looked, not what it saw there. Each channel of a layer looks for
something of its own; this script traces those with most relevance back to the pixels, one by one.
The heatmaps of all channels add up to the whole one, less what bypasses the layer.

Writes results/<name>_concepts.jpg: the photograph and its heatmap, and a column for each channel:
its heatmap with its share of the layer's relevance, and three other pictures in which it has most
relevance for the class seen there, cropped to the part that has it. You name the channels.
"""
import contextlib
from functools import partial
import itertools
import sys

import numpy as np
from PIL import ImageOps

from common import (
    Parser, Refused, collected, count, encoded, make_folder, one_line, progress_bar, write)
from explainer import LAST, open_explainer
from heatmaps import as_json, colour, cut_to, grid, jpeg, laid_over, title_of
from lrp import add_options, question_of, run_of
from networks.network import BUNDLED, weight_file
from pictures import digest_of, open_picture, picture_paths, read_file
from results import Job, Output, difference, look, put, record_of, result_names, shortened
from run import HERE, left

SAME = ['preprocessing', 'bgr', 'precision', 'rule', 'among']  # options that count for examples
EXAMPLES = 3  # below each channel
SIDE = 256  # pixels of a panel, at most


def traced(explainer, images, chosen, target=(-1,), against=None):
    """Explains each of the images by one channel alone, as chosen. Returns lists: the classes
    explained, the channels' maps at the layer [h, w], the heatmaps [height, width]."""
    masks, size, found = np.eye(explainer.mask.shape[-1])[chosen], explainer.batch_size, []
    for i in range(0, len(images), size):
        batch = np.stack(images[i:i + size])
        parts = explainer.channels(batch, masks[i:i + size], [*target] * len(batch), against)
        (maps,), (heatmaps,) = parts.maps.values(), parts.heatmaps.values()
        maps = [r[..., channel] for r, channel in zip(maps, chosen[i:])]
        found += zip(parts.targets, maps, heatmaps.sum(-1))
    return [list(each) for each in zip(*found)]


def seen_in(explainer, among, run, output):
    """The relevance of all channels in pictures {digest: path}, for the class seen in each:
    {digest: [channels]}, kept in a file. Prints a line for each picture that cannot be read."""
    file = output.folder / f'channels_{shortened(explainer.layer).replace("/", "_")}.npz'
    options = {'layer': explainer.layer, **{name: run['options'][name] for name in SAME}}
    wanted = {**run, 'options': options, 'picture': options['among'],
              'paths': {**run['paths'], 'picture': file.name}}
    there = look(Job('', '--among'), file, wanted, output)
    if there and not difference(there, wanted):
        with np.load(file) as kept:
            return dict(zip(kept['pictures'].tolist(), kept['relevance']))
    sums, bar = {}, progress_bar(len(among), 'picture')
    for digest, path in among.items():
        try:
            picture = open_picture(path, explainer.network.size)
        except Refused as error:
            print(f'not among the examples: {one_line(str(error))}', file=sys.stderr)
        else:
            maps, = explainer.channels(picture.seen[None]).maps.values()
            sums[digest] = maps[0].sum((0, 1))
        bar.add(1)
    write(file, encoded(np.savez, record=np.bytes_(as_json(wanted)), pictures=list(sums),
                        relevance=list(sums.values())))
    return sums


def examples(explainer, channel, own, seen, among, classes, cmap, size):
    """Panels (class seen, image) of other pictures than `own`, a digest, where a channel has most
    relevance. seen: {digest: relevance [channels]}; among: {digest: path}."""
    found = [digest for digest in seen if digest != own and seen[digest][channel] > 0]
    found.sort(key=lambda digest: -seen[digest][channel])
    pictures = [open_picture(among[digest], explainer.network.size) for digest in found[:EXAMPLES]]
    traces = traced(explainer, [picture.seen for picture in pictures], [channel] * len(pictures))
    panels = []
    for picture, target, r, heatmap in zip(pictures, *traces):
        over = laid_over(picture.photograph, heatmap, cmap)
        panels.append((classes[target], cut_to(r, over, size)))
    return panels


def concepts(args):
    """Explains the pictures named on the command line. Returns a line for each that failed."""
    if len(args.rule) > 1:
        raise Refused('--rule: one rule at a time')
    paths, failed = picture_paths(args.image)
    opened = partial(open_explainer, args.weights, args.rule, args.model, args.preprocessing,
                     args.precision, pictures=paths, bgr=args.bgr)
    if args.layer == 'list':
        return show_layers(opened(channels_of=LAST))
    make_folder(args.results)
    among = among_of(args, paths)
    run = run_of(args, weight_file(args.weights, args.model), args.classes)
    run['options'].update(layer=args.layer, channels=args.channels,
                          among=digest_of(''.join(among).encode()))
    output = Output(args.results, args.rule, cmap=args.cmap, numbers=args.save_relevance,
                    overwrite=args.overwrite, run=run)
    names = [f'{name}_concepts' for name in result_names(paths, output.endings)]
    jobs, refused = left(list(map(Job, names, paths)), output)
    if jobs:
        explainer = opened(channels_of=args.layer)
        question = question_of(args, explainer)
        if args.against and question.one_sign:
            raise Refused(f'--against: the relevance by {args.rule[0]} adds up to 0')
        seen = seen_in(explainer, among, run, output)
        show = partial(explain, explainer, question, seen, among, output, args.channels)
        failed += collected([partial(show, job) for job in jobs])[1]
    return failed + refused


def show_layers(explainer):
    """Prints the layers with maps."""
    for name, (height, width, channels) in explainer.shapes.items():
        default = ', the default' if name == explainer.layer else ''
        bypassed = '' if name in explainer.passed else ', some relevance bypasses it'
        print(f'{name}: {height}x{width}, {channels} channels{default}{bypassed}')


def among_of(args, paths):
    """{digest: path} of the pictures that examples are taken from."""
    if args.among or args.weights in BUNDLED:
        paths, _ = picture_paths([args.among or str(HERE / 'images')])
    among = {}
    for path in paths:
        with contextlib.suppress(Refused):
            among[digest_of(read_file(path))] = path
    return among


def explain(explainer, question, seen, among, output, k, job):
    """Explains a picture by its k channels with most relevance, and writes its files."""
    picture = open_picture(job.path, explainer.network.size)
    title, whole, bypass, numbers = found_in(explainer, picture.seen, k, question)
    photograph = ImageOps.contain(picture.photograph, (SIDE, SIDE))
    draw = partial(colour, size=photograph.size, cmap=output.cmap)
    columns = [[(f'{share:.1%}  channel {channel}', draw(r)),
                *examples(explainer, channel, picture.digest, seen, among, question.classes,
                          output.cmap, photograph.size)]
               for channel, share, r in zip(*numbers.values())]
    lines = [[(title, photograph), (output.rules[0], draw(whole))],
             *itertools.zip_longest(*columns)]
    record = record_of(job, picture.digest, output)
    image = jpeg(grid(lines, photograph.size, output.cmap), record, job.path)
    arrays = encoded(np.savez, record=np.bytes_(as_json(record)), **numbers)
    put(job, [arrays, image] if output.numbers else [image], record, output)
    shares = ', '.join(column[0][0] for column in columns)
    print(f'{job.path}: {title}; {explainer.layer}: {shares}; {bypass:.1%} bypasses it\n'
          f'wrote {output.files(job.name)[-1]}', flush=True)


def found_in(explainer, image, k, question):
    """A title, the whole heatmap [height, width], the share of it that bypasses the layer, and
    {'channels': [k], 'shares': [k], 'heatmaps': [k, height, width]}."""
    asked = [question.targets[0]], question.against
    result, parts = explainer(image[None], *asked), explainer.channels(image[None], None, *asked)
    (whole,), (maps,) = result.relevance.values(), parts.maps.values()
    whole, sums, bypass = whole[0].sum(-1), maps[0].sum((0, 1), dtype=np.float64), 0.0
    chosen = np.argsort(-sums, kind='stable')[:k]
    heatmaps = np.stack(traced(explainer, [image] * len(chosen), chosen, *asked)[-1])
    if not np.isfinite([whole, *heatmaps]).all():
        raise Refused('the relevance is not finite, so nothing is drawn')
    if explainer.layer not in explainer.passed:
        every = np.ones((1, len(sums)))
        through, = explainer.channels(image[None], every, *asked).heatmaps.values()
        bypass = np.abs(whole - through[0].sum(-1)).sum() / (np.abs(whole).sum() or 1)
    title = title_of(result.targets[0], question.network.probabilities(result.logits[0]),
                     question.classes, question.against)
    shares = sums[chosen] / (abs(sums.sum()) or 1)
    return title, whole, bypass, {'channels': chosen, 'shares': shares, 'heatmaps': heatmaps}


def main(argv=None):
    parser = Parser(__doc__)
    what, _, _ = add_options(parser, ['epsilon-gamma-box'])
    what.add_argument('--layer', default=LAST, metavar='NAME',
                      help='list: print all (default: the last one with maps wide enough)')
    what.add_argument('--channels', type=count, default=5, metavar='N', help='default: 5')
    what.add_argument('--among', metavar='FOLDER',
                      help='where examples are from (default: the pictures that are explained; for '
                           'a bundled network vgg/images)')
    parser.set_defaults(top=1, layers=False, plain=False)
    parser.run(concepts, argv)


if __name__ == '__main__':
    main()
