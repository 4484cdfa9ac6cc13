"""A digit and its heatmaps as one picture, with a record of what it shows."""
import json

import numpy as np
from PIL import Image, ImageDraw

from common import encoded, write
from figures import GAP, KEY, coloured, fitted, key

PANEL, BAR = 252, 44  # pixels: side of a panel, above it for its title


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
