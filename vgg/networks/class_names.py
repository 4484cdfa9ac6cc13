"""The names of a network's classes, and the class that a command line asks for."""
import codecs
import difflib
import json
from pathlib import Path
import re

from common import Refused


def class_names(network, path=None):
    """The names of the classes: from a file, one on each line; the network's own; or numbers."""
    if network.end == 'value':
        return ['output']
    if path is None:
        own, numbered = network.classes, [f'class {i}' for i in range(network.count)]
        return own if own and len(own) == network.count else numbered
    try:
        names = names_in(Path(path).read_bytes())
    except FileNotFoundError:
        raise Refused(f'--classes {path}: no such file; it takes a file with the names of all '
                      'classes (--target names the one to explain)') from None
    except (OSError, RecursionError, ValueError):
        raise Refused(f'--classes {path} is not a readable list of names') from None
    if len(names) != network.count:
        raise Refused(f'{path} has {len(names)} names, but {network.path} has {network.count} '
                      'classes')
    return names


def names_in(content):
    """The names in a file's bytes: JSON, or one on each line, with its number or WordNet ID or not.

    JSON is a list, or says {name: index} or {index: name}. Raises ValueError if it is neither.
    """
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode('utf-16' if wide else 'utf-8-sig').strip()
    if text.startswith(('[', '{')):
        return names_in_json(json.loads(text))
    lines = [line.strip() for line in text.splitlines()]
    numbered = [re.fullmatch(r'(\d+)[:,.]?\s+(.+)', line) for line in lines]
    if all(numbered):
        names = {int(match[1]): match[2] for match in numbered}
        first = min(names)
        if first < 2 and sorted(names) == list(range(first, first + len(lines))):
            return [names[i] for i in sorted(names)]
    with_id = [re.fullmatch(r'n\d{8}\s+(.+)', line) for line in lines]
    return [match[1] for match in with_id] if all(with_id) else lines


def names_in_json(value):
    if isinstance(value, dict):
        if all(isinstance(index, int) for index in value.values()):
            value = {index: name for name, index in value.items()}
        else:
            value = {int(index): name for index, name in value.items()}
        indices = range(min(value), min(value) + len(value))
        if sorted(value) != list(indices) or min(value) > 1:
            raise ValueError
        value = [value[index] for index in indices]
    names = [each[-1] if isinstance(each, list) and each else each for each in value]
    if not all(isinstance(name, str) for name in names):
        raise ValueError
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
        if classes[0] == 'class 0':
            hint = '; the network does not name its classes: give an index, or --classes FILE'
        raise Refused(f'{option} {text}: no such class{hint}')
    if int(number) >= len(classes):
        raise Refused(f'{option} {text}: the classes are 0 to {len(classes) - 1}')
    return int(number)
