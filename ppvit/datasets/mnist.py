"""MNIST (LeCun et al. 1998) and the data sets that stand in for it, in the same four idx files.

Addresses, checksums and class names are torchvision's.
"""

from __future__ import annotations

from functools import partial

from ppvit.datasets.fetch import fetch
from ppvit.datasets.idx import Idx, compared, folder_of, from_folder
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.source import Request, Source, enter

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_OFFICIAL = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}  # as torchvision calls them


def open_like_mnist(request: Request) -> Source:
    """Open the user's four official files, else a folder of class folders, else the download.

    Raises:
        PpvitError: a file is missing, damaged or of another kind, or cannot be fetched.
    """
    import torchvision.datasets  # imports torch

    official = getattr(torchvision.datasets, _OFFICIAL[request.name])
    classes = [str(digit) for digit in range(10)] if request.name == "mnist" else list(official.classes)
    if request.path is None:
        folder, files = request.cache / request.name, "idx files"
        for name, md5 in official.resources:
            fetch(tuple(mirror + name for mirror in official.mirrors), folder / name, md5)
    else:
        found = folder_of(request.path, official.__name__, _FILES["train"][0])
        if found is None:
            return open_imagefolder(request, expected_classes=10)
        folder, files = found, compared(found, dict(official.resources))
    return Idx(partial(from_folder, folder), _FILES, classes).source(str(folder), f"{official.__name__} {files}")


enter(
    "mnist",
    open_like_mnist,
    "Handwritten digits (LeCun et al. 1998): 60,000 + 10,000 grey images of 28 px, 10 classes, CC BY-SA 3.0.",
    brings_val=False,
)
enter(
    "fashion_mnist",
    open_like_mnist,
    "Photographs of clothes (Xiao et al. 2017): 60,000 + 10,000 grey images of 28 px, 10 classes, MIT.",
    brings_val=False,
)
enter(
    "kmnist",
    open_like_mnist,
    "Cursive Japanese (Clanuwat et al. 2018): 60,000 + 10,000 grey images of 28 px, 10 classes, CC BY-SA 4.0.",
    brings_val=False,
)
