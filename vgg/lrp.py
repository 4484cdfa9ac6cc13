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
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np

from script import Parser, check_writable, count, once, open_session, tf
from model import Weights, affine, forward, linear, pool, transposed
from weights import by_keras, class_names, compare, find_target, load, open_network
from pictures import find
from pipeline import Files, add_network_options, explain_pictures, first_picture, result_names


# The rules. a: inputs of the layer [n, ...], r: relevance of its outputs. Each returns the relevance of a.

def tiny(z):
    """The stabiliser of rules whose z is never negative: 1e-20, too small to be seen in any sum. One for each output, so that
    TensorFlow adds it within the linear operation."""
    return tf.fill(z.shape[-1:], tf.constant(1e-20, z.dtype))


def stabilise(z, eps):
    """z + eps * sign(z) with sign(0) = +1: never zero."""
    eps = tf.convert_to_tensor(eps, z.dtype)
    return z + tf.where_v2(z >= 0, eps, -eps)


def zplus(layer, a, weights, r):
    """z+ rule for inputs a >= 0 (Montavon et al. 2017, Sec. 4.2). Conserves: sum of result = sum of r, wherever z > 0."""
    w = weights.positive
    z = linear(layer, a, w)            # 1. what each output received
    s = r / (z + tiny(z))              # 2. relevance per unit received
    c = transposed(layer, s, w, a)     # 3. sent back along the weights
    return a * c                       # 4. weighed by what each input gave


def zbeta(layer, a, weights, r, low, high):
    """zB rule for inputs low <= a <= high (Montavon et al. 2017, Sec. 4.2), as z = sum (a - low) w+ + (a - high) w-. Conserves.

    Both terms are >= 0, so nothing cancels. They lie side by side along the input channels: one linear operation each way.
    """
    x = tf.concat([a - low, a - high], -1)
    w = tf.concat([weights.positive, weights.negative], -2)
    z = linear(layer, x, w)
    s = r / (z + tiny(z))
    c = transposed(layer, s, w, x)
    return tf.add_n(tf.split(x * c, 2, -1))


def epsilon(layer, a, weights, r, eps=1e-6):
    """Epsilon rule (Bach et al. 2015, Eq. 58). Conserves up to what the bias and eps absorb."""
    z = affine(layer, a, weights)
    s = r / stabilise(z, eps)
    c = transposed(layer, s, weights.w, a)
    return a * c


def max_pool(layer, a, weights, r):
    """The winner takes all; of equal inputs the first one in its window."""
    return tf.raw_ops.MaxPoolGrad(orig_input=a, orig_output=pool(layer, a), grad=r, **layer.window)


def unflatten(layer, a, weights, r):
    """Back into maps."""
    return tf.reshape(r, tf.shape(a))


def box(layer, a, weights, r):
    """zB between the bounds of the layer's inputs."""
    return zbeta(layer, a, weights, r, layer.low, layer.high)


def zplus_signed(layer, a, weights, r):
    """z+ rule for inputs of any sign: z = sum a+ w+ + a- w-, which is zB between 0 and the inputs themselves."""
    return zbeta(layer, a, weights, r, tf.minimum(a, 0.0), tf.maximum(a, 0.0))


def wsquare(layer, a, weights, r):
    """w^2 rule for inputs without bounds (Montavon et al. 2017, Sec. 4.1): they play no part. Conserves."""
    w = weights.w * weights.w
    z = weights.keep('wsquare_z', linear(layer, tf.ones([1, *a.shape[1:]], a.dtype), w))
    s = r / (z + tiny(z))
    return transposed(layer, s, w, a)


def flat(layer, a, weights, r):
    """Flat rule (Lapuschkin et al. 2019): every input that is not padding gets the same share. Conserves."""
    w = tf.ones(weights.w.shape, weights.w.dtype)
    z = weights.keep('flat_z', linear(layer, tf.ones([1, *a.shape[1:]], a.dtype), w))
    s = r / (z + tiny(z))
    return transposed(layer, s, w, a)


def gamma(layer, a, weights, r, gamma=0.25):
    """Gamma rule for inputs a >= 0 (Montavon et al. 2019, Sec. 10.2.1): positive weights count 1 + gamma times."""
    return epsilon(layer, a, weights.raised(gamma), r, eps=1e-9)


