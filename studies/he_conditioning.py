"""Why two iterations of the paper's algorithm end at 21 %: the same algorithm on the same images, columns conditioned.

    python studies/he_conditioning.py    # seconds

Chiang (arXiv 2304.03807) trains on 400 non-negative features of RegNetX-400MF and a constant, of 128 MNIST images, for
two iterations: 20.48, then 21.49 % on MNIST's test images. Neither those images nor those weights come with a package,
so: scikit-learn's digits, enlarged to 20 x 20 pixels, 400 non-negative features; 128 images, tested on the other 1669.
Twenty draws. Arithmetic of the plain twin, `ppvit.he.quadratic_gradient`. The results are in `he_losses.md`.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ppvit.he.features import fit_whitening
from ppvit.he.quadratic_gradient import train

IMAGES, COMPONENTS, DRAWS = 128, 63, 20


def main() -> None:
    digits = load_digits()
    pixels = zoom(digits.images / 16, (1, 2.5, 2.5), order=1).reshape(len(digits.target), -1)
    table: dict[str, list[list[float]]] = {}
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(pixels))
        kept, tested = order[:IMAGES], order[IMAGES:]
        raw = pixels[kept], pixels[tested]
        mean, deviation = raw[0].mean(axis=0), raw[0].std(axis=0) + 1e-3
        whitening = fit_whitening(raw[0], COMPONENTS)
        ways = {
            "raw": raw,
            "standardised": tuple((each - mean) / deviation for each in raw),
            "whitened": (whitening(raw[0])[:, :-1], whitening(raw[1])[:, :-1]),
        }
        for name, (x, other) in ways.items():
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


if __name__ == "__main__":
    main()
