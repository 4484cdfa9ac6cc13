"""What heatmaps are compared with: other methods, from the gradients in the explainer's graph.

images: [n, height, width, channels], uint8; targets: [n], classes. Heatmaps are as large as the
first layer's inputs x [n, h, w, channels].
"""
import numpy as np
from PIL import Image

from evaluation.measures import generator

STEPS = 32  # gradients for one heatmap
NOISE = 0.15  # standard deviation of SmoothGrad's noise, as a share of the range of x


def class_maps(explainer, images, targets):
    """The last maps, each times its mean gradient, added up: [n, h, w] of the maps' size."""
    found = explainer.session.run(explainer.last, explainer.feed(images, targets, None))
    a, gradient = (array.astype(np.float64) for array in found)  # from bfloat16, too
    return (a * gradient.mean((1, 2), keepdims=True)).sum(-1)


def grad_cam(explainer, maps):
    """Grad-CAM (Selvaraju et al. 2017): the positive part of class maps, enlarged bilinearly."""
    size = explainer.pixels.shape.as_list()[2:0:-1]
    return np.stack([Image.fromarray(r).resize(size, Image.Resampling.BILINEAR)
                     for r in np.maximum(maps, 0)])


def gradient_at(explainer, images, targets):
    """x, and a function: the gradients of the targets' logits where x is something else."""
    feed = explainer.feed(images, targets, None)
    return feed[explainer.pixels], lambda x: explainer.session.run(
        explainer.gradient, {**feed, explainer.pixels: x})


def integrated_gradients(explainer, images, targets):
    """Integrated Gradients (Sundararajan et al. 2017) from a black picture, by the midpoint rule.

    The sum over a heatmap [h, w, channels] is the logit minus that of the black picture.
    """
    x, gradient = gradient_at(explainer, images, targets)
    black = explainer.prepared(np.zeros_like(images))
    path = (black + (i + 0.5) / STEPS * (x - black) for i in range(STEPS))
    return (x - black) * sum(map(gradient, path)) / STEPS


def smooth_grad(explainer, images, targets, numbers, noise=NOISE):
    """SmoothGrad (Smilkov et al. 2017): the mean gradient at x plus normal noise.

    numbers: of the images, by which noise is drawn.
    """
    x, gradient = gradient_at(explainer, images, targets)
    deviation = noise * np.ptp(x, axis=(1, 2, 3), keepdims=True)
    draws = [generator(0, 'SmoothGrad', i) for i in numbers]
    noisy = (x + deviation * np.stack([rng.normal(size=x.shape[1:]) for rng in draws])
             for _ in range(STEPS))
    return sum(map(gradient, noisy)) / STEPS


def edge_strength(images):
    """How much the brightness of images changes at each pixel: [n, height, width]."""
    return np.hypot(*np.gradient(images.mean(-1, dtype=np.float64), axis=(1, 2)))
