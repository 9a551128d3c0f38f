"""Studies fit the code: every cipher is in them, and every setting they name still exists."""

import yaml
from imports import ROOT

from ppvit.ciphers import CIPHERS
from ppvit.config import load
from ppvit.owner import load_cipher

STUDY = ROOT / "studies" / "ciphers"


def test_the_study_of_ciphers_has_them_all():
    variants = yaml.safe_load((STUDY / "variants.yaml").read_text())["variants"]
    matrix = yaml.safe_load((STUDY / "dvc.yaml").read_text())["stages"]["run"]["matrix"]["variant"]
    assert matrix == list(variants)
    assert {name.split("-")[0] for name in variants} == set(CIPHERS)
    for name, settings in variants.items():
        config = load(ROOT / "params.yaml", [f"cipher.name={name.split('-')[0]}", *settings["overrides"]])
        assert load_cipher(config).name == name.split("-")[0]
