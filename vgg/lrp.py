"""Explains what VGG16 or VGG19 sees in photographs: Layer-wise Relevance Propagation, every layer's relevance an explicit op.

    python vgg/lrp.py vgg/images --weights caltech101            the bundled photographs with the bundled network, no download
    python vgg/lrp.py cat.jpg dog.jpg                            ImageNet classes; Keras downloads 553 MB the first time
    python vgg/lrp.py cat.jpg --rule epsilon-plus --top 3        one row for each of the three most likely classes
    python vgg/lrp.py cat.jpg --against lynx                     why what it saw, rather than a lynx?
    python vgg/lrp.py scan.png --weights my_vgg.keras --classes names.txt --target tumour

Writes results/<name>.jpg for every image: the photograph, titled with the class that is explained and its probability, beside a
heatmap for each rule; by default one that shows what the network used and one that shows what speaks for this class. Red pixels
speak for the class, blue ones against it, white is zero. A heatmap is the relevance summed over the three colours; its scale is its
own: the 99.5th percentile of its absolute values gets the full colour. Each image's line gives the logit and the sum of relevance
divided by what it started with, the logit: 1 for the rules that conserve, else what biases and stabilisers leave.
"""
from fnmatch import fnmatch
from functools import partial
import math
from pathlib import Path
import sys
import time
import zlib

import matplotlib
import numpy as np

if __name__ == '__main__':  # PYTHONSAFEPATH keeps Python from looking beside the script
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from script import Parser, check_spared, check_writable, count, once, open_session, tf
from model import Weights, affine, forward, linear, pool, transposed
from weights import by_keras, class_names, compare, digest, find_target, load, open_network
from pictures import LAYER_COLUMNS, MAX_SIDE, find, sheet_height
from pipeline import Files, add_network_options, explain_pictures, first_picture, inputs, left, read_pictures, result_names

VERSION = 1  # of what is computed and drawn: raised when results of before are not to be taken for those of today
WALKS = 4  # targets of a picture explained in one run: each takes memory of its own


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
    """zB between the bounds of the layer's inputs, widened by a millionth of their range: otherwise a black picture under all-positive
    weights has z = 0, and its relevance is lost."""
    low, high = np.float64(layer.low), np.float64(layer.high)
    margin = 1e-6 * (high - low)
    return zbeta(layer, a, weights, r, low - margin, high + margin)


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


def halves(a):
    """The positive and the negative part of a, side by side along the channels."""
    return tf.concat([tf.maximum(a, 0.0), tf.minimum(a, 0.0)], -1)


def lifting(layer, weights):
    """The weights of what lifts z; where inputs can be negative, those of their halves."""
    return tf.concat([weights.positive, weights.negative], -2) if layer.signed else weights.positive


def lowering(layer, weights):
    """The weights of what lowers z, likewise."""
    return tf.concat([weights.negative, weights.positive], -2) if layer.signed else weights.negative


def gamma_signed(layer, a, weights, r, gamma=0.25):
    """Gamma rule for inputs and outputs of any sign (Andeol et al. 2021): what gives an output its sign counts 1 + gamma times."""
    x = halves(a)
    lifts, lowers = tf.concat([weights.positive, weights.negative], -2), tf.concat([weights.negative, weights.positive], -2)
    z = affine(layer, a, weights)
    rises = linear(layer, x, lifts) + tf.maximum(weights.b, 0.0)
    falls = linear(layer, x, lowers) + tf.minimum(weights.b, 0.0)
    s = r / stabilise(z + gamma * tf.where_v2(z >= 0, rises, falls), 1e-9)
    up, down = tf.where_v2(z >= 0, s, tf.zeros_like(s)), tf.where_v2(z >= 0, tf.zeros_like(s), s)
    c = transposed(layer, up, lifts, x) + transposed(layer, down, lowers, x)
    return a * transposed(layer, s, weights.w, a) + gamma * tf.add_n(tf.split(x * c, 2, -1))


def lifted(layer, a, weights, r, share):
    """Epsilon rule with an epsilon of its own for each image: 1e-9 and a share of the root mean square of z (Montavon et al.'s
    tutorial, 2019)."""
    z = affine(layer, a, weights)
    s = r / stabilise(z, 1e-9 + root_mean_square(z, share))
    c = transposed(layer, s, weights.w, a)
    return a * c


