"""scikit-learn's digits as dark strokes on light paper, for `dataset.name=imagefolder`: see `he_losses.md`.

python studies/he_inverted.py digits.zip    # 1,797 PNG files of 8 x 8 grey pixels, a folder a class
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from ppvit.data.images import encode_png


def main(path: Path) -> None:
    digits = load_digits()
    images = 255 - np.rint(digits.images * (255 / 16)).astype(np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for number, (image, label) in enumerate(zip(images, digits.target, strict=True)):
            archive.writestr(f"{label}/{number:04d}.png", encode_png(np.repeat(image[:, :, None], 3, axis=2)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: he_inverted.py <zip file to write>")
    main(Path(sys.argv[1]))
