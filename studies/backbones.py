"""Which of timm's architectures take a key exactly, by which way, and why the others do not: all of them, one by one.

python studies/backbones.py                # writes docs/backbones.md; an hour beside other work on one core
python studies/backbones.py 'swin*' tnt_*  # only prints these

Each is built with random weights, every parameter moved by noise of 0.02 so that places of patches matter, with few
blocks and on the smallest images that it takes, adapted to the cipher `block_np` and compared with the plain model in
float64. What is saved is then loaded by ppvit, which must give the same, and by plain timm, which must give the same or
stop. One that was interrupted goes on where it was.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from backbones_page import Row, page
from study import ROOT
from torch import Tensor, nn
from torch.nn import functional

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers import make_cipher
from ppvit.ciphers.keys import Key
from ppvit.core.errors import PpvitError
from ppvit.core.process import prepared_process
from ppvit.models import Backbone, load_model, model_input, save_model
from ppvit.models.records import ModelArguments
from ppvit.models.refusals import why_not
from ppvit.models.stems import patch_projection, patch_side, stem_of, token_order

LINES, PAGE = ROOT / "studies" / "backbones.jsonl", ROOT / "docs" / "backbones.md"
WIDE = 1024  # networks of wider tokens are run with one block, not two
LARGEST = 1_500_000_000  # parameters, as built here
NOISE, SEED = 0.02, 0
MATTERS = 1e4  # logits move at least so many times as far when blocks change places, or equality would say nothing
STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def row(name: str, weights: bool) -> Row:
    """Build, adapt, compare, save and load an architecture."""
    with torch.device("meta"):
        whole = timm.create_model(name)
    kind = type(whole).__name__
    reason = why_not(whole)
    if reason is not None:
        return Row(name, kind, weights, "refused", reason=reason)
    side = patch_side(patch_projection(whole))
    arguments, size = smallest(name, whole, side)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in timm.create_model(name, **arguments).parameters())
    if count > LARGEST:
        return Row(name, kind, weights, "not run", side, reason=f"{count / 1e9:.1f} billion parameters")
    return measured(Row(name, kind, weights, "", side, how=told(arguments, size)), arguments, size)


def told(arguments: dict[str, Any], size: int) -> str:
    cut = ", ".join(f"{name} {value}" for name, value in arguments.items() if name in CUTS)
    return f"{size} px" + (f", {cut}" if cut else "")


CUTS = ("depth", "depths")


def smallest(name: str, whole: nn.Module, side: int) -> tuple[dict[str, Any], int]:
    """Arguments with as few blocks and as small images as timm builds and runs it with."""
    tried = {}
    for cut in cuts(name, whole):
        for size in sizes(whole, side):
            for arguments in ({**cut, "img_size": size}, cut):
                tried = arguments
                if runs(name, arguments, size):
                    return arguments, size
    raise PpvitError(f"{name} does not run with {tried}")


def cuts(name: str, whole: nn.Module) -> Iterator[dict[str, Any]]:
    """Arguments that leave out most blocks, as classes of timm call them, and at last none."""
    heads = {"num_classes": 10} if getattr(whole, "num_classes", 0) else {}
    stages = [len(getattr(whole, name)) for name in ("stages", "layers", "levels", "blocks") if hasattr(whole, name)]
    wide = getattr(whole, "embed_dim", 0)
    depth = 1 if isinstance(wide, int) and wide > WIDE else 2
    yield {"depth": depth, **heads}
    yield {"depth": depth, "num_kv_heads": 8, **heads}  # Sapiens 2 has a number of them for every block
    if stages and stages[0] < 6:
        yield {"depths": (1,) * stages[0], **heads}
    yield heads


def sizes(whole: nn.Module, side: int) -> Iterator[int]:
    if side >= 7:
        yield 6 * side
    else:
        yield from (size for size in (32, 64, 96, 128) if size % side == 0)
    default = whole.pretrained_cfg["input_size"][-1]
    yield default - default % side
    yield 224 - 224 % side


def runs(name: str, arguments: dict[str, Any], size: int) -> bool:
    """Whether it can be built so, with fewer parameters than the whole, and takes images of that size."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, **arguments).eval()
            model(torch.zeros(1, 3, size, size))
    except Exception as error:
        return isinstance(error, NotImplementedError) or "meta tensor" in str(error).lower()  # it cannot be told so
    return True


