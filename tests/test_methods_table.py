"""docs/methods.md says of every fine-tuning method what the code does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from conftest import make_config, tiny_backbone
from peft.tuners.tuners_utils import BaseTunerLayer

from ppvit.models import load_model, save_model
from ppvit.tuners import TUNERS, load_finetuned, make_tuner, save_finetuned, trainable_parameters
from ppvit.tuners.base import target_layers

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
HEAD = 768 * 10 + 10
COLUMNS = ("what trains", "formula", "parameters", "zero start", "merges", "stock", "source")
ROWS = {
    cells[0].strip("`"): dict(zip(COLUMNS, cells[1:], strict=True))
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
YES = {True: "yes", False: "no"}


def vit_base():
    with torch.device("meta"):  # shapes are all that counting needs
        return timm.create_model("vit_base_patch16_224", num_classes=10)


def test_the_table_has_every_method_in_the_registry_s_order():
    assert list(ROWS) == list(TUNERS)


@pytest.mark.parametrize("method", TUNERS)
def test_flags(method):
    row, tuner = ROWS[method], TUNERS[method]
    assert (row["zero start"], row["merges"], row["stock"]) == (
        YES[tuner.zero_start], YES[tuner.mergeable], YES[tuner.stock]
    )  # fmt: skip


@pytest.mark.parametrize("method", TUNERS)
def test_parameters(method):
    tuner = make_tuner(make_config(finetune={"method": method}).finetune)
    if method in ("pissa", "olora"):  # decompose weights, which a model of shapes alone does not have
        pair = [make_tuner(make_config(finetune={"method": name}).finetune) for name in (method, "lora")]
        assert len({trainable_parameters(one.attach(tiny_backbone().model)) for one in pair}) == 1
        assert ROWS[method]["parameters"] == ROWS["lora"]["parameters"]
    else:
        count = trainable_parameters(tuner.attach(vit_base())) - HEAD
        assert ROWS[method]["parameters"] == f"{count:,}"
    if formula := ROWS[method]["formula"]:
        assert f"{_evaluate(formula, tuner):,}" == ROWS[method]["parameters"]


def _evaluate(formula, tuner):
    settings, model = tuner.settings, vit_base()
    values = {"D": 768, "L": 12, "P": 3 * 16**2, "r": settings.rank, "n": settings.frequencies}
    expression = formula.removeprefix("Σ").replace("·", "*")
    if expression == formula.replace("·", "*"):
        return eval(expression, values)
    layers = target_layers(model, tuner.target_names(model)).values()
    return int(sum(eval(expression, values | {"i": layer.in_features, "o": layer.out_features}) for layer in layers))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Every method on a small model: logits at the start, logits with random trained values, and the saved result."""
    folder = tmp_path_factory.mktemp("methods")
    save_model(folder / "adapted", tiny_backbone(), {"key_id": "pk-0"})
    torch.manual_seed(0)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.save(images, folder / "images.pt")
    logits = {}
    for method in TUNERS:
        tuner = make_tuner(make_config(finetune={"method": method, "rank": 2, "frequencies": 100}).finetune)
        torch.manual_seed(3)  # heads are drawn alike
        base = load_model(folder / "adapted", "adapt", 5)
        with torch.no_grad():
            expected = base(images)
            tuned = tuner.attach(base).eval()
            start = tuned(images)
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter) * getattr(parameter, "structural_mask", 1)
            logits[method] = expected, start, tuned(images)
        record = {"method": method, "num_classes": 5, "key_id": "pk-0", "cipher": {"name": "block"}}
        save_finetuned(tuner, tuned, folder / method, folder / "adapted", record)
    return folder, images, logits


@pytest.mark.parametrize("method", TUNERS)
def test_zero_start(method, world):
    base, start, trained = world[2][method]
    assert ROWS[method]["zero start"] == YES[torch.allclose(start, base, rtol=1e-5, atol=1e-5)]
    assert not torch.allclose(trained, base, atol=1e-2)


@pytest.mark.parametrize("method", TUNERS)
def test_merges(method, world):
    folder, images, logits = world
    loaded = load_finetuned(folder / "adapted", folder / method, 5)
    assert ROWS[method]["merges"] == YES[not any(isinstance(module, BaseTunerLayer) for module in loaded.modules())]
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), logits[method][2], rtol=1e-4, atol=1e-4)


def test_stock(world):
    """A fresh process in which ppvit cannot be imported loads what the table says, to the logits of training."""
    folder, _, logits = world
    script = (
        "import sys; sys.modules['ppvit'] = None\n"
        "import json, pathlib, peft, timm, torch\n"
        "peft.tuners.boft.layer._FBD_CUDA = False  # else peft compiles CUDA code, where it can\n"
        "folder, found = pathlib.Path(sys.argv[1]), {}\n"
        "images = torch.load(folder / 'images.pt')\n"
        "for method in sys.argv[2:]:\n"
        "    adapter = (folder / method / 'adapter_config.json').exists()\n"
        "    source = folder / ('adapted' if adapter else method)\n"
        "    model = timm.create_model(f'local-dir:{source}', pretrained=True, num_classes=5).eval()\n"
        "    try:\n"
        "        model = peft.PeftModel.from_pretrained(model, folder / method).eval() if adapter else model\n"
        "        found[method] = model(images).tolist()\n"
        "    except (KeyError, ValueError, TypeError) as error:\n"
        "        found[method] = None\n"
        "print(json.dumps(found))\n"
    )
    command = [sys.executable, "-c", script, str(folder), *TUNERS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {method: row["stock"] for method, row in ROWS.items()} == {
        method: YES[value is not None] for method, value in found.items()
    }
    for method, value in found.items():
        if value is not None:
            torch.testing.assert_close(torch.tensor(value), logits[method][2], rtol=1e-4, atol=1e-4)


def test_sources_are_papers():
    for method, row in ROWS.items():
        if method not in ("full", "linear"):
            assert re.fullmatch(r"\[[^]]+\]\(https://arxiv\.org/abs/\d{4}\.\d{5}\)", row["source"]), method
