"""vgg/lrp.py from the command line to its files, on a small network."""
import io
import sys

from conftest import scripts
import numpy as np
from PIL import Image
import pytest
from small_vgg import CLASSES, photograph, random_weights, run, shrink

COMPOSITES = ['deep-taylor', 'zplus', 'wsquare', 'epsilon', 'alpha1beta0', 'alpha2beta1',
              'epsilon-plus', 'epsilon-plus-flat',
              'epsilon-alpha2beta1', 'epsilon-gamma-box', 'montavon2019']


@pytest.fixture
def vgg(monkeypatch):
    """The scripts, with a small VGG."""
    return shrink(monkeypatch)


@pytest.fixture
def weights(tmp_path):
    """Writes a weight file; named arguments replace its arrays."""
    def write(**arrays):
        np.savez(tmp_path / 'small.npz', **{**random_weights(), 'classes': CLASSES, **arrays})
        return tmp_path / 'small.npz'
    return write


@pytest.fixture
def lrp(vgg, weights, tmp_path, capsys):
    """Runs the script on the small network with results in tmp_path/results."""
    weights()

    def command(*arguments, status=0):
        end = run(vgg.lrp.main, capsys, *arguments, '--weights', tmp_path / 'small.npz',
                  '--preprocessing', 'caffe', '--results', tmp_path / 'results')
        assert end.status == status, end
        return end
    return command


