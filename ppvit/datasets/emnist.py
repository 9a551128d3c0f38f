"""EMNIST (Cohen et al. 2017): handwritten letters and digits in idx files, split in six ways."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ppvit.datasets.fetch import fetch, verified
from ppvit.datasets.idx import Idx, compared, folder_of, from_folder, from_zip
from ppvit.datasets.imagefolder import open_imagefolder
from ppvit.datasets.local import find
from ppvit.datasets.source import Request, Source, enter, require_subset

_ARCHIVE = "gzip.zip"  # its official name; emnist-gzip.zip is taken as well
_SUBSETS = ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")


def open_emnist(request: Request) -> Source:
    """Open the user's official archive or the files in it, else a folder of class folders, else the download.

    ``request.subset`` is one of the six ways in which EMNIST is split. Its files hold every image with rows and columns
    exchanged; here they stand upright, as those of MNIST do.

    Raises:
        UsageError: there is no such subset.
        PpvitError: a file is missing, damaged or of another kind, or cannot be fetched.
    """
    require_subset(request, _SUBSETS)

    from torchvision.datasets import EMNIST  # knows address, checksum and classes; imports torch

    subset = request.subset or _SUBSETS[0]
    classes = [name for name in EMNIST.classes_split_dict[subset] if name != "N/A"]
    names = {
        split: (f"emnist-{subset}-{split}-images-idx3-ubyte", f"emnist-{subset}-{split}-labels-idx1-ubyte")
        for split in ("train", "test")
    }
    files = "idx files"
    if request.path is None:
        where = fetch((EMNIST.url,), request.cache / "emnist" / _ARCHIVE, EMNIST.md5)
        read = partial(from_zip, where)
    elif (archive := _archive(request.path)) is not None:
        where = verified(archive, EMNIST.md5)
        read = partial(from_zip, where)
    elif (folder := folder_of(request.path, "EMNIST", names["train"][0])) is not None:
        where, files = folder, compared(folder, {f"{name}.gz": None for pair in names.values() for name in pair})
        read = partial(from_folder, where)
    else:
        return open_imagefolder(request, expected_classes=len(classes))
    idx = Idx(read, names, classes, first_label=1 if subset == "letters" else 0, transposed=True)
    return idx.source(str(where), f"EMNIST {subset} {files}")


def _archive(path: Path) -> Path | None:
    places = (path, path / "raw", path / "EMNIST" / "raw")
    found = (find(place, _ARCHIVE, f"emnist-{_ARCHIVE}") for place in places)
    return next((archive for archive in found if archive is not None), None)


enter(
    "emnist",
    open_emnist,
    "Handwritten letters and digits (Cohen et al. 2017): grey images of 28 px; subset is balanced (112,800 + 18,800 "
    "in 47 classes), byclass (697,932 + 116,323 in 62), bymerge (the same in 47), letters (124,800 + 20,800 in 26), "
    "digits (240,000 + 40,000 in 10) or mnist (60,000 + 10,000 in 10); licence not stated.",
    reads=("subset",),
    require=partial(require_subset, subsets=_SUBSETS),
    brings_val=False,
)
