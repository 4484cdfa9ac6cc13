"""Experiments on heatmaps: python vgg/evaluate.py mosaic|flip|randomise|frame IMAGE..."""
import sys

from evaluation import flip, frame, mosaic, randomise

EXPERIMENTS = {'mosaic': mosaic, 'flip': flip, 'randomise': randomise, 'frame': frame}


def main(argv=None):
    name, *rest = sys.argv[1:] if argv is None else argv
    EXPERIMENTS[name].main(rest)


if __name__ == '__main__':
    main()
