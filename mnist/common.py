"""What the scripts share: TensorFlow without its log, the command line, files written whole."""
import argparse
import contextlib
import functools
import importlib
import io
import logging
import os
from pathlib import Path
import sys
import tempfile
import textwrap
from types import ModuleType

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ['KERAS_BACKEND'] = 'tensorflow'
logging.getLogger('tensorflow').setLevel(logging.ERROR)
HERE = Path(__file__).resolve().parent


class Refused(Exception):
    """Something that the user can mend, in one line; Parser.run prints it, with status 2."""


@contextlib.contextmanager
def silence():
    """Discards standard error: some of TensorFlow's libraries log there whatever the settings."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, 'w') as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


class Lazy(ModuleType):
    """A module that is imported when first used: --help does not wait for TensorFlow."""

    def __getattr__(self, attribute):
        if self.__name__ not in sys.modules:
            with silence():
                importlib.import_module(self.__name__)
        return getattr(sys.modules[self.__name__], attribute)


tf, keras = Lazy('tensorflow.compat.v1'), Lazy('keras')


def open_session(mixed=False):
    """A session on the default graph. mixed: TensorFlow runs its linear ops in bfloat16.

    On a GPU, memory is taken as needed, and products of float32 keep all their bits.
    """
    config = tf.ConfigProto()
    config.gpu_options.allow_growth = True
    tf.config.experimental.enable_tensor_float_32_execution(mixed)
    if mixed:
        rewriting = config.graph_options.rewrite_options
        rewriting.auto_mixed_precision_onednn_bfloat16 = rewriting.ON
    with silence():  # some versions log the first session and its first run
        session = tf.Session(config=config)
        session.run(tf.no_op())
    return session


# The command line

class Parser(argparse.ArgumentParser):
    """Takes a script's docstring as its description, and reports a wrong command in one line."""

    def __init__(self, docstring):
        parts = [part if part.startswith('    ') else textwrap.fill(part, 79)
                 for part in docstring.split('\n\n')]
        super().__init__(description='\n\n'.join(parts),
                         formatter_class=argparse.RawDescriptionHelpFormatter,
                         allow_abbrev=False)  # --layer is not --layers

    def error(self, message):
        self.exit(2, f'{self.prog}: {one_line(message)}\n')

    def run(self, job, argv=None):
        """Runs job(args) on a command line; it may return a line for each input that failed.

        Exit status: 0, 1 if inputs failed, 2 if the command was refused, 130 if it was stopped.
        """
        try:
            failures = job(self.parse_args(argv))
        except Refused as error:
            self.error(str(error))
        except KeyboardInterrupt:
            self.exit(130, f'{self.prog}: stopped\n')
        if failures:
            self.exit(1, ''.join(f'{self.prog}: {one_line(line)}\n' for line in failures))


def one_line(text):
    return ' '.join(text.split())


def number(text, kind, low, high):
    """An int or a float, as `kind` says, from low to high, or ArgumentTypeError."""
    with contextlib.suppress(ValueError):
        if low <= kind(text) <= high:
            return kind(text)
    noun = 'a whole number' if kind is int else 'a number'
    raise argparse.ArgumentTypeError(f'{text} is not {noun} from {low} to {high}')


# types for options
count = functools.partial(number, kind=int, low=1, high=10 ** 6)
seed = functools.partial(number, kind=int, low=0, high=2 ** 31 - 1)


def precision(text):
    """A type for --precision: float32, with a notice, where the processor has no bfloat16."""
    cpu = Path('/proc/cpuinfo')
    flags = cpu.read_text() if text == 'bfloat16' and cpu.exists() else 'amx_bf16'
    if 'avx512_bf16' in flags or 'amx_bf16' in flags:
        return text
    print('this processor has no bfloat16 instructions: using float32', file=sys.stderr)
    return 'float32'


def progress_bar(total, unit, metrics=()):
    """Keras's progress bar on a terminal; elsewhere one line at the end."""
    verbose = 1 if sys.stdout.isatty() else 2
    return keras.utils.Progbar(total, unit_name=unit, verbose=verbose, stateful_metrics=metrics)


def add_paths(parser, **paths):
    """Adds options {name: default} for files and folders; defaults lie in the scripts' folder."""
    for name, default in paths.items():
        parser.add_argument(f'--{name}', type=Path, default=HERE / default, metavar='PATH',
                            help=f'default: mnist/{default}')


# Files

def make_folder(folder):
    """Makes the folder for results. Raises Refused if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Refused(f'cannot write to {folder} ({error.strerror})') from None


def encoded(save, *arguments, **options):
    """What `save` would write to a file, as bytes. (Pillow itself misses a full disk.)"""
    buffer = io.BytesIO()
    save(buffer, *arguments, **options)
    return buffer.getvalue()


def write(path, content):
    """Writes bytes or text to a temporary file and renames it: no half-written result is seen.

    Raises Refused if the file cannot be written.
    """
    temporary = path.with_name(f'.unfinished-{os.getpid()}-{path.name}')  # no other's
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.replace(temporary, path)
    except OSError as error:
        raise Refused(f'cannot write {path} ({error.strerror})') from None
    finally:
        temporary.unlink(missing_ok=True)


def write_report(folder, name, figure, title, table):
    """Writes a table, <name>.txt, and a figure, <name>.png, and prints the table."""
    write(folder / f'{name}.txt', f'{title}\n{table}\n')
    write(folder / f'{name}.png', encoded(figure.savefig))
    print(f'{title}\n{table}\nwrote {folder / name}.png and {folder / name}.txt')
