"""Why two iterations of the paper's algorithm end at 21 %: the same algorithm on the same images, columns conditioned.

    python studies/he_conditioning.py    # seconds

Chiang (arXiv 2304.03807) trains on 400 non-negative features of RegNetX-400MF and a constant, of 128 MNIST images, for
two iterations: 20.48, then 21.49 % on MNIST's test images. Neither those images nor those weights come with a package,
so: scikit-learn's digits, enlarged to 20 x 20 pixels, 400 non-negative features; 128 images, tested on the other 1669.
Twenty draws. Arithmetic of the plain twin, `ppvit.he.volley_revolver.quadratic_gradient`. Results: `he_losses.md`.

Digits are light strokes on black; inverted, 1 - x, they are dark strokes on light paper: all features share a large
common part, as pooled ReLU features of a RegNet do.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ppvit.he.parties.features import fit_whitening
from ppvit.he.volley_revolver.quadratic_gradient import train

IMAGES, COMPONENTS, DRAWS = 128, 63, 20


def main() -> None:
    digits = load_digits()
    pixels = zoom(digits.images / 16, (1, 2.5, 2.5), order=1).reshape(len(digits.target), -1)
    table: dict[str, list[list[float]]] = {}
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(pixels))
        kept, tested = order[:IMAGES], order[IMAGES:]
        for name, (x, other) in {
            **conditioned("", pixels[kept], pixels[tested]),
            **conditioned("inverted, ", 1 - pixels[kept], 1 - pixels[tested]),
        }.items():
            x, other = (np.c_[each, np.ones(len(each))] for each in (x, other))
            scores = [other @ train(x, digits.target[kept], 10, iterations).weights.T for iterations in (1, 2)]
            optimum = LogisticRegression(max_iter=500).fit(x, digits.target[kept])
            predicted = [np.argmax(each, axis=1) for each in scores] + [optimum.predict(other)]
            table.setdefault(name, []).append([100 * (each == digits.target[tested]).mean() for each in predicted])
    print("| features | 1 iteration, % | 2 iterations, % | lowest, highest of 2 | optimum, % |")
    print("| --- | --- | --- | --- | --- |")
    for name, rows in table.items():
        one, two, best = np.array(rows).T
        print(
            f"| {name} | {one.mean():.1f} | {two.mean():.1f} | {two.min():.1f}, {two.max():.1f} | {best.mean():.1f} |"
        )


def conditioned(kind: str, kept: np.ndarray, tested: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features of both sets of images as they are, standardised and whitened as `kept` says."""
    mean, deviation = kept.mean(axis=0), kept.std(axis=0) + 1e-3
    whitening = fit_whitening(kept, COMPONENTS)
    return {
        f"{kind}raw": (kept, tested),
        f"{kind}standardised": ((kept - mean) / deviation, (tested - mean) / deviation),
        f"{kind}whitened": (whitening(kept)[:, :-1], whitening(tested)[:, :-1]),
    }


if __name__ == "__main__":
    main()