def relevance(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def results(tmp_path):
    return sorted(path.name for path in (tmp_path / 'results').iterdir())


def assert_same(found, expected, share=1e-4):
    """Equal up to rounding: a share of the largest relevance."""
    assert found.keys() == expected.keys()
    for key in expected:
        assert np.abs(np.float64(found[key])
                      - expected[key]).max() <= share * np.abs(np.float64(expected[key])).max(), key


def test_picture_keeps_the_aspect_ratio(lrp, tmp_path):
    """8 pixels around each panel, 44 above it, 36 below all for the key; panels 288 high and half
    as wide, as the photograph is."""
    lrp(photograph(tmp_path / 'tall.png', (50, 100)), '--rule', 'deep-taylor', 'epsilon')
    with Image.open(tmp_path / 'results' / 'tall.jpg') as sheet:
        assert sheet.size == (8 + 3 * (144 + 8), 44 + 288 + 8 + 36)
        for column in range(3):
            left = 8 + column * (144 + 8)
            panel = np.float64(sheet.crop((left + 2, 46, left + 142, 330)))
            assert panel.std(axis=(0, 1)).max() > 10, f'panel {column} is blank'
        with Image.open(tmp_path / 'tall.png') as original:
            shown = np.float64(sheet.crop((8, 44, 152, 332)))
            assert np.abs(shown - np.float64(original.convert('RGB').resize((144, 288),
                Image.Resampling.LANCZOS))).mean() < 4


def test_colours(vgg):
    """Red speaks for the class, blue against it, zero is white; the scale of a heatmap is its
    own."""
    r = np.zeros((224, 224), np.float32)
    r[:, :60], r[:, 160:] = 3e-6, -3e-6
    colours = np.asarray(vgg.heatmaps.colour(r, (224, 224), 'seismic'))
    assert (colours[100, 110] == 255).all()
    assert colours[100, 20, 0] > 100 and colours[100, 20, 2] == 0
    assert colours[100, 200, 2] > 70 and colours[100, 200, 0] == 0
    np.testing.assert_array_equal(colours, vgg.heatmaps.colour(1e9 * r, (224, 224), 'seismic'))


def test_top(lrp, tmp_path):
    lrp(photograph(tmp_path / "a.png"), "--top", 3, "--save-relevance", "--rule", "deep-taylor")
    saved = relevance(tmp_path / 'results' / 'a.npz')
    np.testing.assert_array_equal(saved['targets'], np.argsort(-saved['logits'])[:3])
    assert saved['relevance/deep-taylor'].shape == (3, 224, 224, 3)
    with Image.open(tmp_path / 'results' / 'a.jpg') as sheet:
        assert sheet.size == (8 + 2 * (432 + 8), 3 * (44 + 288 + 8) + 36)


def test_each_target_has_its_own_relevance(lrp, tmp_path):
    """Row k of --top is what --target of that class gives."""
    picture = photograph(tmp_path / 'a.png')
    lrp(picture, '--top', 5, '--save-relevance', '--rule', 'epsilon')
    together = relevance(tmp_path / 'results' / 'a.npz')
    for k, target in enumerate(together['targets']):
        lrp(picture, '--target', target, '--save-relevance', '--rule', 'epsilon')
        alone = relevance(tmp_path / 'results' / 'a.npz')
        assert alone['targets'] == [target]
        assert_same({'r': together['relevance/epsilon'][k]}, {'r': alone['relevance/epsilon'][0]},
                    1e-6)


def test_lines_say_class_probability_logit_and_conservation(lrp, tmp_path):
    end = lrp(photograph(tmp_path / 'a.png'), '--top', 2, '--save-relevance', '--rule', 'wsquare',
              'epsilon')
    saved = relevance(tmp_path / 'results' / 'a.npz')
    shares = np.exp(saved['logits']) / np.exp(saved['logits']).sum()
    for k, (line, target) in enumerate(zip(end.out, saved['targets'], strict=True)):
        logit = saved['logits'][target]
        sums = [f'{rule} {saved[f"relevance/{rule}"][k].sum(dtype=float) / logit:.4f}'
                for rule in ('wsquare', 'epsilon')]
        name = f'{CLASSES[target]} {shares[target]:.2f}'
        assert line == f'{tmp_path / "a.png"}: {name}, logit {logit:.3f}, ' \
                       f'sum R / logit: {", ".join(sums)}'


def test_layers(lrp, tmp_path):
    """Pixels and five pooling layers beside the photograph for each rule and target, in a line."""
    lrp(photograph(tmp_path / 'a.png'), '--layers', '--top', 2, '--rule', 'zplus', 'epsilon')
    assert results(tmp_path) == ['a.jpg', 'a_layers.jpg']
    with Image.open(tmp_path / 'results' / 'a_layers.jpg') as sheet:
        assert sheet.size == (8 + 7 * (432 + 8), 2 * 2 * (44 + 288 + 8) + 36)


def test_plain(lrp, tmp_path):
    """Each heatmap alone and over the photograph, at the photograph's own size."""
    rules, file = ['deep-taylor', 'epsilon'], photograph(tmp_path / 'a.png', (50, 100))
    lrp(file, '--plain', '--top', 2, '--save-relevance', '--rule', *rules)
    names = [f'a_{rule}{k}{kind}.png' for rule in rules for k in ('', '_2')
             for kind in ('', '_over')]
    assert results(tmp_path) == sorted(['a.jpg', 'a.npz', *names])
    images = {name: np.asarray(Image.open(tmp_path / 'results' / name), np.int64) for name in names}
    assert {image.shape for image in images.values()} == {(100, 50, 3)}
    assert len({image.tobytes() for image in images.values()}) == 8
    grey = np.asarray(Image.open(file).convert('L').convert('RGB'))
    for rule in rules:
        for k, number in enumerate(('', '_2')):
            relevance_ = relevance(tmp_path / 'results' / 'a.npz')[f'relevance/{rule}'][k].sum(-1)
            small = Image.fromarray(relevance_).resize((50, 100), Image.Resampling.BICUBIC)
            strength = np.abs(small) / np.percentile(np.abs(relevance_), 99.5)
            plain, over = (images[f'a_{rule}{number}{kind}.png'] for kind in ('', '_over'))
            red, blue = (np.asarray(small) > 0) & (strength > 0.1), (np.asarray(small)
                < 0) & (strength > 0.1)
            assert (plain[red][:, 0] > plain[red][:, 2]).all()
            assert (plain[blue][:, 2] > plain[blue][:, 0]).all()
            assert (plain[strength < 0.003] >= 250).all()  # white at zero
            opacity = np.sqrt(np.clip(strength, 0, 1))[..., None]
            assert np.abs(over - (opacity * plain + (1 - opacity) * grey)).max() <= 2


def test_plain_results_do_not_overwrite_others(lrp, tmp_path):
    """a.png writes a_zplus.png, which is also the name of a picture in the folder of results."""
    picture = photograph(tmp_path / 'results' / 'a_zplus.png')
    before = picture.read_bytes()
    end = lrp(photograph(tmp_path / 'a.png'), picture, '--plain', '--rule', 'zplus', status=2)
    assert picture.read_bytes() == before and 'a_zplus.png' in end.err[0]


def test_save_relevance(lrp, tmp_path):
    lrp(photograph(tmp_path / 'a.png'), '--save-relevance', '--rule', *COMPOSITES)
    saved = relevance(tmp_path / 'results' / 'a.npz')
    assert set(saved) == {'image', 'logits', 'targets',
                          *(f'relevance/{rule}' for rule in COMPOSITES)}
    assert saved['image'].shape == (224, 224, 3) and saved['image'].dtype == np.uint8
    assert saved['logits'].shape == (5,) and saved['logits'].dtype == np.float32
    assert saved['targets'].shape == (1,) and saved['targets'].dtype.kind == 'i'
    for rule in COMPOSITES:
        r = saved[f'relevance/{rule}']
        assert r.shape == (1, 224, 224,
                           3) and r.dtype == np.float32 and np.isfinite(r).all() and r.any(), rule
    with Image.open(tmp_path / 'a.png') as picture:
        np.testing.assert_array_equal(saved['image'],
                                      picture.convert('RGB').resize((224, 224),
                                          Image.Resampling.BILINEAR))


@pytest.mark.parametrize('plane, colour', [(0, 'blue'), (1, 'green'), (2, 'red')])
def test_relevance_is_rgb(lrp, weights, tmp_path, plane, colour):
    """A network whose first layer reads one plane of BGR: all relevance stands in that colour's
    plane of RGB."""
    kernel = random_weights()['block1_conv1/kernel']
    kernel[:, :, [i for i in range(3) if i != plane]] = 0
    weights(**{'block1_conv1/kernel': kernel})
    lrp(photograph(tmp_path / 'a.png'), '--save-relevance', '--rule', 'zplus', 'epsilon', 'wsquare')
    saved = relevance(tmp_path / 'results' / 'a.npz')
    for rule in ('zplus', 'epsilon', 'wsquare'):
        assert [bool(saved[f'relevance/{rule}'][..., i].any())
                for i in range(3)] == [i == 2 - plane for i in range(3)], colour


def test_pixels_reach_the_network_as_bgr_less_the_mean(lrp, weights, tmp_path):
    """Identity through the convolutions, one logit that adds up what is left: its value is known by
    hand."""
    arrays = random_weights()
    for key, array in arrays.items():
        array[...] = 0
        if key.endswith('kernel') and array.ndim == 4:
            array[1, 1, 0, 0] = 1
    arrays['fc1/kernel'][0, 0] = arrays['predictions/kernel'][0, 3] = 1
    weights(**arrays)
    Image.new('RGB', (9, 9), (10, 20, 230)).save(tmp_path / 'a.png')
    lrp(tmp_path / 'a.png', '--save-relevance', '--rule', 'epsilon')
    saved = relevance(tmp_path / 'results' / 'a.npz')
    np.testing.assert_allclose(saved['logits'], [0, 0, 0, 230 - 103.939, 0], rtol=1e-5)
    assert saved['targets'] == [3]
    np.testing.assert_allclose(saved['relevance/epsilon'][0, :32, :32].sum((0, 1)),
                               [0, 0, 230 - 103.939], rtol=1e-4)


def test_target_by_name_and_by_index(lrp, tmp_path):
    for target in ('teapot', 'TEAPOT', '4'):
        end = lrp(photograph(tmp_path / 'a.png'), '--target', target, '--save-relevance')
        assert relevance(tmp_path / 'results' / 'a.npz')['targets'] == [4]
        assert f'{tmp_path / "a.png"}: Teapot ' in end.out[0]


@pytest.mark.parametrize('target, words',
                         [('crane', ['crane', '0, 2']), ('tea pot', ['tea pot', 'teapot']),
                          ('5', ['5', '0 to 4']),
                                           ('-1', ['-1']), ('xyzzy', ['xyzzy']),
                                           ('', ['no such class'])])
def test_wrong_target(lrp, tmp_path, target, words):
    end = lrp(photograph(tmp_path / 'a.png'), f'--target={target}', status=2)
    assert len(end.err) == 1 and all(word in end.err[0] for word in ['--target', *words])


def test_classes_file(lrp, tmp_path):
    (tmp_path / 'names.txt').write_text('eins\nzwei\ndrei\nvier\nfünf\n', encoding='utf-8')
    end = lrp(photograph(tmp_path / 'a.png'), '--classes', tmp_path / 'names.txt', '--target',
              'FÜNF')
    assert ': fünf ' in end.out[0]


def test_classes_without_names_have_numbers(lrp, weights, tmp_path):
    np.savez(weights(), **random_weights(head=(6, 18)))
    end = lrp(photograph(tmp_path / 'a.png'), '--target', '17')
    assert ': class 17 ' in end.out[0]


def test_same_names_do_not_overwrite_each_other(lrp, tmp_path):
    files = [photograph(tmp_path / folder / name, seed=seed) for seed, (folder, name) in
             enumerate([('x', 'cat.png'), ('y', 'cat.jpg'), ('y', 'cat_2.png'), ('z', 'CAT.png')])]
    lrp(*files, '--save-relevance')
    names = [name for name in results(tmp_path) if name.endswith('.npz')]
    assert len(names) == 4 and len({name.lower() for name in names}) == 4
    images = {name: relevance(tmp_path / 'results' / name)['image'] for name in names}
    for file in files:
        seen = scripts('vgg').pictures.open_picture(file, (224, 224, 3)).seen
        assert sum(np.array_equal(seen, image) for image in images.values()) == 1


def test_layers_picture_does_not_overwrite_another_result(lrp, tmp_path):
    """cat.png with --layers writes cat_layers.jpg, and so does cat_layers.png."""
    lrp(photograph(tmp_path / 'cat.png'), photograph(tmp_path / 'cat_layers.png', seed=1),
        '--layers')
    assert len(results(tmp_path)) == 4


@pytest.mark.parametrize('name, options', [('cat.jpg', []), ('cat_layers.jpg', ['--layers'])])
def test_results_never_overwrite_a_picture(lrp, tmp_path, name, options):
    picture = photograph(tmp_path / 'results' / name)
    other = photograph(tmp_path / 'cat.png')
    before = picture.read_bytes()
    end = lrp(other, picture, *options, status=2)
    assert picture.read_bytes() == before
    assert len(end.err) == 1 and name in end.err[0] and '--results' in end.err[0]


@pytest.mark.parametrize('way', ['list', 'standard input', 'folder'])
def test_many_pictures_at_once(lrp, tmp_path, monkeypatch, way):
    files = [photograph(tmp_path / 'in' / f'{i}.png', seed=i) for i in range(3)]
    (tmp_path / 'in' / 'notes.txt').write_text('no picture')
    text = '\n'.join(map(str, files)) + '\n\n'
    (tmp_path / 'list.txt').write_text(text)
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(text.encode())))
    end = lrp({'list': f'@{tmp_path / "list.txt"}', 'standard input': '-',
               'folder': tmp_path / 'in'}[way])
    assert results(tmp_path) == ['0.jpg', '1.jpg', '2.jpg']
    assert [line.split(':')[0] for line in end.out] == list(map(str, files))


