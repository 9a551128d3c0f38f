"""Attacks on a folder of somebody else's encrypted pictures, of which nothing is known but that they look encrypted.

There is nothing to score against, so each result is judged by how much like a picture it looks: neighbouring pixels of
pictures are alike, and those of ciphertext are not. What is no ciphertext, or shows nothing to attack, is said to be
so before any attack is made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppvit.audit.folder.attempts import attempts
from ppvit.audit.folder.colours import ColourOrder, colour_order
from ppvit.audit.folder.findings import Findings, verdict, what
from ppvit.audit.folder.reading import SIDE, Pictures, read_folder
from ppvit.audit.folder.sides import divisors, side_probabilities
from ppvit.audit.folder.structure import Structure, examine, inside_order, likeness
from ppvit.core.errors import UsageError
from ppvit.core.files import atomic_output, require_apart, require_free_space, write_json
from ppvit.core.git import keep_out_of_git
from ppvit.core.progress import tqdm
from ppvit.core.results import Stopwatch
from ppvit.data.pictures import image_grid

__all__ = ["attack_folder", "read_folder"]

_SIZES = 4  # of pictures that are attacked, the commonest; a key is of one size
_MORE_SIZES = 50  # of which a few are looked at, whether they are encrypted at all
_TRIED = 4  # pictures that an attack is judged by
_SHOWN = 4
_PICTURE = 0.5  # likeness above which people recognise something
_BLOCK = 64  # pixels of a side, above which none is offered
_GAIN = 0.2  # of likeness, above which an attack has found something


def attack_folder(folder: Path, out: Path, block_size: int | None = None, seed: int = 0) -> str:
    """Attack all pictures of a folder with what needs ciphertext alone.

    Args:
        folder: of encrypted pictures; those of one size are attacked together.
        out: folder to write: ``audit.json``, and where an attack made pictures of them, ``decrypted/`` with all of
            them, ``overview.png`` with a few, and ``key.npz`` where one key does for all. Where pictures have several
            sizes, a folder for each that holds these.
        block_size: side of a block in pixels; None guesses it.
        seed: of random choices.

    Returns:
        What was found, for the terminal.

    Raises:
        UsageError: the folder holds no pictures that the attacks take, or the block does not fit.
        PpvitError: a picture cannot be read.
    """
    require_apart(folder, out, "name another folder to write by --out")
    groups, large = _taken(read_folder(folder), block_size)
    with atomic_output(out, known_by="audit.json") as temporary:
        keep_out_of_git(temporary)
        told, by_size = [], {}
        for group in groups[:_SIZES]:
            findings = _attacked(group, block_size, seed)
            apart = len(groups) > 1 and findings.best is not None
            below = f"{group.size}/" if apart else ""
            (temporary / below).mkdir(exist_ok=True)
            _write(findings, temporary / below, f"{out}/{below}")
            by_size[group.size] = findings.values
            told += findings.told
        plain = _plain(groups[_SIZES:])
        left = [group for group in groups[_SIZES:] if group not in plain]
        told += _counted(plain, "further sizes: not encrypted, by the look of them")
        told += _counted(left, "further sizes were left out; audit each size in its own folder")
        told += _counted(large, f"more than {SIDE} pixels a side were left out; cut whole blocks out of them")
        values = {
            "sizes": by_size,
            "plain_images": sum(len(group.paths) for group in plain),
            "left_out_images": sum(len(group.paths) for group in [*left, *large]),
        }
        write_json(temporary / "audit.json", values if len(groups) > 1 or large else next(iter(by_size.values())))
    return "\n".join(told)


def _taken(groups: Sequence[Pictures], block_size: int | None) -> tuple[list[Pictures], list[Pictures]]:
    """Those that the attacks take, and those that are too large."""
    large = [group for group in groups if max(group.width, group.height) > SIDE]
    taken = [group for group in groups if max(group.width, group.height) <= SIDE]
    if not taken:
        raise UsageError(
            f"{large[0].paths[0]} has {large[0].size} pixels; the attacks take pictures of up to {SIDE} pixels a side; "
            "cut whole blocks out of them"
        )
    for group in taken:
        if block_size is not None and (block_size < 2 or group.width % block_size or group.height % block_size):
            sides = ", ".join(map(str, [p for p in divisors(group.width, group.height) if p <= _BLOCK]))
            remedy = f"take {sides}" if sides else "no side from 2 on does"
            raise UsageError(
                f"--block-size {block_size} does not divide the side of the pictures, {group.size} pixels; {remedy}"
            )
    return taken, large


def _plain(groups: Sequence[Pictures]) -> list[Pictures]:
    """Those of which a few are plain, by the look of them."""
    found = []
    for group in tqdm(groups[:_MORE_SIZES], desc="audit: further sizes", unit="size"):
        pictures, lossy, _ = group.looked_at(_TRIED)
        if examine(pictures, lossy > len(pictures) / 2).kind == "plain":
            found.append(group)
    return found


def _counted(groups: Sequence[Pictures], told: str) -> list[str]:
    count = sum(len(group.paths) for group in groups)
    return [f"of all pictures, {count} of {told}"] if count else []


def _attacked(group: Pictures, block_size: int | None, seed: int) -> Findings:
    """Look at pictures of one size, and attack them if they look attackable."""
    watch = Stopwatch()
    pictures, lossy, value_range = group.looked_at()
    structure = examine(pictures, lossy > len(pictures) / 2)
    unseen = structure.kind == "noise"
    if block_size is not None and structure.kind not in ("plain", "small"):
        structure = replace(structure, kind="blocks", block_size=block_size, confidence=1.0, others=())
    guessed = block_size is None
    values: dict[str, Any] = {
        "images": len(group.paths),
        "looked_at_images": len(pictures),
        "lossy_images": lossy,
        "width": group.width,
        "height": group.height,
        "kind": structure.kind,
        "block_size": structure.block_size if structure.kind == "blocks" else None,
        "block_size_guessed": guessed,
        "block_size_confidence_percent": round(100 * structure.confidence, 1),
        "ciphertext_likeness": round(structure.likeness, 3),
    }
    found = Findings(group, lossy, unseen, values, value_range)
    found.told.append(what(group, structure, guessed, lossy))
    order = None
    if structure.kind in ("blocks", "pixels") and group.width == group.height:
        order = _attack(found, pictures, structure, seed)
    if structure.kind == "blocks" and found.best is None:
        found.inside = inside_order(pictures, structure.block_size)
    values["verdict"] = verdict(found, structure, order)
    values["wall_seconds"] = watch.seconds()
    found.told.append(values["verdict"])
    return found


def _attack(found: Findings, pictures: np.ndarray, structure: Structure, seed: int) -> ColourOrder | None:
    """Try attacks until one makes pictures; enter what each did, and the best with its colours in order."""
    some, values = pictures[:_TRIED], found.values
    found.told.append("likeness to a picture, 0 noise .. 1 smooth:")
    rows = [("as they are", structure.likeness)]
    best, highest = None, structure.likeness
    bar = tqdm(attempts(pictures, structure, seed), unit="attack", leave=False, delay=0)  # the first may take long
    for attack, make in bar:
        shown = attack.replace("_", " ")
        bar.set_description(f"audit: {shown}")
        watch = Stopwatch()
        attempt = make()
        like = likeness(attempt.decrypt(some), attempt.block_size if structure.kind == "blocks" else 0)
        rows.append((f"{shown} ({attempt.words})" if attempt.words else shown, like))
        values[f"{attack}_likeness"] = round(max(like, values.get(f"{attack}_likeness", 0.0)), 3)
        values[f"{attack}_wall_seconds"] = watch.seconds()
        if like > highest:
            best, highest = attempt, like
        if highest >= _PICTURE and highest > structure.likeness + _GAIN:
            break
    bar.close()
    width = max(len(name) for name, _ in rows)
    found.told += [f"{name:<{width}}  {like:.2f}" for name, like in rows]
    if best is None or highest < _PICTURE or highest <= structure.likeness + _GAIN:
        return None
    order = None
    if best.colours_free:
        order = colour_order(best.decrypt(pictures[:_ORDERED]), best.negative_free)
        found.best = best = best.with_colours(order.order)
        values["grey"] = order.grey
        values["colour_order_confidence_percent"] = round(100 * order.confidence, 1)
    if structure.kind == "blocks":
        values["block_size"] = best.block_size
    found.best = best
    values["attack"], values["one_key"] = best.attack, best.key is not None
    return order


_ORDERED = 32  # decrypted pictures that tell the order of colours


def _write(found: Findings, folder: Path, shown_as: str) -> None:
    """Write all decrypted pictures, a few beside their ciphertext, and the key, into a folder that is there."""
    best, group = found.best, found.pictures
    if best is None:
        return
    require_free_space(folder, len(group.paths) * group.width * group.height * 3)
    encrypted: list[np.ndarray] = []
    recovered: list[np.ndarray] = []
    named: set[Path] = set()
    bar = tqdm(
        group.each(found.value_range), total=len(group.paths), desc="decrypt", unit="img", disable=None, file=sys.stderr
    )
    for path, picture in bar:
        plain = best.decrypt(picture[None])[0]
        target = path.with_suffix(".png")
        if target in named:
            target = path.with_name(path.name + ".png")
        named.add(target)
        (folder / "decrypted" / target).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(plain).save(folder / "decrypted" / target)
        if len(encrypted) < _SHOWN:
            encrypted.append(picture)
            recovered.append(plain)
    image_grid([np.stack(encrypted), np.stack(recovered)], ["encrypted", "recovered"]).save(folder / "overview.png")
    found.values["decrypted_images"] = len(named)
    lines = [f"all {len(named)} decrypted: {shown_as}decrypted/, a few side by side: {shown_as}overview.png"]
    if best.key is not None:
        parts = {name: getattr(best.key, name) for name in ("block_permutation", "value_permutation", "sign")}
        np.savez(folder / "key.npz", block_size=best.block_size, **parts)
        lines.append(f"the key: {shown_as}key.npz")
    found.told += lines


def guess_block_size(pictures: np.ndarray) -> int:
    """The likeliest side of the blocks, or 0 where no divisor of the size could be one: uint8, (n, S, S, 3)."""
    probabilities = side_probabilities(pictures)
    return max(probabilities, key=lambda side: probabilities[side], default=0)
