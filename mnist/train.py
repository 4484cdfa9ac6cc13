"""Trains the digit classifier of model.py on MNIST.

    python mnist/train.py

Writes checkpoints and TensorBoard summaries to mnist/logs/ and prints the accuracy on the test set:
about 99.4% after two minutes. A training that was stopped, or even killed, goes on after its last
whole epoch when it is started again, and gives the same weights as one that was not. `tensorboard
--logdir mnist/logs` (not among the requirements) shows the curves and the graph.
"""
from functools import partial
import hashlib

import numpy as np

from checkpoint import best_checkpoint, checkpoints, restore
from common import (
    Parser, Refused, add_paths, count, make_folder, number, open_session, precision, progress_bar,
    seed, silence, tf, write)
import data
from model import SIDE, Weights, forward, variables

L2 = 1e-4
DECAY = 0.99  # of the running average of the weights, which is validated, tested and kept


def learning_rate(step, steps, highest):
    """Linear from zero over the first tenth of the steps, then half a cosine down to zero."""
    done = (tf.cast(step, tf.float32) + 1) / steps
    falling = 0.5 + 0.5 * tf.cos(np.pi * tf.maximum(done - 0.1, 0.0) / 0.9)
    return highest * tf.minimum(done / 0.1, falling)


class Trainer:
    """The training graph and its session. steps: how many there will be in all."""

    def __init__(self, steps, seed, highest_rate, precision):
        self.images = tf.placeholder(tf.uint8, [None, SIDE, SIDE])
        self.labels = tf.placeholder(tf.int64, [None])
        self.warps = tf.placeholder(tf.float32, [None, 8])
        weights = variables(seed)
        self.step = tf.train.get_or_create_global_step()
        self.best = tf.get_variable('best_accuracy', initializer=0.0, trainable=False,
                                    use_resource=True)
        pixels = tf.cast(self.images, tf.float32)[..., None] / 255
        dropout_seed = tf.stack([np.int64(seed), self.step])
        logits = forward(warped(pixels, self.warps), weights, dropout_seed)[-1]
        rate = learning_rate(self.step, steps, highest_rate)
        average = self.build_training(logits, weights, rate)
        self.saver = tf.train.Saver(max_to_keep=2, save_relative_paths=True)  # folders get moved
        averaged = {name: Weights(average(each.w), average(each.b))
                    for name, each in weights.items()}
        self.predicted = tf.argmax(forward(pixels, averaged)[-1], 1)
        self.best_variables = {variable.op.name: average(variable)
                               for variable in tf.trainable_variables()}
        self.best_saver = tf.train.Saver(self.best_variables, max_to_keep=1,
                                         save_relative_paths=True)
        self.session = open_session(mixed=precision == 'bfloat16')

    def build_training(self, logits, weights, rate):
        """Makes `train`, what a step runs. Returns a function: the running average of a weight."""
        cost = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=self.labels, logits=logits))
        correct = tf.equal(tf.argmax(logits, 1), self.labels)
        accuracy = tf.reduce_mean(tf.cast(correct, tf.float32))
        penalty = L2 * tf.add_n([tf.nn.l2_loss(each.w) for each in weights.values()])
        optimizer = tf.train.AdamOptimizer(rate, beta2=0.99)
        step = optimizer.minimize(cost + penalty, global_step=self.step)
        averages = tf.train.ExponentialMovingAverage(DECAY)
        with tf.control_dependencies([step]):
            train = averages.apply(tf.trainable_variables())
        scalars = {'cost': cost, 'accuracy': accuracy, 'learning_rate': rate}
        summary = tf.summary.merge([tf.summary.scalar(*scalar) for scalar in scalars.items()])
        self.train = [train, cost, accuracy, summary]
        return averages.average

    def start(self, logdir):
        """Draws the weights, or goes on from the last checkpoint. Returns the steps done."""
        self.session.run(tf.global_variables_initializer())
        last = checkpoints(logdir, 'last')
        if last:
            self.saver.recover_last_checkpoints(last)
            self.best_saver.recover_last_checkpoints(checkpoints(logdir, 'best'))
            restore(self.session, self.saver, last[-1],
                    {variable.op.name: variable for variable in tf.global_variables()})
        return self.session.run(self.step)

    def save(self, saver, path):
        """Writes a checkpoint. Raises Refused, on a full disk say; earlier ones remain."""
        try:
            with silence():
                saver.save(self.session, str(path), self.step, write_meta_graph=False)
        except (tf.errors.OpError, OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise Refused(f'cannot write {path} ({reason}); earlier checkpoints remain') from None

    def accuracy(self, images, labels):
        """The share of digits [n, 28, 28], uint8, that the averaged weights classify correctly."""
        correct = [self.session.run(self.predicted, {self.images: images[i:i + 500]})
                   == labels[i:i + 500] for i in range(0, len(images), 500)]
        return float(np.concatenate(correct).mean())

    def validate(self, logdir, images, labels):
        """The validation accuracy. Saves the training, and the weights if none were better."""
        accuracy = self.accuracy(images, labels)
        if accuracy > self.session.run(self.best):
            self.save(self.best_saver, logdir / 'best')
            self.best.load(accuracy, self.session)
        self.save(self.saver, logdir / 'last')
        return accuracy


def warped(pixels, warps):
    """Digits [n, 28, 28, 1], each changed by its warp [n, 8]; what comes in is background."""
    result = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels, transforms=warps, output_shape=[SIDE, SIDE], fill_value=0.0,
        interpolation='BILINEAR')
    return tf.ensure_shape(result, pixels.shape)


