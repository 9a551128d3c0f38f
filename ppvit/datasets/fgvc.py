"""FGVC: five fine-grained data sets, as papers on fine-tuning take them since VPT (Jia et al. 2022, arXiv 2203.12119).

Each is opened as its publishers lay it out, unpacked, or in the archives that they publish, or as one archive of all.
VPT cut a tenth of the official training images off for validation; its lists ``train.json``, ``val.json`` and
``test.json`` in the data set's folder are followed where they are there. Otherwise the official split counts, and of
its training images ``dataset.val_fraction`` of each class is held out, which is as large a part as VPT's and not the
same images. Flowers have official validation images, so that there both are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ppvit.core.errors import PpvitError, UsageError
from ppvit.datasets import fgvc_layouts
from ppvit.datasets.fetch import fetch
from ppvit.datasets.fgvc_layouts import Layout, Read
from ppvit.datasets.listed import Tree, open_listed
from ppvit.datasets.local import only_archive
from ppvit.datasets.source import Request, Source, enter

_VPT = ("train.json", "val.json", "test.json")


@dataclass(frozen=True)
class Download:
    """A published file: address and MD5 sum."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Info:
    """One of the five.

    Attributes:
        shows: what is seen.
        folders: what its folder is called.
        layout: reads the official files.
        files: those that tell splits and classes; the first lies in the data set's folder.
        archives: official archives by name, each with something that shows that it is unpacked beside itself.
        counts: images of VPT's train, val and test.
        classes: how many.
        licence: or terms, as its publishers have them.
        downloads: files that can be fetched; none where the publishers ask for registration or the address is gone.
    """

    shows: str
    folders: tuple[str, ...]
    layout: Callable[[Read], Layout]
    files: tuple[str, ...]
    archives: dict[str, str]
    counts: tuple[int, int, int]
    classes: int
    licence: str
    downloads: tuple[Download, ...] = ()


