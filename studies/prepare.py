"""What all studies share: the data set of a size, and for each kind of images the shards and the model to train.

dvc repro raw@tiny prepare@tiny-block_adapted        (or: ../stages/python prepare.py tiny [block_adapted])
"""

from __future__ import annotations

import contextlib
import sys

from settings import ROOT, STUDIES, data_folder, prepared_config

from ppvit.verbs import adapt, download, encrypt
from ppvit import places as paths
from ppvit.core.errors import one_line_errors


def fetch(size: str) -> None:
    """The data set of a size as plain shards."""
    with contextlib.chdir(ROOT):  # where the paths of params.yaml start
        download.run(prepared_config(size, "plain"), STUDIES / "data" / size / "raw")


def prepare(size: str, images: str) -> None:
    """Encrypt the data of a size and adapt its model, or not, as the name of the images says."""
    config = prepared_config(size, images)
    folder = data_folder(size, images)
    with contextlib.chdir(ROOT):
        encrypt.run(config, STUDIES / "data" / size / "raw", folder / "encrypted")
        adapt.run(config, paths.PRETRAINED, folder / "model", folder / "adapt.json")


if __name__ == "__main__":
    with one_line_errors():
        match sys.argv[1:]:
            case [size]:
                fetch(size)
            case [size, images]:
                prepare(size, images)
            case _:
                sys.exit("usage: prepare.py <size> [images]")
