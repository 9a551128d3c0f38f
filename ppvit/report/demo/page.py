"""The page of the demo, by NiceGUI: it is served on this machine, and nothing on it comes from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ppvit.core.errors import MissingPackage, PpvitError, UsageError
from ppvit.data.decoding import decode
from ppvit.report.demo import workbench
from ppvit.report.demo.workbench import Workbench

_PAD, _PEN = 256, 26  # pixels of the pad to draw on, and of the pen
_SHOWN = 160  # pixels of a picture
_PHOTOGRAPH_BYTES = 32 * 2**20
_NOTE = (
    "The model knows handwritten digits. Perceptual encryption hides pictures from eyes, not from arithmetic: "
    "see what attackers recover below."
)


def serve(weights: Path, port: int, open_browser: bool, host: str = "127.0.0.1") -> None:
    """Serve the page until the user stops it.

    Args:
        weights: of the embedded model.
        port: on which to listen.
        open_browser: whether to open the page in the browser.
        host: the address to listen on; others than that of this machine let everybody in the network draw.

    Raises:
        MissingPackage: NiceGUI is not installed.
        PpvitError: the weights cannot be read.
    """
    try:
        from nicegui import ui
    except ImportError:
        raise MissingPackage("the demo needs NiceGUI; install it: pip install 'ppvit[demo]'") from None
    bench = Workbench(weights)
    ui.page("/")(lambda: Page(bench))
    ui.run(host=host, port=port, title="ppvit demo", show=open_browser, reload=False, show_welcome_message=False)


class Page:
    """What one visitor sees.

    Args:
        bench: what computes.
    """

    def __init__(self, bench: Workbench) -> None:
        from nicegui import ui

        self._bench = bench
        self._drawn = Image.new("L", (_PAD, _PAD))
        self._last: tuple[float, float] | None = None
        self._picture = bench.digits[0]
        ui.label("ppvit: pictures under a secret key").classes("text-h5")
        ui.label(_NOTE)
        with ui.row():
            with ui.column():
                ui.label("Draw a digit")
                self._pad = ui.interactive_image(
                    self._drawn, on_mouse=self._mouse, events=["mousedown", "mousemove", "mouseup"], cross=False
                ).style("touch-action: none; border: 1px solid grey")
                with ui.row():
                    ui.button("Clear", on_click=self._clear)
                    ui.button("A digit of the data set", on_click=self._take_digit)
                ui.upload(label="or drop a photograph", on_upload=self._take_file, auto_upload=True,
                          max_file_size=_PHOTOGRAPH_BYTES).props("accept=image/*")  # fmt: skip
            with ui.column():
                self._cipher = ui.select(workbench.cipher_names(), value="block", label="Cipher",
                                         on_change=self._refresh).classes("w-64")  # fmt: skip
                self._key = ui.input("Key: any words", value="my secret", on_change=self._refresh).classes("w-64")
                self._known = ui.number("Plain pictures the first attacker knows", value=5, min=1, max=100, step=1,
                                        on_change=self._refresh).classes("w-64")  # fmt: skip
                self._error = ui.label().classes("text-red")
        self._results = ui.column()
        self._refresh()

    def _mouse(self, event: Any) -> None:
        if event.type == "mousedown":
            self._last = (event.image_x, event.image_y)
        if event.type != "mouseup" and self._last is not None:
            here = (event.image_x, event.image_y)
            pen = ImageDraw.Draw(self._drawn)
            pen.line([self._last, here], 255, _PEN)
            pen.circle(here, _PEN // 2, 255)
            self._last = here
            self._pad.set_source(self._drawn.copy())
        if event.type == "mouseup":
            self._last = None
            self._show(workbench.as_digit(np.asarray(self._drawn)))

    def _clear(self) -> None:
        self._drawn = Image.new("L", (_PAD, _PAD))
        self._pad.set_source(self._drawn.copy())

    def _take_digit(self) -> None:
        number = int(np.random.default_rng().integers(len(self._bench.digits)))
        self._show(self._bench.digits[number])

    async def _take_file(self, event: Any) -> None:
        try:
            photograph = decode(await event.file.read(), event.file.name)
        except PpvitError as error:
            self._error.set_text(str(error))
            return
        self._show(workbench.as_picture(Image.fromarray(photograph)))

    def _show(self, picture: np.ndarray) -> None:
        self._picture = picture
        self._refresh()

    def _refresh(self) -> None:
        """Compute everything anew, and show it."""
        from nicegui import ui

        self._error.set_text("")
        self._results.clear()
        try:
            key = workbench.key_of(self._key.value or "")
            wrong = workbench.key_of((self._key.value or "") + "?")
            name, known = str(self._cipher.value), int(min(100, max(1, self._known.value or 1)))
            encrypted = self._bench.encrypted(self._picture, name, key)
            answers = self._bench.answers(self._picture, name, key, wrong)
            recovered = self._bench.recovered(self._picture, name, key, known)
        except UsageError as error:
            self._error.set_text(str(error))
            return
        with self._results:
            with ui.row():
                _pictured(ui.column, self._picture, "plain")
                _pictured(ui.column, encrypted, "encrypted: what the trainer sees")
            ui.label("What models say").classes("text-h6")
            columns = [{"name": each, "label": each, "field": each, "align": "left"} for each in ("model", "answer")]
            rows = [{"model": each.model, "answer": told(each)} for each in answers]
            ui.table(columns=columns, rows=rows).props("dense")
            ui.label("What attackers recover").classes("text-h6")
            with ui.row():
                for each in recovered:
                    _attacker(ui.column, each)


def told(answer: workbench.Answer) -> str:
    """An answer in words."""
    return answer.says or f"{answer.digit} ({answer.percent:.0f} %)"


def _pictured(column: Callable[[], Any], picture: np.ndarray, title: str) -> None:
    from nicegui import ui

    with column():
        ui.label(title)
        large = Image.fromarray(picture).resize((_SHOWN, _SHOWN), Image.Resampling.NEAREST)
        ui.image(large).props(f'alt="{title}"').style(f"width: {_SHOWN}px")


def _attacker(column: Callable[[], Any], found: workbench.Recovered) -> None:
    from nicegui import ui

    with column().style("max-width: 16rem"):
        if found.picture is None:
            ui.label(found.attack)
            ui.label(found.says)
            return
        _pictured(column, found.picture, found.attack)
        share = "" if found.key_percent is None else f"{found.key_percent:.0f} % of the key, "
        ui.label(f"with {found.needs}: {share}likeness {found.ssim:.2f}")