_BIRDS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
_FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
FGVC = {
    "cub": Info(
        "birds (CUB-200-2011, Wah et al. 2011)",
        ("CUB_200_2011",),
        fgvc_layouts.birds,
        _BIRDS,
        {"CUB_200_2011.tgz": "CUB_200_2011"},
        (5_394, 600, 5_794),
        200,
        "licence not stated, photographs of Flickr",
        # the sum that public loaders of this file compare with
        (
            Download(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "97eceeb196236b17998738112f37df78",
            ),
        ),
    ),
    "nabirds": Info(
        "birds (NABirds, Van Horn et al. 2015)",
        ("nabirds",),
        fgvc_layouts.birds,
        _BIRDS,
        {},
        (21_536, 2_393, 24_633),
        555,
        "registration with the publishers, not to be passed on",
    ),
    "flowers": Info(
        "flowers (Nilsback and Zisserman 2008)",
        ("flowers-102", "flowers102", "oxford_flowers", "OxfordFlower", "OxfordFlowers"),
        fgvc_layouts.flowers,
        ("setid.mat", "imagelabels.mat"),
        {"102flowers.tgz": "jpg"},
        (1_020, 1_020, 6_149),
        102,
        "licence not stated",
        (  # sums as in torchvision.datasets.Flowers102
            Download(f"{_FLOWERS}102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
            Download(f"{_FLOWERS}imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
            Download(f"{_FLOWERS}setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
    ),
    "dogs": Info(
        "dogs (Khosla et al. 2011), which ImageNet holds too",
        ("stanford_dogs", "StanfordDogs", "dogs", "Stanford-dogs"),
        fgvc_layouts.dogs,
        ("train_list.mat", "test_list.mat"),
        {"images.tar": "Images", "lists.tar": "train_list.mat"},
        (10_800, 1_200, 8_580),
        120,
        "images of ImageNet, for research",
    ),
    "cars": Info(
        "cars (Krause et al. 2013)",
        ("stanford_cars", "StanfordCars", "cars", "Stanford-cars"),
        fgvc_layouts.cars,
        ("cars_test_annos_withlabels.mat", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat"),
        {"cars_train.tgz": "cars_train", "cars_test.tgz": "cars_test", "car_devkit.tgz": "devkit"},
        (7_329, 815, 8_041),
        196,
        "licence not stated; no longer published",
    ),
}


def open_fgvc(request: Request) -> Source:
    """Open the user's files, else the download, where there is one.

    Raises:
        UsageError: nothing can be fetched, and there is no path.
        PpvitError: files or images are missing, wrong, or of another data set; or the download fails.
    """
    info = FGVC[request.name.removeprefix("fgvc_")]
    _require_files(request)
    path = request.path
    if path is None:
        path = request.cache / request.name
        for each in info.downloads:
            fetch((each.url,), path / each.name, each.md5)
    tree = Tree.of(_paths(path, info), [file.rpartition("/")[2] for file in (*_VPT, *info.files)])
    root = _root(tree, info, request.name)
    read = _reader(tree, root)
    lists = root in tree.roots(*_VPT)
    if lists:
        layout = fgvc_layouts.lists_of_vpt(read, lambda name: "/".join((*root, name)) in tree.sizes)
    else:
        layout = info.layout(read)
    splits = {
        split: {"/".join((*root, name)): label for name, label in labels.items()}
        for split, labels in layout.splits.items()
    }
    train, val, test = info.counts
    published = {"train": train, "val": val, "test": test}
    if "val" in splits:
        note = "split by VPT's lists" if lists else "split by the publishers, as VPT has it"
    else:
        published = {"train": train + val, "test": test}
        note = (
            "dataset.val_fraction of each class is held out from training: as many as VPT does with 0.1, not the same "
            "images; with VPT's lists train.json, val.json and test.json beside the images they would be"
        )
    described = f"FGVC {request.name.removeprefix('fgvc_')}, {'lists of VPT' if lists else 'official split'}"
    return open_listed(tree, splits, layout.classes, described, published, [note])


def _require_files(request: Request) -> None:
    info = FGVC[request.name.removeprefix("fgvc_")]
    if request.path is None and not info.downloads:
        raise UsageError(
            f"dataset.name={request.name} is not fetched: set dataset.path to the folder with {info.files[0]}"
        )


def _paths(path: Path, info: Info) -> list[Path]:
    """What is read: the user's folder and the official archives in it that are not unpacked, or one archive."""
    path = only_archive(path)
    if not path.is_dir():
        return [path]
    folders = [path, *(path / folder for folder in info.folders)]
    root = next((folder for folder in folders if any((folder / name).exists() for name in info.archives)), path)
    packed = [root / name for name, unpacked in info.archives.items() if not (root / unpacked).exists()]
    return [root if packed else path, *(each for each in packed if each.is_file())]


def _root(tree: Tree, info: Info, name: str) -> tuple[str, ...]:
    """The folder of the data set in the tree."""
    found = sorted({*tree.roots(*_VPT), *tree.roots(info.files[0])})
    called = {root: root[-1] if root else tree.paths[0].name.split(".")[0] for root in found}
    others = {folder for other in FGVC.values() if other is not info for folder in other.folders}
    own = [root for root in found if called[root] in info.folders]
    unknown = [root for root in found if called[root] not in others]
    if len(own or unknown) == 1:
        return (own or unknown)[0]
    if not found:
        raise PpvitError(
            f"{tree.where} has neither {info.files[0]} nor VPT's {', '.join(_VPT)}; set dataset.path to the folder of "
            f"{name} as its publishers lay it out"
        )
    there = ", ".join(sorted(set(called.values())))
    raise PpvitError(f"{tree.where} has the data sets {there}; set dataset.path to the folder of {name}")


def _reader(tree: Tree, root: tuple[str, ...]) -> Read:
    def read(name: str) -> tuple[bytes, str]:
        full = "/".join((*root, name))
        if full not in tree.texts:
            raise PpvitError(f"{tree.where} lacks {full}, which tells splits or classes; copy the data set again")
        return tree.texts[full], f"{tree.where}: {full}"

    return read


def _says(info: Info) -> str:
    train, val, test = info.counts
    return (
        f"FGVC, {info.shows}: {train:,} + {val:,} + {test:,} photographs, {info.classes} classes"
        f"{'' if info.downloads else ', by dataset.path'}, {info.licence}."
    )


for _name, _info in FGVC.items():
    enter(f"fgvc_{_name}", open_fgvc, _says(_info), require=_require_files)
