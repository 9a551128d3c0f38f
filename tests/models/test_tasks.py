"""What logits mean: losses, divergences and answers against torch's layers and the formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch import nn
from torch.nn import functional

from ppvit.models.tasks import task_of

MULTICLASS, MULTILABEL = task_of("multiclass"), task_of("multilabel")


def drawn(images: int, labels: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    logits, moved = 3 * torch.randn(2, images, labels, generator=generator, dtype=torch.float64)
    return logits, moved, (torch.rand(images, labels, generator=generator) < 0.3).float()


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_several_labels_are_bernoulli_variables(images, labels, seed):
    logits, moved, targets = drawn(images, labels, seed)
    mean = nn.BCEWithLogitsLoss()(logits, targets.double())  # over images and labels
    torch.testing.assert_close(MULTILABEL.loss(logits, targets), images * mean)
    p, q = logits.sigmoid(), moved.sigmoid()
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(MULTILABEL.divergence(logits, moved), kl.mean(1).sum())
    right = ((logits > 0) == (targets > 0)).double().mean(1).sum()
    torch.testing.assert_close(MULTILABEL.right(logits, targets), right)
    torch.testing.assert_close(MULTILABEL.probabilities(logits), 1 / (1 + torch.exp(-logits)))


def test_label_smoothing_moves_targets_towards_one_half():
    logits = torch.tensor([[1.5, -0.5]])
    smoothed = torch.tensor([[0.95, 0.05]])  # 0.1 spread over yes and no
    expected = functional.binary_cross_entropy(logits.sigmoid(), smoothed)
    torch.testing.assert_close(MULTILABEL.loss(logits, torch.tensor([[1.0, 0.0]]), 0.1), expected)


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_one_class_each_is_what_torch_computes(images, classes, seed):
    logits, _, _ = drawn(images, classes, seed)
    labels = torch.randint(classes, (images,), generator=torch.Generator().manual_seed(seed))
    expected = nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1)(logits, labels)
    assert torch.equal(MULTICLASS.loss(logits, labels, 0.1), expected)  # to the bit: runs of before go on
    assert MULTICLASS.right(logits, labels) == (logits.argmax(1) == labels).sum()
    assert torch.equal(MULTICLASS.probabilities(logits), logits.softmax(1))


@given(
    st.integers(1, 9),
    st.integers(2, 6),
    st.integers(0, 99),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
)
def test_the_loss_of_a_mixture_is_the_mixture_of_losses(images, classes, seed, share, smoothing, weighted):
    """Cross-entropies are linear in the targets, smoothing and weights of classes included; so is what is right."""
    logits, _, several = drawn(images, classes, seed)
    labels = torch.randint(classes, (2, images), generator=torch.Generator().manual_seed(seed))
    single = [(each, functional.one_hot(each, classes).float()) for each in labels]
    pairs = {MULTICLASS: single, MULTILABEL: [(each, each) for each in (several, several.flip(0))]}
    for task, ((first, one), (second, other)) in pairs.items():
        counts = np.arange(1, classes + 1)
        task = task.weighted(task.balanced_weights(counts, int(counts.sum()))) if weighted else task
        mixture = share * one + (1 - share) * other

        def mixed(measure, task=task, first=first, second=second):
            return share * measure(task, first) + (1 - share) * measure(task, second)

        def loss(task, targets):
            return task.loss(logits, targets, smoothing)

        def right(task, targets):
            return task.right(logits, targets)

        torch.testing.assert_close(loss(task, mixture), mixed(loss), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(right(task, mixture).double(), mixed(right).double(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(right(task, one).double(), right(task, first).double(), rtol=0, atol=0)


def test_gradients_are_those_of_the_answers():
    logits, moved, targets = drawn(3, 4, 0)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(MULTILABEL.loss(logits, targets), logits)
    torch.testing.assert_close(gradient, (logits.sigmoid() - targets).detach() / 4)
    assert torch.autograd.gradcheck(lambda z: MULTILABEL.divergence(moved, z), (logits,))


def test_logits_far_out_stay_numbers():
    logits = torch.tensor([[1e4, -1e4]])
    assert MULTILABEL.loss(logits, torch.tensor([[1.0, 0.0]])) == 0
    assert torch.isfinite(MULTILABEL.divergence(logits, -logits))


def test_chance():
    assert (MULTICLASS.chance(4), MULTILABEL.chance(4)) == pytest.approx((0.25, 0.5))


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.array([0] * 6 + [1] * 3 + [3])  # no class 2
    weights = MULTICLASS.balanced_weights(np.bincount(labels, minlength=5), len(labels))
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(weights[[0, 1, 3]], expected)
    assert weights[labels].mean() == pytest.approx(1)
    logits = torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
    loss = MULTICLASS.weighted(weights).loss(logits, torch.from_numpy(labels))
    each = -logits.log_softmax(1)[range(10), labels]
    assert loss.item() == pytest.approx(
        (torch.from_numpy(compute_sample_weight("balanced", labels)) * each).sum().item()
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_balanced_weights_of_label_sets_make_yes_and_no_equal(smoothing):
    targets = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    task = MULTILABEL
    weights = task.balanced_weights(targets.sum(0).long().numpy(), 4)
    assert weights[:, 0].tolist() == [1, 1]  # all carry it
    for label in (1, 2):
        expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=targets[:, label].numpy())
        np.testing.assert_allclose(weights[:, label], expected)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = targets.double() * (1 - smoothing) + smoothing / 2
    expected = 0.0
    for image in range(4):
        for label in range(3):
            p, t = torch.sigmoid(logits[image, label]), truth[image, label]
            expected -= (weights[1, label] * t * p.log() + weights[0, label] * (1 - t) * (1 - p).log()) / 3
    assert task.weighted(weights).loss(logits, targets, smoothing).item() == pytest.approx(float(expected))
    assert task.weighted(torch.ones(2, 3)).loss(logits, targets, smoothing).item() == pytest.approx(
        task.loss(logits, targets, smoothing).item()
    )
