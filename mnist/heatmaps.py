"""A digit and its heatmaps as one picture, with a record of what it shows."""
import json
import os

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common import encoded, write

PANEL, BAR = 252, 44  # pixels: side of a panel, above it for its title
GAP = 8  # pixels between panels; gallery.html cuts sheets by the same
KEY = 36  # pixels, below the panels, for what the colours mean
TONES = ['#4477aa', '#ee6677', '#228833', '#aa3377', '#666666', '#ccbb44']  # Tol, colour-blind safe


def colour(r):
    """Relevance r [28, 28] in colour, scaled by its largest absolute value: uint8 [28, 28, 3].

    Red above zero, blue below, white at zero.
    """
    return coloured(r / (np.abs(r).max() or 1))


def sheet(image, title, heatmaps):
    """A digit [28, 28] under its title, beside its heatmaps {label: relevance [28, 28]}."""
    panels = [(title, np.repeat(np.uint8(255 * image)[..., None], 3, -1))]
    panels += [(label, colour(r)) for label, r in heatmaps.items()]
    size = len(panels) * (PANEL + GAP) + GAP, BAR + PANEL + GAP + KEY
    result = Image.new('RGB', size, 'white')
    result.paste(key(size[0]), (0, size[1] - KEY))
    pen = ImageDraw.Draw(result)
    for i, (label, pixels) in enumerate(panels):
        left = GAP + i * (PANEL + GAP)
        large = Image.fromarray(pixels).resize((PANEL, PANEL), Image.Resampling.NEAREST)
        result.paste(large, (left, BAR))
        text, font = fitted(label, PANEL)
        pen.text((left + PANEL / 2, BAR / 2), text, 'black', font, anchor='mm', align='center',
                 spacing=1)
        pen.rectangle((left, BAR, left + PANEL - 1, BAR + PANEL - 1), outline='grey')
    return result


def write_sheet(path, image, record):
    """Writes a JPEG with the record, in JSON, as its comment."""
    write(path, encoded(image.save, 'JPEG', comment=json.dumps(record).encode()))


def recorded(path):
    """Which digit a result shows, or which digits (a list) a .npz file holds; None of other files.
    """
    try:
        if path.suffix == '.npz':
            with np.load(path) as file:
                return list(file['digits'])
        with Image.open(path, formats=['JPEG']) as image:
            return json.loads(image.info['comment'])['picture']
    except Exception:  # whatever else may stand there
        return None


def coloured(values, cmap='seismic'):
    """The colours, uint8 [h, w, 3], of values [h, w] in [-1, 1]."""
    colours = matplotlib.colormaps[cmap].resampled(255)  # an odd number: zero is exactly the centre
    return colours(0.5 + 0.5 * values, bytes=True)[..., :3]


def fitted(text, width, lines=2):
    """The text, broken where one line would be small, and the largest font in which it fits."""
    words = text.split(' ')
    breaks = [(' '.join(words[:i]), ' '.join(words[i:])) for i in range(1, len(words))]
    halves = '\n'.join(min(breaks, key=lambda pair: max(map(len, pair)), default=[text]))
    file = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    for size in range(24, 7, -1):
        shown, font = text if lines == 1 or size > 17 else halves, ImageFont.truetype(file, size)
        if max(map(font.getlength, shown.split('\n'))) <= width:
            break
    return shown, font


def key(width, cmap='seismic'):
    """A strip, KEY high, that says what the colours of heatmaps mean."""
    strip = Image.new('RGB', (width, KEY), 'white')
    pen, bar = ImageDraw.Draw(strip), min(160, width // 4)
    left, right = 'against', 'for the class; each heatmap has its own scale'
    _, font = fitted(f'{left} {right}', width - bar - 6 * GAP, lines=1)
    start = GAP + round(font.getlength(left)) + GAP
    colours = coloured(np.tile(np.linspace(-1, 1, bar), (KEY - 2 * GAP, 1)), cmap)
    strip.paste(Image.fromarray(colours), (start, GAP))
    pen.rectangle((start, GAP, start + bar - 1, KEY - GAP - 1), outline='lightgrey')
    pen.text((GAP, KEY / 2), left, 'black', font, anchor='lm')
    pen.text((start + bar + GAP, KEY / 2), right, 'black', font, anchor='lm')
    return strip


def add_key(figure, axes, size=10):
    """The same in a figure of matplotlib, below these axes, in letters of this size."""
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-1, 1), 'seismic')
    bar = figure.colorbar(scale, ax=axes, location='bottom', shrink=0.4, aspect=30, pad=0.02)
    bar.set_ticks([-1, 0, 1], labels=['against the class', '0', 'for the class'])
    bar.ax.tick_params(length=0, labelsize=size)


def curves(axes, x, lines):
    """Draws up to six lines {name: (values, style)}, each with its name at its end."""
    tones = dict(zip(lines, TONES))
    for name, (values, style) in lines.items():
        axes.plot(x, values, style, color=tones[name])
    low, high = axes.get_ylim()
    at = -np.inf
    for name in sorted(lines, key=lambda name: lines[name][0][-1]):
        at = max((lines[name][0][-1] - low) / (high - low), at + 1 / 16)  # names do not overlap
        axes.text(1.02, at, name, va='center', fontsize=11, color=tones[name],
                  transform=axes.transAxes)
    axes.grid(alpha=0.3)
