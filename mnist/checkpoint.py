"""Checkpoints of the digit classifier in a folder: which there are, and reading them.

'last' ones hold a training, from which it can go on; 'best' ones the weights of the best validation
accuracy.
"""
from common import Refused, silence, tf


def checkpoints(logdir, kind):
    """The checkpoints 'last' or 'best' in a folder, the oldest first, found by their files."""
    steps = sorted(int(path.stem.split('-')[1]) for path in logdir.glob(f'{kind}-*.index'))
    return [str(logdir / f'{kind}-{step}') for step in steps]


def best_checkpoint(logdir):
    """The checkpoint of the best validation accuracy. Raises Refused if there is none."""
    best = checkpoints(logdir, 'best')
    if not best:
        raise Refused(f'no trained network in {logdir}: run mnist/train.py first, or give its '
                      '--logdir')
    return best[-1]


def restore(session, saver, checkpoint, wanted):
    """Reads the wanted variables {name in the checkpoint: variable} from a checkpoint.

    Raises Refused if it cannot be read or is of another network.
    """
    try:
        shapes = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
        for name, variable in wanted.items():
            shape, found = variable.shape.as_list(), shapes.get(name, 'missing')
            if found != shape:
                raise Refused(f'checkpoint {checkpoint} is of another network: {name} is {found}, '
                              f'expected {shape}; use another --logdir')
        with silence():  # TensorFlow logs what it also raises
            saver.restore(session, checkpoint)
    except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:
        raise Refused(f'checkpoint {checkpoint} cannot be read ({str(error)[:200]}); delete its '
                      'files to go on from the one before, or its folder') from None
