"""Features computed once: the bits of training on images, whole or absent, bounded, for nothing that changes."""

import errno
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import tiny_backbone
from safetensors.torch import load_file
from test_finetune import changed, make_world, places_of, train, train_in_two_processes
from timm.layers import RmsNorm
from torch import nn

from ppvit.core import kept as writing
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.kept import FOLDER, kept_array, limit_bytes
from ppvit.core.scratch import scratch_folder
from ppvit.data.batches import EncryptedImages
from ppvit.data.repeats import Layout
from ppvit.evaluation.shards import score_shards
from ppvit.models import features
from ppvit.models.batch_norm import set_batch_norm
from ppvit.models.features import cut, head_and_features
from ppvit.verbs import encrypt

LINEAR = {"method": "linear", "epochs": 3, "batch_size": 8, "dropout": 0.0, "target_modules": []}
VARIES = ("images_per_second",)


def kept() -> list[Path]:
    return sorted((scratch_folder() / FOLDER).glob("*"))


def run(folder: Path, config, name: str, keep: bool, monkeypatch) -> tuple[dict, dict, dict]:
    """Measured values, trained weights and scores of a run that may keep features, or may not."""
    monkeypatch.setenv("PPVIT_KEPT_GIB", "1" if keep else "0")
    values = {key: value for key, value in train(folder, config, name).items() if key not in VARIES}
    places = places_of(folder, name)
    scores = score_shards(places.encrypted, places.adapted, places.finetuned).summary()
    return values, load_file(places.finetuned / "model.safetensors"), scores


def encrypted_anew(folder: Path, config, **sections):
    """The configuration with other values in some sections, under which the images are encrypted again."""
    update = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    config = config.model_copy(update=update)
    encrypt.run(config, places_of(folder))
    return config


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, encrypted_anew(folder, make_world(folder, **LINEAR), dataset={"val_fraction": 0.2})


@pytest.fixture
def forward_passes(monkeypatch):
    """Sizes of batches of which features are computed."""
    seen = []
    real = features.Frozen.features
    monkeypatch.setattr(features.Frozen, "features", lambda self, x: seen.append(len(x)) or real(self, x))
    return seen


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 7},
        {"batch_size": 1, "epochs": 1},
        {"accumulation": 3, "optimizer": "sgd"},
        {"precision": "bf16"},
        {"track_test": True, "select": "best", "gradient_clip": 0.0, "label_smoothing": 0.1},
    ],
)
def test_training_and_scores_have_the_bits_of_a_run_without(world, settings, monkeypatch):
    folder, config = world
    if settings.get("epochs") == 1:
        settings = {**settings, "epochs": 2}
    config = changed(config, **settings)
    plain = run(folder, config, "plain", False, monkeypatch)
    assert not kept()
    for name in ("first", "again"):
        values, weights, scores = run(folder, config, name, True, monkeypatch)
        assert (values, scores) == (plain[0], plain[2])
        assert weights.keys() == plain[1].keys()
        assert all(torch.equal(weights[key], plain[1][key]) for key in weights)
    assert kept()


def test_the_second_run_and_its_evaluation_compute_no_features(world, forward_passes, monkeypatch):
    folder, config = world
    monkeypatch.setenv("PPVIT_KEPT_GIB", "1")
    places = places_of(folder, "first")
    train(folder, config, "first")
    score_shards(places.encrypted, places.adapted, places.finetuned)
    probes = 3  # of each split, and one on which the cut is tried, are a few images at most
    assert sum(size > 4 for size in forward_passes) > 0
    forward_passes.clear()
    train(folder, changed(config, learning_rate=0.01, seed=5, epochs=4), "first")
    score_shards(places.encrypted, places.adapted, places.finetuned)
    assert all(size <= 4 for size in forward_passes)
    assert len(forward_passes) <= 2 * probes


def files() -> list[Path]:
    return sorted((scratch_folder() / FOLDER).iterdir())


@pytest.mark.parametrize("damage", ["bit", "short", "long", "empty", "zeros"])
def test_damaged_features_are_made_again(world, damage, monkeypatch, capfd):
    folder, config = world
    values, weights, _ = run(folder, config, "whole", True, monkeypatch)
    for path in (before := files()):
        content = bytearray(path.read_bytes())
        content[10] ^= 1
        damaged = {"short": content[:-1], "long": content + b"0", "empty": b"", "zeros": bytes(len(content))}
        path.write_bytes(damaged.get(damage, content))
    again, remade, _ = run(folder, config, "again", True, monkeypatch)
    assert again == values
    assert all(torch.equal(remade[key], weights[key]) for key in weights)
    assert "damaged and are made again" in capfd.readouterr().err
    assert files() == before