def root_mean_square(z, share):
    """A share of the root mean square of z over each image's layer, [n, 1, ...]; no share of it, no op."""
    if not share:
        return tf.zeros([], z.dtype)
    mean = tf.reduce_mean(tf.square(tf.cast(z, tf.float64)), list(range(1, z.shape.rank)), keepdims=True)
    return tf.cast(share * tf.sqrt(mean), z.dtype)


def mean_pool(layer, a, weights, r, share):
    """Max-pooling explained as if it were average pooling: in proportion to the inputs (Montavon et al.'s tutorial, 2019)."""
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
    x = halves(a) if layer.signed else a
    lifts, lowers = lifting(layer, weights), lowering(layer, weights) if beta else None
    s = (r if alpha == 1 else alpha * r) / rise(layer, x, lifts, weights.b)
    c = transposed(layer, s, lifts, x)
    if beta:
        s = (r if beta == 1 else beta * r) / fall(layer, x, lowers, weights.b)
        c -= transposed(layer, s, lowers, x)
    return tf.add_n(tf.split(x * c, 2, -1)) if layer.signed else x * c


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


# Where relevance starts. chosen [n, classes]: 1 at the target, -1 at the class that it is held against, if there is one.

def both_signs(composite, layers):
    """Whether a composite, by its rule at the logits, tells what speaks for a class from what speaks against it."""
    last = [layer for layer in layers if layer.kind in ('conv', 'dense', 'mean')][-1]
    rule = rule_of(composite, last)
    return getattr(rule, 'func', rule) in (epsilon, gamma, gamma_signed, lifted)


def evidence(layers, a, weights):
    """What speaks for each class: the sum of a+ w+ + a- w- into the last layer with weights. [n, classes]"""
    last = [i for i, layer in enumerate(layers) if layer.name in weights][-1]
    layer, x, parts = layers[last], a[last], weights[layers[last].name]
    r = linear(layer, tf.maximum(x, 0.0), parts.positive) if layer.signed else linear(layer, x, parts.positive)
    if layer.signed:
        r += linear(layer, tf.minimum(x, 0.0), parts.negative)
    for layer, x in zip(layers[last + 1:], a[last + 1:]):
        if layer.kind == 'max':
            r = tf.raw_ops.MaxPoolGradGrad(orig_input=x, orig_output=pool(layer, x), grad=r, **layer.window)
        else:
            r = tf.reshape(r, tf.shape(a[-1]))
    return r


def start(composite, layers, a, weights, chosen):
    """The relevance of the logits: [n, classes].

    With both signs at the logits it is the target's logit, less the other's at the other class. A rule with one sign would spread a
    negative logit over what speaks for the class, as if it spoke against it: so it starts, where the logit is not positive, at the
    evidence for the class; held against another one, with as much taken off there (contrastive LRP, Gu et al. 2018), if anything
    speaks for that one.
    """
    logits = a[-1]
    if both_signs(composite, layers):
        return logits * chosen
    found = evidence(layers, a, weights)
    value = tf.where_v2(logits > 0, logits, found)
    chosen *= tf.where_v2((found > 0) | (chosen > 0), tf.ones_like(chosen), tf.zeros_like(chosen))
    return tf.reduce_sum(value * tf.maximum(chosen, 0.0), -1, keepdims=True) * chosen


