"""What the scripts of this folder share and what is not about LRP: TensorFlow without its chatter, command lines, whole files.

The same file stands in mnist/ and in vgg/, so that each folder can be read, copied and run alone.
"""
import argparse
import contextlib
import os
from pathlib import Path
import sys
import tempfile

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')


@contextlib.contextmanager
def silence():
    """Discards what is written to standard error: some of TensorFlow's libraries log whatever the settings say."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, 'w') as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


with silence():
    import tensorflow.compat.v1 as tf
    import keras
tf.logging.set_verbosity(tf.logging.ERROR)


def supported(precision):
    """The precision, but float32 in place of bfloat16, which it says, where the processor does not have it."""
    cpu = Path('/proc/cpuinfo')
    if precision != 'bfloat16' or cpu.exists() and any(flag in cpu.read_text() for flag in ('avx512_bf16', 'amx_bf16')):
        return precision
    print('this processor has no bfloat16 instructions: going on in float32', file=sys.stderr)
    return 'float32'


def open_session(mixed=False):
    """A session on the default graph; mixed: TensorFlow rewrites convolutions and products of the graph to bfloat16."""
    config = tf.ConfigProto()
    if mixed:
        config.graph_options.rewrite_options.auto_mixed_precision_onednn_bfloat16 = tf.RewriterConfig.ON
    with silence():  # the first session starts TensorFlow's devices, and some versions say so
        session = tf.Session(config=config)
        session.run(tf.constant(0))
    return session


class Parser(argparse.ArgumentParser):
    """Keeps the lines of a script's description; says in one line what is wrong with a command."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        self.exit(2, f'{self.prog}: {message}\n')

    def run(self, job, *arguments):
        """Runs a script's job, which may return a line for each input that failed, and exits with the status that this means."""
        try:
            failures = job(*arguments)
        except (ValueError, OSError) as error:
            self.error(str(error))
        except tf.errors.OpError as error:  # a full disk, say
            self.error(error.message.splitlines()[0])
        if failures:
            self.exit(1, ''.join(f'{self.prog}: {line}\n' for line in failures))


def count(text):
    """An option's value: a whole number from 1 to a million."""
    return number(text, int, 1, 10 ** 6)


def seed(text):
    """An option's value: what starts a generator of random numbers."""
    return number(text, int, 0, 2 ** 31 - 1)


def number(text, kind, low, high):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f'{text} is not a {"whole " * (kind is int)}number from {low} to {high}')
    return value


def once(values):
    """The values without repetitions, in order."""
    return list(dict.fromkeys(values))


def progress_bar(total, unit, metrics=(), quiet=False):
    """Keras's bar where standard output is a terminal, else one line at the end, or with `quiet` none."""
    verbose = 1 if sys.stdout.isatty() else 0 if quiet else 2
    return keras.utils.Progbar(total, unit_name=unit, verbose=verbose, stateful_metrics=metrics)


def check_writable(folder):
    """Makes a folder. Raises OSError, before any work is done, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f'cannot write to {folder} ({error.strerror})') from None


def write(path, save):
    """Calls save with a temporary path and moves the whole file to `path`: no half-written result is ever seen."""
    temporary = path.with_name(f'.{os.getpid()}-{path.name}')
    try:
        save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unique(names, endings=('',)):
    """Appends _2, _3 ... to names that stood before, with or without an ending, so that no result overwrites another's.

    Capitals do not tell names apart: on some file systems they do not tell files apart.
    """
    taken, numbers, result = set(), {}, []
    for name in names:
        candidate, key = name, name.lower()
        while taken & {f'{candidate}{ending}'.lower() for ending in endings}:
            numbers[key] = numbers.get(key, 1) + 1
            candidate = f'{name}_{numbers[key]}'
        taken |= {f'{candidate}{ending}'.lower() for ending in endings}
        result.append(candidate)
    return result
