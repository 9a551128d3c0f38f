"""The table and the plot of the study, from its results.    dvc repro ciphers/dvc.yaml:table (in studies/)"""

from __future__ import annotations

from pathlib import Path

import yaml

from ppvit.report.compare import accuracy_against_leak, cipher_table
from ppvit.core.errors import one_line_errors
from ppvit.core.files import read_json, write_json

HERE = Path(__file__).parent
HEAD = """# Every cipher: accuracy, cost and leak

Digits at 32 px, 4-px blocks, the embedded micro-ViT, LoRA as in `params.yaml` for 5 epochs; one seed. Made by
`dvc repro ciphers/dvc.yaml` in `studies`; what each name stands for is in `variants.yaml`.

Accuracies in percent: *unadapted* trains the public weights on ciphertext as they are, *adapted* those transformed by
the key (– where no exact adaptation exists), *ConvMixer* trains a small one from random weights with a learned
permutation matrix after its first layer (Qi 2023). Leaks in percent of everything, 0 being a guess: with the public
checkpoint and the trained model (weights), ten known pairs (known), an oracle (chosen), a hundred ciphertexts (pooled),
one ciphertext (jigsaw, feature, min diff), a network trained on pairs under other keys (inverse), and how often the
plain image is picked out of 100 (match). Images/s are of the cipher alone on one core, measured beside other work: only
their order of magnitude tells ciphers apart.

"""


def main() -> None:
    order = list(yaml.safe_load((HERE / "variants.yaml").read_text(encoding="utf-8"))["variants"])
    results = [read_json(HERE / "results" / f"{name}.json", "run") for name in order]
    write_json(HERE / "ciphers.json", results)
    (HERE / "ciphers.md").write_text(HEAD + cipher_table(results) + "\n\n![accuracy against leak](ciphers.svg)\n")
    (HERE / "ciphers.svg").write_bytes(accuracy_against_leak(results))


if __name__ == "__main__":
    with one_line_errors():
        main()
