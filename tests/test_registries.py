"""One file adds a cipher, a fine-tuning method, an augmentation, an attack or a data set, as the documentation shows.

A copy of the repository gets the examples of the README and of docs/extending.md, each as the file that it names, and
nothing else. The pipeline runs with them, and so do the tests that go through the registries, unchanged.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import warm_python
from imports import ROOT

NAMES = {"ciphers": "rows", "methods": "biases", "attacks": "flat", "datasets": "noise", "augmentations": "solarise"}

# what the examples do not show: a cipher that no model can be adapted to, and an attack with variants
OTHERS = {
    "ppvit/ciphers/bits.py": '''
import numpy as np

from ppvit.ciphers.base import CIPHERS, Cipher


@CIPHERS.register()
class Bits(Cipher):
    """Flips keyed bits of every value."""

    name = "bits"

    def encrypt(self, images, ids=None):
        self._check(images)
        bits = self._stream("bits").choices(256, 3 * self.image_size**2)
        return images ^ bits.reshape(self.shape).astype(np.uint8)

    decrypt = encrypt

    @property
    def key_space_bits(self):
        return 8.0 * 3 * self.image_size**2
''',
    "ppvit/audit/attacks/turned.py": '''
from ppvit.audit.base import attack
from ppvit.audit.view import Finding


@attack("turned", "turned", variants={"upside_down": "upside down"})
def find(view):
    """Takes the ciphertext for the image, upright and upside down."""
    yield Finding("one ciphertext", view.pictures, headline=True, variant="upright")
    yield Finding("one ciphertext", view.pictures[:, ::-1], variant="upside_down")
''',
}

# the verbs of a run and the study's table, in one process that imports once
DRIVER = """
import json, sys
from typer.testing import CliRunner
from ppvit.cli.command import app

said = []
for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, arguments)
    if done.exit_code:
        sys.exit(f"{arguments}: {done.exception!r} {done.output}")
    said.append(done.stdout)

sys.path.insert(0, "studies")
from ciphers.tables import cipher_table

variants = {"rows": 12.0, "rows-not_attacked": None}
said.append(cipher_table([{"cipher": name, "flat_strength_percent": value} for name, value in variants.items()]))
print(json.dumps(said))
"""

# tests that go through the names of a registry, and their files
RELATED = {
    "rows or bits or biases or solarise": "ciphers every_cipher audit_keys threats adversarial export tuners "
    "every_method methods_table adversarial_training resnet augmentation_commutes",
    "test_run_reports_the_names": "audit",
    "test_every_attack_can_be_asked_for": "audit",
    "test_attacks_that_cannot_be_made": "audit_keys",
    "test_page_has_what_the_code_says": "methods_table",
    "test_committed_params": "config",
    "test_one_file_adds_one": "registry",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The repository as git has it, and one file more for every example."""
    folder = tmp_path_factory.mktemp("project")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    pages = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/extending.md"))
    examples = dict(re.findall(r"^```python\n# (ppvit/\S+\.py)\n(.*?)^```$", pages, re.M | re.S))
    assert sorted(Path(name).stem for name in examples) == sorted(NAMES.values())
    for name, source in {**examples, **OTHERS}.items():
        (folder / name).write_text(source)
    return folder


def python(project: Path, *arguments: str) -> str:
    """What an interpreter in the copy prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project), os.environ["PYTHONPATH"]])}
    done = subprocess.run(
        [warm_python.python(), *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_a_pipeline_of_examples_runs(project):
    settings = {
        "dataset.name": NAMES["datasets"],
        "cipher.name": NAMES["ciphers"],
        "finetune.method": NAMES["methods"],
        "finetune.epochs": 1,
        "augment.names": f"[{NAMES['augmentations']}]",
        "audit.attacks": f"[{NAMES['attacks']},turned,weights]",
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
    calls = [*([stage, *given] for stage in stages), *(["list", kind] for kind in NAMES)]
    said = json.loads(python(project, "-c", DRIVER, json.dumps(calls)).splitlines()[-1])
    table, listed = said.pop(), said[-len(NAMES) :]

    results = {path.stem: json.loads(path.read_text()) for path in (project / "results").glob("*.json")}
    assert results["finetune"]["method"] == "biases"
    assert results["adapt"]["max_logit_difference_float64"] < 1e-6
    assert results["verify"]["accuracy_percent"] == results["evaluate"]["accuracy_percent"]
    assert results["audit"]["weights_key_recovered_percent"] == 100
    assert results["audit"]["turned_upright_ssim"] == results["audit"]["ssim_of_ciphertext"]
    assert -1 < results["audit"]["flat_ssim"] < 1
    assert results["robustness"]["headline_accuracy_percent"] <= results["robustness"]["clean_accuracy_percent"]
    page = (project / "results" / "report.html").read_text()
    for title in ("flat", "turned, upright", "turned, upside down"):
        assert f">{title}<" in page
    for (kind, name), names in zip(NAMES.items(), listed, strict=True):
        assert any(line.split()[0] == name and len(line.split()) > 3 for line in names.splitlines()), kind
    read = json.loads((project / "settings.json").read_text())
    assert read["audit"]["audit"]["attacks"] == ["flat", "turned", "weights"]
    assert "rank" not in read["finetune"]["finetune"]  # the method reads none
    header, _, attacked, not_attacked = ([cell.strip() for cell in line.split("|")] for line in table.splitlines())
    assert attacked[header.index("flat")] == "12"
    assert not_attacked[header.index("flat")] == "not attacked"


def test_related_tests_pass_unchanged(project):
    related = {f"test_{name}.py" for names in RELATED.values() for name in names.split()}
    files = sorted(str(path) for path in (project / "tests").rglob("test_*.py") if path.name in related)
    assert len(files) == len(related)
    python(project, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", " or ".join(RELATED), *files)