def started(r, chosen):
    """What relevance r of the logits is at the target and at the class it is held against: [n, 2]."""
    return tf.stack([tf.reduce_sum(r * tf.maximum(part, 0.0), -1) for part in (chosen, -chosen)], -1)


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
    """A network, its relevance graph for some composites, and the session that runs both; built once, before the first image.

    walks: for how many targets of an image its graph sends relevance back from one forward pass.
    """

    def __init__(self, composites, network, precision='float32', walks=1):
        self.network, self.walks = network, walks
        with tf.Graph().as_default():
            self.session = open_session()
        self.variables = load(self.session, network, precision)
        shape = network.prepare(np.zeros((1, *network.size), np.float32)).shape[1:]
        with self.session.graph.as_default():
            self.weights = weights_of(network.layers, self.variables)
            self.pixels = tf.placeholder(tf.float64 if precision == 'float64' else tf.float32, [None, *shape])
            self.target, self.against = tf.placeholder(tf.int64, [None, walks]), tf.placeholder(tf.int64, [None])
            self.build(composites)
            self.session.run(tf.local_variables_initializer())
            tf.get_default_graph().finalize()  # no batch adds to it

    def build(self, composites):
        """The forward passes and, for each composite and target, the walk back."""
        layers = self.network.layers
        plain = forward(self.pixels, layers, self.weights)
        passes = {name: forward(self.pixels, layers, self.weights, affine_of(name)) if name in WITH_ALPHA2 else plain
                  for name in composites}
        # the logits are those of a pass that runs anyway
        self.activations = passes[composites[0]] if composites and WITH_ALPHA2.issuperset(composites) else plain
        logits = self.activations[-1]
        self.count = logits.shape[-1]  # of classes
        targets, chosen = self.choose(logits)
        self.gradient = tf.stack([tf.gradients(logits * each, self.pixels)[0] for each in chosen], 1)
        self.results, self.relevance, self.blocks = {'logits': logits, 'targets': targets}, {}, {}
        for name, a in passes.items():
            starts = [start(name, layers, a, self.weights, each) for each in chosen]
            walked = [relevance(name, layers, a, self.weights, r) for r in starts]
            self.relevance[name], pixels = walked, tf.stack([r[0] for r in walked], 1)
            self.results[f'relevance/{name}'] = tf.reverse(pixels, [-1]) if self.network.bgr else pixels
            self.results[f'started/{name}'] = tf.stack([started(r, each) for r, each in zip(starts, chosen)], 1)
            blocks = [by_block(layers, r) for r in walked]
            self.blocks.update({f'layers/{name}/{key}': tf.stack([each[key] for each in blocks], 1) for key in blocks[0]})

    def choose(self, logits):
        """The targets [n, walks], the k-th most likely class for -k, and for each walk `chosen` as above."""
        against = tf.one_hot(self.against, self.count, dtype=logits.dtype)
        ranked = tf.math.top_k(tf.where_v2(against > 0, tf.constant(-np.inf, logits.dtype), logits), self.count).indices
        places = tf.gather(tf.cast(ranked, tf.int64), tf.maximum(-1 - self.target, 0), batch_dims=1)
        targets = tf.where(self.target < 0, places, self.target)
        return targets, [tf.one_hot(target, self.count, dtype=logits.dtype) - against for target in tf.unstack(targets, axis=1)]

    def __call__(self, images, targets, against=None, blocks=False):
        """Explains images [n, height, width, channels], uint8. targets: [n] or [n, K], classes, or -k for the k-th most likely one;
        against: the class that they are held against, which is then none of the most likely ones.

        Returns {'logits': [n, classes], 'targets': as given, but all classes; per composite 'relevance/<composite>': of the shape
        of the targets and the network's first inputs, RGB; 'started/<composite>': of the shape of the targets and 2, what
        relevance started with at the target and at the other class}, float32 (float64 in that precision); and with `blocks` the
        relevance of the pixels and after each pooling layer, summed over channels, 'layers/<composite>/<layer>': [..., h, w].
        """
        return self.walk({**self.results, **(self.blocks if blocks else {})}, images, targets, against)

    def gradient_times_input(self, images, targets, against=None):
        """The gradient of the targets' logits, less that of `against`, times the network's first inputs; arguments as above, the
        result like a relevance, but for the order of the channels."""
        gradient = self.walk({'gradient': self.gradient}, images, targets, against)['gradient']
        pixels = self.feed(images)[self.pixels]
        return gradient * (pixels if gradient.ndim == pixels.ndim else pixels[:, None])

    def walk(self, wanted, images, targets, against):
        """Runs the graph for as many targets at once as it has walks; all that is wanted but the logits is [n, walks, ...]."""
        targets, runs = np.asarray(targets), []
        columns = targets.reshape(len(images), -1)
        for i in range(0, columns.shape[1], self.walks):
            part = columns[:, i:i + self.walks]
            padded = np.pad(part, ((0, 0), (0, self.walks - part.shape[1])), 'edge')
            run = self.session.run(wanted, self.feed(images, padded, against))
            runs.append({key: value if key == 'logits' else value[:, :part.shape[1]] for key, value in run.items()})
        results = {key: runs[0][key] if key == 'logits' else np.concatenate([run[key] for run in runs], 1) for key in wanted}
        return {key: value[:, 0] if targets.ndim == 1 and key != 'logits' else value for key, value in results.items()}

    def classify(self, images):
        """The logits [n, classes] of images [n, height, width, channels], uint8."""
        return self.session.run(self.activations[-1], self.feed(images))

    def feed(self, images, targets=None, against=None):
        """What a run needs; targets: [n, walks]."""
        n = len(images)
        return {self.pixels: self.network.prepare(images.astype(self.pixels.dtype.as_numpy_dtype)),
                self.target: np.full((n, self.walks), -1) if targets is None else targets,
                self.against: np.full(n, -1 if against is None else against)}

    def read(self, name):
        """The kernel and the bias of a layer."""
        return self.session.run([self.weights[name].w, self.weights[name].b])

    def replace(self, name, w, b):
        """Replaces the kernel and the bias of a layer, and what rules derive from them."""
        with self.session.graph.as_default():
            self.variables[name].w.load(w, self.session)
            self.variables[name].b.load(b, self.session)
            self.session.run([variable.initializer for variable in self.weights[name].kept])


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
    """Of the relevance r[0..L] that of the pixels and after each pooling layer (each convolution, where nothing pools), summed over
    channels: {name: [n, h, w]}."""
    kinds = ('max', 'mean') if any(layer.kind in ('max', 'mean') for layer in layers) else ('conv',)
    shown = [('pixels', r[0])] + [(layer.name, x) for layer, x in zip(layers, r[1:]) if layer.kind in kinds]
    return {name: tf.reduce_sum(tf.cast(x, tf.float32), -1) for name, x in shown if x.shape.rank == 4}


