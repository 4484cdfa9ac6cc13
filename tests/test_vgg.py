"""vgg/lrp.py from the command line to the files of a picture, on a small network."""
from pathlib import Path
from types import SimpleNamespace

from conftest import scripts
import numpy as np
from PIL import Image
import pytest
from small_vgg import CLASSES, photograph, random_weights, script_in


@pytest.fixture
def lrp(tmp_path, monkeypatch, capsys):
    """Runs the script in a folder of its own; it must succeed unless another status is named."""
    command = script_in(tmp_path, monkeypatch, capsys)

    def checked(*arguments, status=0, **options):
        end = command(*arguments, **options)
        assert end.status == status, end
        return end
    return checked


def numbers(name='a'):
    with np.load(f'results/{name}.npz', allow_pickle=False) as file:
        return {key: file[key] for key in file if key != 'record'}


def results():
    return sorted(path.name for path in Path('results').iterdir())


def assert_same(found, expected):
    """Equal up to rounding: a share of the largest relevance."""
    assert found.keys() == expected.keys()
    for key in expected:
        largest = np.abs(np.float64(expected[key])).max()
        assert np.abs(np.float64(found[key]) - expected[key]).max() <= 1e-4 * largest, key


# What is drawn

def test_sheet_shows_the_photograph_beside_its_heatmaps(lrp):
    """8 pixels around each panel, 44 above it, 36 below all for the key; panels 288 high and half
    as wide, as the photograph is. The gallery cuts them out by these numbers."""
    lrp(photograph(Path('tall.png'), (50, 100)), '--rule', 'deep-taylor', 'epsilon', '--top', 2)
    page = Path(scripts('vgg').gallery.__file__).with_suffix('.html').read_text(encoding='utf-8')
    assert 'GAP = 8, BAR = 44, HEIGHT = 288, COLUMNS = 7' in page
    with Image.open('results/tall.jpg') as sheet, Image.open('tall.png') as original:
        assert sheet.size == (8 + 3 * (144 + 8), 2 * (44 + 288 + 8) + 36)
        panels = [np.float64(sheet.crop((x, 44, x + 144, 332))) for x in (8, 160, 312)]
        expected = original.resize((144, 288), Image.Resampling.LANCZOS)
    assert all(panel[4:-4, 4:-4].std((0, 1)).max() > 10 for panel in panels), 'a blank panel'
    assert np.abs(panels[0] - np.float64(expected)).mean() < 4


def test_colours():
    """Red speaks for the class, blue against it, zero is white; the scale of a heatmap is its
    own."""
    r = np.zeros((224, 224), np.float32)
    r[:, :60], r[:, 160:] = 3e-6, -3e-6
    colour = scripts('vgg').heatmaps.colour
    colours = np.asarray(colour(r, (224, 224)))
    assert (colours[100, 110] == 255).all()
    assert colours[100, 20, 0] > 100 and colours[100, 20, 2] == 0
    assert colours[100, 200, 2] > 70 and colours[100, 200, 0] == 0
    np.testing.assert_array_equal(colours, colour(1e9 * r, (224, 224)))


def test_layers_and_plain(lrp):
    """A second sheet; each heatmap alone and over the photograph, at the photograph's own size."""
    rules = ['deep-taylor', 'epsilon']
    lrp(photograph(Path('a.png'), (50, 100)), '--layers', '--plain', '--top', 2, '--rule', *rules)
    plain = [f'a_{rule}{k}{kind}.png' for rule in rules for k in ('', '_2')
             for kind in ('', '_over')]
    assert results() == sorted(['a.jpg', 'a_layers.jpg', *plain])
    images = [np.asarray(Image.open(f'results/{name}')) for name in plain]
    assert {image.shape for image in images} == {(100, 50, 3)}
    assert len({image.tobytes() for image in images}) == 8


# What is said

@pytest.mark.parametrize('r, target, against, words', [
    (1.0, 0, None, ['sum R / logit: epsilon 0.5000', 'sum R / |logit|: zplus 0.5000']),
    (0.0, 2, None, ['the heatmap is zero everywhere: epsilon, zplus']),
    (0.1, 0, None, ['epsilon 0.0500', 'over nine tenths of the relevance: epsilon, zplus']),
    (1e-9, 0, 1, ['0 in a contrast: zplus 0.0000', 'nine tenths of the relevance: epsilon'])])
def test_line_says_what_arrived(r, target, against, words):
    result = SimpleNamespace(logits=np.array([2.0, -4.0, 0.0]), targets=target,
                             relevance=dict.fromkeys(['epsilon', 'zplus'], np.full((2, 3), r / 6)))
    line = scripts('vgg').heatmaps.sums_in_words(result, {'zplus'}, against)
    assert all(each in line for each in words) and 'nan' not in line, line
    assert line.endswith(words[-1]), line


# Numbers

