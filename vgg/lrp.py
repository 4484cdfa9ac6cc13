"""Explains what VGG16 or VGG19 sees in photographs: Layer-wise Relevance Propagation, every layer's relevance an explicit op.

    python vgg/lrp.py vgg/images --weights caltech101            the bundled photographs with the bundled network, no download
    python vgg/lrp.py cat.jpg dog.jpg                            ImageNet classes; Keras downloads 553 MB the first time
    python vgg/lrp.py cat.jpg --rule deep-taylor epsilon-plus    two heatmaps beside the photograph
    python vgg/lrp.py cat.jpg --top 3                            one row for each of the three most likely classes
    python vgg/lrp.py scan.png --weights my_vgg.keras --classes names.txt --target tumour

Writes results/<name>.jpg for every image: the photograph, titled with the class that is explained and its probability, beside a
heatmap for each rule. Red pixels speak for the class, blue ones against it, white is zero. A heatmap is the relevance summed over
the three colours; its scale is its own: the 99.5th percentile of its absolute values gets the full colour. Each image's line
gives the logit and the sum of relevance / logit: 1 for the rules that conserve, else what biases and stabilisers leave.
"""
import argparse
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np

# model first: it keeps TensorFlow's start-up messages off the screen
from model import affine, class_names, find_target, forward, linear, load, session_config, stored, tf, weight_file
from pictures import find
from pipeline import Parser, add_network_options, check_writable, explain_pictures, positive_int, result_names
from keras.applications.vgg16 import preprocess_input
import matplotlib

HERE = Path(__file__).resolve().parent
LOW = np.float32([-103.939, -116.779, -123.68])  # black after Keras's preprocessing: BGR, mean of ImageNet subtracted
HIGH = LOW + np.float32(255)  # white
WINDOW = [1, 2, 2, 1]  # of the pooling layers
TINY = 1e-20  # the stabiliser of the rules whose z never changes sign: too small to be seen in any sum


# The rules. a: inputs [n, ...], w, b: weights and bias of the layer, r: relevance of its outputs. Each returns the relevance of a.

def transposed(layer, s, w, a):
    """The transpose of `linear`: sends s, shaped like the layer's output, back along the weights to the shape of a."""
    if layer[1] == 'conv':
        return tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(a), filter=w, out_backprop=s, strides=[1] * 4, padding='SAME')
    if layer[1] == 'pool':
        return tf.raw_ops.AvgPoolGrad(orig_input_shape=tf.shape(a), grad=w * s, ksize=WINDOW, strides=WINDOW, padding='VALID')
    return tf.matmul(s, w, transpose_b=True)


def stabilise(z, eps):
    """z + eps * sign(z) with sign(0) = +1: never zero."""
    return z + tf.where_v2(z >= 0, eps, -eps)


def positive(w):
    return stored(w, 'positive', tf.maximum(w, 0.0))


def negative(w):
    return stored(w, 'negative', tf.minimum(w, 0.0))


def tiny(w):
    """The stabiliser of rules whose z is never negative, one for each output: TensorFlow adds it within the linear operation."""
    return tf.fill(w.shape[-1:], TINY)


def zplus(layer, a, w, b, r):
    """z+ rule for inputs a >= 0 (Montavon et al. 2017, Sec. 4.2). Conserves: sum of result = sum of r, wherever z > 0."""
    w = positive(w)
    z = linear(layer, a, w) + tiny(w)  # 1. what each output received
    s = r / z                          # 2. relevance per unit received
    c = transposed(layer, s, w, a)     # 3. sent back along the weights
    return a * c                       # 4. weighed by what each input gave


def two_terms(layer, x, y, w, r):
    """z = sum x w+ + y w-, both terms >= 0, side by side along the input channels: one linear operation each way. Conserves."""
    x = tf.concat([x, y], -1)
    w = tf.concat([positive(w), negative(w)], -2)
    z = linear(layer, x, w) + tiny(w)
    s = r / z
    c = transposed(layer, s, w, x)
    return tf.add_n(tf.split(x * c, 2, -1))


