"""Trains the digit classifier of model.py on MNIST and writes checkpoints and TensorBoard summaries to mnist/logs/.

    python mnist/train.py

It can be stopped at any moment, even killed, and goes on from the last checkpoint when it is started again; the same seed gives
the same weights either way. `tensorboard --logdir mnist/logs` (not among the requirements) shows the curves and the graph.
"""
import argparse
from pathlib import Path
import sys
import tempfile

import numpy as np

from model import BEST, best_checkpoint, forward, restore, tf, variables  # first: it silences TensorFlow
import data
from keras.utils import Progbar

HERE = Path(__file__).resolve().parent
SAVE_EVERY = 100  # steps
L2 = 1e-4


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f'{self.prog}: {message}\n')


def parse(argv):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--epochs', type=positive(int), default=5, help='passes over the 50,000 training digits (default: 5)')
    parser.add_argument('--batch-size', type=positive(int), default=128, help='digits per step (default: 128)')
    parser.add_argument('--learning-rate', type=positive(float), default=1e-3,
                        help='highest rate; it rises over the first tenth of the steps and falls along a cosine (default: 0.001)')
    parser.add_argument('--seed', type=seed, default=0, help='draws weights, order, shifts and dropout (default: 0)')
    parser.add_argument('--precision', choices=['float32', 'bfloat16'], default='float32',
                        help='bfloat16: TensorFlow computes convolutions and products in 16 bits where the processor can')
    parser.add_argument('--data', type=Path, default=HERE / 'mnist.npz', metavar='FILE', help='default: mnist/mnist.npz')
    parser.add_argument('--logdir', type=Path, default=HERE / 'logs', metavar='DIR', help='default: mnist/logs')
    return parser, parser.parse_args(argv)


def positive(kind):
    def number(text):
        value = kind(text)
        if not 0 < value < 10 ** 6:
            raise ValueError
        return value
    number.__name__ = f'positive {kind.__name__}'
    return number


def seed(text):
    value = int(text)
    if not 0 <= value < 2 ** 31:
        raise ValueError
    return value


def session_config(precision):
    """A session's settings; for bfloat16 TensorFlow rewrites the graph, unless the processor does not have it: then says so."""
    config = tf.ConfigProto()
    if precision == 'bfloat16':
        cpu = Path('/proc/cpuinfo')
        if cpu.exists() and any(flag in cpu.read_text() for flag in ('avx512_bf16', 'amx_bf16')):
            rewrites = config.graph_options.rewrite_options
            rewrites.auto_mixed_precision_onednn_bfloat16 = rewrites.ON
        else:
            print('this processor has no bfloat16 instructions: going on in float32', file=sys.stderr)
    return config


def learning_rate(step, steps, highest):
    """Linear from zero over the first tenth of the steps, then half a cosine down to zero."""
    done = (tf.cast(step, tf.float32) + 1) / steps
    return highest * tf.minimum(done / 0.1, 0.5 + 0.5 * tf.cos(np.pi * tf.maximum(done - 0.1, 0.0) / 0.9))


