"""`ppvit demo`: what it computes, and the page in a browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from browser import MISSING
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from ppvit.ciphers import make_cipher
from ppvit.cli.command import app
from ppvit.core.errors import MissingPackage, PpvitError
from ppvit.places import EMBEDDED
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


def test_a_port_that_somebody_has_is_told_before_an_address_is(capsys):
    pytest.importorskip("nicegui")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PpvitError, match=rf"port {port} cannot be taken \(.*\); name another by --port"):
            page.serve(WEIGHTS, port, False)
    assert capsys.readouterr().out == ""


def test_outside_a_project_the_weights_of_the_package_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taken = []
    monkeypatch.setattr(page, "serve", lambda weights, *_: taken.append(weights))
    assert CliRunner().invoke(app, ["demo"]).exit_code == 0
    own = tmp_path / "models/pretrained/vit_micro_patch4_32.safetensors"
    own.parent.mkdir(parents=True)
    shutil.copy(EMBEDDED, own)
    assert CliRunner().invoke(app, ["demo"]).exit_code == 0
    assert taken == [EMBEDDED, own.relative_to(tmp_path)]


@pytest.mark.skipif(find_spec("nicegui") is None, reason="install ppvit[demo] to test its page")
def test_the_address_is_told_once_the_weights_are_loaded(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    started = {"cwd": tmp_path, "env": {**environment, "PYTHONPATH": str(ROOT)}, "text": True}
    command = [sys.executable, "-m", "ppvit.cli", "demo", "--port", port, "--no-browser"]
    done = subprocess.run([*command, "--weights", "none"], **started, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "none does not exist" in done.stderr
    with subprocess.Popen(command, **started, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout.readline() == f"http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        finally:
            server.terminate()


# the command, whose last step waits while a file lies there, and tells what it was asked
SERVER = """
import sys, time
from pathlib import Path
from ppvit.cli import run
from ppvit.report.demo.workbench import Workbench

real = Workbench.recovered

def held(self, picture, name, key, known):
    with open("asked", "a") as asked:
        print(known, file=asked)
    if Path("broken").exists():
        raise RuntimeError("broken")
    while Path("hold").exists():
        time.sleep(0.05)
    return real(self, picture, name, key, known)

