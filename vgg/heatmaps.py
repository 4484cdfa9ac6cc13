"""Pictures out: heatmaps in colour, a photograph beside its heatmaps, what is said of them, and the
files that hold them.

Each file carries a record in JSON: a JPEG as its comment, a PNG as the text `record`, an .npz as
the array `record`, its first.
"""
import itertools
import json
import math
import os
import textwrap

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from common import Refused, encoded

BAR = 44  # pixels above each panel; gallery.html cuts sheets by the same
COLUMNS = 7  # panels in a line, at most
PERCENTILE = 99.5  # of |relevance| gets the full colour: single pixels must not pale the rest
GAP = 8  # pixels between panels; gallery.html cuts sheets by the same
LEAST = 0.4  # of each side of an image, at least, is shown of it
KEY = 36  # pixels, below the panels, for what the colours mean
NAME = 100  # letters, at most, of a class in titles and records
HIGHEST = 65500  # pixels of a JPEG
KEYS = {'version', 'network', 'options', 'picture', 'paths'}  # of a record


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


def cut_to(r, image, size):
    """The part of an image where a map r [h, w] is high, at a size (width, height)."""
    places, cells = np.argwhere(r >= r.max() / 2)[:, ::-1], r.shape[::-1]
    first, last = places.min(0) / cells, (places.max(0) + 1) / cells
    length = max(LEAST, *(last - first))
    first = np.clip((first + last - length) / 2, 0, 1 - length)
    box = np.concatenate([first, first + length]) * (image.size * 2)
    return ImageOps.pad(image.crop(box.tolist()), size, color='white')


def sheet(photograph, rows, cmap):
    """The photograph beside its heatmaps. rows: (title, {label: relevance [h, w]}) for each target;
    one of more panels than COLUMNS takes several lines of about the same length."""
    lines = []
    for title, heatmaps in rows:
        panels = [(title, photograph)]
        panels += [(label, colour(r, photograph.size, cmap)) for label, r in heatmaps.items()]
        columns = math.ceil(len(panels) / math.ceil(len(panels) / COLUMNS))
        lines += [panels[start:start + columns] for start in range(0, len(panels), columns)]
    return grid(lines, photograph.size, cmap)


def grid(lines, size, cmap):
    """Lines of panels (label, image) of one size, or None where there is none, above the key."""
    across, down = size[0] + GAP, BAR + size[1] + GAP
    whole = GAP + max(map(len, lines)) * across, len(lines) * down + KEY
    panels = {(i, j): panel for i, line in enumerate(lines)
              for j, panel in enumerate(line) if panel}
    font, texts = fitted({label for label, _ in panels.values()}, size[0], BAR)
    result = Image.new('RGB', whole, 'white')
    pen = ImageDraw.Draw(result)
    for (i, j), (label, image) in panels.items():
        left, top = GAP + j * across, i * down + BAR
        result.paste(image, (left, top))
        pen.rectangle((left, top, left + size[0] - 1, top + size[1] - 1), outline='lightgrey')
        pen.text((left + size[0] / 2, top - BAR / 2), texts[label], 'black', font, anchor='mm',
                 align='center', spacing=1)
    result.paste(key(result.width, cmap), (0, result.height - KEY))
    return result


def coloured(values, cmap='seismic'):
    """The colours, uint8 [h, w, 3], of values [h, w] in [-1, 1]."""
    colours = matplotlib.colormaps[cmap].resampled(255)  # an odd number: zero is exactly the centre
    return colours(0.5 + 0.5 * values, bytes=True)[..., :3]


def fitted(texts, width, height):
    """The largest font in which all texts fit, and how each is broken into lines: {text: text}."""
    file = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    for size in range(24, 7, -1):
        font, letters = ImageFont.truetype(file, size), int(width / (0.55 * size))
        lines = {text: textwrap.wrap(text, letters, break_long_words=size == 8,
                                     break_on_hyphens=False) for text in texts}
        widest = max(font.getlength(line) for line in itertools.chain(*lines.values()))
        if widest <= width and max(map(len, lines.values())) * 1.25 * size <= height:
            break
    return font, {text: '\n'.join(each) for text, each in lines.items()}


