"""Pictures out: heatmaps in colour, a photograph beside its heatmaps, the record in a result.

A result says in its JPEG comment, a line of JSON, of which picture, network and options it is.
"""
import json
import os
import zipfile

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from common import encoded, write
from pictures import HEIGHT

BAR = 44  # pixels above each panel; gallery.html cuts sheets by the same
COLUMNS, LAYER_COLUMNS = 6, 7  # panels in a line; with VGG's five pooling layers and the pixels
PERCENTILE = 99.5  # of |relevance| gets the full colour: single pixels must not pale the rest
MAX_SIDE = 65500  # pixels of a JPEG
RECORD = {'picture', 'stamp', 'weights', 'options', 'targets', 'classes', 'probabilities', 'logits',
          'relevance'}  # what a record says
GAP = 8  # pixels between panels; gallery.html cuts sheets by the same
KEY = 36  # pixels, below the panels, for what the colours mean
TONES = ['#4477aa', '#ee6677', '#228833', '#aa3377', '#666666', '#ccbb44']  # Tol, colour-blind safe


def colour(r, size, cmap='seismic'):
    """Relevance r [h, w] in colour, at a size (width, height): white at zero."""
    return Image.fromarray(coloured(strength(r, size), cmap))


def strength(r, size):
    """Relevance r [h, w] at another size (width, height), divided by the percentile of |r|."""
    scale = np.percentile(np.abs(r), PERCENTILE) or np.abs(r).max() or 1.0
    image = Image.fromarray(np.asarray(r / scale, np.float32))
    image = image.resize(size, Image.Resampling.BICUBIC)
    return np.clip(np.asarray(image), -1, 1)


def laid_over(photograph, r, cmap):
    """The photograph in grey under the colours of relevance r [h, w], opaque where it is strong."""
    values = strength(r, photograph.size)
    opacity = Image.fromarray(np.uint8(255 * np.sqrt(np.abs(values))))
    colours = Image.fromarray(coloured(values, cmap))
    return Image.composite(colours, photograph.convert('L').convert('RGB'), opacity)


def sheet(photograph, rows, cmap, columns=COLUMNS):
    """The photograph beside its heatmaps. rows: (title, {label: relevance [h, w]}) for each target.

    A row of more panels than columns goes on in the next line.
    """
    width, height = photograph.size
    lines = []
    for title, heatmaps in rows:
        panels = [(title, photograph)]
        panels += [(label, colour(r, photograph.size, cmap)) for label, r in heatmaps.items()]
        lines += [panels[start:start + columns] for start in range(0, len(panels), columns)]
    pixels = GAP + max(map(len, lines)) * (width + GAP), len(lines) * (BAR + height + GAP) + KEY
    result = Image.new('RGB', pixels, 'white')
    result.paste(key(pixels[0], cmap), (0, pixels[1] - KEY))
    pen = ImageDraw.Draw(result)
    for i, line in enumerate(lines):
        for j, (label, image) in enumerate(line):
            left, top = GAP + j * (width + GAP), i * (BAR + height + GAP) + BAR
            result.paste(image, (left, top))
            text, font = fitted(label, width)
            pen.text((left + width / 2, top - BAR / 2), text, 'black', font, anchor='mm',
                     align='center', spacing=1)
            corner = left + width - 1, top + height - 1
            pen.rectangle((left, top, *corner), outline='lightgrey')
    return result


def sheet_height(rows, heatmaps, columns=COLUMNS):
    """The height in pixels of a sheet of so many rows of heatmaps."""
    return rows * -(-(1 + heatmaps) // columns) * (BAR + HEIGHT + GAP) + KEY


def write_heatmap(path, image, rule):
    """Writes a PNG that says that it is a heatmap."""
    text = PngImagePlugin.PngInfo()
    text.add_text('relevance', rule)
    write(path, encoded(image.save, 'PNG', pnginfo=text))


def write_sheet(path, image, record):
    """Writes a JPEG with the record as its comment."""
    comment = json.dumps(record, separators=(',', ':')).encode()
    write(path, encoded(image.save, 'JPEG', quality=92, subsampling=0, comment=comment))


def recorded(path):
    """The record in a result; {} in a result without one, such as a heatmap; else None."""
    try:
        if path.suffix == '.npz':
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            return {} if any(name.startswith('relevance/') for name in names) else None
        with Image.open(path, formats=['JPEG', 'PNG']) as image:
            if image.format == 'PNG':
                return {} if 'relevance' in image.info else None
            record = json.loads(image.info['comment'])
        return (record if RECORD <= record.keys() else {}) if 'relevance' in record else None
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