def gamma_signed(layer, a, weights, r, gamma=0.25):
    """Gamma rule for inputs and outputs of any sign (Andeol et al. 2021): what gives an output its sign counts 1 + gamma times."""
    x = tf.concat([tf.maximum(a, 0.0), tf.minimum(a, 0.0)], -1)
    lifts, lowers = tf.concat([weights.positive, weights.negative], -2), tf.concat([weights.negative, weights.positive], -2)
    z = affine(layer, a, weights)
    rises = linear(layer, x, lifts) + tf.maximum(weights.b, 0.0)
    falls = linear(layer, x, lowers) + tf.minimum(weights.b, 0.0)
    s = r / stabilise(z + gamma * tf.where_v2(z >= 0, rises, falls), 1e-9)
    up, down = tf.where_v2(z >= 0, s, tf.zeros_like(s)), tf.where_v2(z >= 0, tf.zeros_like(s), s)
    c = transposed(layer, up, lifts, x) + transposed(layer, down, lowers, x)
    return a * transposed(layer, s, weights.w, a) + gamma * tf.add_n(tf.split(x * c, 2, -1))


def lifted(layer, a, weights, r, share):
    """Divides by z plus, of its sign, 1e-9 and a share of its root mean square over the image's layer (Montavon et al.'s tutorial,
    2019)."""
    z = affine(layer, a, weights)
    s = r / stabilise(z, 1e-9 + root_mean_square(z, share))
    c = transposed(layer, s, weights.w, a)
    return a * c


def root_mean_square(z, share):
    if not share:
        return tf.zeros([], z.dtype)
    mean = tf.reduce_mean(tf.square(tf.cast(z, tf.float64)), list(range(1, z.shape.rank)), keepdims=True)
    return tf.cast(share * tf.sqrt(mean), z.dtype)


def mean_pool(layer, a, weights, r, share):
    """Pooling by its winner explained as if it took the mean, in proportion to the inputs (Montavon et al.'s tutorial, 2019)."""
    z = tf.raw_ops.AvgPool(value=a, **layer.window)
    s = r / stabilise(z, 1e-9 + root_mean_square(z, share))
    c = tf.raw_ops.AvgPoolGrad(orig_input_shape=tf.shape(a), grad=s, **layer.window)
    return a * c


def rise(layer, a, w, b):
    """What lifts z: sum a w + b+, for products a w >= 0, stabilised; TensorFlow adds the bias within the linear operation."""
    return linear(layer, a, w) + (tf.maximum(b, 0.0) + 1e-20)


def fall(layer, a, w, b):
    """What lowers z: sum a w + b-, for products a w <= 0, stabilised."""
    return linear(layer, a, w) + (tf.minimum(b, 0.0) - 1e-20)


def alpha_beta(layer, a, weights, r, alpha, beta=None):
    """Alpha-beta rule (Bach et al. 2015, Eq. 60): alpha times what lifts z, less beta = alpha - 1 times what lowers it."""
    beta = alpha - 1 if beta is None else beta
    x = a if not layer.signed else tf.concat([tf.maximum(a, 0.0), tf.minimum(a, 0.0)], -1)
    lifts, lowers = lifting(layer, weights), lowering(layer, weights) if beta else None
    s = (r if alpha == 1 else alpha * r) / rise(layer, x, lifts, weights.b)
    c = transposed(layer, s, lifts, x)
    if beta:
        s = (r if beta == 1 else beta * r) / fall(layer, x, lowers, weights.b)
        c -= transposed(layer, s, lowers, x)
    return x * c if not layer.signed else tf.add_n(tf.split(x * c, 2, -1))


def lifting(layer, weights):
    """The weights of what lifts z; where inputs can be negative, for their positive and negative parts side by side."""
    return tf.concat([weights.positive, weights.negative], -2) if layer.signed else weights.positive


def lowering(layer, weights):
    """The weights of what lowers z, likewise."""
    return tf.concat([weights.negative, weights.positive], -2) if layer.signed else weights.negative


ALPHA1, ALPHA2 = partial(alpha_beta, alpha=1.0), partial(alpha_beta, alpha=2.0)
PASSED = [('max *', max_pool), ('flatten *', unflatten)]  # layers without weights
COMPOSITES = {  # --rule: of each layer's place the first pattern that fits decides
    'deep-taylor': [*PASSED, ('pixels *', box), ('*', zplus)],  # Montavon et al. 2017
    'zplus': [*PASSED, ('*', zplus)],
    'wsquare': [*PASSED, ('pixels *', wsquare), ('*', zplus)],  # Montavon et al. 2017
    'epsilon': [*PASSED, ('*', epsilon)],  # Bach et al. 2015
    'alpha1beta0': [*PASSED, ('*', ALPHA1)],  # Bach et al. 2015
    'alpha2beta1': [*PASSED, ('*', ALPHA2)],
    'epsilon-plus': [*PASSED, ('* block*', ALPHA1), ('*', epsilon)],
    'epsilon-plus-flat': [*PASSED, ('pixels *', flat), ('* block*', ALPHA1), ('*', epsilon)],
    'epsilon-alpha2beta1': [*PASSED, ('* block*', ALPHA2), ('*', epsilon)],
    'epsilon-gamma-box': [*PASSED, ('pixels *', box), ('* block*', gamma), ('*', epsilon)],
    'montavon2019': [('max block[123]_*', partial(mean_pool, share=0.0)), ('max *', partial(mean_pool, share=0.25)), *PASSED,
                     ('pixels *', box), ('* block[123]_*', gamma), ('* block*', partial(lifted, share=0.25)),
                     ('*', partial(lifted, share=0.0))],
}
WITH_ALPHA2 = {name for name, rules in COMPOSITES.items() if ALPHA2 in [rule for _, rule in rules]}


