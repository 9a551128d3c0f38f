"""One file adds a cipher, a fine-tuning method, an attack or a data set: a copy of the repository with toys runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from imports import ROOT

TOYS = {
    "ppvit/ciphers/toy.py": '''
"""Toy ciphers."""

import numpy as np

from ppvit.ciphers.base import CIPHERS, AffineMap, Cipher
from ppvit.ciphers.gather import GatherCipher, log2_factorial


@CIPHERS.register()
class Toy(GatherCipher):
    """Shuffles the values of all blocks alike."""

    name = "toy"
    shuffles = True

    def _make_map(self, *image):
        return AffineMap(
            np.arange(self.blocks), self._stream("places").permutation(self.values), np.ones(self.values, np.int8)
        )

    @property
    def key_space_bits(self):
        return log2_factorial(self.values)


@CIPHERS.register()
class ToyBits(Cipher):
    """Flips keyed bits of every value, which no model can be adapted to."""

    name = "toy_bits"

    def _bits(self):
        return self._stream("bits").choices(256, self.image_size**2 * 3).reshape(self.shape).astype(np.uint8)

    def encrypt(self, images, ids=None):
        self._check(images)
        return images ^ self._bits()

    decrypt = encrypt

    @property
    def key_space_bits(self):
        return 8.0 * 3 * self.image_size**2
''',
    "ppvit/tuners/toy.py": '''
"""A toy method."""

from ppvit.tuners.base import TUNERS, Tuner, head_names


@TUNERS.register()
class Toy(Tuner):
    """All biases and the head train."""

    name = "toy"
    reads = ()
    convolutions = True

    def attach(self, model):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias") or name.startswith(tuple(head_names(model))))
        return model
''',
    "ppvit/audit/attacks/toy.py": '''
"""A toy attack."""

from ppvit.audit.base import attack
from ppvit.audit.view import Finding


@attack("toy", "toy column", ciphertext_only=True, variants={"upside_down": "upside down"})
def find(view):
    """Takes the ciphertext for the image, upright and upside down."""
    yield Finding("one ciphertext", view.pictures, headline=True, variant="upright")
    yield Finding("one ciphertext", view.pictures[:, ::-1], variant="upside_down")
''',
    "ppvit/datasets/toy.py": '''
"""A toy data set."""

from functools import partial

import numpy as np

from ppvit.datasets.source import DATASETS, Source, array_samples, shard_bytes


@DATASETS.register("toy")
def open_toy(request):
    """Dark and light noise."""
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 100, (40, 32, 32, 3), np.uint8) + np.uint8(100) * labels[
        :, None, None, None
    ].astype(np.uint8)
    samples = partial(array_samples, images, labels, "toy")
    return Source(["dark", "light"], samples, samples, "numpy's generator", shard_bytes(40, images.nbytes))
''',
}

# the verbs of a run and the study's table, in one process that imports once
DRIVER = """
import json, sys
from typer.testing import CliRunner
from ppvit.cli import app

said = []
for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, arguments)
    if done.exit_code:
        sys.exit(f"{arguments}: {done.exception!r} {done.output}")
    said.append(done.stdout)

sys.path.insert(0, "studies")
from ciphers.tables import cipher_table

variants = {"toy": 12.0, "toy-not_attacked": None}
said.append(cipher_table([{"cipher": name, "toy_strength_percent": value} for name, value in variants.items()]))
print(json.dumps(said))
"""

# tests that go through the names of a registry, and their files
RELATED = {
    "toy": "ciphers every_cipher audit_keys threats adversarial export tuners every_method methods_table "
    "adversarial_training resnet",
    "test_run_reports_the_names": "audit",
    "test_every_attack_can_be_asked_for": "audit",
    "test_attacks_that_cannot_be_made": "audit_keys",
    "test_page_has_what_the_code_says": "methods_table",
    "test_committed_params": "config",
    "test_one_file_adds_one": "registry",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The repository as git has it, and one file more of each kind."""
    folder = tmp_path_factory.mktemp("project")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for name, source in TOYS.items():
        (folder / name).write_text(source.lstrip())
    return folder


def python(project: Path, *arguments: str) -> str:
    """What an interpreter in the copy prints."""
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_a_pipeline_of_toys_runs(project):
    settings = {
        "dataset.name": "toy",
        "cipher.name": "toy",
        "finetune.method": "toy",
        "finetune.epochs": 1,
        "audit.attacks": "[toy,weights]",
        "audit.images": 4,
        "audit.candidates": 8,
        "audit.known_pairs": "[1]",
        "audit.pooled_images": "[4]",
        "robustness.attack": "pgd",
        "robustness.images": 2,
        "threats.images": 2,
        "threats.surrogate_images": 8,
        "threats.queries": 1,
    }
    given = [part for name, value in settings.items() for part in ("-S", f"{name}={value}")]
    stages = ["settings", "download", "encrypt", "adapt", "finetune", "evaluate", "robustness", "verify", "audit"]
    stages += ["threats", "report"]
    kinds = ["ciphers", "methods", "attacks", "datasets"]
    calls = [*([stage, *given] for stage in stages), *(["list", kind] for kind in kinds)]
    said = json.loads(python(project, "-c", DRIVER, json.dumps(calls)).splitlines()[-1])
    table, listed = said.pop(), said[-len(kinds) :]

    results = {path.stem: json.loads(path.read_text()) for path in (project / "results").glob("*.json")}
    assert results["finetune"]["method"] == "toy"
    assert results["adapt"]["max_logit_difference_float64"] < 1e-6  # adaptation needed to know nothing of the cipher
    assert results["verify"]["accuracy_percent"] == results["evaluate"]["accuracy_percent"]
    assert results["audit"]["weights_key_recovered_percent"] == 100
    assert results["audit"]["toy_upright_ssim"] == results["audit"]["ssim_of_ciphertext"]
    assert results["robustness"]["headline_accuracy_percent"] <= results["robustness"]["clean_accuracy_percent"]
    page = (project / "results" / "report.html").read_text()
    assert "toy, upright" in page
    assert "toy, upside down" in page
    for kind, names in zip(kinds, listed, strict=True):
        assert any(line.split()[0] == "toy" and len(line.split()) > 3 for line in names.splitlines()), kind
    read = json.loads((project / "settings.json").read_text())
    assert read["audit"]["audit"]["attacks"] == ["toy", "weights"]
    assert "rank" not in read["finetune"]["finetune"]  # the method reads none
    header, _, attacked, not_attacked = ([cell.strip() for cell in line.split("|")] for line in table.splitlines())
    assert attacked[header.index("toy column")] == "12"
    assert not_attacked[header.index("toy column")] == "not attacked"


def test_related_tests_pass_unchanged(project):
    files = sorted({f"tests/test_{name}.py" for names in RELATED.values() for name in names.split()})
    python(project, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", " or ".join(RELATED), *files)
