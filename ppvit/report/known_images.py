"""What `download` found about the images that the accuracy is measured on, in words for the report."""

from __future__ import annotations

from typing import Any

NOT_CHECKED = "not checked for images of training; take them in again: dvc repro --force download"


def known_images(manifest: dict[str, Any]) -> tuple[str, bool]:
    """How many test images the model may have seen in training.

    Args:
        manifest: of the raw data set, see :class:`ppvit.data.manifests.RawManifest`.

    Returns:
        The words, to be read after "test images"; and whether the accuracy is doubtful for it.
    """
    checks, count = manifest["checks"], manifest["counts"]["test"]
    if checks is None:
        return NOT_CHECKED, True
    others = "training or validation images" if manifest["counts"]["val"] else "training images"
    known, near, dropped = checks["test_known"], checks["test_near"], checks["test_dropped"]
    if dropped:
        told = f"{known:,} that are {others} too and {near:,} that look like one were left out; {count:,} remain"
    elif known or near:
        share = 100 * (known + near) / count
        told = f"of {count:,}, {known:,} are {others} too and {near:,} more look like one ({share:.1f} %)"
    else:
        told = f"none of {count:,} has the pixels of {others} or looks like one"
    if checks["two_labels"]:
        told += f"; in all splits, {checks['two_labels']:,} images have the pixels of one under another label"
    return told, bool(checks["two_labels"] or (known + near and not dropped))
