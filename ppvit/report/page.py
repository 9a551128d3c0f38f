"""One self-contained page and one small table: how accurate the run is, what it cost, and what it leaks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any
from unicodedata import bidirectional
from warnings import catch_warnings, filterwarnings

import jinja2
import matplotlib.figure
import numpy as np
from matplotlib.font_manager import FontProperties, findfont, get_font

from ppvit.ciphers import Cipher
from ppvit.ciphers.keyed import load_cipher
from ppvit.config import Config
from ppvit.core.errors import printable
from ppvit.core.files import atomic_output
from ppvit.core.measures import HEADLINES, Headline, LabelRow, hardly_trained
from ppvit.core.results import read_times
from ppvit.data.pictures import image_grid
from ppvit.data.plain import PlainImages
from ppvit.data.shards import sizes
from ppvit.evasion.verdicts import draw_curve, threat_rows
from ppvit.places import Places
from ppvit.report.claims import Tables, read_results, read_tables, unconfirmed
from ppvit.report.compare import three_ways
from ppvit.report.known_images import known_images
from ppvit.report.pictures import examples, over_ciphers, recovered

NAMED_CLASSES = 30  # beyond this a confusion matrix gets no class names, which would overlap
_SHORT_SIDE = 4  # of a block in pixels: 48 values and less
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_CURVES = {
    "loss": "loss",
    "accuracy_percent": "accuracy",
    "balanced_accuracy_percent": "balanced accuracy",
    "auroc": "AUROC",
    "robust_accuracy_percent": "accuracy under attack",
}
_COLOURS = {"loss": "C0", "accuracy_percent": "C1"}
_NAME_LETTERS = 24  # of a class in a drawing


def write_page(config: Config, places: Places) -> str:
    """Write the report, and a page of times beside the result files that it shows where it finds it.

    The report holds what a rerun repeats, so that the same run gives the same page; times, memory and versions are on
    the other one.

    Args: as of :func:`ppvit.verbs.report.run`; pictures and style are inside the page, it loads nothing else.

    Returns:
        The summary as plain text for the terminal.

    Raises:
        PpvitError: see :func:`ppvit.report.claims.read_results` and :func:`ppvit.report.claims.read_tables`.
    """
    plain = PlainImages(places.raw, "test", config.dataset, config.encrypt)
    headline = HEADLINES[plain.labelling.task]
    values = read_results(config, places, len(plain), plain.labelling)
    tables = read_tables(config, places, plain.labelling, plain.labelling.counts(plain.labels), values)
    known, doubtful = known_images(plain.manifest)
    summary = summary_rows(values, headline, known)
    columns = examples(config, places.raw, config.report.images)
    told = recovered(places.pictures)
    page = _render(
        "page.html.j2",
        config=config,
        values=values,
        headline=headline,
        summary=summary,
        known=known,
        doubtful=doubtful,
        verdict=values["audit"]["verdict"],
        short_key=short_key(load_cipher(config)),
        warning=unconfirmed(values, headline),
        attacks=told.rows,
        threats=threat_rows(values["threats"]),
        sentences=told.sentences,
        examples=_png(image_grid(list(columns.values()), list(columns))),
        attack_pictures={title: _data_uri("image/png", picture) for title, picture in told.pictures.items()},
        learning=_draw(lambda axes: _draw_learning(axes, tables)),
        confusion=None
        if tables.labels
        else _draw(lambda axes: _draw_confusion(axes, tables, plain.classes), short_names(plain.classes)),
        labels=label_rows(tables.labels, plain.classes, len(plain)),
        calibration=_draw(lambda axes: _draw_calibration(axes, tables)),
        ways=three_ways(values, headline),
        curve=_draw(lambda axes: draw_curve(axes, tables.curve)) if tables.curve[1:] else None,  # no attack, no curve
        over_ciphers=_png(over_ciphers(config, places.raw)),
        parameters=list(config.model_dump(exclude_unset=True).items()),
    )
    times = {stage: read_times(places.result(stage)) for stage in values}
    with atomic_output(places.results / "times" / "index.html") as temporary:
        temporary.write_text(_render("times.html.j2", times=times), encoding="utf-8")
    with atomic_output(places.page) as temporary:
        temporary.write_text(page, encoding="utf-8")
    seconds = [(f"time of {stage}", f"{each['wall_seconds']:.1f} s") for stage, each in times.items() if each]
    rows = [*summary, *seconds, ("report", str(places.page))]
    width = max(len(name) for name, _ in rows)
    return "\n".join(printable(f"{name:<{width}}  {value}") for name, value in rows)


def _render(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ppvit.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def label_rows(labels: list[LabelRow], classes: list[str], images: int) -> list[tuple[str, ...]]:
    """How well every label is told: name, images that carry it, AUROC, average precision, F1, accuracy."""
    return [
        (
            printable(classes[row.label]),
            f"{row.positives} of {images}",
            *("not measured" if value is None else f"{value:.4f}" for value in (row.auroc, row.average_precision)),
            f"{row.f1:.4f}",
            _percent(100 * row.accuracy(images)),
        )
        for row in labels
    ]


def summary_rows(
    values: dict[str, dict[str, Any]], headline: Headline = HEADLINES["multiclass"], known: str = ""
) -> list[tuple[str, str]]:
    """The figures that matter, as (name, value) texts; ``known``: see :func:`known_images`."""
    evaluate, verify, finetune, adapt = (values[stage] for stage in ("evaluate", "verify", "finetune", "adapt"))
    rows = [
        (
            f"{headline.words}, encrypted" + (" and adapted" if adapt["adapted"] else ", not adapted"),
            headline.text(evaluate[headline.name]),
        )
    ]
    rows.append((f"{headline.words}, encrypted anew by the owner", headline.text(verify[headline.name])))
    rows += [("test images", known)] if known else []
    if warning := unconfirmed(values, headline):
        rows.insert(0, ("WARNING", warning))
    if plain := headline.of(verify, "plain_"):
        rows.append((f"{headline.words}, plain images, adaptation undone", plain))
    if wrong := headline.of(verify, "wrong_key_"):
        rows.append((f"{headline.words}, wrong key (chance {headline.text(verify[headline.chance])})", wrong))
    rows += _chosen(finetune, evaluate["images"], headline)
    rows += [("training", told)] if (told := hardly_trained(finetune)) else []
    parameters = finetune["trainable_parameters"]
    if views := values["audit"].get("views"):
        rows.append(("views of each training image", str(views)))
    rows.append(("trainable parameters", f"{parameters:,} ({parameters / 2**20:.3f} Mi), {finetune['method']}"))
    for what, name in (("float64 logits", "float64"), ("logits of stored ciphertext", "stored")):
        if f"max_logit_difference_{name}" in adapt:  # a new model for tokens has nothing to be compared with
            label = "adaptation error" if adapt["adapted"] else "difference to the plain model"
            rows.append((f"{label} ({what})", f"{adapt[f'max_logit_difference_{name}']:.1e}"))
    if he := values.get("he"):
        rows.append((f"{headline.words}, head trained under CKKS", headline.text(he[headline.name])))
    robust = values["threats"].get("headline_accuracy_percent")
    if robust is not None:
        rows.append(("accuracy under attack, strongest attacker", _percent(robust)))
    rows.append(("leak so far", values["audit"]["verdict"]))
    return rows


def _chosen(finetune: dict[str, Any], test_images: int, headline: Headline) -> list[tuple[str, str]]:
    """On how many images it was trained, and which epoch was kept by how many others."""
    if "val_images" not in finetune:
        return []
    counts = {"train": finetune["train_images"], "val": finetune["val_images"], "test": test_images}
    kept = f"{finetune['selected_epoch']} of {finetune['epochs']}"
    if (robust := finetune.get("val_robust_accuracy_percent")) is not None:
        kept += f", validation accuracy under attack {_percent(robust)}"
    elif val := headline.of(finetune, "val_"):
        kept += f", validation {headline.words} {val}"
    return [("images", sizes(counts)), ("epoch that was kept", kept)]


def short_key(cipher: Cipher) -> str:
    """A sentence where blocks are so small that the part of the key which acts inside them is short; else empty."""
    form = cipher.affine_map()
    blocks_alone = form is not None and form.matrix is None and form.sign.min() > 0
    if form is not None and blocks_alone:
        blocks_alone = bool((form.value_permutation == np.arange(form.value_permutation.shape[-1])).all())
    if not cipher.keyed or blocks_alone or cipher.block_size > _SHORT_SIDE:
        return ""
    return (
        f"Patches of {cipher.block_size} x {cipher.block_size} pixels make blocks of {cipher.values} values, so what "
        f"the key does inside a block is short: blocks of 16 x 16 pixels have {3 * 16**2}. Fewer images tell the "
        "values of a block apart."
    )


def _percent(value: float) -> str:
    return f"{value:.2f} %"


def _draw(draw: Callable[[Any], None], names: Sequence[str] = ()) -> str:
    """Run a drawing function on new axes and return the SVG as a data URI, the same bytes for the same data.

    Args:
        draw: the function.
        names: what it writes. Where matplotlib's own font lacks a letter of them, or they run from right to left,
            all text stays text, which the browser draws: it has fonts of every script, and knows how to set them.
    """
    figure = matplotlib.figure.Figure(figsize=(5, 3.6), layout="constrained")
    draw(figure.add_subplot())
    buffer = io.BytesIO()
    own = _has_letters("".join(names))
    with matplotlib.rc_context({"svg.hashsalt": "ppvit", "svg.fonttype": "path" if own else "none"}), catch_warnings():
        if not own:  # it is the browser that needs the letters
            filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_uri("image/svg+xml", buffer.getvalue())


def _has_letters(text: str) -> bool:
    letters = get_font(findfont(FontProperties())).get_charmap()
    return all(ord(letter) in letters and bidirectional(letter) not in ("R", "AL") for letter in text)


def _draw_learning(axes: Any, tables: Tables) -> None:
    for name, rows in tables.learning.items():
        split, _, figure = name.partition("_")
        scale = 100.0 if name.endswith("percent") else 1.0
        axes.plot(
            [step for step, _ in rows],
            [value / scale for _, value in rows],
            marker=".",
            linestyle={"train": "-", "val": "--", "test": ":"}[split],
            color=_COLOURS.get(figure, "C2"),
            label=f"{_SPLITS[split]} {_CURVES[figure]}",
        )
    axes.set(xlabel="epoch", title="Training on ciphertext")
    axes.legend()
    axes.grid(alpha=0.3)


def _draw_confusion(axes: Any, tables: Tables, classes: list[str]) -> None:
    counts = tables.confusion
    axes.imshow(counts / np.maximum(1, counts.sum(1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion, by share of the true class")
    if len(classes) <= NAMED_CLASSES:
        names = short_names(classes)
        axes.set_xticks(range(len(classes)), names, rotation=90, parse_math=False)  # a $ is no formula
        axes.set_yticks(range(len(classes)), names, parse_math=False)


def short_names(classes: Sequence[str]) -> list[str]:
    """Names as a drawing shows them: cut to 24 letters, and with their numbers where they then are the same."""
    names = [printable(name) for name in classes]
    short = [name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…" for name in names]
    return [name if short.count(name) == 1 else f"{label}: {name}" for label, name in enumerate(short)]


def _draw_calibration(axes: Any, tables: Tables) -> None:
    confidence, accuracy, images = zip(*tables.calibration, strict=True)
    axes.plot([0, 100], [0, 100], color="gray", linewidth=1)
    axes.scatter(confidence, accuracy, s=[10 + 200 * count / sum(images) for count in images], alpha=0.7)
    axes.set(xlabel="confidence in percent", ylabel="accuracy in percent", title="Calibration (area: images)")
    axes.grid(alpha=0.3)


def _png(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return _data_uri("image/png", buffer.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