def zplus_signed(layer, a, w, b, r):
    """z+ rule for inputs of any sign, as the pixels are: z = sum a+ w+ + a- w-. Conserves wherever z > 0."""
    return two_terms(layer, tf.maximum(a, 0.0), tf.minimum(a, 0.0), w, r)


def zbeta(layer, a, w, b, r, low, high):
    """zB rule for inputs low <= a <= high (Montavon et al. 2017, Sec. 4.2), as z = sum (a - low) w+ + (a - high) w-. Conserves."""
    return two_terms(layer, a - low, a - high, w, r)


def wsquare(layer, a, w, b, r):
    """w^2 rule for unbounded inputs (Montavon et al. 2017, Sec. 4.1): z = sum w^2, the inputs play no part. Conserves."""
    w = w * w
    z = linear(layer, tf.ones([1] + a.shape[1:].as_list()), w) + tiny(w)
    s = r / z
    return transposed(layer, s, w, a)


def flat(layer, a, w, b, r):
    """Flat rule (Lapuschkin et al. 2019): every input that is not padding gets the same share. Conserves."""
    return wsquare(layer, a, tf.ones(w.shape), b, r)


def epsilon(layer, a, w, b, r, eps=1e-6):
    """Epsilon rule (Bach et al. 2015, Eq. 58). Conserves up to what the bias and eps absorb."""
    z = affine(layer, a, w, b)
    s = r / stabilise(z, eps)
    c = transposed(layer, s, w, a)
    return a * c


def gamma(layer, a, w, b, r, gamma=0.25):
    """Gamma rule for inputs a >= 0 (Montavon et al. 2019, Sec. 10.2.1): positive weights count 1 + gamma times."""
    w = stored(w, f'gamma_{gamma}', w + gamma * tf.maximum(w, 0.0))
    return epsilon(layer, a, w, b + gamma * tf.maximum(b, 0.0), r, eps=1e-9)


def lifted(layer, a, w, b, r, share):
    """z + 1e-9 + share * (root mean square of z over the image's layer), the stabiliser of Montavon et al.'s tutorial (2019)."""
    z = affine(layer, a, w, b)
    if share:
        z += share * tf.sqrt(tf.reduce_mean(z * z, list(range(1, z.shape.rank)), keepdims=True))
    s = tf.math.divide_no_nan(r, z + 1e-9)
    c = transposed(layer, s, w, a)
    return a * c


def rise(layer, a, w, b):
    """What lifts z: sum a w + b+, for products a w >= 0, stabilised; TensorFlow adds the bias within the linear operation."""
    return linear(layer, a, w) + (tf.maximum(b, 0.0) + TINY)


def fall(layer, a, w, b):
    """What lowers z: sum a w + b-, for products a w <= 0, stabilised."""
    return linear(layer, a, w) + (tf.minimum(b, 0.0) - TINY)


def alpha_beta(layer, a, w, b, r, alpha, beta=None, signed=True):
    """Alpha-beta rule (Bach et al. 2015, Eq. 60): alpha times what lifts z, less beta = alpha - 1 times what lowers it.

    signed=False: the inputs are known to be a >= 0, so half of the products are known to be zero.
    """
    beta = alpha - 1 if beta is None else beta
    if signed:
        a = tf.concat([tf.maximum(a, 0.0), tf.minimum(a, 0.0)], -1)
    lifts = tf.concat([positive(w), negative(w)], -2) if signed else positive(w)
    s = (r if alpha == 1 else alpha * r) / rise(layer, a, lifts, b)
    c = transposed(layer, s, lifts, a)
    if beta:
        lowers = tf.concat([negative(w), positive(w)], -2) if signed else negative(w)
        s = (r if beta == 1 else beta * r) / fall(layer, a, lowers, b)
        c -= transposed(layer, s, lowers, a)
    return tf.add_n(tf.split(a * c, 2, -1)) if signed else a * c


