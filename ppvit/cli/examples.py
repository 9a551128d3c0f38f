"""An example of every verb, which its help ends in."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": ("ppvit init my-project",),
    "pretrain": ("ppvit pretrain -S pretrain.steps=100 --out /tmp/micro.safetensors",),
    "download": ("ppvit download -S dataset.name=digits",),
    "encrypt": ("ppvit encrypt -S cipher.name=np -S dataset.image_size=32",),
    "adapt": ("ppvit adapt -S model.name=vit_tiny_patch16_224 -S dataset.image_size=224 -S cipher.block_size=16",),
    "finetune": (
        "ppvit finetune -S finetune.method=linear -S finetune.epochs=3",
        "ppvit finetune --out /tmp/tuned --live /tmp/live --results /tmp/results",
    ),
    "evaluate": ("ppvit evaluate --json",),
    "robustness": ("ppvit robustness -S robustness.images=64 -S robustness.epsilon=4",),
    "verify": ("ppvit verify -S verify.wrong_keys=5",),
    "audit": ("ppvit audit", "ppvit audit pictures/ --block-size 16 --out found/"),
    "threats": ("ppvit threats -S threats.images=64",),
    "report": ("ppvit report --out report.html",),
    "compare": ("ppvit compare --sort accuracy", "ppvit compare main my-branch exp-a1b2c --format html"),
    "he": ("ppvit he -S he.train_images=200",),
    "he keys": ("ppvit he keys --owner he/owner --trainer he/trainer",),
    "he encrypt": ("ppvit he encrypt --owner he/owner --trainer he/trainer",),
    "he train": ("ppvit he train --trainer he/trainer",),
    "he refresh": ("ppvit he refresh --owner he/owner --trainer he/trainer",),
    "he decrypt": ("ppvit he decrypt --owner he/owner --trainer he/trainer",),
    "show": ("ppvit show --count 6 --out show.png", "ppvit show --findings"),
    "demo": ("ppvit demo --port 8090",),
    "tune": ("ppvit tune finetune.learning_rate=1e-4..1e-1 'finetune.rank=[4, 8]' --trials 10",),
    "predict": ("ppvit predict photo.jpg --top 5",),
    "rekey": ("ppvit rekey pk-6a84562a80f3ffa0 pk-0123456789abcdef --out rekeyed",),
    "export": (
        "ppvit export hub",
        "ppvit export hub --force --push somebody/digits-encrypted --license apache-2.0",
    ),
    "pull": ("ppvit pull finetune evaluate",),
    "settings": ("ppvit settings -S cipher.name=np --out settings.json",),
    "params": ("ppvit params > params.yaml",),
    "schema": ("ppvit schema > params.schema.json",),
    "recipe": ("ppvit recipe lin2025",),
    "list": ("ppvit list ciphers",),
    "keys": ("ppvit keys --json",),
    "backup": ("ppvit backup mine",),
    "keygen": ('ppvit keygen --label "hospital A" --passphrase',),
    "doctor": ("ppvit doctor",),
    "status": ("ppvit status", "ppvit status finetune evaluate"),
}


def epilog(verb: str) -> str | None:
    """The end of a verb's help: its examples, each on a line of its own; None where it has none."""
    examples = EXAMPLES.get(verb, ())
    title = "Example:" if len(examples) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {each}" for each in examples)]) if examples else None