def test_a_killed_run_leaves_nothing_that_another_would_take(world, monkeypatch):
    folder, config = world
    real, calls = features.Frozen.features, []

    def killed(self, inputs):
        calls.append(len(inputs))
        if calls.count(features.BATCH) or len(inputs) > 4:
            raise KeyboardInterrupt
        return real(self, inputs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(features.Frozen, "features", killed)
        run(folder, config, "killed", True, monkeypatch)
    assert files() == []  # neither a part nor a lock
    run(folder, config, "killed", True, monkeypatch)


def test_only_so_much_is_kept_and_the_longest_unused_goes_first(monkeypatch, capfd):
    def array(number: int, rows: int = 1000) -> np.ndarray | None:
        values = np.full((rows, 100), number, np.float32)
        found = kept_array("numbers", {"number": number, "rows": rows}, values.shape, values.dtype, lambda: [values])
        assert found is None or np.array_equal(found, values)
        return found

    monkeypatch.setenv("PPVIT_KEPT_GIB", str(1_000_000 / 2**30))  # room for two of 400,000 bytes
    names = []
    for number in (1, 2):
        array(number)
        names.append(next(path for path in files() if path not in names))
        os.utime(names[-1], (number, number))
    array(1)  # used again
    held = array(3)
    assert names[0] in files()
    assert names[1] not in files()
    assert "removed 1 of 2" in capfd.readouterr().err
    assert array(4, rows=3000) is None  # larger than all that may be kept
    assert len(files()) == 2
    array(5), array(6)
    assert (held == 3).all()  # whoever reads an array goes on reading it


@pytest.mark.parametrize("given", ["-1", "much", "nan", "inf", "1e99"])
def test_the_bound_is_a_number(given, monkeypatch):
    monkeypatch.setenv("PPVIT_KEPT_GIB", given)
    with pytest.raises(UsageError, match=r"PPVIT_KEPT_GIB=.* is not a number of GiB from 0 to"):
        limit_bytes()


def test_a_full_disk_keeps_nothing_and_trains_on(world, monkeypatch, capfd):
    folder, config = world
    expected = run(folder, config, "plain", False, monkeypatch)

    def full(parts):
        yield next(iter(parts))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        real = writing._write
        patch.setattr(writing, "_write", lambda path, key, size, parts: real(path, key, size, full(parts)))
        found = run(folder, config, "full", True, monkeypatch)
    assert found[0] == expected[0]
    assert "not kept" in capfd.readouterr().err
    assert files() == []


def test_images_that_cannot_be_read_are_not_taken_for_a_full_disk(world, monkeypatch, tmp_path):
    folder, _ = world
    copy = tmp_path / "encrypted"
    shutil.copytree(places_of(folder).encrypted, copy)
    dataset = EncryptedImages(copy, "train")
    next(copy.glob("train/*.tar")).write_bytes(b"")
    with pytest.raises(PpvitError, match="was replaced or changed while it was read"):
        head_and_features(tiny_backbone().model.eval(), {"train": dataset})
    assert kept() == []


def test_only_their_user_reads_them(world, monkeypatch):
    run(*world, "mine", True, monkeypatch)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (scratch_folder() / FOLDER, *files()))


