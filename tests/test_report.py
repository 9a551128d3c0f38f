"""The report: every figure of the results, nothing loaded from outside, the same bytes for the same results."""

import json

import pytest
from conftest import make_config, write_raw

from ppvit.core.errors import PpvitError
from ppvit.report.compare import ciphertext_leak_percent
from ppvit.report.page import attack_rows, summary_rows
from ppvit.verbs import report

COMMON = {
    "wall_seconds": 3.0,
    "peak_memory_bytes": 2**30,
    "device": "cpu",
    "git_revision": "abc",
    "versions": "torch 1.0",
}
VALUES = {
    "adapt": {"max_logit_difference_float64": 3e-14, "max_logit_difference_float32": 1e-6, "adapted": True},
    "finetune": {"trainable_parameters": 155_146, "method": "melo", "adapter_bytes": 4096, "images_per_second": 250.0},
    "evaluate": {
        "accuracy_percent": 91.25, "cross_entropy": 0.3,
        "calibration_error_percent": 2.0, "class_accuracy_min_percent": 80.0,
    },
    "verify": {
        "accuracy_percent": 91.25, "plain_accuracy_percent": 91.25,
        "wrong_key_accuracy_percent": 33.1, "chance_percent": 33.3,
    },
    "robustness": {"clean_accuracy_percent": 90.0, "headline_accuracy_percent": 1.5, "verdict": "1.5 % withstand."},
    "threats": {
        "k1_accuracy_percent": 1.25, "k2_accuracy_percent": 2.25, "k3_accuracy_percent": 40.5,
        "k4_accuracy_percent": 60.5, "naive_accuracy_percent": 89.5, "headline_accuracy_percent": 1.25,
        "k2_attack": "weights", "k2_key_recovered_percent": 100.0, "k2_key_seconds": 0.2,
        "verdict": "1.2 % withstand K1.",
    },
    "audit": {
        "weights_key_recovered_percent": 100.0, "weights_ssim": 1.0, "weights_wall_seconds": 0.1,
        "known_plaintext_10_key_recovered_percent": 66.4,
        "known_plaintext_key_recovered_percent": 66.4,
        "known_plaintext_10_ssim": 0.9, "known_plaintext_ssim": 0.9, "weights_finetuned_ssim": 0.8,
        "brute_force_ssim": 0.1, "brute_force_key_bits": 203.4,
        "matching_ssim": 1.0, "matching_top1_percent": 95.0, "matching_chance_percent": 1.0,
        "guess_key_recovered_percent": None, "guess_ssim": None, "verdict": "Broken: images can be read by <anyone>.",
    },
}  # fmt: skip


@pytest.fixture
def world(tmp_path):
    write_raw(tmp_path / "raw", {"train": 30, "test": 6})
    results = tmp_path / "results"
    for folder in ("live/plots/metrics", "plots", "audit", "robustness"):
        (results / folder).mkdir(parents=True)
    for stage, values in VALUES.items():
        (results / f"{stage}.json").write_text(json.dumps({**values, **COMMON}))
    (results / "audit" / "verdicts.json").write_text('{"weights": "Broken."}')
    (results / "plots" / "confusion.csv").write_text("actual,predicted\n0,0\n1,2\n2,2\n")
    (results / "plots" / "calibration.csv").write_text("confidence_percent,accuracy_percent,images\n90,80,3\n")
    (results / "robustness" / "curve.csv").write_text("epsilon,accuracy_percent\n0,90\n8,1.5\n")
    for name in ("train_loss", "train_accuracy_percent"):
        (results / "live/plots/metrics" / f"{name}.tsv").write_text(f"step\t{name}\n1\t2.0\n2\t1.0\n")
    return tmp_path


HE = {
    "accuracy_percent": 96.25, "folded_accuracy_percent": 96.5, "twin_accuracy_percent": 96.25,
    "max_weight_error": 2e-3, "logistic_regression_accuracy_percent": 99.5, "logistic_regression_seconds": 0.1,
    "train_seconds": 3.7,
    "encrypt_seconds": 2.0, "trainer_memory_bytes": 2**29, "upload_bytes": 60 * 2**20, "key_bytes": 2**20,
    "key_switches": 336, "train_images": 1024, "iterations": 2, "mode": "levelled", "features": "backbone",
    "ring": 8192, "modulus_bits": 218, "algorithm": "tiles", "loss": "sigmoid", "multiplicative_depth": 5,
}  # fmt: skip


def write(world) -> str:
    results = world / "results"
    config = make_config(dataset={"image_size": 16})
    places = (
        world / "raw",
        results,
        results / "live",
        results / "plots",
        results / "robustness",
        results / "audit",
        world / "study.json",
    )
    return report.run(config, *places, world / "report.html")


def test_page_and_summary_hold_the_figures(world):
    summary = write(world)
    page = (world / "report.html").read_text()
    for text in ("91.25 %", "33.10 %", "155,146", "3.0e-14"):
        assert text in page
        assert text in summary
    assert "Broken: images can be read by &lt;anyone&gt;." in page  # escaped: a class or file name cannot inject markup
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "155,146 (0.148 Mi), melo" in summary  # 155,146 / 2^20, the unit of the LoRA paper's table


