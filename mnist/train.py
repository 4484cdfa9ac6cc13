"""Trains the digit classifier of model.py on MNIST and writes checkpoints and TensorBoard summaries to mnist/logs/.

    python mnist/train.py

It can be stopped at any moment, even killed, and goes on from the last checkpoint when it is started again; the same seed gives
the same weights either way. `tensorboard --logdir mnist/logs` (not among the requirements) shows the curves and the graph.
"""
import contextlib
from pathlib import Path
import signal
import sys
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import numpy as np

if __name__ == '__main__':  # PYTHONSAFEPATH keeps Python from looking beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from script import Parser, Stopped, check_writable, count, number, open_session, progress_bar, seed, silence, supported, tf
import data
from model import BEST, SIDE, Damaged, Weights, best_checkpoint, check_logdir, checkpoints, forward, restore, variables

HERE = Path(__file__).resolve().parent
SAVE_EVERY = 100  # steps
L2 = 1e-4
DECAY = 0.99  # of the running average of the weights, which is what is validated, tested and kept


def learning_rate(step, steps, highest):
    """Linear from zero over the first tenth of the steps, then half a cosine down to zero."""
    done = (tf.cast(step, tf.float32) + 1) / steps
    return highest * tf.minimum(done / 0.1, 0.5 + 0.5 * tf.cos(np.pi * tf.maximum(done - 0.1, 0.0) / 0.9))


class Trainer:
    """The training graph and its session."""

    def __init__(self, steps, seed, batch_size, highest_rate, precision):
        self.images, self.labels = tf.placeholder(tf.uint8, [None, SIDE, SIDE]), tf.placeholder(tf.int64, [None])
        self.warps = tf.placeholder(tf.float32, [None, 8])
        weights = variables(seed)
        self.step = tf.train.get_or_create_global_step()
        self.best = self.kept('best_accuracy', 0.0)
        self.settings = {'seed': self.kept('seed', np.int64(seed)), 'batch_size': self.kept('batch_size', np.int64(batch_size))}
        pixels = tf.cast(self.images, tf.float32)[..., None] / 255
        logits = forward(warped(pixels, self.warps), weights, dropout_seed=tf.stack([np.int64(seed), self.step]))[-1]
        self.build_training(logits, weights, learning_rate(self.step, steps, highest_rate))
        self.saver = tf.train.Saver(max_to_keep=3, save_relative_paths=True)  # the folder can be moved
        averaged = {name: Weights(name, self.average(each.w), self.average(each.b)) for name, each in weights.items()}
        self.predicted = tf.argmax(forward(pixels, averaged)[-1], 1)
        self.best_variables = {variable.op.name: self.average(variable) for each in weights.values() for variable in (each.w, each.b)}
        self.best_saver = tf.train.Saver(self.best_variables, max_to_keep=1, save_relative_paths=True)
        self.initialise = tf.global_variables_initializer()
        self.session = open_session(mixed=precision == 'bfloat16')

    def kept(self, name, value):
        """A number that a checkpoint keeps beside the weights."""
        return tf.get_variable(name, initializer=tf.constant(value), trainable=False, use_resource=True)

    def build_training(self, logits, weights, rate):
        """Makes `train`, what a step runs, and `average`, which gives a weight's running average."""
        cost = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self.labels, logits=logits))
        accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), self.labels), tf.float32))
        penalty = L2 * tf.add_n([tf.nn.l2_loss(each.w) for each in weights.values()])
        step = tf.train.AdamOptimizer(rate, beta2=0.99).minimize(cost + penalty, global_step=self.step)
        averages = tf.train.ExponentialMovingAverage(DECAY)
        with tf.control_dependencies([step]):
            train = averages.apply(tf.trainable_variables())
        self.average = averages.average
        scalars = {'cost': cost, 'accuracy': accuracy, 'learning_rate': rate}
        self.summary = tf.summary.merge([tf.summary.scalar(name, value) for name, value in scalars.items()])
        self.train = [train, cost, accuracy, self.summary]

    def start(self, logdir):
        """Draws the weights, or goes on from the last checkpoint. Returns the number of steps done."""
        last = checkpoints(logdir, 'last')
        if not last:
            self.session.run(self.initialise)
            return 0
        self.saver.recover_last_checkpoints(last)
        self.best_saver.recover_last_checkpoints(checkpoints(logdir, 'best'))
        wanted = {name: self.session.run(variable.initial_value) for name, variable in self.settings.items()}
        self.restore_newest(last)
        for name, value in wanted.items():
            found = self.session.run(self.settings[name])
            if found != value:
                option = name.replace('_', '-')
                raise ValueError(f'{logdir} holds a training with --{option} {found}, not {value}; use another --logdir')
        return self.session.run(self.step)

    def restore_newest(self, found):
        """Reads the newest whole one of the checkpoints; says which ones are damaged, and raises Damaged if all are."""
        for i, checkpoint in enumerate(reversed(found), 1):
            try:
                return restore(self.session, self.saver, checkpoint, {v.op.name: v for v in tf.global_variables()})
            except Damaged:
                if i == len(found):
                    raise
                print(f'{checkpoint} is damaged: going on from the one before')

    def save(self, logdir):
        """Writes a checkpoint from which the training can go on."""
        self.write(self.saver, logdir / 'last')

    def write(self, saver, path, *note):
        """Writes a checkpoint. Raises OSError that names it, on a full disk say; those of before stay."""
        try:
            with silence():
                saver.save(self.session, str(path), self.step, *note, write_meta_graph=False)
        except (tf.errors.OpError, OSError, ValueError, RuntimeError) as error:
            reason = next((line for line in str(error).splitlines() if 'space' in line or 'denied' in line), str(error).strip().splitlines()[-1])
            raise OSError(f'cannot write checkpoint {path} ({reason[:200]}); what was saved before stays') from None

    def accuracy(self, images, labels):
        """The share of digits [n, 28, 28], uint8, that the averaged weights classify right."""
        right = [self.session.run(self.predicted, {self.images: images[i:i + 500]}) == labels[i:i + 500]
                 for i in range(0, len(images), 500)]
        return float(np.concatenate(right).mean())

    def validate(self, logdir, images, labels):
        """Validation accuracy; if it is the best yet the weights are saved as such."""
        accuracy = self.accuracy(images, labels)
        if accuracy > self.session.run(self.best):
            self.write(self.best_saver, logdir / 'best', BEST)
            self.best.load(accuracy, self.session)
        self.save(logdir)
        return accuracy


