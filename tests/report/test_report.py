"""The report: every figure of the results, nothing loaded from outside, the same bytes for the same results."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from conftest import make_config, write_raw

from ppvit.ciphers import make_cipher
from ppvit.core.errors import PpvitError
from ppvit.core.reading import sha256_of
from ppvit.places import Places
from ppvit.report.summary import short_key, summary_rows
from ppvit.verbs import report

TIMES = {
    "wall_seconds": 3.25,
    "peak_memory_bytes": 2**30,
    "device": "cpu",
    "git_revision": "abc",
    "versions": "torch 1.0",
}
WEIGHTS = b"weights of a fine-tuned model"
CONFIGURATION = b"{}"
# as sha256sum lists them
LISTED = f"{hashlib.sha256(CONFIGURATION).hexdigest()}  adapter_config.json\n"
LISTED += f"{hashlib.sha256(WEIGHTS).hexdigest()}  adapter_model.safetensors\n"
ADAPTED = f"{hashlib.sha256(CONFIGURATION).hexdigest()}  config.json\n"
ADAPTED += f"{hashlib.sha256(WEIGHTS).hexdigest()}  model.safetensors\n"
MODEL = {
    "finetuned_id": hashlib.sha256(LISTED.encode()).hexdigest()[:16],
    "adapted_id": hashlib.sha256(ADAPTED.encode()).hexdigest()[:16],
}
IMAGES = 80  # 27, 27 and 26 of the three classes
VALUES = {
    "adapt": {"max_logit_difference_float64": 3e-14, "max_logit_difference_float32": 1e-6, "adapted": True},
    "finetune": {
        "trainable_parameters": 155_146, "method": "melo", "adapter_bytes": 31, "epochs": 3,
        "train_images": 1294, "val_images": 143, "selected_epoch": 2, "val_accuracy_percent": 90.25,
        **MODEL,
    },
    "evaluate": {
        "accuracy_percent": 91.25, "cross_entropy": 0.3, "calibration_error_percent": 1.25,
        "accuracy_low_percent": 83.023204491525, "accuracy_high_percent": 95.696799821794,  # Wilson's, of 73 in 80
        "balanced_accuracy_percent": 100 * (2 + 19 / 26) / 3, "f1": (54 / 61 + 1 + 38 / 45) / 3,
        "class_accuracy_min_percent": 100 * 19 / 26, "auroc": 0.98, "auroc_low": 0.95, "auroc_high": 0.99,
        "average_precision": 0.97, "images": IMAGES, **MODEL,
    },
    "verify": {
        "accuracy_percent": 91.25, "plain_accuracy_percent": 91.25, "wrong_key_accuracy_percent": 33.1,
        "chance_percent": 33.3, "images": IMAGES, **MODEL,
    },
    "robustness": {
        "clean_accuracy_percent": 90.0, "pgd_accuracy_percent": 15.0, "apgd_ce_accuracy_percent": 5.0,
        "fab_t_accuracy_percent": 5.0, "attacks": "pgd, apgd-ce, fab-t", "headline_accuracy_percent": 5.0,
        "interval_low_percent": 0.89, "interval_high_percent": 23.61,  # Wilson's, of 1 in 20
        "images": 20, "pgd_steps": 20, "apgd_steps": 100, "norm": "linf", "epsilon": 8.0, "seed": 0, **MODEL,
        "verdict": "5.0 % of 20 images withstand linf 8 under PGD-20, APGD-CE and FAB-T (95 % interval 1 to 24 %); "
        "no sign of masked gradients.",
    },
    "threats": {
        "k1_accuracy_percent": 1.25, "k2_accuracy_percent": 2.25, "k3_accuracy_percent": 40.5,
        "k4_accuracy_percent": 60.5, "naive_accuracy_percent": 89.5, "headline_accuracy_percent": 1.25,
        "k2_attack": "weights", "k2_key_recovered_percent": 100.0, "images": 16, **MODEL,
        "verdict": "1.2 % withstand K1.",
    },
    "audit": {
        "weights_key_recovered_percent": 100.0, "weights_ssim": 1.0, "audited_images": 20, **MODEL,
        "verdict": "Broken: images can be read by <anyone>.",
    },
}  # fmt: skip
# seven images of class 2 are taken for class 0: 73 of 80 are right
PAIRS = [(0, 0)] * 27 + [(1, 1)] * 27 + [(2, 2)] * 19 + [(2, 0)] * 7


def write_stage(results: Path, stage: str, values: dict) -> None:
    path = results / f"{stage}.json"
    path.write_text(json.dumps(values))
    (results / "times").mkdir(exist_ok=True)
    times = {stage: {**TIMES, "result_sha256": sha256_of(path)}}
    (results / "times" / f"{stage}.json").write_text(json.dumps(times))


def make_world(tmp_path: Path) -> Path:
    """Results of a run on 80 test images, all of which agree."""
    write_raw(tmp_path / "raw", {"train": 3, "test": IMAGES})
    for folder in ("models/finetuned", "models/adapted"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models/adapted/model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "models/adapted/config.json").write_bytes(CONFIGURATION)
    (tmp_path / "models/finetuned/adapter_model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "models/finetuned/adapter_config.json").write_bytes(CONFIGURATION)
    results = tmp_path / "results"
    for folder in ("live/plots/metrics", "plots", "audit", "robustness"):
        (results / folder).mkdir(parents=True)
    for stage, values in VALUES.items():
        write_stage(results, stage, values)
    told = {
        "rows": [["weights", "100.00 %", "1.000"]],
        "titles": {"weights": "weights"},
        "sentences": {"weights": "Broken."},
    }
    (results / "audit" / "attacks.json").write_text(json.dumps(told))
    (results / "plots" / "confusion.csv").write_text(
        "actual,predicted\n" + "".join(f"{actual},{predicted}\n" for actual, predicted in PAIRS)
    )
    (results / "plots" / "calibration.csv").write_text("confidence_percent,accuracy_percent,images\n90,91.25,80\n")
    (results / "robustness" / "curve.csv").write_text("epsilon,accuracy_percent\n0,90\n8,5\n")
    (results / "live/plots/metrics/val_accuracy_percent.tsv").write_text(
        "step\tval_accuracy_percent\n1\t80\n2\t90.25\n"
    )
    for name in ("train_loss", "train_accuracy_percent"):
        (results / "live/plots/metrics" / f"{name}.tsv").write_text(f"step\t{name}\n1\t2.0\n2\t1.0\n")
    return tmp_path


def write_page(world: Path) -> None:
    config = make_config(
        dataset={"image_size": 16}, finetune={"method": "melo", "epochs": 3}, robustness={"images": 20}
    )
    report.run(config, Places.of(config, root=world, raw=world / "raw", page=world / "report.html"))


@pytest.fixture
def world(tmp_path):
    return make_world(tmp_path)


@pytest.fixture
def write(world, capsys):
    """Writes the page and returns the summary."""

    def run() -> str:
        write_page(world)
        return capsys.readouterr().out

    return run


HE = {
    "accuracy_percent": 96.25, "folded_accuracy_percent": 96.5, "twin_accuracy_percent": 96.25,
    "logistic_regression_accuracy_percent": 99.5,
    "key_switches": 336, "train_images": 1024, "iterations": 2, "mode": "levelled", "features": "backbone",
    "ring": 8192, "modulus_bits": 218, "algorithm": "tiles", "loss": "sigmoid", "multiplicative_depth": 5,
}  # fmt: skip


def test_page_and_summary_hold_the_figures(world, write):
    summary = write()
    page = (world / "report.html").read_text()
    for text in ("91.25 %", "33.10 %", "155,146", "3.0e-14"):
        assert text in page
        assert text in summary
    assert "Broken: images can be read by &lt;anyone&gt;." in page  # escaped: a class or file name cannot inject markup
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "http" not in markup.replace('http-equiv="Content-Security-Policy"', "")
    assert "default-src 'none'" in markup
    assert "155,146 (0.148 Mi), melo" in summary  # 155,146 / 2^20, the unit of the LoRA paper's table


def test_the_epoch_that_was_kept_and_the_sizes_of_the_splits(world, write):
    summary = write()
    assert "1,294 training, 143 validation and 80 test images" in summary
    assert "2 of 3, validation accuracy 90.25 %" in summary
    values = {stage: dict(each) for stage, each in VALUES.items()}
    values["finetune"]["val_robust_accuracy_percent"] = 12.5
    assert dict(summary_rows(values))["epoch that was kept"] == "2 of 3, validation accuracy under attack 12.50 %"
    del values["finetune"]["val_robust_accuracy_percent"], values["finetune"]["val_accuracy_percent"]
    values["finetune"] |= {"val_images": 0, "selected_epoch": 3}
    assert dict(summary_rows(values))["epoch that was kept"] == "3 of 3"


def test_same_results_same_bytes(world, write):
    write()
    first = (world / "report.html").read_bytes()
    write()
    assert (world / "report.html").read_bytes() == first


def test_unadapted_and_keyless_runs_say_so():
    values = {stage: dict(each) for stage, each in VALUES.items()}
    values["adapt"]["adapted"] = False
    del values["verify"]["wrong_key_accuracy_percent"]
    rows = dict(summary_rows(values))
    assert "accuracy, encrypted, not adapted" in rows
    assert not any("wrong key" in name for name in rows)


def test_views_are_told_where_there_are_several():
    values = {stage: dict(each) for stage, each in VALUES.items()}
    assert "views of each training image" not in dict(summary_rows(values))
    values["audit"]["views"] = 4
    assert dict(summary_rows(values))["views of each training image"] == "4"


def test_models_that_cannot_be_compared_have_no_adaptation_error():
    values = {stage: dict(each) for stage, each in VALUES.items()}
    values["adapt"] = {"adapted": False, "max_logit_difference_float64": 2.0}
    assert dict(summary_rows(values))["difference to the plain model (float64 logits)"] == "2.0e+00"
    values["adapt"] = {"adapted": False}  # neuracrypt: a new projection of tokens
    assert not any("logits" in name for name in dict(summary_rows(values)))
    values["adapt"] = {"adapted": True, "max_logit_difference_float64": 1e-14, "max_logit_difference_stored": 1e-3}
    assert dict(summary_rows(values))["adaptation error (logits of stored ciphertext)"] == "1.0e-03"


@pytest.mark.parametrize(
    ("name", "side", "short"),
    [
        ("block", 4, True),
        ("np", 2, True),
        ("pixel_position", 4, True),
        ("orthogonal", 4, True),
        ("disposable", 4, True),  # a key for every image
        ("scramble", 4, False),  # nothing happens inside a block
        ("none", 4, False),
        ("block", 8, False),
    ],
)
def test_small_blocks_have_a_short_key(name, side, short, key):
    told = short_key(make_cipher(name, key, 16, side))
    assert bool(told) == short
    assert not short or f"blocks of {3 * side**2} values" in told


def test_the_page_warns_of_a_short_key(world, write):
    write()
    assert "<b>A short key.</b> Patches of 4 x 4 pixels make blocks of 48 values" in (world / "report.html").read_text()


def test_missing_result_names_the_stage(world, write):
    (world / "results" / "verify.json").unlink()
    with pytest.raises(PpvitError, match=r"verify\.json is missing; run the stage that writes it: dvc repro verify"):
        write()
    assert not (world / "report.html").exists()


def test_three_ways_stand_beside_each_other(world, write):
    summary = write()
    page = (world / "report.html").read_text()
    assert "pip install &#39;ppvit[he]&#39;" in page or "pip install 'ppvit[he]'" in page
    assert "CKKS" not in summary
    write_stage(world / "results", "he", HE)
    assert "accuracy, head trained under CKKS" in write()
    page = (world / "report.html").read_text()
    table = page[page.index('<section id="compared"') :].partition("</table>")[0]
    for text in ("91.25 %", "96.25 %", "99.50 %", "155,146 parameters, 3 epochs", "336 key switches", "everything"):
        assert text in table
    for text in (
        "IND-CPA",
        "not IND-CPA-D",
        "no integrity",
        "96.50 %",
        "128 bits of security",
        "5 levels, sigmoid",
    ):
        assert text in page
    assert "Refreshing shows" not in page
    write_stage(world / "results", "he", {**HE, "mode": "refresh", "algorithm": "volley_revolver"})
    write()
    page = (world / "report.html").read_text()
    assert "Refreshing shows the intermediate weights" in page
    assert "quadratic gradients on raw features" in page


def test_every_attacker_stands_beside_the_headline(world, write):
    write()
    page = (world / "report.html").read_text()
    for text in (
        "1.2 % withstand K1.",
        "5.0 % of 20 images withstand linf 8 under",
        "1.25 %",
        "2.25 %",
        "40.50 %",
        "60.50 %",
        "89.50 %",
    ):
        assert text in page
    assert "obfuscation, not robustness" in page


def test_times_are_beside_the_report_which_shows_them_and_in_a_page_to_hand_on(world, write, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "waxy-tome")
    summary = write()
    assert "time of finetune" in summary
    page, times = (world / "report.html").read_text(), (world / "results" / "times" / "index.html").read_text()
    whole = (world / "results" / "times" / "report.html").read_text()
    assert 'data="times/index.html"' in page
    assert "<object" not in whole
    for text in ("3.2", "torch 1.0", "waxy-tome", "UTC"):
        assert text in times
        assert text in whole
    assert "torch 1.0" not in page
    assert "waxy-tome" not in page
    # a result that came from a cache has other times lying beside it, or none
    (world / "results" / "times" / "verify.json").unlink()
    (world / "results" / "evaluate.json").write_text(json.dumps({**VALUES["evaluate"], "cross_entropy": 0.31}))
    assert "time of verify" not in write()
    assert "time of evaluate" not in write()
    assert (world / "results" / "times" / "index.html").read_text().count("not measured in this folder") == 2


CHECKS = {
    **dict.fromkeys(("unreadable", "two_labels", "train_repeated", "val_repeated", "test_repeated"), 0),
    **dict.fromkeys(("val_known", "val_near", "test_known", "test_near", "test_dropped"), 0),
}


@pytest.mark.parametrize(
    ("found", "told", "doubtful"),
    [
        ({}, "none of 80 has the pixels of training images or looks like one", False),
        (
            {"test_known": 10, "test_near": 6},
            "of 80, 10 are training images too and 6 more look like one (20.0 %)",
            True,
        ),
        (
            {"test_known": 10, "test_near": 6, "test_dropped": 16},
            "10 that are training images too and 6 that look like one were left out; 80 remain",
            False,
        ),
        ({"two_labels": 4}, "in all splits, 4 images have the pixels of one under another label", True),
        (None, "not checked for images of training", True),
    ],
)
def test_known_test_images_stand_beside_the_accuracy(world, write, found, told, doubtful):
    path = world / "raw" / "dataset.json"
    manifest = json.loads(path.read_text())
    if found is not None:
        path.write_text(json.dumps({**manifest, "checks": {**CHECKS, **found}}))
    summary = write()
    assert told in summary
    assert summary.index("test images") < summary.index("trainable parameters")
    page = (world / "report.html").read_text()
    assert told in page
    assert page.index(told) < page.index("What leaks.")
    assert ("by heart" in page) is doubtful