def rule_of(composite, layer):
    """The rule of a layer, in the form for inputs of both signs where it needs one."""
    rule = next(rule for pattern, rule in COMPOSITES[composite] if fnmatch(layer.place, pattern))
    if rule is zplus and layer.signed:
        return zplus_signed
    return gamma_signed if rule is gamma and (layer.signed or layer.kind != 'mean' and not layer.relu) else rule


def relevance(composite, layers, a, weights, r):
    """Walks the layer table upwards from the relevance r of the logits. Returns r[0..L], r[i] of the shape of a[i]."""
    result = [r]
    for layer, x in reversed(list(zip(layers, a))):
        r = rule_of(composite, layer)(layer, x, weights.get(layer.name), r)
        result.insert(0, r)
    return result


def affine_of(composite):
    """`affine` for a composite's forward pass: where alpha2 needs rise and fall anyway, z is their sum, and no third operation runs.

    The sum rounds otherwise than z does, so composites with alpha2 have a forward pass of their own: what a rule gives does not
    depend on the rules beside it.
    """
    def shared(layer, a, weights):
        if rule_of(composite, layer) is ALPHA2 and not layer.signed:
            return rise(layer, a, weights.positive, weights.b) + fall(layer, a, weights.negative, weights.b)
        return affine(layer, a, weights)
    return shared


class Explainer:
    """A network, its relevance graph for some composites, and the session that runs both; built once, before the first image."""

    def __init__(self, composites, network, precision='float32'):
        self.network = network
        with tf.Graph().as_default():
            self.session = open_session()
        self.variables = load(self.session, network, precision)
        shape = network.prepare(np.zeros((1, *network.size), np.float32)).shape[1:]
        with self.session.graph.as_default():
            self.weights = weights_of(network.layers, self.variables)
            self.pixels = tf.placeholder(tf.float64 if precision == 'float64' else tf.float32, [None, *shape])
            self.target = tf.placeholder(tf.int64, [None])
            start = self.pixels, network.layers, self.weights
            plain = forward(*start)
            passes = {name: forward(*start, affine_of(name)) if name in WITH_ALPHA2 else plain for name in composites}
            self.activations = passes[composites[0]] if composites and WITH_ALPHA2.issuperset(composites) else plain
            logits = self.activations[-1]
            self.count = logits.shape[-1]  # of classes
            ranked = tf.cast(tf.math.top_k(logits, self.count).indices, tf.int64)
            place = tf.maximum(-1 - self.target, 0)
            target = tf.where(self.target < 0, tf.gather(ranked, place, batch_dims=1), self.target)
            chosen = tf.one_hot(target, self.count, dtype=logits.dtype)
            self.gradient = tf.gradients(logits * chosen, self.pixels)[0]
            self.relevance = {name: relevance(name, network.layers, a, self.weights, a[-1] * chosen) for name, a in passes.items()}
            self.results = {'logits': logits, 'targets': target}
            self.blocks = {}
            for name, r in self.relevance.items():
                self.results[f'relevance/{name}'] = tf.reverse(r[0], [-1]) if network.bgr else r[0]
                self.blocks.update({f'layers/{name}/{key}': x for key, x in by_block(network.layers, r).items()})
            self.session.run(tf.local_variables_initializer())
            tf.get_default_graph().finalize()  # no batch adds to it

    def __call__(self, images, targets, blocks=False):
        """Explains images [n, height, width, channels], uint8. targets: [n], a class each, or -k for the k-th most likely one.

        Returns {'logits': [n, classes], 'targets': [n], per composite 'relevance/<composite>' of the shape of the network's first
        inputs, RGB}, float32 (float64 in that precision), and with `blocks` the relevance of the pixels and after each pooling
        layer, summed over channels, 'layers/<composite>/<layer>': [n, h, w].
        """
        return self.session.run({**self.results, **(self.blocks if blocks else {})}, self.feed(images, targets))

    def gradient_times_input(self, images, targets):
        """The gradient of the targets' logits times the network's first inputs; images and targets as above."""
        feed = self.feed(images, targets)
        return self.session.run(self.gradient, feed) * feed[self.pixels]

    def classify(self, images):
        """The logits [n, classes] of images [n, height, width, channels], uint8."""
        return self.session.run(self.activations[-1], self.feed(images))

    def feed(self, images, targets=()):
        return {self.pixels: self.network.prepare(images.astype(self.pixels.dtype.as_numpy_dtype)), self.target: targets}

    def replace(self, name, change):
        """Replaces the kernel of a layer by change(kernel), and what rules derive from it."""
        weights = self.weights[name]
        with self.session.graph.as_default():
            self.variables[name].w.load(change(self.session.run(weights.w)), self.session)
            self.session.run([variable.initializer for variable in weights.kept])


