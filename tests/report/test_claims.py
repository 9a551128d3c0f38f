"""What a trainer may write into results and tables: what cannot be right is refused in one line, nothing is written."""

import json
import os
import shutil
from pathlib import Path

import pytest
from test_report import VALUES, make_world, write_page, write_stage

from ppvit.core.errors import PpvitError
from ppvit.core.figures import wrong_figure


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("claims"))


@pytest.fixture
def world(template, tmp_path) -> Path:
    shutil.copytree(template, tmp_path / "world")
    return tmp_path / "world"


def refused(world: Path) -> str:
    """The one line with which the page is refused."""
    with pytest.raises(PpvitError) as caught:
        write_page(world)
    assert not (world / "report.html").exists()
    told = str(caught.value)
    assert "\n" not in told
    assert "\x1b" not in told
    assert (
        "dvc repro" in told
        or "fetch or make it again" in told
        or "put a file in its place" in told
        or "fetch it or" in told
    ), told
    return told


BAD = [
    ("evaluate", {"accuracy_percent": 150.0}, "less than or equal to 100"),
    ("evaluate", {"accuracy_percent": -5.0}, "greater than or equal to 0"),
    ("evaluate", {"accuracy_percent": float("nan")}, "NaN is no number"),
    ("evaluate", {"cross_entropy": float("inf")}, "Infinity is no number"),
    ("evaluate", {"cross_entropy": -0.1}, "greater than or equal to 0"),
    ("evaluate", {"cross_entropy": 10**400}, "digits"),
    ("evaluate", {"accuracy_percent": "91.25"}, "valid number"),
    ("evaluate", {"accuracy_percent": True}, "valid number"),
    ("evaluate", {"accuracy_percent": None}, "valid number"),
    ("evaluate", {"accuracy_percent": [91.25]}, "valid number"),
    ("evaluate", {"accuracy_percent": 91.0}, "no share of 80 images"),
    ("evaluate", {"images": 81}, "'images' is 81"),
    ("evaluate", {"images": 80.0}, "valid integer"),
    ("evaluate", {"class_accuracy_min_percent": 75.0}, "it gives 'class_accuracy_min_percent' 73.0769"),
    ("evaluate", {"balanced_accuracy_percent": 99.0}, "it gives 'balanced_accuracy_percent' 91.0256"),
    ("evaluate", {"f1": 0.5}, "it gives 'f1' 0.909"),
    ("evaluate", {"accuracy_low_percent": 91.0}, "it gives 'accuracy_low_percent' 83.0"),
    ("evaluate", {"accuracy_high_percent": 91.3}, "it gives 'accuracy_high_percent' 95.69"),
    ("evaluate", {"top5_accuracy_percent": 90.0}, "'top5_accuracy_percent' is less than 'accuracy_percent'"),
    ("evaluate", {"top5_accuracy_percent": 99.99}, "no share of 80 images"),
    ("evaluate", {"auroc": 0.995}, "'auroc' 0.995 is not between 'auroc_low' 0.95 and 'auroc_high' 0.99"),
    ("evaluate", {"auroc": 1.5}, "less than or equal to 1"),
    ("evaluate", {"auroc_error": -0.1}, "greater than or equal to 0"),
    ("evaluate", {"calibration_error_percent": 0.0}, "it gives 'calibration_error_percent' 1.25"),
    ("evaluate", {"finetuned_id": "0" * 16}, "'finetuned_id' is 0000000000000000"),
    ("evaluate", {"finetuned_id": "\x1b[2J"}, "control characters"),
    ("evaluate", {"extra": 1}, "'extra' does not belong there"),
    ("evaluate", {"\x1b[31m_percent": 1}, "does not belong there"),
    ("finetune", {"finetuned_id": "0" * 16}, "'finetuned_id' is 0000000000000000"),
    ("finetune", {"method": "lora"}, "by params.yaml it is melo"),
    ("finetune", {"method": "<script>alert(1)</script>"}, "should match pattern"),
    ("finetune", {"epochs": 10**9}, "by params.yaml it is 3"),
    ("finetune", {"trainable_parameters": -1}, "greater than or equal to 0"),
    ("finetune", {"adapter_bytes": 2**60}, "less than"),
    ("finetune", {"adapter_bytes": 5}, "'adapter_bytes' is 5"),
    ("robustness", {"finetuned_id": "0" * 16}, "'finetuned_id' is 0000000000000000"),
    ("robustness", {"headline_accuracy_percent": 99.9}, "no share of 20 images"),
    ("robustness", {"headline_accuracy_percent": 100.0}, "'headline_accuracy_percent' is not '5.0', as its other"),
    ("robustness", {"pgd_accuracy_percent": 95.0}, "more than before that attack"),
    ("robustness", {"fab_t_accuracy_percent": 10.0}, "more than before that attack"),
    ("robustness", {"fab_t_accuracy_percent": 0.0}, "'headline_accuracy_percent' is not '0.0'"),
    ("robustness", {"attacks": "fab-t"}, "'attacks' are not those of robustness.attack"),
    ("robustness", {"interval_low_percent": 5.0}, "'interval_low_percent' is not '0.89'"),
    ("robustness", {"masking_vanishes": False}, "'verdict' is not 'Not to be believed: 5.0 %"),
    ("robustness", {"verdict": "99.0 % of 20 images withstand everything."}, "'verdict' is not '5.0 %"),
    ("robustness", {"verdict": "5.0 % of 20 images withstand \x1b]0;owned\x07"}, "control characters"),
    ("robustness", {"verdict": "5.0 % of 20 images withstand " + 3000 * "x"}, "at most 2000 characters"),
    ("robustness", {"images": 10}, "by params.yaml it is 20"),
    ("robustness", {"epsilon": 0.5}, "by params.yaml it is 8"),
    ("robustness", {"masking_vanishes": 1}, "valid boolean"),
    ("audit", {"finetuned_id": "0" * 16}, "'finetuned_id' is 0000000000000000"),
    ("threats", {"finetuned_id": "0" * 16}, "'finetuned_id' is 0000000000000000"),
    ("threats", {"k1_accuracy_percent": 101.0}, "less than or equal to 100"),
    ("adapt", {"adapted": "yes"}, "valid boolean"),
]


