"""What the scripts of this folder share and what is not about LRP: TensorFlow without its chatter, command lines, whole files,
titles, chance.

The same file stands in mnist/ and in vgg/, so that each folder can be read, copied and run alone.
"""
import argparse
import contextlib
import errno
import importlib
import io
import itertools
import math
import os
from pathlib import Path
import socket
import stat
import sys
import tempfile
import time
import zlib

import matplotlib
import numpy as np
from PIL import ImageFont

TEMPORARY = '.unfinished-'  # what the names of files begin with until they are whole
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ['KERAS_BACKEND'] = 'tensorflow'  # whatever else the user's Keras may be set to


def open_streams():
    """Opens what the caller has closed of standard input, output and error, in this order: each takes its own number again."""
    for name, mode in ('stdin', 'r'), ('stdout', 'w'), ('stderr', 'w'):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
        elif mode == 'w' and hasattr(getattr(sys, name), 'reconfigure'):
            getattr(sys, name).reconfigure(errors='backslashreplace')  # names that the terminal cannot show


open_streams()


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


class Later:
    """A module that is imported, silently, when something of it is asked for: --help and wrong usage need not wait for it."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        if name.startswith('_'):
            raise AttributeError(name)
        if self._module not in sys.modules:
            self.load()
        return getattr(sys.modules[self._module], name)

    def load(self):
        """Imports it, if that is not done. Raises ImportError that says what is to be done."""
        try:
            with silence():
                importlib.import_module(self._module)
        except Exception as error:  # broken installations raise of all kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ImportError(f'{self._module.split(".")[0]} cannot be imported ({reason}): install requirements.txt anew') from None
        tf.logging.set_verbosity(tf.logging.ERROR)


tf, keras = Later('tensorflow.compat.v1'), Later('keras')


def supported(precision):
    """An option's value: a precision. Where the processor has no bfloat16 it is float32 instead, and that is said."""
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

    def parse_mixed(self, argv=None):
        """Reads a command line in which options stand among paths; after -- all are paths."""
        argv = list(sys.argv[1:] if argv is None else argv)
        if '--' in argv:
            i = argv.index('--')
            paths = [os.path.join('.', path) if path.startswith('-') and path != '-' else path for path in argv[i + 1:]]
            argv = paths + argv[:i]  # in front, where no option takes them
        return self.parse_intermixed_args(argv)

    def error(self, message):
        self.exit(2, f'{self.prog}: {printable(message)}\n')

    def run(self, job, *arguments):
        """Runs a script's job, which may return a line for each input that failed, and exits with the status that this means."""
        try:
            tf.load()
            keras.load()
            failures = job(*arguments)
            sys.stdout.flush()
        except Stopped as end:
            self.exit(end.status, f'{self.prog}: {end}\n')
        except KeyboardInterrupt:
            self.exit(130, f'{self.prog}: stopped\n')
        except BrokenPipeError:  # nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            self.exit(141)
        except (ValueError, OSError, ImportError) as error:
            self.error(str(error))
        except tf.errors.OpError as error:  # a full disk, say
            self.error(error.message.splitlines()[0])
        if failures:
            self.exit(1, ''.join(f'{self.prog}: {printable(line)}\n' for line in failures))


class Stopped(Exception):
    """A signal ended the work: its message says how to go on."""

    def __init__(self, number, message):
        super().__init__(message)
        self.status = 128 + number


def printable(text):
    """The text on one line, whatever name stands in it: what cannot be printed is escaped."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape', 'surrogatepass').decode() for c in text)


def count(text):
    """An option's value: a whole number from 1 to a million."""
    return number(text, int, 1, 10 ** 6)


def seed(text):
    """An option's value: what starts a generator of random numbers."""
    return number(text, int, 0, 2 ** 31 - 1)


def number(text, kind, low, high):
    """An option's value: an int or a float, as `kind` says, from low to high. Raises ArgumentTypeError for any other text."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f'{text} is not a {"whole " * (kind is int)}number from {low} to {high}')
    return value


def generator(seed, *names):
    """Random numbers for one use of a seed: they depend on it and on these names, not on what else is drawn."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def resampled(values):
    """Bootstrap (Efron 1979): the means [2000, ...] of values [n, ...] drawn anew from themselves. Values of equal number are drawn
    alike, so that differences of their means are paired."""
    values = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).multinomial(len(values), np.full(len(values), 1 / len(values)), 2000)
    return np.tensordot(drawn / len(values), values, 1)


def interval(means):
    """The 95 % interval, low and high, of resampled means [2000, ...]."""
    return np.percentile(means, [2.5, 97.5], 0)


def alike(values):
    """The pairs that are not distinguishable among values {name: [n]}: 0 lies in the 95 % interval of their mean paired difference,
    each pair by itself. One line of text."""
    means = {name: resampled(each) for name, each in values.items()}
    pairs = [f'{one} ~ {other}' for one, other in itertools.combinations(values, 2)
             if np.prod(interval(means[one] - means[other])) <= 0]
    return ', '.join(pairs) or 'none'


