"""Does fine-tuning hide the key? Every method, on an adapted and on an unadapted model, then the `weights` attack.

python studies/weights.py        (results: studies/weights.md; ten minutes beside other work on two cores)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ppvit.verbs import adapt, audit, encrypt, evaluate, finetune
from ppvit import places as paths
from ppvit.config import load
from ppvit.core.errors import one_line_errors
from ppvit.core.files import read_json
from ppvit.tuners import TUNERS

HEADER = [
    "cipher",
    "model",
    "method",
    "accuracy",
    "key in the model handed out",
    "in the model given back",
    "in what training changed",
]
RATES = {"full": 5e-4, "linear": 1e-2}  # others take the default


def row(cipher: str, enabled: bool, method: str) -> list[str]:
    """Train and attack once; percentages of the key, 0 being a guess."""
    rate = [f"finetune.learning_rate={RATES[method]}"] if method in RATES else []
    settings = [
        "finetune.epochs=5",
        f"cipher.name={cipher}",
        f"adapt.enabled={str(enabled).lower()}",
        f"finetune.method={method}",
        *rate,
    ]
    config = load(overrides=[*settings, "audit.attacks=[weights]"])
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as name:
        work = Path(name)
        encrypt.run(config, paths.raw(config), work / "encrypted")
        adapt.run(config, paths.PRETRAINED, work / "adapted", work / "adapt.json")
        finetune.run(config.finetune, work / "encrypted", work / "adapted", work / "finetuned", work / "finetune.json")
        places = (work / "encrypted", work / "adapted", work / "finetuned")
        evaluate.run(config.evaluate, *places, work / "plots", work / "evaluate.json")
        audit.run(
            config, paths.raw(config), places[0], paths.PRETRAINED, *places[1:], work / "pictures", work / "audit.json"
        )
        found = read_json(work / "audit.json", "audit")
        accuracy = read_json(work / "evaluate.json", "evaluate")["accuracy_percent"]
    shares = [found.get(f"weights{variant}_key_recovered_percent") for variant in ("", "_finetuned", "_update")]
    texts = ["–" if share is None else f"{share:.0f}" for share in shares]
    return [cipher, "adapted" if enabled else "unadapted", method, f"{accuracy:.1f}", *texts]


def main() -> None:
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    runs = [("block", True, method) for method in TUNERS] + [("shuffle", True, "lora_patch")]
    # the other methods leave an unadapted patch embedding as it is, which melo stands for
    runs += [(cipher, False, method) for cipher in ("block", "shuffle") for method in ("melo", "full", "lora_patch")]
    for run in runs:
        print("| " + " | ".join(row(*run)) + " |", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