def max_pool(a, pooled, r):
    """The winner takes all; of equal inputs the first one in its window."""
    return tf.raw_ops.MaxPoolGrad(orig_input=a, orig_output=pooled, grad=r, ksize=WINDOW, strides=WINDOW, padding='VALID')


BOX = partial(zbeta, low=LOW, high=HIGH)
PIXELS1, PIXELS2 = partial(alpha_beta, alpha=1.0), partial(alpha_beta, alpha=2.0)
ALPHA1, ALPHA2 = partial(alpha_beta, alpha=1.0, signed=False), partial(alpha_beta, alpha=2.0, signed=False)
COMPOSITES = {  # --rule: the first layer name that matches decides
    'deep-taylor': [('block1_conv1', BOX), ('*', zplus)],  # Montavon et al. 2017
    'zplus': [('block1_conv1', zplus_signed), ('*', zplus)],
    'wsquare': [('block1_conv1', wsquare), ('*', zplus)],  # Montavon et al. 2017
    'epsilon': [('*', epsilon)],  # Bach et al. 2015
    'alpha1beta0': [('block1_conv1', PIXELS1), ('*', ALPHA1)],  # Bach et al. 2015
    'alpha2beta1': [('block1_conv1', PIXELS2), ('*', ALPHA2)],
    'epsilon-plus': [('block1_conv1', PIXELS1), ('block*', ALPHA1), ('*', epsilon)],
    'epsilon-plus-flat': [('block1_conv1', flat), ('block*', ALPHA1), ('*', epsilon)],
    'epsilon-alpha2beta1': [('block1_conv1', PIXELS2), ('block*', ALPHA2), ('*', epsilon)],
    'epsilon-gamma-box': [('block1_conv1', BOX), ('block*', gamma), ('*', epsilon)],
    'montavon2019': [('block1_conv1', BOX), ('block[123]*', gamma), ('block[45]*', partial(lifted, share=0.25)),
                     ('*', partial(lifted, share=0.0))],
}
AVERAGE_POOLING = {'montavon2019'}  # here pooling layers follow their block's rule, as if they took the mean


def rule_of(composite, name):
    return next(rule for pattern, rule in COMPOSITES[composite] if fnmatch(name, pattern))


def relevance(composite, layers, a, weights, r):
    """Walks the layer table upwards from the relevance r of the logits. Returns r[0..L], r[i] of the shape of a[i]."""
    result = [r]
    for i, layer in reversed(list(enumerate(layers))):
        name, kind, _ = layer
        if kind == 'flatten':
            r = tf.reshape(r, tf.shape(a[i]))
        elif kind == 'pool' and composite not in AVERAGE_POOLING:
            r = max_pool(a[i], a[i + 1], r)
        else:
            w, b = weights.get(name, (tf.ones([]), tf.zeros([])))  # a mean has no weights
            r = rule_of(composite, name)(layer, a[i], w, b, r)
        result.insert(0, r)
    return result


def affine_of(composites):
    """`affine` for the forward pass: where alpha2 needs rise and fall anyway, z is their sum, so no third operation is run.

    Not where epsilon divides by z: their sum rounds otherwise, and epsilon would depend on the rules beside it.
    """
    def shared(layer, a, w, b):
        rules = {rule_of(composite, layer[0]) for composite in composites}
        if ALPHA2 in rules and epsilon not in rules:
            return rise(layer, a, positive(w), b) + fall(layer, a, negative(w), b)
        return affine(layer, a, w, b)
    return shared


