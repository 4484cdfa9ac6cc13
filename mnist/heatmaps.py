"""A digit and its heatmaps as one picture, with a record of what it shows."""
import json
import textwrap

import matplotlib
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from common import Refused, encoded, write
from data import read_arrays


def colour(r):
    """Relevance r [28, 28] in colour, scaled by its largest absolute value: uint8 [28, 28, 3].

    Red above zero, blue below, white at zero.
    """
    colours = matplotlib.colormaps['seismic'].resampled(255)  # odd: zero is exactly the centre
    return colours(0.5 + 0.5 * r / (np.abs(r).max() or 1), bytes=True)[..., :3]


def sheet(image, title, heatmaps):
    """A figure: a digit [28, 28] under its title, beside heatmaps {label: relevance [28, 28]}."""
    count = 1 + len(heatmaps)
    figure = Figure(figsize=(2.6 * count, 3.3), dpi=100)
    grid = figure.subplots(1, count, gridspec_kw={
        'left': 0.03 / count, 'right': 1 - 0.03 / count, 'bottom': 0.02, 'top': 0.87,
        'wspace': 0.03})
    grid[0].imshow(image, cmap='gray', vmin=0, vmax=1)
    for axes, r in zip(grid[1:], heatmaps.values()):
        axes.imshow(colour(r))
    for axes, label in zip(grid, [textwrap.fill(title, 28), *heatmaps]):
        axes.set_title(label, fontsize=11)
        axes.set(xticks=[], yticks=[])
    add_key(figure, grid)
    return figure


def add_key(figure, axes):
    """What the colours of heatmaps mean, below these axes."""
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-1, 1), 'seismic')
    bar = figure.colorbar(scale, ax=axes, location='bottom', shrink=0.4, aspect=30, pad=0.02)
    bar.set_ticks([-1, 0, 1], labels=['against the class', '0', 'for the class'])
    bar.ax.tick_params(length=0, labelsize=10)


def write_sheet(path, figure, record):
    """Writes a figure as a JPEG with the record, in JSON, as its comment."""
    options = {'comment': json.dumps(record).encode(), 'quality': 92}
    write(path, encoded(figure.savefig, format='jpeg', pil_kwargs=options))


def recorded(path):
    """Which digit a result shows, or which digits (a list) a .npz file holds; None of other files.
    """
    try:
        if path.suffix == '.npz':
            return list(read_arrays(path, 'digits')[0])
        with Image.open(path, formats=['JPEG']) as image:
            return json.loads(image.info['comment'])['picture']
    except (Refused, OSError, LookupError, TypeError, ValueError):  # whatever else may stand there
        return None
