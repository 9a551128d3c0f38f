"""The page of the demo, by NiceGUI: it is served on this machine, and nothing on it comes from elsewhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ppvit.core.errors import MissingPackage, PpvitError
from ppvit.data.decoding import decode
from ppvit.report.demo import workbench
from ppvit.report.demo.workbench import Workbench

_PAD, _PEN = 256, 26  # pixels of the pad to draw on, and of the pen
_SHOWN = 160  # pixels of a picture
_PHOTOGRAPH_BYTES = 32 * 2**20
_REJECTED = "the file is no picture, or larger than 32 MiB; drop a photograph, such as a JPEG or PNG"
_PATIENCE = 60  # seconds without an answer until the browser loads the page anew, and what was drawn is lost
_ALONE = ThreadPoolExecutor(1, "demo")  # all visitors' computations, one at a time: together none would be done sooner
_NOTE = (
    "The model knows handwritten digits. Perceptual encryption hides pictures from eyes, not from arithmetic: "
    "see what attackers recover below."
)


def serve(weights: Path, port: int, open_browser: bool, host: str = "127.0.0.1") -> None:
    """Serve the page until the user stops it, and print where it is.

    Args:
        weights: of the embedded model.
        port: on which to listen.
        open_browser: whether to open the page in the browser.
        host: the address to listen on; others than that of this machine let everybody in the network draw.

    Raises:
        MissingPackage: NiceGUI is not installed.
        PpvitError: the weights cannot be read, or something else listens on the port.
    """
    try:
        from nicegui import ui
    except ImportError:
        raise MissingPackage("the demo needs NiceGUI; install it: pip install 'ppvit[demo]'") from None
    bench = Workbench(weights)
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise PpvitError(f"port {port} cannot be taken ({error.strerror}); name another by --port") from None
    print(f"http://{host}:{port} (Ctrl-C ends it)", flush=True)
    ui.page("/")(lambda: Page(bench))
    ui.run(
        host=host,
        port=port,
        title="ppvit demo",
        show=open_browser,
        reload=False,
        show_welcome_message=False,
        reconnect_timeout=_PATIENCE,
    )


class Page:
    """What one visitor sees.

    Nothing is computed where the page answers: it takes further strokes and words meanwhile, and the newest of them is
    what is computed next.

    Args:
        bench: what computes.
    """

    def __init__(self, bench: Workbench) -> None:
        from nicegui import ui

        self._bench = bench
        self._drawn = Image.new("L", (_PAD, _PAD))
        self._last: tuple[float, float] | None = None
        self._picture = bench.digits[0]
        self._given = self._asked = 0  # pictures, and questions, so far
        ui.label("ppvit: pictures under a secret key").classes("text-h5")
        ui.label(_NOTE)
        with ui.row():
            with ui.column():
                ui.label("Draw a digit")
                self._pad = ui.interactive_image(size=(_PAD, _PAD), on_mouse=self._pointer, sanitize=False,
                                                 events=["pointerdown", "pointermove", "pointerup"])  # fmt: skip
                self._pad.style(f"touch-action: none; background: black; width: {_PAD}px").classes("ppvit-pad")
                with ui.row():
                    ui.button("Clear", on_click=self._clear)
                    ui.button("A digit of the data set", on_click=self._take_digit)
                ui.upload(label="or drop a photograph", on_upload=self._take_file, on_rejected=self._reject,
                          auto_upload=True, max_file_size=_PHOTOGRAPH_BYTES).props("accept=image/*")  # fmt: skip
            with ui.column():
                self._cipher = ui.select(workbench.cipher_names(), value="block", label="Cipher",
                                         on_change=self._ask).classes("w-64")  # fmt: skip
                self._key = ui.input("Key: any words", value="my secret", on_change=self._ask).classes("w-64")
                self._known = ui.number("Plain pictures the first attacker knows", value=5, min=1, max=100, step=1,
                                        on_change=self._ask).classes("w-64")  # fmt: skip
                self._error = ui.label().classes("text-red").props("role=alert")
                with ui.row().props("role=status") as self._working:
                    ui.spinner()
                    ui.label("Working …")
        self._parts = [ui.column() for _ in range(3)]
        ui.timer(0, self._ask, once=True)  # once somebody looks

    def _pointer(self, event: Any) -> None:
        here = (float(event.image_x), float(event.image_y))
        if event.type == "pointerdown":
            self._last = here
        elif self._last is None:
            return
        if event.type == "pointerup" or not event.buttons:  # it may have been let go outside
            self._last = None
            self._show(workbench.as_digit(np.asarray(self._drawn)))
            return
        pen = ImageDraw.Draw(self._drawn)
        pen.line([self._last, here], 255, _PEN)
        pen.circle(here, _PEN // 2, 255)
        # seen as lines over the pad: pictures of it would be replaced before the browser has fetched them
        (x1, y1), (x2, y2) = self._last, here
        self._pad.content += (
            f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" '
            f'stroke="white" stroke-width="{_PEN}" stroke-linecap="round"/>'
        )
        self._last = here

    def _clear(self) -> None:
        self._drawn = Image.new("L", (_PAD, _PAD))
        self._pad.content = ""

    def _take_digit(self) -> None:
        number = int(np.random.default_rng().integers(len(self._bench.digits)))
        self._show(self._bench.digits[number])

    async def _take_file(self, event: Any) -> None:
        self._given += 1
        given, data, name = self._given, await event.file.read(), event.file.name
        event.sender.reset()  # else the same file is refused when it is dropped again
        try:
            photograph = await asyncio.to_thread(lambda: workbench.as_picture(Image.fromarray(decode(data, name))))
        except PpvitError as error:
            self._error.set_text(str(error))
            return
        if given == self._given:  # nothing was drawn meanwhile
            self._show(photograph)

    def _reject(self) -> None:
        self._error.set_text(_REJECTED)

    def _show(self, picture: np.ndarray) -> None:
        self._given += 1
        self._picture = picture
        self._ask()

    def _ask(self) -> None:
        """Have everything computed anew, once what is being computed has come to its next step."""
        from nicegui import background_tasks

        self._asked += 1
        self._error.set_text("")
        self._working.set_visibility(True)
        for part in self._parts:
            part.style("opacity: 0.5")
        background_tasks.create_lazy(self._compute(self._asked), name=f"demo of {id(self)}")

    async def _compute(self, asked: int) -> None:
        bench, picture, words = self._bench, self._picture, self._key.value or ""
        key, wrong = workbench.key_of(words), workbench.key_of(words + "?")
        name, known = str(self._cipher.value), int(min(100, max(1, self._known.value or 1)))
        steps: tuple[tuple[Callable[[], Any], Callable[[Any], None]], ...] = (
            (lambda: bench.encrypted(picture, name, key), lambda found: _show_encrypted(picture, found)),
            (lambda: bench.answers(picture, name, key, wrong), _show_answers),
            (lambda: bench.recovered(picture, name, key, known), _show_recovered),
        )
        left = list(self._parts)
        try:
            for compute, show in steps:
                found = await asyncio.get_running_loop().run_in_executor(_ALONE, compute)
                if asked != self._asked or left[0].is_deleted:
                    return
                part = left.pop(0)
                part.clear()
                part.style(remove="opacity: 0.5")
                with part:
                    show(found)
        except Exception as error:
            for part in left:
                part.clear()
            expected = isinstance(error, PpvitError)
            self._error.set_text(str(error) if expected else f"{type(error).__name__}: the terminal says more")
            if not expected:
                raise
        finally:
            if asked == self._asked and not self._working.is_deleted:
                self._working.set_visibility(False)


def _show_encrypted(picture: np.ndarray, encrypted: np.ndarray) -> None:
    from nicegui import ui

    with ui.row():
        _pictured(ui.column, picture, "plain")
        _pictured(ui.column, encrypted, "encrypted: what the trainer sees")


def _show_answers(answers: list[workbench.Answer]) -> None:
    from nicegui import ui

    ui.label("What models say").classes("text-h6")
    columns = [{"name": each, "label": each, "field": each, "align": "left"} for each in ("model", "answer")]
    rows = [{"model": each.model, "answer": told(each)} for each in answers]
    ui.table(columns=columns, rows=rows).props("dense wrap-cells")


def _show_recovered(recovered: list[workbench.Recovered]) -> None:
    from nicegui import ui

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