def key(width, cmap='seismic'):
    """A strip, KEY high, that says what the colours of heatmaps mean."""
    strip = Image.new('RGB', (width, KEY), 'white')
    pen, bar = ImageDraw.Draw(strip), min(160, width // 4)
    left, right = 'against', 'for the class; each heatmap has its own scale'
    one_line = f'{left} {right}'.replace(' ', '\N{NO-BREAK SPACE}')
    font, _ = fitted([one_line], width - bar - 6 * GAP, KEY)
    start = GAP + round(font.getlength(left)) + GAP
    colours = coloured(np.tile(np.linspace(-1, 1, bar), (KEY - 2 * GAP, 1)), cmap)
    strip.paste(Image.fromarray(colours), (start, GAP))
    pen.rectangle((start, GAP, start + bar - 1, KEY - GAP - 1), outline='lightgrey')
    pen.text((GAP, KEY / 2), left, 'black', font, anchor='lm')
    pen.text((start + bar + GAP, KEY / 2), right, 'black', font, anchor='lm')
    return strip


def add_key(figure, axes):
    """The same in a figure of matplotlib, below these axes."""
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-1, 1), 'seismic')
    bar = figure.colorbar(scale, ax=axes, location='bottom', shrink=0.4, aspect=30, pad=0.02)
    bar.set_ticks([-1, 0, 1], labels=['against the class', '0', 'for the class'])
    bar.ax.tick_params(length=0, labelsize=10)


# Words

def title_of(target, probabilities, classes, against):
    """'panda 1.00' or 'panda 1.00 rather than cougar 0.00'. target, against: classes by index."""
    shown = [target] if against is None else [target, against]
    return ' rather than '.join(f'{classes[i][:NAME]} {probabilities[i]:.2f}' for i in shown)


def sums_in_words(result, one_sign, against):
    """The logit, the share of the relevance that arrived, and what to know about the heatmaps.

    result: the Explanation of one picture; one_sign: its rules of one sign at the logits, which
    start from |logit|. In a contrast they take off as much as they gave; the others start from the
    difference of the two logits.
    """
    logit, contrast = float(result.logits[result.targets]), against is not None
    signed, single, start = 'sum R / logit', 'sum R / |logit|', logit
    if contrast:
        start -= float(result.logits[against])
        signed, single = f'sum R / difference of logits {start:.3f}', f'{single}, 0 in a contrast'
    lost, empty = 'biases took over nine tenths of the relevance', 'the heatmap is zero everywhere'
    said = {words: [] for words in (signed, single, lost, empty)}
    for rule, r in result.relevance.items():
        words, first = (single, abs(logit)) if rule in one_sign else (signed, start)
        share = r.sum(dtype=np.float64) / first if first else 1
        if first:
            said[words].append(f'{rule} {round(share, 4) + 0.0:.4f}')
        if not r.any():
            said[empty].append(rule)
        elif abs(share) < 0.1 and not (contrast and rule in one_sign):
            said[lost].append(rule)
    return '; '.join([f'logit {logit:.3f}', *(f'{words}: {", ".join(of)}'
                                              for words, of in said.items() if of)])


# Files

def numbers(picture, results, record):
    """The contents of a picture's .npz file."""
    first = results[0]
    arrays = {'record': np.bytes_(as_json(record)), 'image': picture.seen, 'logits': first.logits,
              'targets': np.stack([result.targets for result in results])}
    for rule in first.relevance:
        arrays[f'relevance/{rule}'] = np.stack([result.relevance[rule] for result in results])
        for layer in first.layers.get(rule, ()):
            stacked = np.stack([result.layers[rule][layer] for result in results])
            arrays[f'layers/{rule}/{layer}'] = stacked
    return encoded(np.savez, **arrays)


def png(image, record):
    """A PNG, without the photograph's profile of colours, in which the record comes first."""
    text = PngImagePlugin.PngInfo()
    text.add_text('record', as_json(record))
    return encoded(image.save, 'PNG', pnginfo=text, icc_profile=None)


def jpeg(image, record, path):
    """A JPEG. Raises Refused if it would be too high."""
    if image.height > HIGHEST:
        raise Refused(f'{path}: all heatmaps make a picture {image.height} pixels high; a JPEG has '
                      f'at most {HIGHEST}: name fewer rules or a smaller --top')
    return encoded(image.save, 'JPEG', quality=92, subsampling=0, comment=as_json(record).encode())


def as_json(record):
    return json.dumps(record, separators=(',', ':'))


def record_in(content):
    """The record in the content of one of our files, which begins with it; None in any other."""
    start = max(0, content.find(b'{"', 0, 300))
    try:
        record, _ = json.JSONDecoder().raw_decode(content[start:start + 2 ** 16].decode('latin-1'))
    except (RecursionError, ValueError):
        return None
    return record if isinstance(record, dict) and record.keys() >= KEYS else None
