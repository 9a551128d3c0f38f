"""Plots of the report: what they say is what the figures are, and true classes are always the rows."""

import numpy as np
import pytest

from ppvit.report import plots
from ppvit.report.claims import Tables
from ppvit.report.pictures import what_is_seen
from ppvit.report.rendering import sort_key


def tables(**parts):
    empty = {"learning": {}, "confusion": np.zeros((0, 0), int), "labels": [], "calibration": [], "curve": []}
    return Tables(**{**empty, **parts})


def test_confusion_has_true_classes_in_rows():
    counts = np.array([[8, 2, 0], [0, 5, 0], [1, 0, 4]])
    plot = plots.confusion(tables(confusion=counts), ["cat", "dog", "owl"])
    assert plot.rows == [("cat", 8, 2, 0), ("dog", 0, 5, 0), ("owl", 1, 0, 4)]
    assert (plot.spec["encoding"]["y"]["field"], plot.spec["encoding"]["x"]["field"]) == ("actual", "predicted")
    assert {"actual": "cat", "predicted": "dog", "images": 2, "share": 0.2} in plot.spec["data"]["values"]
    assert "17 lie on the diagonal" in plot.says
    assert "cat is taken for dog" in plot.says


def test_many_classes_are_listed_by_mistake():
    counts = np.diag(np.full(150, 9))
    counts[3, 7], counts[8, 2] = 1, 4
    plot = plots.confusion(tables(confusion=counts), [f"class {label}" for label in range(150)])
    assert plot.spec is None  # cells smaller than a pixel
    assert plot.rows == [("class 8", "class 2", 4, "30.8 %"), ("class 3", "class 7", 1, "10.0 %")]  # 4 of 13, 1 of 10


def test_calibration_has_its_diagonal():
    plot = plots.calibration(tables(calibration=[(90.0, 80.0, 5)]))
    diagonal = plot.spec["layer"][0]["data"]["values"]
    assert diagonal == [{"confidence": 0, "accuracy": 0}, {"confidence": 100, "accuracy": 100}]
    assert plot.rows == [("90.00", "80.00", 5)]


def test_curves_of_training_and_validation_are_in_one_plot():
    learning = {"train_loss": [(1, 2.0), (2, 1.0)], "val_loss": [(2, 1.5)], "val_auroc": [(2, 0.9)]}
    loss, area = plots.learning(tables(learning=learning))
    assert loss.columns == ("epoch", "training", "validation")
    assert loss.rows == [(1, "2", ""), (2, "1", "1.5")]
    assert {each["images"] for each in loss.spec["data"]["values"]} == {"training", "validation"}
    assert area.columns == ("epoch", "validation")


@pytest.mark.parametrize(
    ("cell", "key"),
    [("66.36 %", "66.36"), ("1,293", "1293"), ("3e-06", "3e-06"), ("–", ""), ("256 bits to try", ""), (5, "5"),
     ("80 of 360", "80"), ("-1.5", "-1.5"), ("", "")],
)  # fmt: skip
def test_cells_are_sorted_by_their_numbers(cell, key):
    assert sort_key(cell) == key


@pytest.mark.parametrize(
    ("ssim", "strength", "told"),
    [(1.0, 100.0, "can be read"), (0.33, 0.0, "a guess would not"), (0.6, 60.0, "with faults"),
     (0.2, 40.0, "traces"), (None, None, "not measured")],
)  # fmt: skip
def test_what_is_seen_in_a_picture(ssim, strength, told):
    assert told in what_is_seen(ssim, strength)
