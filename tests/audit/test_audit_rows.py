"""The figures of an audit as rows that people read."""

from ppvit.audit.rows import attack_rows

AUDIT = {
    "weights_key_recovered_percent": 100.0, "weights_ssim": 1.0, 
    "known_plaintext_10_key_recovered_percent": 66.4,
    "known_plaintext_key_recovered_percent": 66.4,
    "known_plaintext_10_ssim": 0.9, "known_plaintext_ssim": 0.9, "weights_finetuned_ssim": 0.8,
    "brute_force_ssim": 0.1, "brute_force_key_bits": 203.4,
    "matching_ssim": 1.0, "matching_top1_percent": 95.0, "matching_chance_percent": 1.0,
    "guess_key_recovered_percent": None, "guess_ssim": None,
}  # fmt: skip


def test_attacks_without_a_figure_show_a_dash():
    rows = {name: cells for name, *cells in attack_rows(AUDIT)}
    assert rows["weights"] == ["100.00 %", "1.000"]
    assert rows["known plaintext, 10 pairs"][0] == "66.40 %"
    assert "known plaintext" not in rows
    assert rows["guess"] == ["–", "–"]


def test_attacks_are_named_as_people_say_them():
    rows = {name: cells for name, *cells in attack_rows(AUDIT)}
    assert "weights, after fine-tuning" in rows
    assert rows["matching"][1] == "picked out in 95 %, by luck 1 %"
    assert rows["brute force"][1] == "203 bits to try"
    pooled = attack_rows({"pooled_1_ssim": 0.5, "pooled_20_ssim": 0.6, "pooled_ssim": 0.6})
    assert [name for name, *_ in pooled] == ["pooled, 1 ciphertext", "pooled, 20 ciphertexts"]
