"""The one check that things were made with the same key, cipher, size, model and classes."""

from pathlib import Path

import pytest

from ppvit.core.errors import PpvitError
from ppvit.core.provenance import Made, require_made_alike

RECORD = {
    "key_id": "pk-0123456789abcdef",
    "cipher": {"name": "block", "block_size": 4},
    "image_size": 32,
    "model": "vit_micro_patch4_32",
    "num_classes": 10,
}
OTHER = {
    "key_id": "pk-fedcba9876543210",
    "cipher": {"name": "block", "block_size": 8},
    "image_size": 16,
    "model": "vit_tiny_patch16_224",
    "num_classes": 9,
}


def test_what_agrees_passes_and_what_only_one_records_is_not_compared():
    shards = Made("data/encrypted", {name: RECORD[name] for name in ("key_id", "cipher", "image_size")}, "encrypt")
    model = Made("models/adapted", {**RECORD, "adapted": True}, "adapt")
    require_made_alike(shards, model, Made("params.yaml", {"key_id": RECORD["key_id"], "demo_key": False}))


@pytest.mark.parametrize("name", RECORD)
def test_every_difference_is_refused_with_both_values_and_the_stages(name: str):
    first = Made(Path("models/adapted"), RECORD, "adapt")
    second = Made(Path("models/finetuned"), {**RECORD, name: OTHER[name]}, "finetune")
    with pytest.raises(PpvitError) as caught:
        require_made_alike(first, Made("x", {}), second)
    told = str(caught.value)
    assert told.startswith("models/adapted was made with ")
    assert f"{RECORD[name]}, models/finetuned with {OTHER[name]}" in told
    assert told.endswith("; make them again: dvc repro adapt finetune")


def test_a_parameter_can_also_be_set_back():
    made = Made("models/finetuned", RECORD, "finetune")
    with pytest.raises(PpvitError, match="dvc repro finetune, or set dataset.image_size back$"):
        require_made_alike(made, Made("params.yaml", {**RECORD, "image_size": 16}))


def test_no_key_is_not_the_same_as_a_key():
    with pytest.raises(PpvitError, match=r"cipher\.key_id None, b with pk-0123456789abcdef"):
        require_made_alike(Made("a", {"key_id": None}, "encrypt"), Made("b", {"key_id": RECORD["key_id"]}, "adapt"))
