"""A VGG of 2 to 4 channels with random weights, and the script run on it in this process: seconds
instead of minutes."""
from itertools import pairwise
from types import SimpleNamespace

from conftest import scripts
import numpy as np
from PIL import Image

WIDTHS = (2, 3, 3, 4, 4)
HEAD = (6, 5)
SHORT = [1] * 5  # convolutions in each block, where the network itself does not matter
DEPTHS = {'vgg16': [2, 2, 3, 3, 3], 'vgg19': [2, 2, 4, 4, 4], 'short': SHORT}
CLASSES = ['crane', 'tree frog', 'crane', 'kite', 'Teapot']  # one name stands twice


def random_weights(head=HEAD, model='vgg16', seed=0):
    """{layer/kernel, layer/bias}: He-distributed kernels, small biases of both signs."""
    rng, arrays, channels = np.random.default_rng(seed), {}, 3

    def draw(name, *shape):
        kernel = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        arrays[f'{name}/kernel'] = np.float32(kernel)
        arrays[f'{name}/bias'] = np.float32(rng.normal(0, 0.1, shape[-1]))
    for block, (depth, width) in enumerate(zip(DEPTHS[model], WIDTHS), 1):
        for i in range(1, depth + 1):
            draw(f'block{block}_conv{i}', 3, 3, channels, width)
            channels = width
    for i, (inputs, outputs) in enumerate(pairwise((49 * channels, *head)), 1):
        draw('predictions' if i == len(head) else f'fc{i}', inputs, outputs)
    return arrays


def photograph(path, size=(60, 40), seed=0, **options):
    """Writes coloured blocks that differ from seed to seed. Returns the path."""
    rng = np.random.default_rng(seed)
    blocks = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks.resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


def shrink(monkeypatch, weights=None):
    """Makes the scripts' VGG a small one. Returns the scripts.

    weights: an .npz that stands in for the bundled one, for --weights caltech101.
    """
    vgg = scripts('vgg')
    monkeypatch.setattr(vgg.model, 'WIDTHS', WIDTHS)
    if weights:
        monkeypatch.setitem(vgg.network.BUNDLED, 'caltech101', weights)
    return vgg


def run(main, capsys, *arguments):
    """Calls main as the command line does. Returns its exit status and the lines on standard output
    and standard error; the first, which says what network was read, and the last, a summary,
    apart."""
    capsys.readouterr()
    status = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    lines = out.splitlines()
    network = next((line for line in lines if ' convolution' in line), None)
    lines = [line for line in lines if line is not network]
    summary = None
    if lines and (' explained, ' in lines[-1] or lines[-1].endswith('.jpg')):
        summary = lines.pop()
    return SimpleNamespace(status=status, network=network, out=lines, summary=summary,
                           err=err.splitlines())


def script_in(folder, monkeypatch, capsys, model='short'):
    """Goes to a folder with a small network's weights, small.npz. Returns a function that runs
    vgg/lrp.py there with these or other weights as the bundled ones, as `run` does."""
    vgg = shrink(monkeypatch)
    if model == 'short':
        monkeypatch.setitem(vgg.model.DEPTHS, 'vgg16', SHORT)
    monkeypatch.chdir(folder)
    np.savez('small.npz', **random_weights(model=model), classes=CLASSES)

    def command(*arguments, weights='small.npz', results='results'):
        shrink(monkeypatch, folder / weights)
        return run(vgg.lrp.main, capsys, *arguments, '--weights', 'caltech101', '--results',
                   results)
    return command
