"""Pictures out: heatmaps in colour, a photograph beside its heatmaps, the record in a result.

A result says in its JPEG comment, a line of JSON, of which picture, network and options it is.
"""
import json
import zipfile

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from common import encoded, write
from figures import GAP, KEY, coloured, fitted, key
from pictures import HEIGHT

BAR = 44  # pixels above each panel; gallery.html cuts sheets by the same
COLUMNS, LAYER_COLUMNS = 6, 7  # panels in a line; with VGG's five pooling layers and the pixels
PERCENTILE = 99.5  # of |relevance| gets the full colour: single pixels must not pale the rest
MAX_SIDE = 65500  # pixels of a JPEG
RECORD = {'picture', 'stamp', 'weights', 'options', 'targets', 'classes', 'probabilities', 'logits',
          'relevance'}  # what a record says


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
