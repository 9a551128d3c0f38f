"""The first picture of the README: photographs, encrypted, and what `ppvit audit` makes of 30 ciphertexts.

    python docs/first_picture.py

Takes pictures that scikit-learn and scikit-image install, cuts 30 squares of 224 pixels out of them, encrypts them with
the cipher ``block`` (blocks of 16 pixels change places, the values in each change places) and one key that nothing
keeps, and runs `ppvit audit FOLDER` on the ciphertexts alone. Whose pictures they are: docs/README.md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from sklearn.datasets import load_sample_images

import ppvit

SIZE, BLOCK, IMAGES = 224, 16, 30
TITLES = ("plain", "encrypted with one key", f"what `ppvit audit` makes of {IMAGES} encrypted files, without the key")
OUT = Path(__file__).parent / "first.jpg"


def photographs() -> np.ndarray:
    """Squares out of the pictures in turn, at random places: uint8, (30, 224, 224, 3)."""
    # half the size, so that a square shows something
    pictures = [*load_sample_images().images, data.chelsea(), data.coffee(), data.rocket(), data.astronaut()]
    rng = np.random.default_rng(3)
    squares = []
    for number in range(IMAGES):
        picture = Image.fromarray(pictures[number % len(pictures)])
        scale = rng.uniform(1.0, 1.3) * SIZE / min(picture.size)
        small = np.asarray(picture.resize([round(side * scale) for side in picture.size], Image.Resampling.LANCZOS))
        top, left = (rng.integers(0, side - SIZE + 1) for side in small.shape[:2])
        squares.append(small[top : top + SIZE, left : left + SIZE])
    return np.stack(squares)


def main() -> None:
    plain = photographs()
    encrypted = ppvit.make_cipher("block", ppvit.generate_key(), image_size=SIZE, block_size=BLOCK).encrypt(plain)
    with TemporaryDirectory() as folder:
        given, out = Path(folder) / "encrypted", Path(folder) / "audit"
        given.mkdir()
        for number, picture in enumerate(encrypted):
            Image.fromarray(picture).save(given / f"{number:02}.png")
        subprocess.run([sys.executable, "-m", "ppvit.cli", "audit", given, "--out", out], check=True)
        recovered = np.stack([np.asarray(Image.open(path)) for path in sorted(out.glob("decrypted/*"))])
    shown = slice(0, 4)
    rows = (plain[shown], encrypted[shown], recovered[shown])
    gap, title = 6, 26
    page = Image.new("RGB", (4 * (SIZE + gap) - gap, len(rows) * (SIZE + title)), "white")
    for line, (pictures, text) in enumerate(zip(rows, TITLES, strict=True)):
        top = line * (SIZE + title)
        ImageDraw.Draw(page).text((0, top + 4), text, "black", ImageFont.load_default(15))
        for column, picture in enumerate(pictures):
            page.paste(Image.fromarray(picture), (column * (SIZE + gap), top + title))
    page.save(OUT, quality=82, optimize=True)


if __name__ == "__main__":
    main()
