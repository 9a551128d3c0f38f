"""Terms of the report in a sentence each, explained where they stand; docs/glossary.md has the same."""

from __future__ import annotations

import re

_TERMS = {
    "Adaptation": "changing a pretrained model so that it computes on encrypted images what it computed on plain ones.",
    "Adapter": "a small set of trained weights that is added to a frozen model and saved apart from it.",
    "APGD-CE, APGD-T": "PGD that chooses its own step size, on the cross-entropy or towards each wrong class.",
    "AUROC": "the chance that a model ranks an image with a label before one without it; 0.5 for guessing.",
    "AutoAttack": "the standard sequence of APGD-CE, APGD-T, FAB-T and Square by which robustness is compared.",
    "Average precision": "the share of images with a label among those ranked first, averaged over all ranks; 1 is "
    "best.",
    "Balanced accuracy": "the mean of the accuracies of all classes, so that rare ones count as much as frequent ones.",
    "Brute force": "trying all keys; here only the number of keys is computed.",
    "Calibration error": "by how much a model's confidence differs from how often it is right.",
    "Chance": "the accuracy of always answering the most frequent class.",
    "Chosen plaintext": "the attacker may have images of its own choice encrypted.",
    "CKKS": "a homomorphic encryption scheme for approximate arithmetic on real numbers.",
    "Cross-entropy": "the mean of minus the logarithm of the probability given to the true class; 0 is best.",
    "Epsilon": "the largest change that an attacker may make, in grey levels of the plain image.",
    "FAB, FAB-T": "an attack that looks for the smallest change that misleads the model.",
    "Feature reconstruction": "values are folded at the middle grey, so that inversion no longer hides outlines.",
    "Folded aside": "a value v and 255 - v count as the same, since the attack cannot tell them apart.",
    "IND-CPA": "ciphertexts of two messages cannot be told apart by somebody who may encrypt at will.",
    "IND-CPA-D": "the same for somebody who is also shown decrypted results; CKKS by itself does not have it.",
    "Interval": "where the figure of all such images lies with a certainty of 95 %; few images make it wide.",
    "Inverse network": "a network that learns to turn ciphertext back into images.",
    "Jigsaw": "the blocks of one image are put in order like a puzzle.",
    "K1 to K4": "the attackers of a keyed model, who know the key, the weights, the public checkpoint, or nothing.",
    "Key recovered": "the share of the key's entries that an attack got right, 0 being a guess and 100 all.",
    "Key switch": "the costliest operation on ciphertexts, needed after each product and rotation.",
    "Known plaintext": "the attacker has some images together with their ciphertexts.",
    "L2, Linf": "how a change is measured: its Euclidean length, or its largest value.",
    "LoRA": "low-rank adaptation; the change of a weight matrix is the product of two thin matrices.",
    "Macro F1": "the mean over classes of F1, which is 1 where all images of a class and no others are given it.",
    "Masked, obfuscated gradients": "gradients that lead an attack astray, so that a model looks robust and is not.",
    "Matching": "the attacker picks, from a list of plain images, the one that a ciphertext shows.",
    "Minimum difference": "each pixel's encryption is undone so that it looks most like its neighbour.",
    "PGD": "projected gradient descent, the basic attack: small steps that raise the loss, kept within epsilon.",
    "Pooled": "the attacker uses many ciphertexts under one key together.",
    "PSNR": "peak signal-to-noise ratio, how near two images are pixel by pixel, in dB; more is nearer.",
    "Ring": "the polynomials that ciphertexts are made of; a larger one is slower and allows more multiplications.",
    "RLWE": "ring learning with errors, the problem whose hardness the scheme rests on.",
    "Square": "an attack that asks for the model's answers and uses no gradients.",
    "SSIM": "structural similarity of two images; 1 is identical, about 0 is unrelated.",
    "Strength": "how far an attack got, from 0 (nothing, or what luck gives) to 100 (everything).",
    "Surrogate": "an attacker's own model, attacked in place of the real one.",
    "Weights, as an attack": "whoever has the public checkpoint compares it with the adapted model, whose difference "
    "is the key.",
    "Whitening": "bringing features to mean zero and nearly equal variance without correlation.",
    "Wrong key": "another key than the one that the images were encrypted with; a model should be useless with it.",
}
_CASE = re.compile(r"[A-Z0-9]{2}")  # written in capitals, such as AUROC, and found so alone
_ALSO = {
    "K1 to K4": ("K1", "K2", "K3", "K4"),
    "Interval": ("95 % interval",),
    "Square": ("Square",),
    "Ring": ("ring",),
    "Masked, obfuscated gradients": ("masked gradients", "gradients may be masked", "obfuscation, not robustness"),
    "Minimum difference": ("min difference", "minimum difference"),
    "Weights, as an attack": ("attack: weights", "weights, after fine-tuning"),
    "Adaptation": ("adaptation", "adapted"),
    "Surrogate": ("surrogate", "surrogates"),
    "Key switch": ("key switch", "key switches"),
    "L2, Linf": ("l2", "linf"),
}
_TAG = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL)


def explained(html: str) -> list[tuple[str, str]]:
    """The terms that occur in a piece of the page, and what each means."""
    text = " ".join(_TAG.sub(" ", html).split())
    return [(term, meaning) for term, meaning in _TERMS.items() if any(_occurs(form, text) for form in _forms(term))]


def _forms(term: str) -> tuple[str, ...]:
    return _ALSO.get(term, tuple(term.split(", ")))


def _occurs(form: str, text: str) -> bool:
    exact = _CASE.search(form) or form == "Square"
    return bool(re.search(rf"(?<![\w-]){re.escape(form)}(?!\w|-[A-Za-z])", text, 0 if exact else re.IGNORECASE))