def mean_and_interval(values, digits=2):
    """'0.62 [0.58, 0.66]': the mean of values [n] and its 95 % interval."""
    low, high = interval(resampled(values))
    return f'{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]'


def spearman(x, y):
    """Spearman's rank correlation of two arrays of the same size, in [-1, 1]; 0 where one of them is constant."""
    x, y = (ranks(values) - (values.size + 1) / 2 for values in (x, y))  # less their mean
    return float((x * y).sum() / (np.sqrt((x * x).sum() * (y * y).sum()) or 1))


def ranks(values):
    """The rank of each value; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()]


def fitted(text, width):
    """The text, on two lines where one would be small, and the largest font, up to 15 pixels, in which it is no wider than `width`:
    matplotlib's, as in all figures."""
    words = text.split(' ')
    broken = [' '.join(words[:i]) + '\n' + ' '.join(words[i:]) for i in range(1, len(words))] or [text]
    halves = min(broken, key=longest)
    for size, lines in [(size, text) for size in range(15, 11, -1)] + [(size, halves) for size in range(11, 7, -1)]:
        font = ImageFont.truetype(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'), size)
        if max(map(font.getlength, lines.split('\n'))) <= width:
            break
    return lines, font


def longest(lines):
    return max(map(len, lines.split('\n')))


def once(values):
    """The values without repetitions, in order."""
    return list(dict.fromkeys(values))


def progress_bar(total, unit, metrics=(), quiet=False):
    """Keras's bar where standard output is a terminal, else one line at the end, or with `quiet` none."""
    verbose = 1 if sys.stdout.isatty() else 0 if quiet else 2
    return keras.utils.Progbar(total, unit_name=unit, verbose=verbose, stateful_metrics=metrics)


def check_writable(folder):
    """Makes a folder and sweeps it. Raises OSError, before any work is done, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            sweep(folder)
    except OSError as error:
        raise OSError(f'cannot write to {folder} ({error.strerror})') from None


def check_regular(path):
    """Raises OSError for what stands there but is no file, such as a device or a pipe: reading it may never end."""
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f'{path} is {"a folder" if os.path.isdir(path) else "no regular file"}')


def check_size(path, unpacked):
    """Raises ValueError if a file declares to unpack to more bytes than it can hold: they would fill the memory."""
    size = os.path.getsize(path)
    if unpacked > max(10 ** 8, 100 * size):
        raise ValueError(f'declares {unpacked / 1e6:.0f} MB, but is a file of {size / 1e6:.3f} MB')


def declared(archive):
    """How many bytes the arrays of an open .npz declare to hold; their headers alone are read."""
    total = 0
    for name in archive.namelist():
        with archive.open(name) as file:
            shape, dtype = array_header(file)
            total += math.prod(shape) * dtype.itemsize
    return total


def array_header(file):
    """Shape and dtype of the array in an open .npy file, of which no more is read."""
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    return shape, dtype


def check_spared(folder, names, inputs):
    """Raises ValueError if a result of one of these names in the folder would overwrite one of the inputs."""
    home, names, folders = os.path.realpath(folder), set(names), {}
    for path in inputs:
        if '\0' in os.fspath(path):  # no file has such a name
            continue
        parent, name = os.path.split(os.path.realpath(path) if len(inputs) < 10000 else path)  # a long list: too slow
        if parent not in folders:
            folders[parent] = os.path.realpath(parent or '.')
        if folders[parent] == home and name in names:
            raise ValueError(f'{os.path.join(folder, name)} is an input and would be overwritten: choose another --results')


def write_report(folder, name, figure, title, table):
    """Writes an evaluation's figure, <name>.png, and table, <name>.txt, and prints what they are."""
    write(folder / f'{name}.txt', table + '\n')
    write(folder / f'{name}.png', encoded(figure.savefig))
    print(f'{title}\n{table}\nwrote {folder / name}.png and {folder / name}.txt')


def encoded(save, *arguments, **options):
    """What save would write to a file, as bytes. (Pillow, writing a file by itself, passes over a full disk.)"""
    buffer = io.BytesIO()
    save(buffer, *arguments, **options)
    return buffer.getvalue()


def write(path, content):
    """Writes bytes or text, or what content(temporary path) writes, and moves the whole to `path`: no half-written result is ever seen.

    Raises OSError that names the path.
    """
    temporary = path.with_name(f'{TEMPORARY}{socket.gethostname()[:40]}-{os.getpid()}-{zlib.crc32(os.fsencode(path.name)):08x}{path.suffix}')
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.replace(temporary, path)
    except OSError as error:
        failure = OSError(f'cannot write {path} ({error.strerror or error})')
        failure.errno = error.errno
        raise failure from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def sweep(folder):
    """Removes what killed runs left unfinished in a folder: of this machine if their process is gone, of others after a day."""
    for path in folder.glob(f'{TEMPORARY}*'):
        with contextlib.suppress(OSError, ValueError):  # ValueError: a name that is not of our making
            host, process, _ = path.name[len(TEMPORARY):].rsplit('-', 2)
            alive = running(int(process)) if host == socket.gethostname()[:40] else time.time() - path.stat().st_mtime < 86400
            if not alive:
                path.unlink()


def running(process):
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


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