def warped(pixels, warps):
    """Digits [n, 28, 28, 1], each turned, stretched and moved by its warp [n, 8]; what comes in is background."""
    result = tf.raw_ops.ImageProjectiveTransformV3(images=pixels, transforms=warps, output_shape=[SIDE, SIDE], fill_value=0.0,
                                                   interpolation='BILINEAR')
    return tf.ensure_shape(result, pixels.shape)


def train_epoch(trainer, epoch, batches, done, total, logdir, writer):
    """Trains on the batches of an epoch, counted from 0, that are left: `done` of its `total` were trained on before an interruption."""
    bar, sums = progress_bar(total, 'step', ['cost', 'accuracy']), np.zeros(2)
    for i, (images, warps, labels) in enumerate(batches, done + 1):
        feed = {trainer.images: images, trainer.warps: warps, trainer.labels: labels}
        _, cost, accuracy, summary = trainer.session.run(trainer.train, feed)
        if i % 10 == 0:
            writer.add_summary(summary, epoch * total + i)
        if not np.isfinite(cost):
            raise ValueError(f'the cost is {cost} after step {epoch * total + i}: train with a lower --learning-rate, in another --logdir')
        if i % SAVE_EVERY == 0 and i < total:
            trainer.save(logdir)
        sums += cost, accuracy
        bar.update(i, zip(['cost', 'accuracy'], sums / (i - done)))  # means over this epoch's steps, as far as this run made them


def train(args):
    """Does what the command line asks."""
    check_logdir(args.logdir)
    check_writable(args.logdir)
    with alone(args.logdir), tf.Graph().as_default():
        for pattern in '*-[0-9]*.tempstate*', f'*.tmp{"[0-9a-f]" * 32}':  # what TensorFlow was writing when a training was killed
            for path in args.logdir.glob(pattern):
                path.unlink()
        try:
            train_in(args)
        except KeyboardInterrupt:
            raise Stopped(signal.SIGINT, 'stopped; started again, the training goes on from its last checkpoint') from None


def train_in(args):
    """Trains, validates, tests, in a folder that is this training's own."""
    (x, y), validation, test = data.load(args.data, 'train', 'validation', 'test')
    total = -(-len(x) // args.batch_size)
    trainer = Trainer(args.epochs * total, args.seed, args.batch_size, args.learning_rate, args.precision)
    step = trainer.start(args.logdir)
    if step >= args.epochs * total:
        print(f'{args.logdir}: training is finished ({step // total} epochs); delete the folder to train again')
    elif step:
        print(f'going on after step {step} of {args.epochs * total}')
    with tf.summary.FileWriter(str(args.logdir), tf.get_default_graph()) as writer:
        writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)  # what an interruption left above it is void
        for epoch in range(step // total, args.epochs):
            print(f'Epoch {epoch + 1}/{args.epochs}')
            done = max(step - epoch * total, 0)
            batches = data.epoch(x, y, args.batch_size, np.random.default_rng([args.seed, epoch]), done)
            train_epoch(trainer, epoch, batches, done, total, args.logdir, writer)
            accuracy = trainer.validate(args.logdir, *validation)
            writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag='validation_accuracy', simple_value=accuracy)]),
                               (epoch + 1) * total)
            print(f'validation accuracy {accuracy:.2%}')
    restore(trainer.session, trainer.best_saver, best_checkpoint(args.logdir), trainer.best_variables)
    print(f'test accuracy {trainer.accuracy(*test):.2%} (weights of the best validation accuracy, seed {args.seed})')


@contextlib.contextmanager
def alone(logdir):
    """Holds a folder for this training, where the system can. Raises ValueError if another has it."""
    with open(logdir / 'lock', 'w') as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f'another training runs in {logdir}; use another --logdir') from None
        yield


def rate(text):
    """An option's value: a learning rate."""
    return number(text, float, 1e-9, 10)


def parse(argv):
    parser = Parser(__doc__)
    parser.add_argument('--epochs', type=count, default=7, help='passes over the 50,000 training digits (default: 7)')
    parser.add_argument('--batch-size', type=count, default=128, help='digits per step (default: 128)')
    parser.add_argument('--learning-rate', type=rate, default=2e-3,
                        help='highest rate; it rises over the first tenth of the steps and falls along a cosine (default: 0.002)')
    parser.add_argument('--seed', type=seed, default=0, help='draws weights, order, warps and dropout (default: 0)')
    parser.add_argument('--precision', type=supported, choices=['float32', 'bfloat16'], default='float32',
                        help='bfloat16: TensorFlow computes convolutions and products in 16 bits where the processor can')
    parser.add_argument('--data', type=Path, default=HERE / 'mnist.npz', metavar='FILE', help='default: mnist/mnist.npz')
    parser.add_argument('--logdir', type=Path, default=HERE / 'logs', metavar='DIR', help='default: mnist/logs')
    return parser, parser.parse_args(argv)


def main(argv=None):
    parser, args = parse(argv)
    parser.run(train, args)


if __name__ == '__main__':
    main()