Workbench.recovered = held
run()
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A demo that runs: its address and its folder."""
    if MISSING or find_spec("nicegui") is None:
        pytest.skip(MISSING or "install ppvit[demo] to test its page")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVER, "demo", "--port", str(port), "--no-browser", "--weights", str(WEIGHTS)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    folder = tmp_path_factory.mktemp("demo")
    server = subprocess.Popen(command, env={**environment, "PYTHONPATH": str(ROOT)}, cwd=folder)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.2)
        yield f"127.0.0.1:{port}", folder
    finally:
        (folder / "hold").unlink(missing_ok=True)
        server.terminate()
        server.wait(30)


@pytest.fixture
def tab(served, chromium):
    """The page in a browser, once it has shown everything; with what it asked for."""
    tab = chromium.new_page()
    tab.set_default_timeout(60_000)
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto(f"http://{served[0]}")
    tab.get_by_text("Weights of the adapted model").wait_for()
    yield tab
    tab.close()


def draw(tab, left=128, outside=False):
    """A stroke from top to bottom of the pad, of which the page shows each move."""
    from playwright.sync_api import expect

    pad, strokes = tab.locator(".ppvit-pad"), tab.locator(".ppvit-pad line")
    before, box = strokes.count(), pad.bounding_box()
    assert (box["width"], box["height"]) == (256, 256)
    tab.mouse.move(box["x"] + left, box["y"] + 40)
    tab.mouse.down()
    tab.mouse.move(box["x"] + left, box["y"] + 210, steps=8)
    expect(strokes).to_have_count(before + 9)
    if outside:
        tab.mouse.move(box["x"] + left, box["y"] - 20)
    tab.mouse.up()
    if outside:
        tab.mouse.move(box["x"] + left, box["y"] + 100)


def shown(tab, before, title="plain"):
    """The source of a picture that is another one than ``before``."""
    from playwright.sync_api import expect

    picture = tab.get_by_alt_text(title, exact=True)
    expect(picture).not_to_have_attribute("src", before)
    return picture.get_attribute("src")


def pixels(served, source):
    """float, (H, W, 3), of a picture of the page."""
    with urllib.request.urlopen(f"http://{served[0]}{source}", timeout=60) as answer:
        return np.asarray(Image.open(BytesIO(answer.read())).convert("RGB"), float)


def test_the_page_in_a_browser(served, tab):
    title = "encrypted: what the trainer sees"
    assert tab.get_by_text("encrypted, adapted model", exact=True).count() == 1
    before = tab.get_by_alt_text(title).get_attribute("src")
    draw(tab)
    shown(tab, before, title)
    tab.set_viewport_size({"width": 360, "height": 800})  # a phone
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    own = (f"http://{served[0]}", f"ws://{served[0]}", "data:", "blob:")
    assert [url for url in tab.asked if not url.startswith(own)] == []


def test_the_page_answers_while_it_computes_and_the_newest_question_is_next(served, tab):
    from playwright.sync_api import expect

    working = tab.get_by_text("Working …")
    expect(working).to_be_hidden()
    asked, hold = served[1] / "asked", served[1] / "hold"
    asked.unlink()
    hold.touch()
    tab.get_by_role("button", name="A digit of the data set").click()
    expect(working).to_be_visible()
    for _ in range(600):
        if asked.exists():
            break
        tab.wait_for_timeout(50)
    for known in (6, 7, 8):
        tab.get_by_label("Plain pictures the first attacker knows").fill(str(known))
    draw(tab)  # which is seen, although nothing has been computed yet
    expect(working).to_be_visible()
    hold.unlink()
    expect(working).to_be_hidden()
    assert asked.read_text().split() == ["5", "8"]


def test_what_nobody_expected_is_said_on_the_page(served, tab):
    from playwright.sync_api import expect

    broken = served[1] / "broken"
    broken.touch()
    tab.get_by_role("button", name="A digit of the data set").click()
    expect(tab.get_by_role("alert")).to_have_text("RuntimeError: the terminal says more")
    expect(tab.get_by_text("Working …")).to_be_hidden()
    broken.unlink()
    tab.get_by_role("button", name="A digit of the data set").click()
    tab.get_by_text("Weights of the adapted model").wait_for()


def encoded(image, form, **options):
    out = BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def photographs():
    """Files that cameras and programs write: name, bytes, and what is seen on the left and on the right."""
    halves = Image.new("L", (80, 40))
    halves.paste(200, (40, 0, 80, 40))
    turned = Image.Exif()
    turned[0x0112] = 6  # what is stored upright was taken with the camera turned, so its top is shown at the right
    upright = halves.rotate(90, expand=True).convert("RGB")  # light above dark
    yield "turned.jpg", encoded(upright, "JPEG", exif=turned, quality=95), 0, 200
    clear = Image.merge("LA", (Image.new("L", (80, 40), 100), halves.point(lambda value: 255 * (value > 0))))
    yield "clear.png", encoded(clear, "PNG"), 255, 100  # on white
    yield "grey.png", encoded(halves, "PNG"), 0, 200


def test_photographs_are_shown_as_people_see_them(served, tab):
    before = tab.get_by_alt_text("plain", exact=True).get_attribute("src")
    for name, data, left, right in photographs():
        tab.locator("input[type=file]").set_input_files({"name": name, "mimeType": "image/*", "buffer": data})
        before = shown(tab, before)
        seen = pixels(served, before)
        quarter = seen.shape[1] // 4
        assert np.abs(seen[:, :quarter] - left).max() < 12, name
        assert np.abs(seen[:, -quarter:] - right).max() < 12, name


def test_a_photograph_is_dropped_more_than_once_and_what_is_none_is_said_in_a_line(tab):
    from playwright.sync_api import expect

    said = tab.get_by_role("alert")
    name, data, *_ = list(photographs())[-1]
    before = tab.get_by_alt_text("plain", exact=True).get_attribute("src")
    for left in (90, 170):
        drop(tab, name, data, "image/png")
        dropped = shown(tab, before)
        draw(tab, left, outside=left == 90)
        before = shown(tab, dropped)
    for name, kind in (("a.jpg", "image/jpeg"), ("notes.txt", "text/plain")):
        drop(tab, name, b"these are words", kind)
        expect(said).to_contain_text(f"{name}: this image cannot be decoded")
        assert "\n" not in said.inner_text().strip()
    drop(tab, "large.png", b"", "image/png", 33 * 2**20)
    expect(said).to_contain_text("32 MiB")


def drop(tab, name, data, kind, more=0):
    """Let a file go over the page's field for files, as a mouse does; ``more``: zeros at its end."""
    made = """([name, data, kind, more]) => {
        const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0)), transfer = new DataTransfer()
        transfer.items.add(new File([bytes, new Uint8Array(more)], name, { type: kind }))
        return transfer
    }"""
    transfer = tab.evaluate_handle(made, [name, b64encode(data).decode(), kind, more])
    tab.locator(".q-uploader").dispatch_event("dragover", {"dataTransfer": transfer})
    tab.locator(".q-uploader__dnd").dispatch_event("drop", {"dataTransfer": transfer})