@pytest.mark.parametrize(("stage", "changes", "told"), BAD, ids=[f"{stage}-{told}" for stage, _, told in BAD])
def test_figures_that_cannot_be_right(world, stage, changes, told):
    write_stage(world / "results", stage, {**VALUES[stage], **changes})
    assert told in refused(world)


@pytest.mark.parametrize("stage", VALUES)
def test_every_figure_that_is_read_must_be_there(world, stage):
    assert wrong_figure(VALUES[stage], stage) is None
    write_stage(world / "results", stage, {})
    assert "is missing" in refused(world)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[]", "no names and values"),
        ("null", "no names and values"),
        ("{", "not valid JSON"),
        ('{"images": 80, "images": 80}', "'images' stands twice"),
        (json.dumps({**VALUES["evaluate"], "cross_entropy": {"a": 1}}), "valid number"),
        ("\ufeff{}", "not valid JSON"),
    ],
)
def test_files_that_are_no_result(world, text, told):
    (world / "results" / "evaluate.json").write_text(text, encoding="utf-8")
    assert told in refused(world)


FILES = {
    "results/evaluate.json": "evaluate",
    "results/finetune.json": "finetune",
    "results/robustness.json": "robustness",
    "results/plots/confusion.csv": "evaluate",
    "results/plots/calibration.csv": "evaluate",
    "results/robustness/curve.csv": "robustness",
    "results/live/plots/metrics/train_loss.tsv": "finetune",
    "results/audit/attacks.json": "audit",
    "results/audit/weights.png": "audit",
}


@pytest.mark.parametrize("name", FILES)
def test_links_to_devices_and_pipes_are_not_read(world, name):
    path = world / name
    for make in (lambda: path.symlink_to("/dev/zero"), lambda: os.mkfifo(path), path.mkdir):
        path.unlink(missing_ok=True)
        make()
        assert name in refused(world)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize("name", FILES)
def test_huge_files_are_not_read(world, name):
    with open(world / name, "wb") as file:
        file.truncate(2**33)  # a hole: 8 GiB that take no disk
    assert name in refused(world)


