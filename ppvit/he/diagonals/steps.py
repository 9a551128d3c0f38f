"""Training on diagonals: enhanced Nesterov's method with quadratic gradients, on whatever an arithmetic works on.

Equals `ppvit.he.volley_revolver.quadratic_gradient.train` with weights that begin at zero, in columns scaled by the
roots of their steps: there a step is G itself (the identity is proved in that module's tests).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import chain

import numpy as np

from ppvit.he.ckks.arithmetic import LazyArithmetic, Value
from ppvit.he.diagonals.layout import Layout
from ppvit.he.volley_revolver.layout import repeat
from ppvit.he.volley_revolver.quadratic_gradient import CUBIC, LINEAR, momentum

Renewal = Callable[[list[Value]], list[Value]]


def train(
    arithmetic: LazyArithmetic[Value],
    layout: Layout,
    uploaded: list[Value],
    iterations: int,
    renew: Renewal[Value] | None = None,
) -> list[Value]:
    """W_T from what :meth:`Layout.prepare` laid out.

    V_0 = W_0 = 0; M = W + (1 + gamma) G(V); W <- (1 - eta) M + eta V; V <- M. The factors ride on the polynomial of the
    errors, and so cost no level; in the last iteration, which needs no M, 1 - eta does so too.

    Args:
        arithmetic: on the uploaded values.
        layout: of them.
        uploaded: the images with their labels.
        iterations: T.
        renew: gives values back with all levels, as bootstrapping does; called with W and V before an iteration that
            needs them. Without it all iterations share the levels of what was uploaded.

    Returns:
        The diagonals of W, as :meth:`Layout.unpack` reads them.
    """
    images = list(_groups(arithmetic, layout, uploaded))
    rates = momentum(iterations, layout.samples)
    factors = [1 + gamma for _, gamma in rates]
    factors[-1] *= 1 - rates[-1][0]
    labels = [_labels(arithmetic, layout, each, factors[0]) for each in images]
    weights: list[Value] = []
    ahead: list[Value] = []
    for iteration, ((eta, _), factor) in enumerate(zip(rates, factors, strict=True)):
        if ahead and renew is not None:
            both = renew([*weights, *ahead])
            weights, ahead = both[: layout.lanes], both[layout.lanes :]
        gradient = _gradient(arithmetic, layout, images, labels, ahead, factor, factor / factors[0])
        held = _scaled(arithmetic, layout, ahead, eta)
        if iteration == iterations - 1:
            kept = _plus(arithmetic, _scaled(arithmetic, layout, weights, 1 - eta), held)
            return _plus(arithmetic, gradient, kept)
        moved = _plus(arithmetic, gradient, weights)
        weights, ahead = _plus(arithmetic, _scaled(arithmetic, layout, moved, 1 - eta), held), moved
    return weights


def _groups(arithmetic: LazyArithmetic[Value], layout: Layout, uploaded: list[Value]) -> Iterator[Value]:
    """Every group of images: the real parts, then the imaginary ones, of each value."""
    if layout.groups == 1:  # no imaginary parts: the sum with the conjugate is the number itself, doubled
        return iter([arithmetic.add(uploaded[0], uploaded[0])])
    parts = chain.from_iterable(arithmetic.parts(each) for each in uploaded)
    return (each for each, _ in zip(parts, range(layout.groups), strict=False))


def _labels(arithmetic: LazyArithmetic[Value], layout: Layout, group: Value, factor: float) -> Value:
    """factor (Y - 1/2) in the first C columns, zero elsewhere; one level lower."""
    alone = arithmetic.multiply_plain(group, layout.mask(layout.label_column, factor))
    return arithmetic.rotate(alone, layout.label_column)


def _gradient(
    arithmetic: LazyArithmetic[Value],
    layout: Layout,
    images: list[Value],
    labels: list[Value],
    ahead: list[Value],
    factor: float,
    label_factor: float,
) -> list[Value]:
    """factor (Y - P)^T X as diagonals; four levels below V, where there is one."""
    totals: list[Value] = []
    for group, truth in zip(images, labels, strict=True):
        turned = [arithmetic.lowered(group, ahead[0]) if ahead else group]
        for _ in range(layout.lanes - 1):
            turned.append(arithmetic.rotate(turned[-1], -1))
        errors = truth
        if label_factor != 1:
            errors = arithmetic.multiply_plain(truth, layout.mask(0, label_factor))
        if ahead:
            logits = arithmetic.close(reduce(arithmetic.add, map(arithmetic.product, turned, ahead)))
            errors = arithmetic.add(errors, minus_probability(arithmetic, layout, logits, factor))
        errors = repeat(arithmetic, errors, layout.lanes, layout.blocks)
        products = [arithmetic.product(each, errors) for each in turned]
        totals = [arithmetic.add(*pair) for pair in zip(totals, products, strict=True)] if totals else products
    return [_over_rows(arithmetic, layout, arithmetic.close(each)) for each in totals]


def minus_probability(arithmetic: LazyArithmetic[Value], layout: Layout, logits: Value, factor: float) -> Value:
    """-factor (p(Z) - 1/2) in the first C columns, zero elsewhere, from logits that wait to be added up over blocks."""
    for step in layout.folds:
        logits = arithmetic.add(logits, arithmetic.rotate(logits, step))
    cubic = arithmetic.multiply(
        arithmetic.multiply_plain(logits, layout.mask(0, -factor * CUBIC)), arithmetic.multiply(logits, logits)
    )
    return arithmetic.add(cubic, arithmetic.multiply_plain(logits, layout.mask(0, -factor * LINEAR)))


def _over_rows(arithmetic: LazyArithmetic[Value], layout: Layout, value: Value) -> Value:
    for step in layout.over_rows:
        value = arithmetic.add(value, arithmetic.rotate(value, step))
    return value


def _scaled(arithmetic: LazyArithmetic[Value], layout: Layout, values: list[Value], factor: float) -> list[Value]:
    everywhere = np.full(layout.slots, factor)
    return [arithmetic.multiply_plain(each, everywhere) for each in values]


def _plus(arithmetic: LazyArithmetic[Value], first: list[Value], second: list[Value]) -> list[Value]:
    """The sums; the first alone where the second are none, as weights of zero are."""
    return [arithmetic.add(*pair) for pair in zip(first, second, strict=True)] if second else first
