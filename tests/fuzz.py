"""Damaged files of all kinds: each gives a result or one line, never a traceback, a hang or a
crash.

    python tests/fuzz.py 20000   20,000 pictures and 200 files of weights, from seed 0
    python tests/fuzz.py 20000 --seed 1

Whole pictures and weights are written by Pillow, NumPy and Keras; bytes of them are then changed,
cut out, doubled, or the file is cut off.
"""
import argparse
import collections
import io
from pathlib import Path
import re
import tempfile
import time

from conftest import scripts
import keras
import numpy as np
from PIL import Image
from small_vgg import CLASSES, random_weights, shrink

FORMS = ['JPEG', 'PNG', 'GIF', 'WEBP', 'TIFF', 'BMP', 'PPM', 'JPEG2000']
LONGEST = 20  # seconds that any file may take


def picture(form, rng):
    """A small picture in one of the forms, of a random mode, as bytes."""
    mode = rng.choice({'JPEG': ['RGB', 'L', 'CMYK'], 'PNG': ['RGB', 'L', 'RGBA', 'P', 'I;16'],
                       'GIF': ['P', 'L'], 'WEBP': ['RGB', 'RGBA'],
                       'TIFF': ['RGB', 'L', 'I;16', 'F', 'CMYK'], 'BMP': ['RGB', 'L'],
                       'PPM': ['RGB', 'L'], 'JPEG2000': ['RGB', 'L']}[form])
    pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == 'I;16':
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    elif mode != 'RGB':
        image = image.convert(mode)
    options = {'JPEG': {'exif': exif(), 'comment': b'x'},
               'TIFF': {'compression': str(rng.choice(['raw', 'tiff_lzw', 'tiff_adobe_deflate']))}}
    buffer = io.BytesIO()
    image.save(buffer, form, **options.get(form, {}))
    return buffer.getvalue()


def exif():
    tags = Image.Exif()
    tags[0x0112], tags[0x011A] = 6, 72.0  # orientation, resolution
    return tags


def damaged(data, rng):
    """The bytes with some of them changed, taken out, doubled, or cut off at the end; more often
    where files begin."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(0, min(len(data), 400) if rng.random() < 0.6 else len(data)))
        length, kind = int(rng.integers(1, 9)), rng.integers(5)
        if kind <= 1:
            data[place:place + length] = rng.bytes(length)
        elif kind == 2:
            data[place:place + 1] = bytes([int(rng.choice([0, 1, 127, 128, 254, 255]))])
        elif kind == 3:
            del data[place:place + length]
        else:
            data[place:place] = data[place:place + 4 * length]
        if len(data) < 2:
            break
    return bytes(data[:rng.integers(1, len(data))] if rng.random() < 0.1
                 and len(data) > 2 else data)


def outcome(job):
    """What became of a file: 'read', or the kind of its one line. Raises AssertionError for
    anything else."""
    begin = time.time()
    try:
        job()
        result = 'read'
    except scripts('vgg').common.Refused as error:
        assert str(error), 'an error without a word'
        result = re.sub(r'[\d.]+', '#', str(error).split(': ', 1)[-1])[:40]
    assert time.time() - begin < LONGEST, f'{time.time() - begin:.0f} s'
    return result


def fuzz_pictures(number, seed, folder):
    """Opens so many damaged pictures. Returns how often each outcome came."""
    pictures, seen = scripts('vgg').pictures, collections.Counter()
    path = Path(folder) / 'damaged'
    for i in range(number):
        rng = np.random.default_rng([seed, i])
        form = FORMS[i % len(FORMS)]
        path.write_bytes(damaged(picture(form, rng), rng))
        try:
            seen[form, 'read' if outcome(lambda: pictures.open_picture(path, (224, 224, 3)))
                 == 'read' else 'one line'] += 1
        except Exception as error:
            raise AssertionError(f'picture {i} of seed {seed} ({form})') from error
    return seen


def whole_weights(folder):
    """Files of weights of a small network: npz, weights of Keras, whole models."""
    vgg, folder = scripts('vgg'), Path(folder)
    np.savez(folder / 'w.npz', **random_weights(), classes=CLASSES)
    np.savez_compressed(folder / 'c.npz', **random_weights(), classes=CLASSES)
    layers = keras.layers
    model = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(3, 3, activation='relu'),
                              layers.BatchNormalization(), layers.MaxPooling2D(),
                              layers.Flatten(), layers.Dense(3, activation='softmax')])
    model.save(folder / 'm.keras')
    model.save(folder / 'm.h5')
    model.save_weights(folder / 'm.weights.h5')
    assert vgg
    return [folder / name for name in ('w.npz', 'c.npz', 'm.keras', 'm.h5', 'm.weights.h5')]


def fuzz_weights(number, seed, folder):
    """Opens and loads so many damaged files of weights. Returns how often each outcome came. The
    scripts' VGG is a small one."""
    vgg, seen = scripts('vgg'), collections.Counter()
    whole = whole_weights(folder)
    for i in range(number):
        rng = np.random.default_rng([seed, i, 1])
        source = whole[i % len(whole)]
        path = Path(folder) / f'damaged{"".join(source.suffixes)}'
        path.write_bytes(damaged(source.read_bytes(), rng))
        try:
            seen[source.name, 'read'
                 if outcome(lambda: load(vgg, path)) == 'read' else 'one line'] += 1
        except Exception as error:
            raise AssertionError(f'weights {i} of seed {seed} ({source.name})') from error
    return seen


def load(vgg, path):
    network = vgg.network.open_network(str(path), preprocessing='caffe')
    explainer = vgg.explainer.Explainer(network, [])
    explainer.session.close()


def main():
    import pytest
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('number', type=int)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        for found in fuzz_pictures(args.number, args.seed,
                                   folder), fuzz_weights(args.number // 100, args.seed, folder):
            for (form, end), count in sorted(found.items()):
                print(f'{form:>14} {end:>9} {count:6}', flush=True)


if __name__ == '__main__':
    main()