def open_explainer(composites, paths, weights, model, preprocessing, precision, walks=1):
    """The explainer of the command line's network. Says what was read; where Keras has read a whole model, compares its outputs with
    those of our graph, for the first picture that can be read and for noise, and raises ValueError if they differ."""
    network, expected = open_network(weights, model, preprocessing), None
    if network.keras:
        images = {'random noise': np.random.default_rng(0).integers(0, 256, network.size, np.uint8), **first_picture(paths, network.size)}
        expected = by_keras(network, np.stack(list(images.values())))
        network = network._replace(keras=None)
    explainer = Explainer(composites, network, precision, walks)
    if expected is not None:
        found = network.probabilities(explainer.classify(np.stack(list(images.values()))))
        compare(network, expected, found, list(images), precision)
    print(network.title(explainer.count) + ('' if expected is None else "; outputs as Keras's"), flush=True)
    return explainer


def open_evaluation(args, name, walks=1, places=True):
    """What the scripts that evaluate rules begin with, which write name.png and name.txt: the explainer, what it sees of each picture,
    uint8, and a line for each that cannot be read.

    places: whether it matters where on the picture relevance lies, which a network that cuts pictures does not tell.
    """
    check_writable(args.results)
    paths, broken = find(args.image)
    check_spared(args.results, [f'{name}.png', f'{name}.txt'], inputs(args, paths))
    explainer = open_explainer(args.rule, paths, args.weights, args.model, args.preprocessing, args.precision, walks)
    if places and not explainer.network.whole:
        raise ValueError(f'{explainer.network.path.name} cuts or turns pictures by layers of its own: {name} needs the whole picture as it lies')
    images, unread = read_pictures(paths, explainer.network.size)
    return explainer, images, broken + unread