def weights_of(layers, variables):
    """{layer name: Weights}, read from their variables; those of a mean are equal."""
    result, outputs = {}, None
    for layer in layers:
        if layer.name in variables:
            result[layer.name] = variables[layer.name].read()
            outputs = result[layer.name].b.shape[-1:], result[layer.name].b.dtype
        elif layer.kind == 'mean':
            result[layer.name] = Weights(layer.name, tf.ones([1, *outputs[0]], outputs[1]), tf.zeros(*outputs))
    return result


def by_block(layers, r):
    """The relevance r[0..L] of the pixels and after each pooling layer, without one after each convolution: {name: [n, h, w]}."""
    kinds = ('max', 'mean') if any(layer.kind in ('max', 'mean') for layer in layers) else ('conv',)
    shown = [('pixels', r[0])] + [(layer.name, x) for layer, x in zip(layers, r[1:]) if layer.kind in kinds]
    return {name: tf.reduce_sum(tf.cast(x, tf.float32), -1) for name, x in shown if x.shape.rank == 4}


def open_explainer(composites, paths, weights, model, preprocessing, precision):
    """The explainer of the command line's network. Says what was read; where Keras has read a whole model, compares its outputs with
    those of our graph, for the first picture that can be read and for noise, and raises ValueError if they differ."""
    network, expected = open_network(weights, model, preprocessing), None
    if network.keras:
        images = {'random noise': np.random.default_rng(0).integers(0, 256, network.size, np.uint8), **first_picture(paths, network.size)}
        expected = by_keras(network, np.stack(list(images.values())))
        network = network._replace(keras=None)
    explainer = Explainer(composites, network, precision)
    if expected is not None:
        found = network.probabilities(explainer.classify(np.stack(list(images.values()))))
        compare(network, expected, found, list(images), precision)
    print(network.title(explainer.count) + ('' if expected is None else "; outputs as Keras's"), flush=True)
    return explainer


def explain(args):
    """Does what the command line asks. Returns a line for each picture that could not be explained."""
    paths = find(args.image)
    check_writable(args.results)
    names = result_names(args.results, paths, args.layers)
    explainer = open_explainer(args.rule, paths, args.weights, args.model, args.preprocessing, args.precision)
    classes = class_names(explainer.network, args.classes, explainer.count)
    targets = [-1 - k for k in range(args.top)] if args.target is None else [find_target(args.target, classes)]
    if args.top > len(classes):
        raise ValueError(f'--top {args.top}: the network has {len(classes)} classes')
    files = Files(args.results, classes, args.rule, args.cmap, args.layers, args.save_relevance)
    return explain_pictures(explainer, paths, names, targets, args.batch_size, files)


def parse(argv):
    parser = Parser(__doc__)
    add_network_options(parser, COMPOSITES, ['deep-taylor'])
    parser.add_argument('--classes', type=Path, metavar='FILE', help='names of the classes, one on each line')
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--target', metavar='NAME_OR_INDEX', help='explain this class instead of the most likely one')
    which.add_argument('--top', type=count, default=1, metavar='K', help='explain the K most likely classes, a row for each')
    parser.add_argument('--layers', action='store_true', help='also write <name>_layers.jpg: after each pooling layer')
    parser.add_argument('--save-relevance', action='store_true', help='also write <name>.npz, the relevance as numbers')
    parser.add_argument('--cmap', default='seismic', metavar='NAME', help="one of matplotlib's colour maps (default: seismic)")
    args = parser.parse_intermixed_args(argv)
    args.rule = once(args.rule)
    if args.cmap not in matplotlib.colormaps:
        parser.error(f'--cmap {args.cmap}: no such colour map; among others there are seismic, bwr, coolwarm, RdBu_r, PiYG')
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(explain, args)


if __name__ == '__main__':
    main()