def measured(found: Row, arguments: dict[str, Any], size: int) -> Row:
    torch.manual_seed(SEED)
    model = timm.create_model(found.name, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * NOISE)
    backbone = Backbone(model, found.name, {**arguments, "num_classes": model.num_classes}, *STATISTICS)
    cipher = make_cipher("block_np", Key(bytes([7]) * 32), size, found.patch)
    found.difference = adapt_model(backbone, cipher)["max_logit_difference_float64"]
    found.way = "tables" if token_order(model) is None else "order"
    generator = np.random.default_rng(SEED)
    images = generator.integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    encrypted = model_input(torch.from_numpy(cipher.encrypt(images)).permute(0, 3, 1, 2))
    expected = logits(model, encrypted)
    found.matters = matters(model, encrypted, found.patch)
    if found.matters < MATTERS * found.difference:
        raise PpvitError(f"the logits of {found.name} hardly depend on places ({found.matters:.2g})")
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as name:
        folder = Path(name) / "adapted"
        save_model(folder, backbone, {**cipher.record, "model": found.name, "adapted": True})
        if set(arguments) <= set(ModelArguments.model_fields) | {"num_classes"}:
            same(logits(load_model(folder, "adapt"), encrypted), expected, "ppvit")
        found.timm = by_timm(folder, encrypted, expected)
    if (found.timm == "loads") != (stem_of(model) is None):
        raise PpvitError(f"plain timm {found.timm} {found.name}")
    return found


def matters(model: nn.Module, images: Tensor, side: int) -> float:
    """How far logits move, in float64, when blocks come in another order."""
    cut = functional.unfold(images.double(), side, stride=side)
    order = torch.randperm(cut.shape[2], generator=torch.Generator().manual_seed(SEED))
    moved = functional.fold(cut[:, :, order], images.shape[-2:], side, stride=side)
    model.double()
    found = (logits(model, moved) - logits(model, images.double())).abs().max().item()
    model.float()
    return found


def by_timm(folder: Path, encrypted: Tensor, expected: Tensor) -> str:
    """Whether plain timm loads it, with its own head and with others, or stops every time."""
    said = set()
    for head in ({"num_classes": 3}, {"num_classes": 0}, {}):
        try:
            with torch.device("meta"), warnings.catch_warnings():  # names and shapes are enough to stop at
                warnings.simplefilter("ignore")  # of values that are not taken
                timm.create_model(f"local-dir:{folder}", pretrained=True, **head)
        except Exception:  # of names and shapes, each class of timm in its own way
            said.add("stops")
        else:
            said.add("loads")
    if said == {"loads"}:
        same(logits(timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), encrypted), expected, "timm")
    return " and ".join(sorted(said))


def same(found: Tensor, expected: Tensor, where: str) -> None:
    difference = (found - expected).abs().max().item()
    if not difference <= 1e-5 * max(1.0, expected.abs().max().item()):
        raise PpvitError(f"{where} computes something else, by {difference:.2g}")


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def swept(patterns: list[str]) -> Iterator[Row]:
    """All architectures, those that were done before from the file."""
    warnings.filterwarnings("ignore")
    with_weights = {name.split(".")[0] for name in timm.list_pretrained()}
    chosen = [name for name in architectures() if not patterns or any(fnmatch(name, each) for each in patterns)]
    done = {} if patterns else {found.name: found for found in stored() if found.way != "not run"}
    for name in chosen:
        if name not in done:
            try:
                found = row(name, name in with_weights)
            except Exception as error:  # one of many, each of which may fail in its own way
                text = (str(error).splitlines() or [""])[0][:200]
                found = Row(name, "", name in with_weights, "not run", reason=f"{type(error).__name__}: {text}")
            if not patterns:
                with LINES.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(asdict(found)) + "\n")
            gc.collect()
            done[name] = found
            print(*(value for value in asdict(found).values() if value != ""), flush=True)
        yield done[name]


def architectures() -> list[str]:
    """Those of timm itself."""
    return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")]


def stored() -> list[Row]:
    if not LINES.exists():
        return []
    return [Row(**json.loads(line)) for line in LINES.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    with prepared_process():
        rows = list(swept(sys.argv[1:]))
        if not sys.argv[1:]:
            PAGE.write_text(page(rows), encoding="utf-8")