class Explainer:
    """A VGG, its relevance graph for some composites, and the session that runs both; built once, before the first image."""

    def __init__(self, composites, model, path, precision='float32'):
        with tf.Graph().as_default():
            self.session = tf.Session(config=session_config(precision))
            self.layers, self.weights, self.classes = load(self.session, model, path)
            self.pixels = tf.placeholder(tf.float32, [None, 224, 224, 3])
            self.target = tf.placeholder(tf.int64, [None])
            self.activations = forward(self.pixels, self.layers, self.weights, affine_of(composites))
            logits = self.activations[-1]
            self.count = logits.shape[-1]  # of classes
            ranked = tf.cast(tf.math.top_k(logits, self.count).indices, tf.int64)
            place = tf.maximum(-1 - self.target, 0)
            target = tf.where(self.target < 0, tf.gather(ranked, place, batch_dims=1), self.target)
            self.selected = logits * tf.one_hot(target, self.count)  # where relevance starts: the target's logit, else zero
            start = (self.layers, self.activations, self.weights, self.selected)
            self.relevance = {name: relevance(name, *start) for name in composites}
            self.results = {'logits': logits, 'targets': target}
            self.blocks = {}  # 'layers/<composite>/<layer>': [n, h, w], the relevance of the pixels and after each pooling layer
            for name, r in self.relevance.items():
                self.results[f'relevance/{name}'] = tf.reverse(r[0], [-1])  # RGB
                for layer, x in zip([('pixels', 'pool', None)] + self.layers, r):
                    if layer[1] == 'pool':
                        self.blocks[f'layers/{name}/{layer[0]}'] = tf.reduce_sum(x, -1)
            self.session.run(tf.local_variables_initializer())

    def __call__(self, images, targets, blocks=False):
        """Explains images [n, 224, 224, 3], RGB, uint8. targets: [n], a class each, or -k for the k-th most likely one.

        Returns {'logits': [n, classes], 'targets': [n], per composite 'relevance/<composite>': [n, 224, 224, 3], RGB}, float32,
        and with `blocks` the relevance of the pixels and after each pooling layer, 'layers/<composite>/<layer>': [n, h, w].
        """
        pixels = preprocess_input(images.astype(np.float32))
        return self.session.run({**self.results, **(self.blocks if blocks else {})}, {self.pixels: pixels, self.target: targets})

    def classify(self, images):
        """The logits [n, classes] of images [n, 224, 224, 3], RGB, uint8."""
        return self.session.run(self.activations[-1], {self.pixels: preprocess_input(images.astype(np.float32))})


def explain(args):
    """Does what the command line asks. Returns a line for each picture that could not be explained."""
    paths = find(args.image)
    check_writable(args.results)
    names = result_names(args.results, paths, args.layers)
    file = weight_file(args.model, args.weights)
    explainer = Explainer(args.rule, args.model, file, args.precision)
    classes = class_names(file, explainer.classes, args.classes, explainer.count)
    targets = [-1 - k for k in range(args.top)] if args.target is None else [find_target(args.target, classes)]
    if args.top > len(classes):
        raise ValueError(f'--top {args.top}: the network has {len(classes)} classes')
    return explain_pictures(explainer, paths, names, classes, targets, args)


def parse(argv):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser, COMPOSITES, ['deep-taylor'])
    parser.add_argument('--classes', type=Path, metavar='FILE', help='names of the classes, one on each line')
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--target', metavar='NAME_OR_INDEX', help='explain this class instead of the most likely one')
    which.add_argument('--top', type=positive_int, default=1, metavar='K', help='explain the K most likely classes, a row for each')
    parser.add_argument('--layers', action='store_true', help='also write <name>_layers.jpg: after each pooling layer')
    parser.add_argument('--save-relevance', action='store_true', help='also write <name>.npz, the relevance as numbers')
    parser.add_argument('--cmap', default='seismic', metavar='NAME', help="one of matplotlib's colour maps (default: seismic)")
    args = parser.parse_intermixed_args(argv)
    args.rule = list(dict.fromkeys(args.rule))
    if args.cmap not in matplotlib.colormaps:
        parser.error(f'--cmap {args.cmap}: no such colour map; among others there are seismic, bwr, coolwarm, RdBu_r, PiYG')
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(explain, args)


if __name__ == '__main__':
    main()
