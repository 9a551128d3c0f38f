"""Does fine-tuning hide the key? Every method, on an adapted and on an unadapted model, then the `weights` attack.

python studies/weights.py        (after `dvc repro download`; results: studies/weights.md)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from study import ROOT
from table import markdown

from ppvit.config import load
from ppvit.core.process import prepared_process
from ppvit.core.reading import read_json
from ppvit.pipeline import STAGES
from ppvit.places import Places

HEADER = ["cipher", "model", "method", "accuracy"]
HEADER += ["key in the model handed out", "in the model given back", "in what training changed"]
RATES = {"full": 5e-4, "linear": 1e-2}  # others take the default


def row(cipher: str, enabled: bool, method: str) -> list[str]:
    """Train and attack once; percentages of the key, 0 being a guess."""
    overrides = [f"cipher.name={cipher}", f"adapt.enabled={str(enabled).lower()}", f"finetune.method={method}"]
    overrides += [f"finetune.learning_rate={RATES[method]}"] if method in RATES else []
    config = load(None, [*overrides, "finetune.epochs=5", "audit.attacks=[weights]"])
    here = Places.of(config, ROOT)
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as folder:
        places = Places.of(config, Path(folder), raw=here.raw, embedded=here.embedded)
        for stage in ("encrypt", "adapt", "finetune", "evaluate", "audit"):
            STAGES[stage].run(config, places)
        found, tested = (read_json(places.result(stage), stage) for stage in ("audit", "evaluate"))
    shares = [found.get(f"weights{variant}_key_recovered_percent") for variant in ("", "_finetuned", "_update")]
    texts = ["–" if share is None else f"{share:.0f}" for share in shares]
    return [cipher, "adapted" if enabled else "unadapted", method, f"{tested['accuracy_percent']:.1f}", *texts]


def main() -> None:
    from ppvit.tuners import TUNERS

    runs = [("block", True, method) for method in TUNERS] + [("shuffle", True, "lora_patch")]
    # the other methods leave an unadapted patch embedding as it is, which melo stands for
    runs += [(cipher, False, method) for cipher in ("block", "shuffle") for method in ("melo", "full", "lora_patch")]
    print(markdown([HEADER, *(row(*run) for run in runs)], text_columns=3))


if __name__ == "__main__":
    with prepared_process():
        main()
