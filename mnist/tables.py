"""What is printed of explained digits: how much relevance each layer has. found: an Explanation."""
import numpy as np

from explainer import LEVELS


def shares(rule, found):
    """Sums of relevance at each level divided by what it started from [n, levels], and what they
    should be [n, 1]: 1, or 0 where another class got as much, negative."""
    value, taken = np.split(np.float64(found.started[rule]), 2, -1)
    even = (taken == -value) & (value != 0)
    whole = np.where(even, value, value + taken)
    return found.sums[rule] / np.where(whole, whole, np.nan), np.where(even, 0.0, 1.0)


def start_in_words(rule, found, i, against):
    """What relevance of the i-th digit started from."""
    logit, (value, taken) = found.logits[i, found.targets[i]], found.started[rule][i]
    if not value:
        return 'nothing'
    name = f'evidence {value:.3f}' if value > 0 >= logit else f'logit {logit:.3f}'
    if against is None:
        return name
    if taken == -value:
        return f'{name}, as much taken off'
    return f'{name} - {-taken:.3f}' if taken else f'{name}, nothing to take off'


def table(rule, digits, found, against):
    """The conservation table of one rule: a line for each digit."""
    other = '' if against is None else f' rather than {against}'
    starts = [start_in_words(rule, found, i, against) for i in range(len(digits))]
    width = max(map(len, ['started from', *starts]))
    levels = ' '.join(f'{name:>9}' for name in LEVELS)
    lines = [f'\n{rule}{other}: sum of relevance / what it started from, at each layer',
             f'{"digit":>12} {"seen as":>7} {"target":>6} {"started from":>{width}} {levels}']
    for i, (each, row) in enumerate(zip(digits, shares(rule, found)[0])):
        values = ' '.join(f'{share:9.6f}' for share in row)
        seen, target = found.logits[i].argmax(), found.targets[i]
        lines.append(f'{each.name:>12} {seen:>7} {target:>6} {starts[i]:>{width}} {values}')
    return '\n'.join(lines)


def summary(rules, labels, found):
    """The accuracy, and for each rule and layer the worst conservation of all digits."""
    accuracy = np.mean(found.logits.argmax(1) == labels)
    lines = [f'{len(labels)} digits, accuracy {accuracy:.2%}',
             'largest |sum of relevance / what it started from - 1| at each layer:',
             f'{"":>12} ' + ' '.join(f'{name:>9}' for name in LEVELS)]
    for rule in rules:
        share, due = shares(rule, found)
        losses = ' '.join(f'{loss:9.2e}' for loss in np.abs(share - due).max(0))
        lines.append(f'{rule:>12} {losses}')
    return '\n'.join(lines)
