"""What the scripts share: TensorFlow without its log, the command line, files written whole."""
import argparse
import contextlib
import errno
import functools
import importlib
import io
import os
from pathlib import Path
import platform
import secrets
import subprocess
import sys
import tempfile
import textwrap
import time
from types import ModuleType

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ['KERAS_BACKEND'] = 'tensorflow'


class Refused(Exception):
    """Something that the user can mend, in one line; Parser.run prints it, with status 2."""


def collected(calls):
    """What each of these functions returns, and a line for each that is Refused. Raises Refused if
    the disk is full: then the others would fail, too."""
    values, failed = [], []
    for call in calls:
        try:
            values.append(call())
        except Refused as error:
            if getattr(error.__cause__, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            failed.append(str(error))
    return values, failed


@contextlib.contextmanager
def silence():
    """Discards standard error: some of TensorFlow's libraries log there whatever the settings.

    Another process reads it, and shows it if this one dies before the zero byte at the end.
    """
    code = 'import sys; sys.stderr.buffer.write(sys.stdin.buffer.read().rpartition(b"\\0")[2])'
    sys.stderr.flush()
    stderr = os.dup(2)
    with subprocess.Popen([sys.executable, '-I', '-S', '-c', code], stdin=subprocess.PIPE,
                          start_new_session=True) as reader:
        os.dup2(reader.stdin.fileno(), 2)
        try:
            yield
        finally:
            os.write(2, b'\0')
            os.dup2(stderr, 2)
            os.close(stderr)


class Lazy(ModuleType):
    """A module that is imported when first used, so that --help does not wait for TensorFlow."""

    @functools.cached_property
    def imported(self):
        with silence():
            module = importlib.import_module(self.__name__)
            if self.__name__.startswith('tensorflow'):
                module.logging.set_verbosity(module.logging.ERROR)
        return module

    def __getattr__(self, attribute):
        return getattr(self.imported, attribute)


tf, keras = Lazy('tensorflow.compat.v1'), Lazy('keras')


def open_session():
    """A session on the default graph. On a GPU, memory is taken as needed, and products of float32
    keep all their bits."""
    config = tf.ConfigProto()
    config.gpu_options.allow_growth = True
    tf.config.experimental.enable_tensor_float_32_execution(False)
    with silence():  # some versions log the first session and its first run
        session = tf.Session(config=config)
        session.run(tf.no_op())
    return session


# The command line

class Parser(argparse.ArgumentParser):
    """Describes a script by its docstring, and reports what is wrong in one line."""

    def __init__(self, docstring):
        parts = [part if part.startswith('    ') else textwrap.fill(part, 79)
                 for part in docstring.split('\n\n')]
        super().__init__(description='\n\n'.join(parts),
                         formatter_class=argparse.RawDescriptionHelpFormatter,
                         allow_abbrev=False)  # --layer is not --layers

    def error(self, message):
        self.end(2, [message])

    def run(self, job, argv=None):
        """Runs job(args) for the arguments argv (default: the command line's). The job may return a
        line for each input that failed. Exits with status 1 if there are such lines, 2 if the
        command was refused, 130 after Ctrl-C."""
        with contextlib.suppress(AttributeError):  # a notebook's output takes any letter
            sys.stdout.reconfigure(errors='backslashreplace')
        args = self.parse_intermixed_args(argv)
        try:
            failures = job(args)
            sys.stdout.flush()
        except Refused as error:
            self.error(str(error))
        except KeyboardInterrupt:
            self.end(130, ['stopped; what is written stays'])
        except BrokenPipeError:  # the reader of our output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            self.exit(141)
        if failures:
            self.end(1, failures)

    def end(self, status, lines):
        self.exit(status, ''.join(f'{self.prog}: {one_line(line)}\n' for line in lines))


def one_line(text):
    """The text with everything escaped that cannot be printed: file names may contain anything."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape', 'surrogatepass').decode()
                   for c in text)


def count(text):
    """A type for options: a whole number from 1 to a million."""
    return number(text, 1, 10 ** 6)


def seed(text):
    """A type for options: the seed of a random generator."""
    return number(text, 0, 2 ** 31 - 1)


def number(text, low, high):
    """The whole number in a text, or ArgumentTypeError."""
    with contextlib.suppress(ValueError):
        if low <= int(text) <= high:
            return int(text)
    raise argparse.ArgumentTypeError(f'{text} is not a whole number from {low} to {high}')


def precision(text):
    """A type for --precision: float32, with a notice, where the processor has no bfloat16."""
    cpu = Path('/proc/cpuinfo')
    flags = cpu.read_text() if text == 'bfloat16' and cpu.exists() else 'amx_bf16'
    if 'avx512_bf16' in flags or 'amx_bf16' in flags:
        return text
    print('this processor has no bfloat16 instructions: using float32', file=sys.stderr)
    return 'float32'


def progress_bar(total, unit):
    """Keras's progress bar on a terminal; elsewhere one line at the end."""
    return keras.utils.Progbar(total, unit_name=unit, verbose=1 if sys.stdout.isatty() else 2)


# Files

UNFINISHED = '.unfinished-'


def make_folder(folder):
    """Makes the folder for results, and removes what runs that were killed left in it. Raises
    Refused if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        for path in filter(is_left_over, folder.glob(f'{UNFINISHED}*')):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise Refused(f'cannot write to {folder} ({error.strerror})') from None


def is_left_over(path):
    """Whether a file is a day old, or was written by a process of this machine that is dead."""
    try:
        if path.stat().st_mtime < time.time() - 24 * 3600:
            return True
        host, process, _ = path.name.removeprefix(UNFINISHED).rsplit('-', 2)
        if host == platform.node() and os.name == 'posix':
            os.kill(int(process), 0)  # asks only; on Windows it would be a signal
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, ValueError):  # it is gone, another user's, or another file
        pass
    return False


def encoded(save, *arguments, **options):
    """What `save` would write to a file, as bytes. (Pillow itself misses a full disk.)"""
    buffer = io.BytesIO()
    save(buffer, *arguments, **options)
    return buffer.getvalue()


def write(path, content, new=False):
    """Writes bytes to a temporary file and renames it: no half-written result is seen.

    new: whether nothing may be replaced; FileExistsError if something is there. Raises Refused,
    with the OSError as its cause, if the file cannot be written.
    """
    owner = f'{platform.node()}-{os.getpid()}-{secrets.token_hex(8)}'  # no other has this name
    temporary = path.with_name(f'{UNFINISHED}{owner}')
    try:
        with open(temporary, 'xb') as file:
            file.write(content)
        (rename if new else os.replace)(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise Refused(f'cannot write {path} ({error.strerror})') from error
    finally:
        temporary.unlink(missing_ok=True)


def rename(path, new):
    """Renames a file. Raises FileExistsError if there is one of the new name."""
    try:
        os.link(path, new)
    except OSError:  # it is there; or no hard links, as on many network drives
        if os.path.lexists(new):
            raise FileExistsError from None
        os.rename(path, new)


def write_report(folder, name, figure, title, table):
    """Writes a table, <name>.txt, and a figure, <name>.png, and prints the table."""
    write(folder / f'{name}.txt', f'{title}\n{table}\n'.encode())
    write(folder / f'{name}.png', encoded(figure.savefig))
    print(f'{title}\n{table}\nwrote {folder / name}.png and {folder / name}.txt')