def test_batches_change_nothing(lrp, tmp_path):
    """Ten pictures, one of them broken, in batches of 8 and of 1, and two of them alone: the same
    relevance."""
    files = [photograph(tmp_path / 'in' / f'{i}.png', seed=i) for i in range(10)]
    files[4].write_text('broken')
    saved = {}
    for size in (8, 1):
        lrp(*files, '--save-relevance', '--batch-size', size, '--rule', 'deep-taylor',
            'montavon2019', status=1)
        saved[size] = {i: relevance(tmp_path / 'results' / f'{i}.npz') for i in range(10) if i != 4}
    lrp(files[9], '--save-relevance', '--rule', 'deep-taylor', 'montavon2019')
    alone = relevance(tmp_path / 'results' / '9.npz')
    for i in saved[1]:
        assert_same(saved[8][i], saved[1][i])
    assert_same(alone, saved[8][9])
    assert len({saved[1][i]['image'].tobytes() for i in saved[1]}) == 9


def test_two_runs_are_equal_and_leave_nothing_else_behind(lrp, tmp_path):
    files = [photograph(tmp_path / f'{i}.png', seed=i) for i in range(2)]
    found = []
    for _ in range(2):
        lrp(*files, '--save-relevance', '--layers')
        assert results(tmp_path) == ['0.jpg', '0.npz', '0_layers.jpg', '1.jpg', '1.npz',
                                     '1_layers.jpg']
        found.append({name: (tmp_path / 'results' / name).read_bytes()
                      for name in results(tmp_path) if name.endswith('.jpg')})
        found.append({name: relevance(tmp_path / 'results' / name) for name in ('0.npz', '1.npz')})
    assert found[0] == found[2]
    for name in found[1]:
        assert_same(found[1][name], found[3][name], 0)


def test_bfloat16_is_near_and_rounds_no_logit(vgg, weights):
    """Its weights and activations have 8 bits; logits of 8 bits would often be equal."""
    network = vgg.network.open_network(weights(), preprocessing='caffe')
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    exact, near = (vgg.explainer.Explainer(network, ['deep-taylor'], precision)(images)
                   for precision in ('float32', 'bfloat16'))
    difference = np.abs(near.logits - exact.logits).max()
    assert 0 < difference < 0.05 * np.abs(exact.logits).max()
    assert near.logits.dtype == np.float32
    assert (near.logits.view(np.uint32) & 0xffff).any()  # bits that bfloat16 does not have
    maps = [found.relevance['deep-taylor'].ravel() for found in (near, exact)]
    assert np.corrcoef(*maps)[0, 1] > 0.99
