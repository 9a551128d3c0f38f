"""Attacks on a folder of somebody else's encrypted pictures, of which nothing is known but that they look encrypted.

There is nothing to score against, so each result is judged by how much like a picture it looks: neighbouring pixels of
pictures are alike, and those of ciphertext are not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ppvit.audit.attacks import feature_reconstruction, jigsaw, min_difference, pooled
from ppvit.audit.view import decrypt
from ppvit.core.errors import PpvitError, UsageError
from ppvit.core.files import atomic_output, require_apart, write_json
from ppvit.core.git import keep_out_of_git
from ppvit.core.reading import open_regular, read_bounded
from ppvit.core.results import Stopwatch
from ppvit.data import decoding
from ppvit.data.decoded import Decoded
from ppvit.data.pictures import image_grid
from ppvit.data.tar_index import IMAGE_BYTES

_MOST = 100  # images that are pooled
_SIDE = 4096  # pixels; dataset.image_size is no more
_PIXELS = 2**26  # of all pictures together; fewer large ones are taken
_SHOWN = 4
_PICTURE = 0.5  # likeness above which people recognise something
_NEARLY = 0.6
_OF_PHOTOGRAPHS = 0.3  # by how much neighbours are more alike than next neighbours in most of them


def attack_folder(folder: Path, out: Path, block_size: int | None = None, seed: int = 0) -> str:
    """Attack all pictures of a folder with what needs ciphertext alone.

    Args:
        folder: of encrypted pictures of one size, square.
        out: folder to write: ``<attack>.png`` each and ``audit.json``.
        block_size: side of a block in pixels; None guesses it.
        seed: of random choices.

    Returns:
        What was found, as a table for the terminal.

    Raises:
        UsageError: the folder holds no pictures, pictures of several sizes or not square, or the block does not fit.
        PpvitError: a picture cannot be read.
    """
    require_apart(folder, out)
    encrypted, lossy = read_folder(folder)
    size = encrypted.shape[1]
    if block_size is not None and (block_size < 2 or size % block_size):
        raise UsageError(f"--block-size {block_size} does not divide the side of the pictures, {size} pixels")
    guessed = block_size is None
    block_size = block_size or guess_block_size(encrypted)
    values: dict[str, Any] = {
        "images": len(encrypted),
        "lossy_images": lossy,
        "image_size": size,
        "block_size": block_size,
        "block_size_guessed": guessed,
        "ciphertext_likeness": round(likeness(encrypted, block_size), 3),
    }
    rows = [("the pictures as they are", f"{likeness(encrypted, block_size):.2f}", "")]
    with atomic_output(out, known_by="audit.json") as temporary:
        keep_out_of_git(temporary)
        for name, attack in _ATTACKS.items():
            watch = Stopwatch()
            recovered = attack(encrypted, block_size, seed)
            values |= {
                f"{name}_likeness": round(likeness(recovered, block_size), 3),
                f"{name}_wall_seconds": watch.seconds(),
            }
            shown = [each[: min(_SHOWN, len(recovered))] for each in (encrypted, recovered)]
            image_grid(shown, ["encrypted", "recovered"]).save(temporary / f"{name}.png")
            rows.append((name.replace("_", " "), f"{likeness(recovered, block_size):.2f}", str(out / f"{name}.png")))
        values["verdict"] = _verdict(values)
        write_json(temporary / "audit.json", values)
    width = max(len(row[0]) for row in rows)
    table = [f"{name:<{width}}  {like}  {picture}".rstrip() for name, like, picture in rows]
    told = f"{len(encrypted)} pictures, {size} px, blocks of {block_size} px{' (guessed)' if guessed else ''}"
    if lossy:  # as pictures come from social networks
        told += f"; {lossy} of them are JPEG or as lossy, which damaged the ciphertext and may hide what leaks"
    return "\n".join([told, "likeness to a picture, 0 noise .. 1 smooth:", *table, str(values["verdict"])])


def _pool(encrypted: np.ndarray, block_size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    key = pooled.recover_key(encrypted[:_MOST], block_size, scrambles=True, shuffles=True, inverts=True, rng=rng)
    return decrypt(encrypted[:_SHOWN], key, block_size)


def _jigsaw(encrypted: np.ndarray, block_size: int, seed: int) -> np.ndarray:
    return jigsaw.solve(encrypted[0], block_size, transforms=True).picture[None]


def _fold(encrypted: np.ndarray, block_size: int, seed: int) -> np.ndarray:
    return feature_reconstruction.reconstruct(encrypted[:_SHOWN])


def _decode(encrypted: np.ndarray, block_size: int, seed: int) -> np.ndarray:
    return min_difference.reconstruct(encrypted[:_SHOWN], True)


# what turns pictures into others without knowing their cipher: (pictures, side of a block, seed) -> pictures
_ATTACKS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "pooled": _pool,
    "jigsaw": _jigsaw,
    "feature_reconstruction": _fold,
    "min_difference": _decode,
}


def _verdict(values: dict[str, Any]) -> str:
    best = max(_ATTACKS, key=lambda name: float(values[f"{name}_likeness"]))
    found, before = values[f"{best}_likeness"], values["ciphertext_likeness"]
    if before >= _PICTURE:
        return "The pictures look like pictures as they are; if they are encrypted, it does not hide much."
    if found >= _PICTURE and found > before + 0.2:
        if values["lossy_images"]:  # JPEG smooths the colours of anything, noise too, and an attack collects that
            return (
                f"Perhaps broken: {best} made something smooth of them, but so it does of noise that was stored with "
                f"loss. Look at {best}.png."
            )
        return f"Broken, by the look of it: {best} made something like pictures of them. See {best}.png."
    return "Nothing found: none of these attacks made anything like a picture. That is no proof of security."


def read_folder(folder: Path) -> tuple[np.ndarray, int]:
    """All pictures of a folder: uint8, (n, H, H, 3), and how many of them were stored with loss.

    Values above 8 bits all take the range of the folder to 0..255.

    Raises:
        UsageError: there are none, their sizes differ, or they are not square.
        PpvitError: one cannot be read, is too large, or no regular file.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name one that holds encrypted pictures")
    paths = sorted(path for path in folder.rglob("*") if _is_picture(path, path.relative_to(folder).parts))
    if not paths:
        endings = ", ".join(sorted(decoding.IMAGE_EXTENSIONS))
        raise UsageError(f"{folder} holds no pictures ({endings}); name a folder that does")
    first, (width, height) = _read(paths[0])
    if height != width:
        raise UsageError(f"{paths[0]} has {width} x {height} pixels; the attacks need square pictures")
    if width > _SIDE:
        raise UsageError(f"{paths[0]} has {width} x {height} pixels; the attacks take pictures of up to {_SIDE} pixels")
    pictures: list[Decoded] = []
    lossy = 0
    for path in paths[: min(2 * _MOST, max(_SHOWN, _PIXELS // width**2))]:
        data, found = _read(path) if pictures else (first, (width, height))
        if found != (width, height):  # before anything is decoded
            raise UsageError(
                f"{path} has {found[0]} x {found[1]} pixels and {paths[0].name} has {width} x {height}; "
                "audit pictures of one size at a time"
            )
        pictures.append(decoding.decoded(data, str(path)))
        lossy += decoding.is_lossy(data)
    return np.stack(_alike(pictures)), lossy


def _is_picture(path: Path, parts: tuple[str, ...]) -> bool:
    if decoding.is_noise(parts):
        return False
    if not decoding.has_no_ending(path.name):
        return decoding.image_extension(path.name) is not None
    if not path.is_file():  # a folder, or a pipe
        return False
    with open_regular(path) as file:
        return decoding.extension_by_start(file.read(decoding.START_BYTES)) is not None


def _read(path: Path) -> tuple[bytes, tuple[int, int]]:
    """A file, and the width and height that it says; pixels are not decoded."""
    data = read_bounded(path, IMAGE_BYTES)
    try:
        return data, decoding.size_of(data, decoding.image_extension(path.name))
    except PpvitError as error:
        raise PpvitError(f"{path}: {error}") from None
    except Exception as error:  # readers name none of those that a damaged file ends in
        why = decoding.reason(error, data)
        raise PpvitError(f"{path}: this image cannot be decoded ({why}); replace or remove it") from None


def _alike(pictures: list[Decoded]) -> list[np.ndarray]:
    lows, highs = zip(*([each.extremes for each in pictures if each.extremes] or [(0, 255)]), strict=True)
    low, high = min(lows), max(highs)
    value_range = low, high if high > low else low + 1
    return [decoding.to_rgb(each.values, value_range, each.inverted) for each in pictures]


def likeness(pictures: np.ndarray, block_size: int) -> float:
    """How much the pixels look in order: 0 for noise and shuffled ones, about 1 for photographs.

    Inside a block of a picture values drift, so that a pixel differs from its neighbour by less than from the next but
    one: by half on a ramp, and by as much where pixels are in no order. This counts as far as the steps from block to
    block are no larger than those inside.

    Args:
        pictures: uint8, (n, H, W, 3).
        block_size: p, at least 2; for 2 the next but one lies in the next block.
    """
    values = pictures.astype(np.int16)
    one, two = (_steps(values, distance) for distance in (1, 2))
    place = np.arange(values.shape[1])
    inside = place % block_size < block_size - 1
    near = one[inside[:-1]].mean()
    far = two[(place % block_size < max(block_size - 2, 1))[:-2]].mean()
    across = one[~inside[:-1]].mean() if block_size < len(place) else near
    order = np.clip((1 - near / max(far, 1e-6)) / _OF_PHOTOGRAPHS, 0, 1)
    return float(order * np.clip(near / max(across, 1e-6), 0, 1))


def _steps(values: np.ndarray, distance: int) -> np.ndarray:
    """Mean difference of pixels so far apart, by column (and row) of the first: (side - distance,)."""
    across = np.abs(values[:, :, distance:] - values[:, :, :-distance]).mean(axis=(0, 1, 3))
    down = np.abs(values[:, distance:] - values[:, :-distance]).mean(axis=(0, 2, 3))
    return np.asarray(across + down)


def guess_block_size(pictures: np.ndarray) -> int:
    """The side of the blocks, from where edges are: neighbours inside a block differ less, or as everywhere.

    A block that was moved or recoloured ends in an edge, so steps between columns (and rows) that are ends of blocks
    are larger. Values that were shuffled inside blocks alike make pixels one block apart alike, so the correlation at
    that distance stands out.

    Args:
        pictures: uint8, (n, S, S, 3).

    Raises:
        UsageError: no divisor of S could be a block.
    """
    size = pictures.shape[1]
    sides = [p for p in range(2, size // 2 + 1) if size % p == 0]
    if not sides:
        raise UsageError(f"pictures of {size} pixels have no blocks; name their side with --block-size")
    values = pictures.astype(np.float32)
    folded = np.abs(values - 127.5)  # inversion hides edges in values, not in their distance to the middle
    steps = (_steps(values, 1), _steps(folded, 1))
    scores = {p: max(_edge_score(each, p) for each in steps) + _repetition(values, p) for p in sides}
    # two blocks side by side look nearly like one, so of those that do nearly as well the smallest is meant
    best = max(scores.values())
    return min(p for p in sides if scores[p] >= best - (1 - _NEARLY) * abs(best))


def _edge_score(steps: np.ndarray, side: int) -> float:
    """By how many deviations of the other steps those between blocks are larger."""
    ends = np.arange(len(steps)) % side == side - 1
    inside, between = steps[~ends], steps[ends]
    return float((between.mean() - inside.mean()) / (inside.std() + 1e-6) * min(1.0, len(between) ** 0.5))


def _repetition(values: np.ndarray, side: int) -> float:
    """By how many deviations pixels ``side`` apart are more alike than those one pixel less or more apart."""
    centred = values - values.mean(axis=(1, 2), keepdims=True)
    distances = [distance for distance in (side - 1, side, side + 1) if 0 < distance < values.shape[2]]
    alike = {d: float((centred[:, :, d:] * centred[:, :, :-d]).mean() / centred.var()) for d in distances}
    others = [alike[d] for d in distances if d != side]
    return 30 * (alike[side] - max(others))
