"""The report in a browser: loads nothing, runs no script but its own, on a phone, in the dark, printed, by keyboard."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
from browser import MISSING
from PIL import Image
from test_report import VALUES, make_world, write_page, write_stage

from ppvit.report.comparison import compare
from ppvit.report.runs import Run

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
ATTACKS = ("weights", "pooled", "known_plaintext", "jigsaw", "min_difference", "matching", "inverse_network")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A page whose pictures are noise at 224 pixels, which hardly compresses; three of them are the same."""
    world = make_world(tmp_path_factory.mktemp("browser"))
    told = json.loads((world / "results/audit/attacks.json").read_text())
    told["titles"] = {name: name.replace("_", " ") for name in ATTACKS}
    (world / "results/audit/attacks.json").write_text(json.dumps(told))
    values = {**VALUES["audit"]}
    for number, name in enumerate(ATTACKS):
        pixels = np.random.default_rng(max(0, number - 2)).integers(0, 256, (952, 704, 3), np.uint8)
        Image.fromarray(pixels).save(world / f"results/audit/{name}.png")
        values |= {f"{name}_ssim": 0.5, f"{name}_strength_percent": 50.0}
    values[f"{ATTACKS[-1]}_strength_percent"] = 0.0
    write_stage(world / "results", "audit", values)
    manifest = json.loads((world / "raw/dataset.json").read_text())
    names = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "{{ 猫 }} " + 300 * "x"]
    (world / "raw/dataset.json").write_text(json.dumps({**manifest, "classes": names}))
    write_page(world)
    return world


@pytest.fixture
def opened(chromium, world):
    """Opens the page to hand on, with what a context is made of, and gathers what the browser says and asks for."""
    contexts = []

    def run(name: str = "results/times/report.html", plots: bool = True, **settings: Any) -> Any:
        contexts.append(chromium.new_context(**settings))
        page = contexts[-1].new_page()
        page.told, page.asked = [], []
        page.on("console", lambda message: page.told.append(message.text))
        page.on("pageerror", lambda error: page.told.append(str(error)))
        page.on("dialog", lambda dialog: page.told.append(dialog.message))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto((world / name).as_uri())
        if plots and settings.get("java_script_enabled", True):
            page.wait_for_selector("#plot-confusion svg", state="attached")
        return page

    yield run
    for context in contexts:
        context.close()


