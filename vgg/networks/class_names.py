"""The names of a network's classes, and the class that a command line asks for."""
import contextlib
import difflib
import json
from pathlib import Path
import re

from common import Refused

WORDNET = r'n\d{8}'  # an ID of ImageNet's classes


def class_names(network, path=None):
    """The names of the classes: from a file, one on each line; the network's own; or numbers."""
    if network.end == 'value':
        return ['output']
    if path is None:
        own, numbered = network.classes, [f'class {i}' for i in range(network.count)]
        return own if own and len(own) == network.count else numbered
    try:
        names = names_in(text_of(path))
    except (OSError, RecursionError, ValueError):
        raise Refused(f'--classes {path}: no file with the names of all classes, one on each line '
                      '(--target names the one to explain)') from None
    if len(names) != network.count:
        raise Refused(f'{path} has {len(names)} names, but {network.path} has {network.count} '
                      'classes')
    return names


def text_of(path):
    """The text in a file of UTF-8 or UTF-16."""
    content = Path(path).read_bytes()
    wide = content[:2] in (b'\xff\xfe', b'\xfe\xff')
    return content.decode('utf-16' if wide else 'utf-8-sig').strip()


def names_in(text):
    """The names in a text: JSON, or one on each line, with its number or WordNet ID or not.

    JSON is a list, or says {name: index} or {index: name}. Raises ValueError if it is neither.
    """
    if text.startswith(('[', '{')):
        return names_in_json(json.loads(text))
    lines = [line.strip() for line in text.splitlines()]
    numbered = [re.fullmatch(r'(\d+)[:,.]?\s+(.+)', line) for line in lines]
    if all(numbered):
        with contextlib.suppress(ValueError):  # numbers that belong to the names
            return in_order({int(match[1]): match[2] for match in numbered})
    with_id = [re.fullmatch(rf'{WORDNET}\s+(.+)', line) for line in lines]
    return [match[1] for match in with_id] if all(with_id) else lines


def in_order(names):
    """The names of {index: name}. Raises ValueError unless indices count from 0 or 1."""
    first = min(names)
    if first > 1 or sorted(names) != list(range(first, first + len(names))):
        raise ValueError
    return [names[i] for i in sorted(names)]


def names_in_json(value):
    if isinstance(value, dict):
        if all(isinstance(index, int) for index in value.values()):
            value = {index: name for name, index in value.items()}
        value = in_order({int(index): name for index, name in value.items()})
    names = [each[-1] if isinstance(each, list) and each else each for each in value]
    if not all(isinstance(name, str) for name in names):
        raise ValueError
    return names


def find_target(text, classes, option='--target', path=None):
    """The index of a class, given by its name, by its index as 7 or #7, or by its WordNet ID.

    path: the file of names, where it has the IDs. A class whose name is 7 comes before the class
    of index 7, with a notice. Raises Refused unless exactly one class fits.
    """
    fitting = [i for i, name in enumerate(classes) if name.lower() == text.lower()]
    if len(fitting) > 1:
        indices = ', '.join(map(str, fitting))
        raise Refused(f'{option} {text} fits several classes: give one of the indices {indices}')
    if fitting:
        if text.isdecimal() and int(text) != fitting[0]:
            print(f"{option} {text}: the class named {text}, whose index is {fitting[0]}; "
                  f"for the class of index {text} write '#{text}'")
        return fitting[0]
    if path and text in (ids := re.findall(WORDNET, text_of(path))) and len(ids) == len(classes):
        return ids.index(text)
    number = text.removeprefix('#')
    if not number.isdecimal():
        raise Refused(f'{option} {text}: no such class{hint(text, classes)}')
    if int(number) >= len(classes):
        raise Refused(f'{option} {text}: the classes are 0 to {len(classes) - 1}')
    return int(number)


def hint(text, classes):
    """What to write instead of a name that no class has."""
    if classes[0] == 'class 0':
        return '; the network does not name its classes: give an index, or --classes FILE'
    if re.fullmatch(WORDNET, text):
        return '; its WordNet ID is known only where the file of --classes has it: give its name'
    names = [name.lower() for name in classes]
    words = {word: name for name in names for word in [*name.split(), name]}
    close = difflib.get_close_matches(text.lower(), words, 3, cutoff=0.8)
    near = dict.fromkeys(words[word] for word in close)  # each once
    return f'; did you mean {" or ".join(near)}?' if near else ''