def test_same_results_same_bytes(world):
    write(world)
    first = (world / "report.html").read_bytes()
    write(world)
    assert (world / "report.html").read_bytes() == first


def test_unadapted_and_keyless_runs_say_so():
    values = {stage: dict(each) for stage, each in VALUES.items()}
    values["adapt"]["adapted"] = False
    del values["verify"]["wrong_key_accuracy_percent"]
    rows = dict(summary_rows(values))
    assert "accuracy, encrypted, not adapted" in rows
    assert not any("wrong key" in name for name in rows)


def test_models_that_cannot_be_compared_have_no_adaptation_error():
    values = {stage: dict(each) for stage, each in VALUES.items()}
    values["adapt"] = {"adapted": False, "max_logit_difference_float64": 2.0}
    assert dict(summary_rows(values))["difference to the plain model (float64 logits)"] == "2.0e+00"
    values["adapt"] = {"adapted": False}  # neuracrypt: a new projection of tokens
    assert not any("logits" in name for name in dict(summary_rows(values)))
    values["adapt"] = {"adapted": True, "max_logit_difference_float64": 1e-14, "max_logit_difference_stored": 1e-3}
    assert dict(summary_rows(values))["adaptation error (logits of stored ciphertext)"] == "1.0e-03"


def test_attacks_without_a_figure_show_a_dash():
    rows = {name: cells for name, *cells in attack_rows(VALUES["audit"])}
    assert rows["weights"] == ["100.00 %", "1.000", "0.1 s"]
    assert rows["known plaintext, 10 pairs"][0] == "66.40 %"
    assert "known plaintext" not in rows
    assert rows["guess"] == ["–", "–", "–"]


def test_attacks_are_named_as_people_say_them():
    rows = {name: cells for name, *cells in attack_rows(VALUES["audit"])}
    assert "weights, after fine-tuning" in rows
    assert rows["matching"][1] == "picked out in 95 %, by luck 1 %"
    assert rows["brute force"][1] == "203 bits to try"
    pooled = attack_rows({"pooled_1_ssim": 0.5, "pooled_20_ssim": 0.6, "pooled_ssim": 0.6})
    assert [name for name, *_ in pooled] == ["pooled, 1 ciphertext", "pooled, 20 ciphertexts"]


def test_ciphers_are_compared_where_the_study_was_run(world):
    write(world)
    assert "accuracy against leak" not in (world / "report.html").read_text()
    results = [
        {"cipher": "block", "unadapted_accuracy_percent": 50.0, "adapted_accuracy_percent": 97.5,
                  "adapted_parameters": 123456, "pooled_strength_percent": 99.0},
        {"cipher": "ffx", "unadapted_accuracy_percent": 43.2, "matching_top1_percent": 77.0},
    ]  # fmt: skip
    (world / "study.json").write_text(json.dumps(results))
    write(world)
    page = (world / "report.html").read_text()
    for text in ("accuracy against leak", "97.5", "123,456", "43.2", ">77<", ">–<"):
        assert text in page


def test_a_plot_shows_the_best_ciphertext_only_attack():
    found = {"pooled": 12.0, "jigsaw": 40.0, "weights": 100.0, "chosen_plaintext": 100.0}
    assert ciphertext_leak_percent({f"{attack}_strength_percent": share for attack, share in found.items()}) == 40.0


def test_missing_result_names_the_stage(world):
    (world / "results" / "verify.json").unlink()
    with pytest.raises(PpvitError, match=r"verify\.json is missing; run the stage that writes it: dvc repro verify"):
        write(world)
    assert not (world / "report.html").exists()


def test_three_ways_stand_beside_each_other(world):
    summary = write(world)
    page = (world / "report.html").read_text()
    assert "pip install &#39;ppvit[he]&#39;" in page or "pip install 'ppvit[he]'" in page
    assert "CKKS" not in summary
    (world / "results" / "he.json").write_text(json.dumps({**HE, **COMMON}))
    assert "accuracy, head trained under CKKS" in write(world)
    page = (world / "report.html").read_text()
    table = page[page.index("<h2>Three ways to train</h2>") :].partition("</table>")[0]
    for text in ("91.25 %", "96.25 %", "99.50 %", "61 MiB of ciphertext", "4 s, 512 MiB", "everything"):
        assert text in table
    for text in (
        "IND-CPA",
        "not IND-CPA-D",
        "no integrity",
        "96.50 %",
        "2.0e-03",
        "128 bits of security",
        "5 levels, sigmoid",
    ):
        assert text in page
    assert "Refreshing shows" not in page
    (world / "results" / "he.json").write_text(
        json.dumps({**HE, **COMMON, "mode": "refresh", "algorithm": "volley_revolver"})
    )
    write(world)
    page = (world / "report.html").read_text()
    assert "Refreshing shows the intermediate weights" in page
    assert "Volley Revolver" in page


def test_every_attacker_stands_beside_the_headline(world):
    write(world)
    page = (world / "report.html").read_text()
    for text in ("1.2 % withstand K1.", "1.5 % withstand.", "1.25 %", "2.25 %", "40.50 %", "60.50 %", "89.50 %"):
        assert text in page
    assert "obfuscation, not robustness" in page
