"""The names of a network's classes, and the class that a command line asks for."""
import difflib
from pathlib import Path

from common import Refused


def class_names(network, path=None):
    """The names of the classes: from a file, one on each line; the network's own; or numbers."""
    if network.end == 'value':
        return ['output']
    if path is None:
        own, numbered = network.classes, [f'class {i}' for i in range(network.count)]
        return own if own and len(own) == network.count else numbered
    try:
        names = Path(path).read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError):
        raise Refused(f'--classes {path} is not a readable text file') from None
    if len(names) != network.count:
        raise Refused(f'{path} has {len(names)} lines, but {network.path} has {network.count} '
                      'classes')
    return names


def find_target(text, classes, option='--target'):
    """The index of a class, given by its name, or by its index as 7 or #7.

    A class whose name is 7 comes before the class of index 7, with a notice. Raises Refused unless
    exactly one class fits.
    """
    number = text.removeprefix('#')
    fitting = [i for i, name in enumerate(classes) if name.lower() == text.lower()]
    if len(fitting) > 1:
        indices = ', '.join(map(str, fitting))
        raise Refused(f'{option} {text} fits several classes: give one of the indices {indices}')
    if fitting:
        if text.isdecimal() and int(text) != fitting[0]:
            print(f"{option} {text}: the class named {text}, whose index is {fitting[0]}; "
                  f"for the class of index {text} write '#{text}'")
        return fitting[0]
    if not number.isdecimal():
        close = difflib.get_close_matches(text.lower(), {name.lower(): 0 for name in classes}, 3)
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        raise Refused(f'{option} {text}: no such class{hint}')
    if int(number) >= len(classes):
        raise Refused(f'{option} {text}: the classes are 0 to {len(classes) - 1}')
    return int(number)
