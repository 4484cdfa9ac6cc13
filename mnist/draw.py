"""A digit and its heatmaps as one picture, with a record of what it shows."""
import json
import os

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common import encoded, write

PANEL, GAP, BAR = 252, 8, 28  # pixels: side of a panel, between panels, above them for titles


def colour(r):
    """Relevance r [28, 28] in colour, scaled by its largest absolute value: uint8 [28, 28, 3].

    Red above zero, blue below, white at zero.
    """
    colours = matplotlib.colormaps['seismic'].resampled(255)  # an odd number: zero is exactly white
    return colours(0.5 + 0.5 * r / (np.abs(r).max() or 1), bytes=True)[..., :3]


def sheet(image, title, heatmaps):
    """A digit [28, 28] under its title, beside its heatmaps {label: relevance [28, 28]}."""
    panels = [(title, np.repeat(np.uint8(255 * image)[..., None], 3, -1))]
    panels += [(label, colour(r)) for label, r in heatmaps.items()]
    size = len(panels) * (PANEL + GAP) + GAP, BAR + PANEL + GAP
    result = Image.new('RGB', size, 'white')
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


def fitted(text, width):
    """The text, broken where one line would be small, and the largest font in which it fits."""
    words = text.split(' ')
    breaks = [(' '.join(words[:i]), ' '.join(words[i:])) for i in range(1, len(words))]
    halves = '\n'.join(min(breaks, key=lambda pair: max(map(len, pair)), default=[text]))
    file = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    for size in range(15, 7, -1):
        lines, font = text if size > 11 else halves, ImageFont.truetype(file, size)
        if max(map(font.getlength, lines.split('\n'))) <= width:
            break
    return lines, font


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
