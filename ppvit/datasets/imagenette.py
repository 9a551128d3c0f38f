"""Imagenette (Howard 2019): ten easily told classes of ImageNet, 9,469 + 3,925 photographs, shorter side 320 pixels."""

from __future__ import annotations

from dataclasses import replace

from ppvit.datasets.fetch import fetch
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.source import DATASETS, Request, Source

_URL = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz"
_MD5 = "3df6f0d01a2c9592104656642f5e78a3"  # as in torchvision.datasets.Imagenette
_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@DATASETS.register("imagenette")
def open_imagenette(request: Request) -> Source:
    """Photographs of ImageNet (Howard 2019): 9,469 + 3,925, shorter side 320 px, 10 classes, terms of ImageNet.

    Opened are the user's archive or folder, in any size, else the download; ``val`` is the test split.

    Raises:
        PpvitError: what lies there has not ten class folders, or nothing can be fetched.
    """
    if request.path is None:
        request = replace(request, path=fetch((_URL,), request.cache / _URL.rpartition("/")[2], _MD5))
    source = open_imagefolder(request, expected_classes=len(_CLASSES))
    return replace(source, classes=[_CLASSES.get(name, name) for name in source.classes])


vars(open_imagenette)["brings_val"] = False  # the folder val of its archive is the test split