CSV = [
    ("plots/confusion.csv", "actual,predicted\n" + "0,0\n" * 15_000_000, "more than the 80 rows"),
    ("plots/confusion.csv", "actual,predicted\n0,0\n", "1 images of class 0"),
    ("plots/confusion.csv", "actual,predicted\n0,3\n", "it has class 3"),
    ("plots/confusion.csv", "actual,predicted\n-1,0\n", "greater than or equal to 0"),
    ("plots/confusion.csv", "actual,predicted\n0,0,0\n", "row 1"),
    ("plots/confusion.csv", "actual,predicted\n0\n", "row 1"),
    ("plots/confusion.csv", "predicted,actual\n0,0\n", "should name the columns"),
    ("plots/confusion.csv", "", "0 images of class 0"),
    ("plots/calibration.csv", "confidence_percent,accuracy_percent,images\n", "do not add up to 80"),
    ("plots/calibration.csv", "confidence_percent,accuracy_percent,images\nnan,50,80\n", "finite number"),
    ("plots/calibration.csv", "confidence_percent,accuracy_percent,images\n900,50,80\n", "more than 100"),
    ("plots/calibration.csv", "confidence_percent,accuracy_percent,images\n9,50,80.5\n", "row 1"),
    ("robustness/curve.csv", "epsilon,accuracy_percent\n", "does not begin with"),
    ("robustness/curve.csv", "epsilon,accuracy_percent\n0,90\ninf,5\n", "finite number"),
    ("robustness/curve.csv", "epsilon,accuracy_percent\n0,90\n8,500\n", "less than or equal to 100"),
    ("robustness/curve.csv", "epsilon,accuracy_percent\n0,90\n" + "8,5\n" * 9, "more than the 6 rows"),
    ("robustness/curve.csv", "\x1b[2J\n", "should name the columns"),
    ("live/plots/metrics/train_loss.tsv", "step\ttrain_loss\n1\t-inf\n", "finite number"),
    ("live/plots/metrics/train_loss.tsv", "step\ttrain_loss\nx\ty\n", "row 1"),
    ("live/plots/metrics/train_loss.tsv", "step\ttrain_loss\n" + "1\t1\n" * 4, "more than the 3 rows"),
    (
        "live/plots/metrics/val_accuracy_percent.tsv",
        "step\tval_accuracy_percent\n1\t90.25\n2\t80\n",
        "epoch 2 is not 90.25",
    ),
    ("live/plots/metrics/val_auroc.tsv", "step\tval_auroc\n1\t1.5\n", "row 1"),
    ("live/plots/metrics/test_loss.tsv", "step\ttest_loss\n" + "1\t1\n" * 4, "more than the 3 rows"),
    ("live/plots/metrics/train_accuracy_percent.tsv", "step\ttrain_accuracy_percent\n1\t101\n", "row 1"),
]


@pytest.mark.parametrize(("name", "text", "told"), CSV, ids=[f"{name}-{told}" for name, _, told in CSV])
def test_tables_of_junk(world, name, text, told):
    (world / "results" / name).write_text(text)
    answer = refused(world)
    assert name in answer
    assert told in answer


def test_pictures_are_those_of_attacks_that_audit_names(world):
    told = {"rows": [["weights", "100.00 %", "1.000"]], "titles": {"weights": "weights"}, "sentences": {}}
    (world / "results/audit/attacks.json").write_text(json.dumps(told))
    (world / "results/audit/zz.png").symlink_to("/dev/zero")  # named by nobody, so not read
    (world / "results/audit/weights.png").write_bytes(b"<svg onload='alert(1)'/>")
    assert "weights.png is no PNG" in refused(world)
    (world / "results/audit/attacks.json").write_text(json.dumps({**told, "titles": {"../../raw/x": "x"}}))
    assert "attacks.json" in refused(world)


def test_an_area_that_is_not_confirmed_stands_at_the_top(world, capsys):
    write_stage(world / "results", "verify", {**VALUES["verify"], "auroc": 0.976})
    write_page(world)
    assert "Do not trust" not in capsys.readouterr().out  # 0.98, on another machine
    write_stage(world / "results", "verify", {**VALUES["verify"], "auroc": 0.97})
    write_page(world)
    told = (
        "Do not trust the trainer's figures: it says a mean AUROC of 0.9800 on 80 test images, the owner measured 0.97"
    )
    assert told in capsys.readouterr().out


def test_a_trainer_that_is_not_confirmed_stands_at_the_top(world, capsys):
    write_stage(world / "results", "verify", {**VALUES["verify"], "accuracy_percent": 10.0})
    write_page(world)
    summary, page = capsys.readouterr().out, (world / "report.html").read_text()
    told = "Do not trust the trainer's figures: it says 91.25 % of 80 test images are classified correctly, the owner"
    assert summary.startswith(f"WARNING{summary[7 : summary.index('Do not')]}{told}")
    assert page.index("Do not trust the trainer&#39;s figures") < page.index("accuracy on encrypted test images")
    write_stage(world / "results", "verify", {**VALUES["verify"], "accuracy_percent": 90.0})  # one image: rounding
    write_page(world)
    assert "WARNING" not in capsys.readouterr().out


def test_names_of_classes_steer_neither_terminal_nor_drawing(world, capsys):
    path = world / "raw" / "dataset.json"
    names = ["$\\frac{$", "<script>alert(1)</script>", "\u202e" + 300 * "x"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": names}))
    write_page(world)
    page = (world / "report.html").read_text()
    assert "<script>alert" not in page
    assert "\u202e" not in page + capsys.readouterr().out


def test_results_of_a_model_that_is_not_there_do_not_count(world):
    """Whoever writes dvc.lock can have DVC skip `verify` for another model than the one that was verified."""
    for path, name in (("finetuned/adapter_model", "finetuned_id"), ("adapted/model", "adapted_id")):
        before = (world / f"models/{path}.safetensors").read_bytes()
        (world / f"models/{path}.safetensors").write_bytes(b"another model")
        assert f"verify.json: '{name}' is" in refused(world)
        (world / f"models/{path}.safetensors").write_bytes(before)
