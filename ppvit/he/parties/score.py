"""Owner: how good scores are, by the figure that models of the task are compared by."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.multiclass import OneVsRestClassifier

from ppvit.core.errors import PpvitError
from ppvit.core.measures import HEADLINES, Headline
from ppvit.he.algorithms import Floats, Labels


def headline_of(labels: Labels) -> Headline:
    """The figure for labels of this form, (n,) or (n, C)."""
    return HEADLINES["multiclass" if labels.ndim == 1 else "multilabel"]


def figure(scores: np.ndarray, labels: Labels) -> float:
    """Accuracy in percent; where images carry several labels, the mean AUROC of those that some carry and others not.

    Args:
        scores: (n, C).
        labels: class numbers, (n,), or 0 and 1, (n, C).

    Raises:
        PpvitError: no label is carried by some images and not by others.
    """
    if labels.ndim == 1:
        return accuracy_percent(scores, labels)
    scored = np.flatnonzero(labels.min(0) < labels.max(0))
    if not len(scored):
        raise PpvitError(
            f"no label is carried by some of the {len(labels)} test images and not by others, so that there is no "
            "AUROC; raise dataset.test_fraction, or take other test images"
        )
    return float(np.mean([roc_auc_score(labels[:, label], scores[:, label]) for label in scored]))


def accuracy_percent(scores: np.ndarray, labels: Labels) -> float:
    """Share of images whose largest score, of (n, C), is that of their class."""
    return 100.0 * float((scores.argmax(1) == labels).mean())


def logistic_regression(features: Floats, labels: Labels) -> Any:
    """scikit-learn's classifier, fitted until it converges; of several labels one each."""
    one = LogisticRegression(max_iter=1000)
    if labels.ndim == 1:
        return one.fit(features, labels)
    with warnings.catch_warnings():  # of labels that all training images carry, or none: their scores are constant
        warnings.simplefilter("ignore", UserWarning)
        return OneVsRestClassifier(one).fit(features, labels)


def reference_figure(reference: Any, features: Floats, labels: Labels) -> float:
    """:func:`figure` of a fitted :func:`logistic_regression`."""
    if labels.ndim == 1:
        return 100.0 * float(reference.score(features, labels))
    scores = reference.decision_function(features)
    return figure(scores.reshape(len(labels), -1), labels)  # of a single label it is (n,)
