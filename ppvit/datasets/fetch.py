"""Downloads that are verified, and that go on where they were interrupted."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from ppvit import __version__
from ppvit.core.errors import PpvitError
from ppvit.core.files import require_free_space
from ppvit.core.private import make_private
from ppvit.core.progress import tqdm
from ppvit.core.reading import open_regular

_TIMEOUT_SECONDS = 30
_ATTEMPTS = 4  # of one address, each going on where the one before stopped
_CHUNK_BYTES = 2**18


class _BadAnswer(Exception):
    """The server does not give the file; trying again is of no use."""


def fetch(urls: tuple[str, ...], target: Path, md5: str) -> Path:
    """Bring a file into ``target``, unless it is there already and right.

    What has arrived lies in ``<target>.part``; after an interruption the next call asks for the rest, or starts again
    where the server cannot give it. A file with a wrong checksum never gets its final name.

    Args:
        urls: the same file at one or more addresses, tried in order.
        target: the file to make.
        md5: the published checksum in hex (it guards against damage, and is what these data sets publish).

    Returns:
        ``target``.

    Raises:
        PpvitError: no address can be reached or gives the right file, or the disk is too small.
    """
    try:
        make_private(target.parent)
    except OSError as error:
        raise PpvitError(
            f"{target.parent} cannot be made ({error.strerror}); set PPVIT_CACHE to a folder for downloads"
        ) from None
    with FileLock(f"{target}.lock"):  # parallel experiments share the cache
        if target.exists() and md5_of(target) == md5:
            return target
        target.unlink(missing_ok=True)
        reasons = []
        for url in urls:
            try:
                _fetch_verified(url, target, md5)
                return target
            except (_BadAnswer, OSError, http.client.HTTPException) as error:
                reasons.append(f"{urlsplit(url).netloc} ({getattr(error, 'reason', None) or error})")
        raise PpvitError(
            f"cannot fetch {target.name} from {', '.join(reasons)}; fetch it yourself and set dataset.path to the file"
        )


def md5_of(path: Path) -> str:
    """MD5 of a regular file's bytes, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def verified(path: Path, md5: str) -> Path:
    """``path``, if it is a file with this checksum.

    Raises:
        PpvitError: it is another, or cannot be read.
    """
    try:
        found = md5_of(path)
    except OSError as error:
        raise PpvitError(f"{path} cannot be read ({error.strerror}); put the official file there") from None
    if found != md5:
        raise PpvitError(f"{path} is not the official file (MD5 {md5}) and was not read; copy or download it again")
    return path


def _fetch_verified(url: str, target: Path, md5: str) -> None:
    part = target.with_name(target.name + ".part")
    continued = part.exists()
    for fresh in (False, True):
        if not (part.exists() and md5_of(part) == md5):  # stopped between the last byte and the renaming
            _fetch_whole(url, part)
        found = md5_of(part)
        if found == md5:
            os.replace(part, target)
            return
        part.unlink()
        if fresh or not continued:  # a part of an older file at the same address deserves a second try from the start
            raise _BadAnswer(f"what arrived has MD5 {found} instead of {md5}, and was removed")


def _fetch_whole(url: str, part: Path) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch_rest(url, part)
            return
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                raise _BadAnswer(f"it answered {error.code} {error.reason}") from None
            stuck = not part.exists() or part.stat().st_size <= before
            if attempt == _ATTEMPTS or (stuck and attempt > 1):
                raise
            time.sleep(0.2 * attempt)


def _fetch_rest(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": f"ppvit/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()  # nothing lies beyond what we have: it is all there or of another file; only a fresh start tells
        answer = urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS)
    with answer:
        if not _continues(answer, have):
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        require_free_space(part.parent, (total or 0) - have)
        with (
            open(part, "ab" if have else "wb", opener=partial(os.open, mode=0o600)) as file,
            tqdm(
                initial=have, total=total, desc=part.stem, unit="B", unit_scale=True, disable=None, file=sys.stderr
            ) as bar,
        ):
            while chunk := answer.read(_CHUNK_BYTES):
                bar.update(file.write(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _continues(answer: http.client.HTTPResponse, have: int) -> bool:
    return answer.status == 206 and re.match(rf"bytes {have}-", answer.headers.get("Content-Range", "")) is not None
