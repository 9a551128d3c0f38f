"""Parameters of the images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ppvit.config.section import Section, Text

NO_DATA = "data/none"  # where dataset.path points when the user names no data of their own; a file in git


class Dataset(Section):
    """the images"""

    name: str = Field("digits", max_length=100, pattern=r"^[A-Za-z0-9_-]+$")  # a part of places
    """which images; `ppvit list datasets` names all; imagefolder or webdataset for your own"""
    path: Text = NO_DATA
    """leave as it is to download the data set; or the path of your own folder, archive or npz file"""
    source_size: Literal[0, 28, 64, 128, 224] = 0
    """MedMNIST only: side in pixels of the published file; 0 takes the one at dataset.path, or downloads 28"""
    slices: Literal["none", "middle", "all"] = "none"
    """volumes of MedMNIST only: the middle slice of each, or all as images of their own; none refuses volumes"""
    slice_axis: int = Field(0, ge=0, le=2)
    """volumes only: along which of the three axes they are sliced"""
    subset: Text = ""
    """which part of a data set that has several, such as letters of emnist; empty takes the usual or only one"""
    image_column: Text = ""
    """huggingface only: the column of images, where there are several"""
    label_column: Text = ""
    """huggingface only: the column of labels, where there are several"""
    image_size: int = Field(32, ge=8, le=4096)
    """side of the square images in pixels, which is the model's input size"""
    train_fraction: float = Field(1.0, gt=0, le=1)
    """share of the training images that is used, the same of every class"""
    first_images: int = Field(0, ge=0, le=2**31)
    """only so many training images, the first as they are stored, in place of a fraction; 0 takes all"""
    val_fraction: float = Field(0.1, ge=0, le=0.9)
    """share of these held out for validation, the same of every class, where the data set has no validation split"""
    own_val: Literal["val", "train"] = "val"
    """what validation images that the data set brings are: val; or train, for a last run on all with val_fraction 0"""
    test_fraction: float = Field(1.0, gt=0, le=1)
    """share of the test images that is used, the same of every class; below 1 only for trials"""
    frames: Literal["error", "first", "middle", "last"] = "error"
    """which picture of a file of several (pages, animations, DICOM) is taken; error refuses such files"""
    bad_images: Literal["error", "skip"] = "error"
    """what is done about files that cannot be decoded; skip leaves them out, unless they are most or all of a class"""
    duplicates: Literal["warn", "drop_from_test", "error"] = "warn"
    """what is done about test images that are training images too, or look like one, and about images of two labels"""
    seed: int = Field(0, ge=0, lt=2**32)
    """decides which images a fraction or a split takes, and their order in the shards"""

    @model_validator(mode="after")
    def _one_part(self) -> Dataset:
        if self.first_images and self.train_fraction < 1:
            raise ValueError(
                f"dataset.first_images {self.first_images} and dataset.train_fraction {self.train_fraction} both take "
                "a part of the training images; set one of them back, to 0 or to 1.0"
            )
        return self