class Trainer:
    """The training graph and its session."""

    def __init__(self, args, steps):
        self.images, self.labels = tf.placeholder(tf.uint8, [None, 28, 28]), tf.placeholder(tf.int64, [None])
        self.weights = variables(args.seed)
        self.step = tf.train.get_or_create_global_step()
        self.best = self.kept('best_accuracy', 0.0)
        self.settings = {name: self.kept(name, np.int64(getattr(args, name))) for name in ('seed', 'batch_size')}
        pixels = tf.cast(self.images, tf.float32)[..., None] / 255
        self.predicted = tf.argmax(forward(pixels, self.weights)[-1], 1)
        logits = forward(pixels, self.weights, dropout_seed=tf.stack([np.int64(args.seed), self.step]))[-1]
        self.build_training(logits, learning_rate(self.step, steps, args.learning_rate))
        self.saver = tf.train.Saver(max_to_keep=3, save_relative_paths=True)  # the folder can be moved
        self.best_variables = [variable for pair in self.weights.values() for variable in pair]
        self.best_saver = tf.train.Saver(self.best_variables, max_to_keep=1, save_relative_paths=True)
        self.session = tf.Session(config=session_config(args.precision))

    def kept(self, name, value):
        """A number that a checkpoint keeps beside the weights."""
        return tf.get_variable(name, initializer=tf.constant(value), trainable=False, use_resource=True)

    def build_training(self, logits, rate):
        cost = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self.labels, logits=logits))
        accuracy = tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, 1), self.labels), tf.float32))
        penalty = L2 * tf.add_n([tf.nn.l2_loss(w) for w, _ in self.weights.values()])
        train = tf.train.AdamOptimizer(rate).minimize(cost + penalty, global_step=self.step)
        scalars = {'cost': cost, 'accuracy': accuracy, 'learning_rate': rate}
        self.summary = tf.summary.merge([tf.summary.scalar(name, value) for name, value in scalars.items()])
        self.train = [train, cost, accuracy, self.summary]

    def start(self, logdir):
        """Draws the weights, or goes on from the last checkpoint. Returns the number of steps done."""
        last = tf.train.get_checkpoint_state(str(logdir))
        if not last:
            self.session.run(tf.global_variables_initializer())
            return 0
        self.saver.recover_last_checkpoints(last.all_model_checkpoint_paths)
        best = tf.train.get_checkpoint_state(str(logdir), BEST)
        self.best_saver.recover_last_checkpoints(best.all_model_checkpoint_paths if best else [])
        wanted = {name: self.session.run(variable.initial_value) for name, variable in self.settings.items()}
        restore(self.session, self.saver, last.model_checkpoint_path, tf.global_variables())
        for name, value in wanted.items():
            found = self.session.run(self.settings[name])
            if found != value:
                option = name.replace('_', '-')
                raise ValueError(f'{logdir} holds a training with --{option} {found}, not {value}; use another --logdir')
        return self.session.run(self.step)

    def save(self, logdir):
        self.saver.save(self.session, str(logdir / 'last'), self.step, write_meta_graph=False)

    def accuracy(self, images, labels):
        right = [self.session.run(self.predicted, {self.images: images[i:i + 500]}) == labels[i:i + 500]
                 for i in range(0, len(images), 500)]
        return float(np.concatenate(right).mean())

    def validate(self, logdir, images, labels):
        """Validation accuracy; if it is the best yet the weights are saved as such."""
        accuracy = self.accuracy(images, labels)
        if accuracy > self.session.run(self.best):
            self.best_saver.save(self.session, str(logdir / 'best'), self.step, BEST, write_meta_graph=False)
            self.best.load(accuracy, self.session)
        self.save(logdir)
        return accuracy


def train_epoch(trainer, number, batches, done, total, logdir, writer):
    """Trains on one epoch's batches, of which `done` of `total` were trained on before an interruption."""
    bar = Progbar(total, verbose=1 if sys.stdout.isatty() else 2, stateful_metrics=['cost', 'accuracy'])
    sums = np.zeros(2)
    for i, (images, labels) in enumerate(batches, done + 1):
        _, cost, accuracy, summary = trainer.session.run(trainer.train, {trainer.images: images, trainer.labels: labels})
        if i % 10 == 0:
            writer.add_summary(summary, number * total + i)
        if i % SAVE_EVERY == 0 and i < total:
            trainer.save(logdir)
        sums += cost, accuracy
        bar.update(i, zip(['cost', 'accuracy'], sums / (i - done)))  # means over this epoch's steps, as far as this run made them


def train(args):
    check_writable(args.logdir)
    (x, y), validation, test = data.load(args.data, 'train', 'validation', 'test')
    total = -(-len(x) // args.batch_size)
    trainer = Trainer(args, args.epochs * total)
    step = trainer.start(args.logdir)
    if step >= args.epochs * total:
        print(f'{args.logdir}: training is finished ({step // total} epochs); delete the folder to train again')
    elif step:
        print(f'going on after step {step} of {args.epochs * total}')
    with tf.summary.FileWriter(str(args.logdir), tf.get_default_graph()) as writer:
        writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)  # what an interruption left above it is void
        for number in range(step // total, args.epochs):
            print(f'Epoch {number + 1}/{args.epochs}')
            done = max(step - number * total, 0)
            batches = data.epoch(x, y, args.batch_size, np.random.default_rng([args.seed, number]), done)
            train_epoch(trainer, number, batches, done, total, args.logdir, writer)
            accuracy = trainer.validate(args.logdir, *validation)
            writer.add_summary(tf.Summary(value=[tf.Summary.Value(tag='validation_accuracy', simple_value=accuracy)]),
                               (number + 1) * total)
            print(f'validation accuracy {accuracy:.2%}')
    restore(trainer.session, trainer.best_saver, best_checkpoint(args.logdir), trainer.best_variables)
    print(f'test accuracy {trainer.accuracy(*test):.2%} (weights of the best validation accuracy, seed {args.seed})')


def check_writable(folder):
    """Raises OSError, before any work is done, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f'cannot write to {folder} ({error.strerror})') from None


def main(argv=None):
    parser, args = parse(argv)
    try:
        with tf.Graph().as_default():
            train(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except tf.errors.OpError as error:  # a full disk, say
        parser.error(error.message.splitlines()[0])
    except KeyboardInterrupt:
        parser.exit(130, '\nstopped; started again, the training goes on from its last checkpoint\n')


if __name__ == '__main__':
    main()