def test_processes_that_want_the_same_make_it_once(tmp_path):
    script = (
        "import sys, time, numpy as np\n"
        "from pathlib import Path\n"
        "from ppvit.core.kept import kept_array\n"
        "def make():\n"
        "    with open(sys.argv[1], 'a') as file: file.write('made\\n')\n"
        "    time.sleep(0.5)\n"
        "    yield np.arange(12, dtype=np.float32).reshape(3, 4)\n"
        "found = kept_array('numbers', {}, (3, 4), np.dtype(np.float32), make)\n"
        "assert found.sum() == 66\n"
    )
    log = tmp_path / "log"
    processes = [subprocess.Popen([sys.executable, "-c", script, str(log)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert log.read_text() == "made\n"


def inputs() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Doubled(nn.Module):
    """A model that uses its head twice, as distilled ones use two."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.pretrained_cfg = model, {"classifier": "model.head"}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return self.model.head(features) + self.model.head(features)


def of_timm(name: str = "vit_tiny_patch16_224", **arguments) -> nn.Module:
    torch.manual_seed(0)
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    return timm.create_model(name, **(small | arguments if name.startswith(("vit", "deit")) else arguments))


@pytest.mark.parametrize(
    ("model", "mode"),
    [
        (lambda: of_timm(drop_rate=0.1), True),
        (lambda: of_timm(proj_drop_rate=0.1), True),
        (lambda: of_timm(attn_drop_rate=0.1), True),
        (lambda: of_timm(drop_path_rate=0.5), True),
        (lambda: of_timm(patch_drop_rate=0.25), True),
        (lambda: of_timm("deit_tiny_distilled_patch16_224"), False),
        (lambda: Doubled(of_timm()), False),
        (lambda: of_timm("resnet18", num_classes=3), True),  # running statistics
    ],
    ids=["head", "proj", "attention", "depth", "patches", "distilled", "twice", "batch_norm"],
)
def test_what_changes_or_has_no_one_head_is_not_cut(model, mode):
    model = model().train(mode)
    state, buffers = torch.get_rng_state(), [buffer.clone() for buffer in model.buffers()]
    assert cut(model, inputs()) is None
    assert torch.equal(state, torch.get_rng_state())  # trying leaves no trace
    assert all(map(torch.equal, buffers, model.buffers()))
    assert model.training == mode


@pytest.mark.parametrize(
    "model",
    [
        of_timm,
        lambda: of_timm(global_pool="avg"),
        lambda: of_timm("vit_tiny_patch16_224", class_token=False, global_pool="avg"),
        lambda: set_batch_norm(of_timm("resnet18", num_classes=3), "frozen"),
        lambda: of_timm("convnext_atto", num_classes=3),
        lambda: of_timm("mixer_s32_224", img_size=64, num_classes=3),
    ],
    ids=["vit", "average", "no_token", "resnet", "convnext", "mixer"],
)
def test_head_on_features_is_the_model(model):
    model = model().train()
    images = inputs() if isinstance(model, timm.models.VisionTransformer) else torch.rand(4, 3, 64, 64)
    frozen = cut(model, images)
    assert frozen is not None
    with torch.no_grad():
        assert torch.equal(frozen.head(frozen.features(images)), model(images))


def test_the_key_is_everything_but_the_head():
    def key(model, **arithmetic):
        return features.Frozen(model, model.head, arithmetic=arithmetic).determines()

    first, other = of_timm(), of_timm(num_classes=7)
    rest = {name: tensor for name, tensor in first.state_dict().items() if not name.startswith("head.")}
    other.load_state_dict(rest, strict=False)
    assert key(first) == key(other)
    different = [
        of_timm(num_heads=4),
        of_timm(global_pool="avg"),
        of_timm(act_layer="relu"),
        of_timm(norm_layer=RmsNorm),
    ]
    with torch.no_grad():
        different.append(of_timm())
        different[-1].blocks[1].mlp.fc2.bias[3] += 1e-6
    keys = [key(model) for model in (first, *different)] + [key(of_timm(), precision="bf16")]
    assert all(a != b for a, b in itertools.combinations(keys, 2))


def test_attention_is_computed_as_training_computes_it(world, monkeypatch):
    """In bfloat16 on a CPU in steps, which rounds otherwise than the fused kernel; and such features are others."""
    folder, config = world
    fused = []

    def watched(frozen, inputs):
        fused.append([module.fused_attn for module in frozen.model.modules() if hasattr(module, "fused_attn")])
        return real(frozen, inputs)

    real = features.Frozen.features
    monkeypatch.setattr(features.Frozen, "features", watched)
    train(folder, changed(config, precision="bf16"), "steps")
    assert fused
    assert all(each and not any(each) for each in fused)
    model, in_steps = of_timm(), of_timm()
    in_steps.blocks[0].attn.fused_attn = False
    assert features.known_by(model) != features.known_by(in_steps)


def test_attacks_and_few_epochs_train_the_whole_model(world, forward_passes, monkeypatch):
    folder, config = world
    attacked = {"adversarial": config.adversarial.model_copy(update={"steps": 1, "epsilon": 2.0})}
    config = changed(config, adversarial="at", epochs=1).model_copy(update=attacked)
    train(folder, config, "attacked")
    assert forward_passes == []
    assert kept() == []


def test_each_view_of_an_image_has_features_of_its_own(tmp_path, forward_passes, monkeypatch):
    config = encrypted_anew(tmp_path, make_world(tmp_path, **LINEAR), encrypt={"views": 2})
    plain = run(tmp_path, config, "plain", False, monkeypatch)
    assert run(tmp_path, config, "kept", True, monkeypatch)[0] == plain[0]
    assert len(files()) == 3  # two views of train, and test
    forward_passes.clear()
    train(tmp_path, changed(config, epochs=2), "two")  # as many epochs as views: nothing is seen twice
    assert forward_passes == []


def test_without_validation_images(tmp_path, monkeypatch):
    config = make_world(tmp_path, **LINEAR)
    plain = run(tmp_path, config, "plain", False, monkeypatch)
    found = run(tmp_path, config, "kept", True, monkeypatch)
    assert (found[0], found[2]) == (plain[0], plain[2])
    assert len(files()) == 2


def test_layouts_and_shards_are_in_the_key(world):
    """Equal shards under another layout are other images, as are those of another split."""
    images = EncryptedImages(places_of(world[0]).encrypted, "train")
    found = [images.identity()]
    for places in (np.arange(768, dtype=np.int32), np.arange(768, dtype=np.int32)[::-1].copy()):
        images._layout = Layout(places, np.arange(768))
        found.append(images.identity())
    found.append(EncryptedImages(places_of(world[0]).encrypted, "val").identity())
    assert all(a != b for a, b in itertools.combinations(found, 2))


def test_two_processes_train_on_the_same_features_as_one(tmp_path):
    """Nine images a step, of which one process has five and the other four; 50 = 5 * 9 + 5."""
    config = make_world(tmp_path, **{**LINEAR, "batch_size": 9, "optimizer": "sgd"})
    one = train(tmp_path, config, "one")
    before = {path: path.stat().st_ino for path in files()}
    two = train_in_two_processes(tmp_path, config)
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
    assert {path: path.stat().st_ino for path in files()} == before
    first, second = (load_file(places_of(tmp_path, name).finetuned / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-6) for name in first)