def too_wide(page: Any) -> list[str]:
    """What sticks out of the page to the right, and does not scroll by itself."""
    return page.evaluate(
        """() => [...document.querySelectorAll("body *")].filter(each => !each.closest(".wide, .skip")
        && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
    )


def test_small_and_alone(opened, world):
    assert (world / "results/times/report.html").stat().st_size < 2_000_000
    assert (world / "report.html").stat().st_size < 2_000_000
    page = opened()
    assert page.told == []
    assert [url[:5] for url in page.asked] == ["file:"] + ["data:"] * (len(page.asked) - 1)
    drawn = set(page.eval_on_selector_all(".plot svg", "all => all.map(each => each.closest('.plot').id)"))
    names = ("learning-loss", "learning-accuracy-percent", "confusion", "calibration", "withstood", "reached")
    assert drawn == {f"plot-{name}" for name in names}


def test_each_picture_stands_once_and_has_words_of_its_own(opened):
    shown = opened().eval_on_selector_all("img", "all => all.map(each => [each.src, each.alt, each.naturalWidth])")
    assert len(shown) == len(ATTACKS) - 2 + 2  # three share one; examples and ciphers
    assert len({src for src, _, _ in shown}) == len({alt for _, alt, _ in shown}) == len(shown)
    assert all(width > 50 for _, _, width in shown)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious_and_nothing_sticks_out(opened, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.click("#fold")  # opens all
    assert page.evaluate("[...document.querySelectorAll('main details')].every(each => each.open)")
    assert too_wide(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")


def test_what_a_first_reader_does_not_need_is_folded(opened, world):
    page = opened(viewport={"width": 1280, "height": 844})
    tall = "document.documentElement.scrollHeight"
    short = page.evaluate(tall)
    read = page.locator("main section > h2, main section > details > summary h2").all_inner_texts()
    assert all(page.get_by_role("heading", name=each, exact=True).is_visible() for each in read)
    pictures = page.locator("#privacy img")
    assert [each.is_visible() for each in pictures.all()].count(True) == len(ATTACKS) - 2 - 1  # one found nothing
    assert not page.locator("#privacy tbody").last.is_visible()
    page.click("#fold")
    assert page.locator("#privacy tbody").last.is_visible()
    assert short < 0.7 * page.evaluate(tall)


def test_compared_runs_are_sorted_and_load_nothing(opened, world):
    runs = [
        Run(name, "folder", {}, figures)
        for name, figures in {
            "a": {"evaluate.accuracy_percent": 9.5, "finetune.trainable_parameters": 1200.0},
            "b": {"finetune.trainable_parameters": 66826.0},
            "c": {
                "evaluate.accuracy_percent": 87.25, "finetune.trainable_parameters": 950.0,
                "audit.key_percent_of_strongest": 40.0, "audit.ssim_of_strongest": 0.3,
            },
        }.items()
    ]  # fmt: skip
    (world / "compare.html").write_text(compare(runs).as_page(), encoding="utf-8")
    page = opened("compare.html", plots=False)
    for column, direction, order in (
        ("accuracy", "descending", "cab"),
        ("accuracy", "ascending", "acb"),  # what was not measured comes last
        ("trained parameters", "descending", "bac"),
    ):
        head = page.locator("thead th", has_text=column).first
        head.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(f"th[aria-sort={direction}]")
        page.wait_for_timeout(50)
        assert "".join(page.locator("tbody th").all_inner_texts()) == order
    assert page.locator("tbody th[tabindex], tbody th[aria-label]").count() == 0  # a row's name is no button
    assert page.told == []
    assert page.locator("figure svg image").count() == 1  # the scale of the key's colours
    assert len(page.asked) == 1


def test_everything_is_printed(opened):
    page = opened(viewport={"width": 690, "height": 1000}, color_scheme="dark")  # A4 without its margins
    page.emulate_media(media="print")
    hidden = """() => [...document.querySelectorAll("main td, main dd, main p")].filter(each => !each.checkVisibility(
        {contentVisibilityAuto: true})).map(each => each.outerHTML.slice(0, 80))"""
    assert page.evaluate(hidden) == []
    cut = """() => [...document.querySelectorAll("table, img, svg")].filter(
        each => each.getBoundingClientRect().right > 691).map(each => each.outerHTML.slice(0, 80))"""
    assert page.evaluate(cut) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 690
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    accuracies = page.locator("table:not(.small) thead th", has_text="accuracy")
    assert accuracies.count() > 0
    for lines in accuracies.evaluate_all("""all => all.map(each => {
        const words = document.createRange(), text = document.createTreeWalker(each, NodeFilter.SHOW_TEXT).nextNode()
        const at = text.data.indexOf("accuracy")
        words.setStart(text, at)
        words.setEnd(text, at + "accuracy".length)
        return words.getClientRects().length
    })"""):
        assert lines == 1


def test_the_keyboard_opens_sections_and_sorts_tables(opened):
    page = opened(viewport={"width": 1280, "height": 844})
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#parameters summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('#parameters details').open")
    figures = "#training figure:has(#plot-learning-loss)"
    page.focus(f"{figures} summary")
    page.keyboard.press("Space")
    page.focus(f"{figures} th:nth-child(2)")
    cells = f"{figures} tbody td:nth-child(2)"
    order = []
    for direction in ("descending", "ascending"):
        page.keyboard.press("Enter")
        page.wait_for_selector(f"{figures} th:nth-child(2)[aria-sort={direction}]")
        page.wait_for_timeout(50)
        order.append([float(text) for text in page.locator(cells).all_inner_texts()])
    assert order == [[2.0, 1.0], [1.0, 2.0]]


def test_the_pointer_is_told_the_figures(opened):
    page = opened(viewport={"width": 1280, "height": 844})
    page.locator("#plot-calibration .mark-symbol path").last.hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "91.25" in page.inner_text("#vg-tooltip-element")


def test_links_lead_into_folded_sections(opened):
    page = opened()
    for target in page.eval_on_selector_all("nav a", "all => all.map(each => each.hash)"):
        page.click(f"nav a[href='{target}']")
        # not wait_for_function, whose second look is a string to evaluate, which the page's policy forbids
        page.wait_for_selector(f"{target} > details:not([open])", state="detached")


def test_without_scripts_the_figures_are_tables(opened):
    page = opened(java_script_enabled=False)
    assert page.locator(".plot").first.is_hidden()
    page.click("figure:has(#plot-confusion) summary")
    assert page.locator("figure:has(#plot-confusion) tbody tr").all_inner_texts()[0].split("\t")[1:] == ["27", "0", "0"]


def test_the_report_shows_the_times_beside_it(opened, world):
    folder = world / "results"
    shutil.copy(world / "report.html", folder / "report.html")
    page = opened("results/report.html")
    for _ in range(200):  # the frame of an object, which no selector finds
        if len(page.frames) > 1:
            break
        page.wait_for_timeout(100)
    frame = page.frames[1]
    frame.wait_for_selector("table")
    assert "torch 1.0" in frame.inner_text("body")
    assert page.told == []


def test_dvc_plots_need_no_network(opened, world, tmp_path, chromium):
    """As `dvc plots show` makes the page: DVC's templates and ours in the page that .dvc/config names."""
    from dvc.config import Config
    from dvc_render.html import render_html
    from dvc_render.vega import VegaRenderer
    from imports import ROOT

    calibration = [{"confidence_percent": 90, "accuracy_percent": 91.25, "images": 80, "rev": "workspace"}]
    pairs = [{"actual": str(true), "predicted": str(said), "rev": "workspace"} for true, said in ((0, 0), (1, 0))]
    plots = [
        VegaRenderer(calibration, "calibration", template="calibration", x="confidence_percent", y="accuracy_percent",
                     template_dir=str(ROOT / ".dvc/plots"), anchors_y_definitions=[]),
        VegaRenderer(pairs, "confusion", template="confusion_normalized", x="predicted", y="actual"),
        VegaRenderer([{"step": 1, "loss": 2.0, "rev": "workspace"}], "loss", template="linear", x="step", y="loss"),
    ]  # fmt: skip
    told = Config(str(ROOT / ".dvc"))["plots"]["html_template"]
    written = render_html(plots, tmp_path / "index.html", ROOT / ".dvc" / told)
    page = chromium.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(written.as_uri())
    page.wait_for_function("document.querySelectorAll('canvas, svg.marks').length === 3")
    assert [url.partition(":")[0] for url in asked] == ["file"]
    page.close()
