"""mnist/train.py and data.py: what a training leaves behind, how it goes on, and how it fails."""
from conftest import TRAINING, scripts, truncate
import numpy as np
import pytest

mnist = scripts('mnist')


def checkpoint(logdir, kind='last'):
    """All variables of the newest checkpoint of a kind."""
    reader = mnist.common.tf.train.load_checkpoint(mnist.checkpoint.checkpoints(logdir, kind)[-1])
    return {variable: reader.get_tensor(variable)
            for variable in reader.get_variable_to_shape_map()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_training_learns(training):
    assert training[1].count('\nvalidation accuracy') == 2 and 'seed 7' in training[1]
    assert float(training[1].split('test accuracy ')[1].split('%')[0]) > 90


def test_training_goes_on_after_its_last_epoch(refused, printed, tiny, tmp_path):
    """To the weights, the optimiser's state and the best weights of one that ran through. A damaged
    checkpoint is named."""
    options = ['mnist/train.py', '--epochs', 2, '--batch-size', 50, '--data', tiny, '--logdir',
               tmp_path]
    printed(*options)
    whole = {kind: checkpoint(tmp_path, kind) for kind in ('last', 'best')}
    truncate(tmp_path / 'last-10.data-00000-of-00001')
    assert f'{tmp_path / "last-10"} cannot be read' in refused(*options)
    for path in tmp_path.glob('*-10.*'):
        path.unlink()
    assert 'going on after epoch 1 of 2' in printed(*options)
    for kind in whole:
        assert_same(checkpoint(tmp_path, kind), whole[kind])


def test_weights_of_the_best_validation_are_kept(digits, tmp_path):
    """Not those of the last one: here all is right at first, and after one more step only what is
    right. What cannot be written leaves what was."""
    images, labels = digits
    warps = mnist.data.warps(len(images), np.random.default_rng(0))
    with mnist.common.tf.Graph().as_default():
        trainer = mnist.train.Trainer(10, 0, 1e-3, 'float32')
        trainer.start(tmp_path)
        predicted = trainer.session.run(trainer.predicted, {trainer.images: images})
        assert trainer.validate(tmp_path, images, predicted) == 1
        before = checkpoint(tmp_path, 'best')
        trainer.session.run(trainer.train,
                            {trainer.images: images, trainer.warps: warps, trainer.labels: labels})
        assert trainer.validate(tmp_path, images, labels) < 1
        (tmp_path / 'file').write_text('')
        with pytest.raises(mnist.common.Refused):
            trainer.save(trainer.saver, tmp_path / 'file' / 'last')
        trainer.session.close()
    assert_same(checkpoint(tmp_path, 'best'), before)
    assert checkpoint(tmp_path)['global_step'] == 1


def test_a_training_goes_on_only_as_it_began(refused, logdir, small, tiny):
    for option in ('--seed', 8), ('--data', tiny):
        line = refused('mnist/train.py', *TRAINING, '--data', small, '--logdir', logdir, *option)
        assert '--seed 7 --batch-size' in line and str(logdir) in line


def test_cost_that_is_not_finite_stops_the_training(refused, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist.train, 'learning_rate', lambda step, steps, highest: 1e30)
    line = refused('mnist/train.py', '--data', tiny, '--logdir', tmp_path, '--batch-size', '50')
    assert 'after step' in line and '--learning-rate' in line


@pytest.mark.parametrize('name, values, reason', [
    ('y_test', None, 'y_test'), ('x_test', np.zeros((6, 28, 28, 3), np.uint8), 'expected uint8'),
    ('y_test', np.arange(20), 'digits 0 to 9'), ('y_test', np.array(20 * ['a'], object), '')])
def test_bad_data_is_refused(tiny, tmp_path, name, values, reason):
    """Missing, of another shape, of another class; what is pickled is not even read."""
    with np.load(tiny) as file:
        arrays = {key: value for key, value in {**file, name: values}.items() if value is not None}
    np.savez(tmp_path / 'bad.npz', **arrays)
    with pytest.raises(mnist.common.Refused, match=f'bad.npz.*{reason}'):
        mnist.data.load(tmp_path / 'bad.npz', 'test')


def test_missing_data_and_odd_options_are_named(refused, tmp_path):
    for option, value in ('data', tmp_path / 'none.npz'), ('learning-rate', 'nan'), ('epochs', 0):
        line = refused('mnist/train.py', '--logdir', tmp_path, f'--{option}', value)
        assert str(value) in line


def test_epoch_shows_every_digit_once():
    """In an order of its own, each with a warp of its own."""
    images, labels = np.arange(70 * 784).reshape(70, 28, 28), np.arange(70)
    batches = list(mnist.data.epoch(images, labels, 20, np.random.default_rng(1)))
    assert [len(batch) for _, _, batch in batches] == [20, 20, 20, 10]
    pixels, warps, order = (np.concatenate(part) for part in zip(*batches))
    assert sorted(order) == list(labels) != list(order)
    np.testing.assert_array_equal(pixels, images[order])
    assert len(np.unique(warps, axis=0)) == 70


def test_a_warp_says_where_pixels_come_from():
    """One pixel from the right and two from below here; what comes in is background."""
    image = np.arange(1, 785, dtype=np.float32).reshape(1, 28, 28, 1)
    with mnist.common.tf.Graph().as_default(), mnist.common.tf.Session() as session:
        same, moved = (session.run(mnist.train.warped(image, np.float32([warp]))) for warp in
                       ([1, 0, 0, 0, 1, 0, 0, 0], [1, 0, 1, 0, 1, 2, 0, 0]))
    np.testing.assert_array_equal(same, image)
    expected = np.pad(image, ((0, 0), (0, 2), (0, 1), (0, 0)))[:, 2:, 1:]
    np.testing.assert_array_equal(moved, expected)


def test_warps_turn_stretch_and_move_a_little_about_the_middle():
    """By up to 10 degrees, 8 % and a pixel, the whole of these ranges, of both signs."""
    warps = mnist.data.warps(500, np.random.default_rng(0))
    middle = np.array([13.5, 13.5, 1])
    moves = np.abs(np.stack([warps[:, :3] @ middle, warps[:, 3:6] @ middle]) - 13.5)
    assert 0.9 < moves.max() <= 1 + 1e-4
    angles = np.degrees(np.arctan2(warps[:, 3], warps[:, 4]))
    assert 9 < np.abs(angles).max() < 10.001 and abs(angles.mean()) < 1
    sides = np.hypot(warps[:, 0], warps[:, 1]), np.hypot(warps[:, 3], warps[:, 4])
    assert 0.92 < np.min(sides) < 0.94 and 1.07 < np.max(sides) < 1.0834 and not warps[:, 6:].any()


def test_splits_share_no_digit(small):
    train, validation, test = (mnist.data.load(small, split)[0]
                               for split in ('train', 'validation', 'test'))
    assert [len(train), len(validation), len(test)] == [2100, 420, 250]
    with np.load(small) as file:
        np.testing.assert_array_equal(np.concatenate([train, validation]), file['x_train'])
        np.testing.assert_array_equal(test, file['x_test'])