def check_settings(args):
    """Keeps in the logdir what the weights depend on. Raises Refused if a training there began
    otherwise."""
    digest = hashlib.sha256(args.data.read_bytes()).hexdigest()[:16]
    settings = (f'--seed {args.seed} --batch-size {args.batch_size} --epochs {args.epochs} '
                f'--learning-rate {args.learning_rate} --data {digest}')
    kept = args.logdir / 'settings.txt'
    found = kept.read_text() if kept.exists() else 'unknown settings'
    if checkpoints(args.logdir, 'last') and found != settings:
        raise Refused(f'{args.logdir} holds a training with {found}, not with {settings}: use '
                      'another --logdir')
    write(kept, settings)


def train(args):
    """Trains, or goes on with a training, and tests."""
    make_folder(args.logdir)
    training, validation, test = (data.load(args.data, split)
                                  for split in ('train', 'validation', 'test'))
    check_settings(args)
    steps = -(-len(training[0]) // args.batch_size)  # of an epoch
    with tf.Graph().as_default():
        trainer = Trainer(args.epochs * steps, args.seed, args.learning_rate, args.precision)
        train_epochs(trainer, args, steps, training, validation)
        restore(trainer.session, trainer.best_saver, best_checkpoint(args.logdir),
                trainer.best_variables)
        print(f'test accuracy {trainer.accuracy(*test):.2%} (weights of the best validation '
              f'accuracy, seed {args.seed})')


def train_epochs(trainer, args, steps, training, validation):
    """Trains for what remains of the epochs, of so many steps each, and validates after each."""
    done = trainer.start(args.logdir) // steps
    if done == args.epochs:
        print(f'{args.logdir}: training is finished; delete the folder to train again')
    elif done:
        print(f'going on after epoch {done} of {args.epochs}')
    with tf.summary.FileWriter(str(args.logdir), tf.get_default_graph()) as writer:
        for epoch in range(done, args.epochs):
            print(f'Epoch {epoch + 1}/{args.epochs}')
            rng = np.random.default_rng([args.seed, epoch])
            batches = data.epoch(*training, args.batch_size, rng)
            train_epoch(trainer, batches, steps, epoch * steps, writer)
            accuracy = trainer.validate(args.logdir, *validation)
            value = tf.Summary.Value(tag='validation_accuracy', simple_value=accuracy)
            writer.add_summary(tf.Summary(value=[value]), (epoch + 1) * steps)
            print(f'validation accuracy {accuracy:.2%}')


def train_epoch(trainer, batches, steps, before, writer):
    """Trains on the batches of an epoch, one for each of its steps; others came before."""
    bar, sums = progress_bar(steps, 'step', ['cost', 'accuracy']), np.zeros(2)
    for i, (images, warps, labels) in enumerate(batches, 1):
        feed = {trainer.images: images, trainer.warps: warps, trainer.labels: labels}
        _, cost, accuracy, summary = trainer.session.run(trainer.train, feed)
        if not np.isfinite(cost):
            raise Refused(f'the cost is {cost} after step {before + i}: train with a lower '
                          '--learning-rate, in another --logdir')
        if i % 10 == 0:
            writer.add_summary(summary, before + i)
        sums += cost, accuracy
        bar.update(i, zip(['cost', 'accuracy'], sums / i))


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument('--epochs', type=count, default=7,
                        help='passes over the 50,000 training digits (default: 7)')
    parser.add_argument('--batch-size', type=count, default=128,
                        help='digits per step (default: 128)')
    parser.add_argument('--learning-rate', type=partial(number, kind=float, low=1e-9, high=10),
                        default=2e-3, help='the highest of all steps (default: 0.002)')
    parser.add_argument('--seed', type=seed, default=0,
                        help='draws weights, order, warps and dropout (default: 0)')
    parser.add_argument('--precision', type=precision, choices=['float32', 'bfloat16'],
                        default='float32', help='bfloat16: faster on processors that have it')
    add_paths(parser, data='mnist.npz', logdir='logs')
    parser.run(train, argv)


if __name__ == '__main__':
    main()
