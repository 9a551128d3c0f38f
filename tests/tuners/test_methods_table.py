"""What every fine-tuning method says of itself is what it does, and docs/methods.md says the same.

``python tests/tuners/test_methods_table.py`` writes the page's table anew.
"""

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
import warm_python
from conftest import MADE, make_config, tiny_backbone
from peft.tuners.tuners_utils import BaseTunerLayer

from ppvit.config import Finetune
from ppvit.config.methods import read_by_method
from ppvit.core.errors import UsageError
from ppvit.core.registry import summary
from ppvit.models import load_model, save_model
from ppvit.tuners import TUNERS, load_finetuned, make_tuner, save_finetuned, trainable_parameters
from ppvit.tuners.base import target_layers
from ppvit.tuners.lora_variants import MovedBaseLora

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
HEAD = 768 * 10 + 10
COLUMNS = ("method", "what trains", "parameters", "zero start", "merges", "stock", "ResNets", "reads")
YES = {True: "yes", False: "no"}
# of the papers: parameters of ViT-B/16 beside the head; "sum" is over the layers of i inputs and o outputs
FORMULAS = {
    "linear": "0",
    "melo": "4 * D * r * L",
    "lora_patch": "4 * D * r * L + D * (P + 1)",
    **dict.fromkeys(("lora", "rslora", "pissa", "olora", "eva"), "sum r * (i + o)"),
    "dora": "sum r * (i + o) + o",
    "oft": "sum i * (r - 1) / 2",
    "boft": "sum i * r + o",
    "hra": "sum i * r",
    "vera": "sum o + r",
    "ia3": "L * 7 * D",
    "fourierft": "sum n",
    "adapter": "L * (2 * D * r + D + r)",
    "vpt_deep": "L * r * D",
    "aoft_lora": "L * 2 * (2 * D + r)",
    "aoft_adapter": "L * (2 * D + r)",
    "aoft_vpt": "L * (D + r)",
    "hta_lora": "L * 4 * 5 * D",
    "hta_adapter": "L * 2 * 5 * D",
}


def vit_base():
    with torch.device("meta"):  # shapes are all that counting needs
        return timm.create_model("vit_base_patch16_224", num_classes=10)


def tuner_of(method, **values):
    return make_tuner(make_config(finetune={"method": method, **values}).finetune)


@cache
def count(method):
    """Trained parameters of ViT-B/16 at the default settings, without the head."""
    if issubclass(TUNERS[method], MovedBaseLora):  # decompose weights, which a model of shapes alone does not have
        method = "lora"
    return trainable_parameters(tuner_of(method).attach(vit_base())) - HEAD


def row(method):
    """The cells of a method in the page."""
    tuner = TUNERS[method]
    text = summary(tuner).replace("``", "`").replace("|", r"\|")
    text = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    flags = [YES[flag] for flag in (tuner.zero_start, tuner.mergeable, tuner.stock, tuner.convolutions)]
    return [f"`{method}`", text, f"{count(method):,}", *flags, ", ".join(tuner.reads)]


def line(cells):
    return f"| {' | '.join(cells)} |"


def is_row(text):
    return text.startswith("| `")


def test_page_has_what_the_code_says():
    """Of every method in it."""
    rows = [text for text in PAGE.read_text(encoding="utf-8").splitlines() if is_row(text)]
    assert rows
    assert [line(row(text.split("`")[1])) for text in rows] == rows


@pytest.mark.parametrize("method", FORMULAS)
def test_parameters(method):
    values = {"D": 768, "L": 12, "P": 3 * 16**2, "r": Finetune().rank, "n": Finetune().frequencies}
    formula = FORMULAS[method]
    if formula.startswith("sum "):
        tuner, model = tuner_of(method), vit_base()
        layers = target_layers(model, tuner.target_names(model)).values()
        each = [values | {"i": layer.in_features, "o": layer.out_features} for layer in layers]
        expected = sum(eval(formula.removeprefix("sum "), values) for values in each)
    else:
        expected = eval(formula, values)
    assert count(method) == expected


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_methods_that_are_counted_as_lora(method):
    found = [trainable_parameters(tuner_of(name).attach(tiny_backbone().model)) for name in (method, "lora")]
    assert found[0] == found[1]


class Recorded:
    """Settings that remember what was read of them."""

    def __init__(self, settings):
        self._settings, self.read = settings, set()

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(self._settings, name)


@pytest.mark.parametrize("method", TUNERS)
def test_a_method_reads_what_it_says_and_nothing_else_that_is_special(method, tmp_path):
    settings = make_config(finetune={"method": method, "rank": 2, "frequencies": 100}).finetune
    recorded = Recorded(settings)
    tuner = TUNERS[method](recorded)
    model = tuner.attach(tiny_backbone(num_classes=5).model)
    tuner.initialise(model, [torch.rand(8, 3, 16, 16) for _ in range(3)])
    tuner.learning_rates()
    if hasattr(model, "peft_config"):
        tuner.save(model, tmp_path)
    assert recorded.read >= set(TUNERS[method].reads)
    assert recorded.read <= read_by_method(settings)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Every method on a small model: logits at the start, logits with random trained values, and the saved result."""
    folder = tmp_path_factory.mktemp("methods")
    save_model(folder / "adapted", tiny_backbone(), MADE)
    torch.manual_seed(0)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    torch.save(images, folder / "images.pt")
    logits = {}
    for method in TUNERS:
        tuner = tuner_of(method, rank=2, frequencies=100)
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
        record = {"num_classes": 5, **MADE}
        save_finetuned(tuner, tuned, folder / method, folder / "adapted", record)
    return folder, images, logits


@pytest.mark.parametrize("method", TUNERS)
def test_zero_start(method, world):
    base, start, trained = world[2][method]
    assert TUNERS[method].zero_start == torch.allclose(start, base, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(trained, base, atol=1e-2)


@pytest.mark.parametrize("method", TUNERS)
def test_merges(method, world):
    folder, images, logits = world
    loaded = load_finetuned(folder / "adapted", folder / method, 5)
    assert TUNERS[method].mergeable != any(isinstance(module, BaseTunerLayer) for module in loaded.modules())
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), logits[method][2], rtol=1e-4, atol=1e-4)


def test_stock(world):
    """A fresh process in which ppvit cannot be imported loads what says so, to the logits of training."""
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
    command = [warm_python.python(), "-c", script, str(folder), *TUNERS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {method: tuner.stock for method, tuner in TUNERS.items()} == {
        method: value is not None for method, value in found.items()
    }
    for method, value in found.items():
        if value is not None:
            torch.testing.assert_close(torch.tensor(value), logits[method][2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", TUNERS)
def test_networks_without_linear_layers(method):
    model, tuner = timm.create_model("resnet18_cifar", num_classes=5), tuner_of(method)
    if TUNERS[method].convolutions:
        assert trainable_parameters(tuner.attach(model)) > 0
    else:
        with pytest.raises(UsageError):
            tuner.attach(model)


def test_every_method_of_a_paper_names_it():
    for method in FORMULAS.keys() - {"linear"}:
        assert re.search(r"arXiv \d{4}\.\d{5}", summary(TUNERS[method])), method


if __name__ == "__main__":
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = next(number for number, text in enumerate(lines) if text.startswith("| method |"))
    last = max(number for number, text in enumerate(lines) if is_row(text))
    table = [line(COLUMNS), "|" + "---|" * len(COLUMNS), *(line(row(method)) for method in TUNERS)]
    PAGE.write_text("\n".join([*lines[:first], *table, *lines[last + 1 :]]) + "\n", encoding="utf-8")
