"""Pictures of two handwritten digits side by side, 00 to 99: a stand-in for data of 100 classes, from real images.

The digits are scikit-learn's (Alpaydin and Kaynak 1998), 8 x 8 pixels each. Training and test pictures are made of
different ones. It says nothing of photographs: what it has of CIFAR-100 is the number of classes, each of few images.

python studies/pairs.py    # writes studies/data/pairs: train and test, a folder a class, PNG of 32 x 32 pixels
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ppvit.core.files import atomic_output

OUT = Path(__file__).parent.resolve() / "data" / "pairs"
COUNTS = {"train": 20, "test": 5}  # pictures a class


def make(folder: Path, seed: int = 0) -> None:
    """Write all pictures, whole or not at all.

    Args:
        folder: to write to; replaced when it exists.
        seed: decides which digits meet.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    random = np.random.default_rng(seed)
    order = random.permutation(len(pixels))
    first = len(pixels) * COUNTS["train"] // sum(COUNTS.values())
    parts = {"train": order[:first], "test": order[first:]}
    with atomic_output(folder) as temporary:
        for split, numbers in parts.items():
            of_digit = [numbers[labels[numbers] == digit] for digit in range(10)]
            for tens in range(10):
                for ones in range(10):
                    place = temporary / split / f"{tens}{ones}"
                    place.mkdir(parents=True)
                    for number in range(COUNTS[split]):
                        both = [pixels[random.choice(of_digit[digit])] for digit in (tens, ones)]
                        picture = Image.fromarray(np.concatenate(both, axis=1)).resize(
                            (32, 16), Image.Resampling.BICUBIC
                        )
                        square = Image.new("RGB", (32, 32))
                        square.paste(picture, (0, 8))
                        square.save(place / f"{number}.png")


if __name__ == "__main__":
    make(OUT)