def explain(args):
    """Does what the command line asks. Returns a line for each picture that could not be explained."""
    paths, broken = find(args.image)
    check_height(args)
    check_writable(args.results)
    files = Files(args.results, args.rule, args.cmap, args.layers, args.save_relevance, args.top * args.plain)
    names = result_names(paths, files.endings)
    check_spared(args.results, [file.name for name in names for file in files.of(name)], inputs(args, paths))
    walks = math.ceil(args.top / math.ceil(args.top / WALKS))  # runs of equal length: --top 5 takes 3 + 2, not 4 + 1
    explainer = open_explainer(args.rule, paths, args.weights, args.model, args.preprocessing, args.precision, walks)
    classes = class_names(explainer.network, args.classes, explainer.count)
    targets = [-1 - k for k in range(args.top)] if args.target is None else [find_target(args.target, classes)]
    against = None if args.against is None else find_target(args.against, classes, '--against')
    if args.top > len(classes) - (against is not None):
        raise ValueError(f'--top {args.top}: the network has {len(classes)} classes')
    if against in targets:
        raise ValueError(f'--against {args.against} is the target itself')
    files = files._replace(classes=classes, run=run_of(args, explainer, classes))
    begin, (jobs, done, taken) = time.time(), left(names, paths, files, args.overwrite)
    if done:
        print(f'{done} done before, {len(jobs)} to do' + ' (--overwrite explains them again)' * (not jobs), flush=True)
    failed = explain_pictures(explainer, jobs, targets, against, args.batch_size, files)
    if len(paths) > 1:
        seconds = time.time() - begin
        print(f'{len(jobs) - len(failed)} explained, {done} done before, {len(broken + taken + failed)} failed; '
              f'{len(jobs) / max(seconds, 1e-9):.2f} pictures a second', flush=True)
    return broken + taken + failed


def check_height(args):
    """Raises ValueError, before any work is done, if a sheet would be higher than a JPEG can be."""
    height = sheet_height(args.top * len(args.rule), LAYER_COLUMNS - 1, LAYER_COLUMNS) if args.layers else sheet_height(args.top, len(args.rule))
    if height > MAX_SIDE:
        raise ValueError(f'--top {args.top} with {len(args.rule)} rules{" and --layers" * args.layers} makes a picture of {height} pixels '
                         f'height; a JPEG has up to {MAX_SIDE}')


def run_of(args, explainer, classes):
    """What, beside the picture, decides a result."""
    names = 'rule', 'target', 'top', 'against', 'precision', 'layers', 'plain', 'save_relevance', 'cmap'
    options = {name: getattr(args, name) for name in names}
    options.update(preprocessing=explainer.network.prepare.mode, names=zlib.crc32('\n'.join(classes).encode()))
    return {'version': VERSION, 'weights': explainer.network.path.name, 'digest': digest(explainer.network.path), 'options': options}


def parse(argv):
    parser = Parser(__doc__)
    network, what, how = add_network_options(parser, COMPOSITES, ['deep-taylor', 'epsilon-gamma-box'])
    network.add_argument('--classes', type=Path, metavar='FILE', help='names of the classes, one on each line')
    which = what.add_mutually_exclusive_group()
    which.add_argument('--target', metavar='NAME_OR_INDEX', help='explain this class instead of the most likely one')
    which.add_argument('--top', type=count, default=1, metavar='K', help='explain the K most likely classes, a row for each')
    what.add_argument('--against', metavar='NAME_OR_INDEX',
                        help='explain the class rather than this one: what it uses more; alone, why what the network saw and not this')
    written = parser.add_argument_group('what is written')
    written.add_argument('--layers', action='store_true', help='also write <name>_layers.jpg: after each pooling layer')
    written.add_argument('--plain', action='store_true',
                         help="also write, for papers and slides, each heatmap without frame and title, at the picture's own size: "
                              '<name>_<rule>.png, and laid over the photograph in grey: <name>_<rule>_over.png; of further targets '
                              '<name>_<rule>_2.png and so on')
    written.add_argument('--save-relevance', action='store_true', help='also write <name>.npz, the relevance as numbers')
    how.add_argument('--overwrite', action='store_true', help='explain again what is done already')
    written.add_argument('--cmap', default='seismic', metavar='NAME', help="one of matplotlib's colour maps (default: seismic)")
    args = parser.parse_mixed(argv)
    args.rule = once(args.rule)
    if args.cmap not in matplotlib.colormaps:
        parser.error(f'--cmap {args.cmap}: no such colour map; among others there are seismic, bwr, coolwarm, RdBu_r, PiYG')
    return parser, args


def main(argv=None):
    parser, args = parse(argv)
    parser.run(explain, args)


if __name__ == '__main__':
    main()
