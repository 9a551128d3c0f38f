"""`ppvit demo`: what it computes, and the page in a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ppvit.ciphers import make_cipher
from ppvit.core.errors import MissingPackage
from ppvit.report.demo import page, workbench

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "models/pretrained/vit_micro_patch4_32.safetensors"
RIGHT, WRONG = workbench.key_of("right"), workbench.key_of("wrong")


@pytest.fixture(scope="module")
def bench():
    return workbench.Workbench(WEIGHTS)


def test_the_adapted_model_says_of_the_ciphertext_what_the_plain_one_says_of_the_picture(bench):
    for digit in bench.digits[:5]:
        plain, adapted, wrong, unadapted = bench.answers(digit, "block", RIGHT, WRONG)
        assert adapted.digit == plain.digit
        assert adapted.percent == pytest.approx(plain.percent, abs=0.1)
        assert abs(wrong.percent - plain.percent) > 0.1
        assert abs(unadapted.percent - plain.percent) > 0.1


def test_three_attackers_recover_the_picture(bench):
    found = bench.recovered(bench.digits[700 % len(bench.digits)], "block", RIGHT, 20)
    assert [each.attack for each in found] == list(workbench.SHOWN_ATTACKS.values())
    known, pooled, weights = found
    assert weights.key_percent == pytest.approx(100)
    assert min(known.ssim, weights.ssim) > 0.99
    assert pooled.ssim > 0.5


def test_what_cannot_be_shown_of_a_cipher_is_said(bench):
    answers = bench.answers(bench.digits[0], "disposable", RIGHT, WRONG)
    assert any(answer.says for answer in answers)  # a key for each image: nothing is adapted to it
    assert any(each.says for each in bench.recovered(bench.digits[0], "disposable", RIGHT, 5))


def test_every_cipher_that_is_offered_encrypts(bench):
    for name in workbench.cipher_names():
        expected = make_cipher(name, RIGHT, 32, 4).encrypt(bench.photographs[:1], np.zeros(1, np.int64))[0]
        shown = bench.encrypted(bench.photographs[0], name, RIGHT)
        assert shown.dtype == np.uint8
        if expected.dtype == np.uint8:
            np.testing.assert_array_equal(shown, expected)


def test_a_drawing_becomes_a_digit_wherever_it_was_drawn():
    found = []
    for left in (10, 150):
        drawn = Image.new("L", (256, 256))
        ImageDraw.Draw(drawn).rectangle((left, 20, left + 20, 120), 255)
        found.append(workbench.as_digit(np.asarray(drawn)))
    np.testing.assert_array_equal(*found)
    assert found[0].shape == (32, 32, 3)
    assert not workbench.as_digit(np.zeros((256, 256), np.uint8)).any()


def test_without_its_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    with pytest.raises(MissingPackage, match=r"pip install 'ppvit\[demo\]'"):
        page.serve(WEIGHTS, 8080, False)


def test_the_page_in_a_browser(tmp_path):
    pytest.importorskip("nicegui", reason="install ppvit[demo] to test its page")
    sync_api = pytest.importorskip("playwright.sync_api", reason="install playwright to test the page")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "ppvit.cli",
        "demo",
        "--port",
        str(port),
        "--no-browser",
        "--weights",
        str(WEIGHTS),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    server = subprocess.Popen(command, env={**environment, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.2)
        asked = []
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium)
            tab = browser.new_page()
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(f"http://127.0.0.1:{port}")
            tab.get_by_text("Weights of the adapted model").wait_for(timeout=120_000)
            assert tab.get_by_text("encrypted, adapted model", exact=True).count() == 1
            before = tab.get_by_alt_text("encrypted: what the trainer sees").get_attribute("src")
            pad = tab.locator("img").first.bounding_box()
            tab.mouse.move(pad["x"] + 128, pad["y"] + 40)
            tab.mouse.down()
            tab.mouse.move(pad["x"] + 128, pad["y"] + 210, steps=8)
            tab.mouse.up()
            shown = tab.get_by_alt_text("encrypted: what the trainer sees")
            sync_api.expect(shown).not_to_have_attribute("src", before, timeout=120_000)
            browser.close()
        own = (f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}", "data:", "blob:")
        assert [url for url in asked if not url.startswith(own)] == []
    finally:
        server.terminate()
        server.wait(30)
