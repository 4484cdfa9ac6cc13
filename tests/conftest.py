"""What the tests share: scripts as modules and as processes, a small trained network."""
import functools
import importlib
import os
from pathlib import Path
import subprocess
import sys
from types import SimpleNamespace

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # as the scripts do, before Keras is imported
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's idle threads would take half the time

import numpy as np  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
RULES = ['epsilon-gamma-box', 'deep-taylor', 'zplus', 'epsilon']  # of mnist/
TRAINING = ['--epochs', 2, '--batch-size', 30, '--seed', 7]


# Scripts as modules

@functools.cache
def scripts(folder):
    """Imports the scripts of a folder, once: scripts('mnist').lrp is mnist/lrp.py."""
    return imported(ROOT / folder)


def imported(folder):
    """The modules in a folder.

    Both folders have a model, an lrp and so on that import each other by these plain names. So the
    folder stands first on the path while they are imported, and none stays known under its plain
    name afterwards.
    """
    files = [file.relative_to(folder) for file in sorted(folder.rglob('*.py'))]
    files.sort(key=lambda file: -len(file.parts))  # of two that have one name, the script counts
    names = ['.'.join(file.with_suffix('').parts) for file in files if file.stem != '__init__']
    sys.path.insert(0, str(folder))
    try:
        return SimpleNamespace(**{name.split('.')[-1]: importlib.import_module(name)
                                  for name in names})
    finally:
        sys.path.remove(str(folder))
        for name in list(sys.modules):
            if name in names or name in ('networks', 'evaluation'):
                del sys.modules[name]


# Scripts as processes

def command(script, *options):
    return [sys.executable, str(ROOT / script), *map(str, options)]


def run(script, *options, cwd):
    return subprocess.run(command(script, *options), cwd=cwd, capture_output=True, text=True,
                          timeout=170)


def succeed(script, *options, cwd):
    """Runs a script that must neither fail nor complain. Returns what it prints."""
    result = run(script, *options, cwd=cwd)
    assert (result.returncode, result.stderr) == (0, '')
    return result.stdout


# Scripts in this process, which is quicker

@pytest.fixture
def called(capfd, caplog):
    """A function: calls a script's main. Returns its exit status and what it printed."""
    def call(main, *options):
        capfd.readouterr()
        status = 0
        try:
            main([str(option) for option in options])
        except SystemExit as stop:
            status = stop.code or 0
        assert not caplog.records
        return SimpleNamespace(status=status, **capfd.readouterr()._asdict())
    return call


def main_of(script):
    folder, name = Path(script).parts
    return getattr(scripts(folder), Path(name).stem).main


@pytest.fixture
def printed(called):
    """A function: what a script prints that must neither fail nor complain."""
    def out(script, *options):
        end = called(main_of(script), *options)
        assert (end.status, end.err) == (0, '')
        return end.out
    return out


@pytest.fixture
def refused(called):
    """A function: the one line of a script that must stop with status 2."""
    def line(script, *options):
        end = called(main_of(script), *options)
        assert end.status == 2 and len(end.err.splitlines()) == 1, end.err
        return end.err
    return line


# A small trained network of mnist/

@pytest.fixture(scope='session')
def small(tmp_path_factory):
    """The path of an .npz with 2,100 digits to train on, 420 to validate, 250 to test."""
    return part_of_data(tmp_path_factory.mktemp('data') / 'small.npz', 2520, 250)


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    """The path of an .npz with 250 digits to train on, 50 to validate, 20 to test."""
    return part_of_data(tmp_path_factory.mktemp('data') / 'tiny.npz', 300, 20)


def part_of_data(path, train, test):
    with np.load(ROOT / 'mnist' / 'mnist.npz') as data:
        np.savez(path, x_train=data['x_train'][:train], y_train=data['y_train'][:train],
                 x_test=data['x_test'][:test], y_test=data['y_test'][:test])
    return path


@pytest.fixture(scope='session')
def digits(small):
    """The test digits: images [250, 28, 28] uint8, labels."""
    with np.load(small) as data:
        return data['x_test'], data['y_test']


@pytest.fixture(scope='session')
def training(small, tmp_path_factory):
    """A whole training that nothing interrupts: its logdir, and what it printed."""
    folder = tmp_path_factory.mktemp('training')
    options = [*TRAINING, '--data', small, '--logdir', folder / 'logs']
    printed = succeed('mnist/train.py', *options, cwd=folder)
    assert [path.name for path in folder.iterdir()] == ['logs']
    return folder / 'logs', printed


@pytest.fixture(scope='session')
def logdir(training):
    return training[0]


@pytest.fixture(scope='session')
def explainer(logdir):
    mnist = scripts('mnist')
    return mnist.explainer.Explainer(mnist.rules.COMPOSITES, logdir, gradient=True)


@pytest.fixture(scope='session')
def explained(explainer, digits):
    """What all rules say of all test digits."""
    return explainer(digits[0] / np.float32(255))


def other_network(folder, name):
    """Writes a checkpoint of a network whose first kernel is of 5x5, and its name to the file
    `name`."""
    tf = scripts('mnist').common.tf
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable('conv1/kernel', [5, 5, 1, 32])
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver()
        saver.save(session, str(folder / f'{"best" if "best" in name else "last"}-1'),
                   latest_filename=name, write_meta_graph=False)


def truncate(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def likeness(one, other):
    """The correlation of two pictures."""
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]