def test_each_target_has_its_own_relevance(lrp):
    """Row k of --top is what --target of the k-th most likely class gives."""
    picture = photograph(Path('a.png'))
    lrp(picture, '--top', 3, '--save-relevance', '--rule', 'epsilon')
    together = numbers()
    np.testing.assert_array_equal(together['targets'], np.argsort(-together['logits'])[:3])
    for k, target in enumerate(together['targets']):
        lrp(picture, '--target', target, '--save-relevance', '--rule', 'epsilon')
        assert_same(numbers(), {**together, 'targets': together['targets'][k:k + 1],
                                'relevance/epsilon': together['relevance/epsilon'][k:k + 1]})


def test_save_relevance(lrp):
    rules = list(scripts('vgg').rules.COMPOSITES)
    lrp(photograph(Path('a.png')), '--save-relevance', '--rule', *rules, rules[0])
    saved = numbers()
    assert list(saved) == ['image', 'logits', 'targets',
                           *(f'relevance/{rule}' for rule in rules)]
    with Image.open('a.png') as picture:
        expected = picture.resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(saved['image'], expected)
    assert saved['logits'].shape == (5,) and saved['targets'].shape == (1,)
    for rule in rules:
        r = saved[f'relevance/{rule}']
        assert r.shape == (1, 224, 224, 3) and np.isfinite(r).all() and r.any(), rule


def test_pixels_reach_the_network_as_bgr_less_the_mean_and_relevance_is_rgb(lrp):
    """Identity through the convolutions, one logit that adds up what is left: its value is known by
    hand."""
    arrays = random_weights(model='short')
    for key, array in arrays.items():
        array[...] = 0
        if key.endswith('kernel') and array.ndim == 4:
            array[1, 1, 0, 0] = 1
    arrays['fc1/kernel'][0, 0] = arrays['predictions/kernel'][0, 3] = 1
    np.savez('identity.npz', **arrays)
    Image.new('RGB', (9, 9), (10, 20, 230)).save('a.png')
    lrp('a.png', '--save-relevance', '--rule', 'epsilon', weights='identity.npz')
    saved = numbers()
    np.testing.assert_allclose(saved['logits'], [0, 0, 0, 230 - 103.939, 0], rtol=1e-5)
    assert saved['targets'] == [3]
    np.testing.assert_allclose(saved['relevance/epsilon'][0, :32, :32].sum((0, 1)),
                               [0, 0, 230 - 103.939], rtol=1e-4)


def test_neighbours_change_nothing(lrp):
    """Ten pictures, one of them broken, in batches of 8 and of 1: the same relevance."""
    files = [photograph(Path('in') / f'{i}.png', seed=i) for i in range(10)]
    files[4].write_text('broken')
    saved = []
    for size in 8, 1:
        lrp(*files, '--save-relevance', '--rule', 'deep-taylor', 'montavon2019', '--batch-size',
            size, status=1)
        saved.append([numbers(i) for i in range(10) if i != 4])
    for together, alone in zip(*saved):
        assert_same(together, alone)
    assert len({each['image'].tobytes() for each in saved[0]}) == 9


def test_bfloat16_is_near_and_rounds_no_logit(lrp, monkeypatch):
    """Its weights and activations have 8 bits; logits of 8 bits would often be equal."""
    vgg = scripts('vgg')
    monkeypatch.setitem(vgg.network.BUNDLED, 'caltech101', Path('small.npz'))
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    exact, near = (vgg.explainer.open_explainer('caltech101', ['deep-taylor'],
                                                precision=precision)(images)
                   for precision in ('float32', 'bfloat16'))
    difference = np.abs(near.logits - exact.logits).max()
    assert 0 < difference < 0.05 * np.abs(exact.logits).max()
    assert (near.logits.view(np.uint32) & 0xffff).any()  # bits that bfloat16 does not have
    maps = [found.relevance['deep-taylor'].ravel() for found in (near, exact)]
    assert np.corrcoef(*maps)[0, 1] > 0.95


# Targets and classes

def test_target_by_name_and_by_index():
    find = scripts('vgg').class_names.find_target
    assert [find(text, CLASSES) for text in ('teapot', 'TEAPOT', '4', '#4')] == [4] * 4
    for target, word in ('crane', '0, 2'), ('tea pot', 'teapot'), ('5', '0 to 4'), ('', 'no such'):
        with pytest.raises(scripts('vgg').common.Refused, match=f'--target.*{word}'):
            find(target, CLASSES)


def test_against_the_target_itself(lrp):
    picture = photograph(Path('a.png'))
    end = lrp(picture, '--target', 'kite', '--against', 'kite', status=2)
    assert len(end.err) == 1 and '--against' in end.err[0]


def test_relevance_that_is_not_finite_is_not_drawn(lrp):
    arrays = random_weights(model='short')
    arrays['fc1/kernel'] *= np.float32(1e30)
    arrays['predictions/kernel'] *= np.float32(1e30)
    np.savez('large.npz', **arrays)
    end = lrp(photograph(Path('a.png')), weights='large.npz', status=1)
    assert len(end.err) == 1 and 'not finite' in end.err[0] and not results()
