"""Folders, tar and zip archives read alike: their files one after the other, once, without unpacking."""

from __future__ import annotations

import errno
import os
import re
import stat
import tarfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from ppvit.core.errors import PpvitError, brief
from ppvit.core.reading import open_regular, read_bounded
from ppvit.data.decoding import is_noise
from ppvit.data.tar_index import IMAGE_BYTES
from ppvit.datasets.zip_names import member_names

ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_EXTENSION_BYTES = 2**20  # of a long name or a pax header, which tarfile reads into memory
_MEMBER_BYTES = 2**36  # of a member; one below 0 leads tarfile back for ever, and one of 2^62 on through nothing
_PIECE_BYTES = 2**12
_DEEPEST = 100  # folders in each other
# folders of theirs; those of Synology hold a small copy of every image
_SYSTEMS = {"@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
_VISITS = 200  # of a folder by links: folders of links to each other would be walked through without end
_COMPRESSED = {b"\x1f\x8b": "r|gz", b"BZh": "r|bz2", b"\xfd7zXZ\0": "r|xz"}  # by what such files begin with


@dataclass(frozen=True)
class Entry:
    """A file or a folder inside a tree.

    ``read`` gives the file's bytes and works until the next entry is asked for; for a folder it gives none. Names are
    in Unicode's composed form (NFC), as macOS and others spell the same name in two ways; bytes that are no UTF-8 are
    shown as ``\\xe4``. ``dangling`` is a link to nothing; ``path`` is where it lies, if in no archive.
    """

    parts: tuple[str, ...]
    size: int
    read: Callable[[], bytes]
    is_folder: bool = False
    dangling: bool = False
    path: Path | None = None

    @classmethod
    def folder(cls, parts: tuple[str, ...], path: Path | None = None) -> Entry:
        return cls(parts, 0, bytes, is_folder=True, path=path)

    @property
    def is_linked_folder(self) -> bool:
        """Whether it is a link to a folder, into which DVC does not look when it compares."""
        return self.is_folder and self.path is not None and self.path.is_symlink()

    @property
    def name(self) -> str:
        """The path inside the tree, with forward slashes."""
        return "/".join(self.parts)


def is_archive(path: Path) -> bool:
    """Whether a file is named like an archive that can be read."""
    return path.is_file() and path.name.lower().endswith(ARCHIVE_ENDINGS)


def entries(path: Path) -> Iterator[Entry]:
    """All files and folders under ``path``: a folder's in sorted order, an archive's as they lie in it.

    What an archive says of sizes is believed up to 512 MiB a file, so that a few bytes do not unpack to all memory.

    An archive is read from front to end, because jumping about in a compressed tar costs quadratic time. Hidden files
    and what operating systems leave behind (``__MACOSX``, ``Thumbs.db``) do not appear.

    Links in a folder are followed, also out of it: DVC and git-annex keep files so. What links lead to must be read as
    images only.

    Raises:
        PpvitError: the archive is damaged, encrypted or of an unknown kind, an entry of it points out of it (absolute,
            ``..``, or a link), a zip holds a name twice, links lead round in a folder, or a file cannot be read.
    """
    if path.is_dir():
        found = _folder(path, path, (), (), Counter())
    elif _starts_like_zip(path):
        found = _zip(path)
    else:
        found = tar_entries(path)
    return (entry for entry in found if not is_passed_over(entry.parts))


def _starts_like_zip(path: Path) -> bool:
    with _whole(path), open_regular(path) as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")  # zipfile.is_zipfile also takes a tar that ends in a zip


def is_passed_over(parts: tuple[str, ...]) -> bool:
    """Whether a path is hidden, or what operating systems and network drives leave behind."""
    return not parts or any(part.startswith(".") or part.lower() in _SYSTEMS for part in parts) or is_noise(parts)


def _folder(
    root: Path, folder: Path, parts: tuple[str, ...], above: tuple[Path, ...], visits: Counter[Path]
) -> Iterator[Entry]:
    above = (*above, folder.resolve())
    if len(above) > _DEEPEST:
        raise PpvitError(f"{root} has more than {_DEEPEST} folders in each other, as in {parts[0]}; flatten them")
    try:
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        raise PpvitError(f"{folder} cannot be read ({error.strerror}); check its permissions") from None
    for child in children:
        path, inside = folder / child.name, (*parts, _text(child.name))
        if is_passed_over(inside):
            continue
        found = _status(path)
        if found is None:
            yield Entry(inside, 0, bytes, dangling=True, path=path)
        elif stat.S_ISDIR(found.st_mode):
            if child.is_symlink():
                _require_end(path, above, visits)
            yield Entry.folder(inside, path)
            yield from _folder(root, path, inside, above, visits)
        elif stat.S_ISREG(found.st_mode):
            yield Entry(inside, found.st_size, partial(_read_file, path), path=path)


def _status(path: Path) -> os.stat_result | None:
    """Of what a path leads to; None where that is nothing."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise PpvitError(f"{path} cannot be read ({error.strerror}); check its permissions") from None


def _require_end(link: Path, above: tuple[Path, ...], visits: Counter[Path]) -> None:
    target = link.resolve()
    if target in above:
        raise PpvitError(f"{link} links to a folder that holds it; remove the link")
    visits[target] += 1
    if visits[target] > _VISITS:
        raise PpvitError(f"{link}: links lead to the folder {target} more than {_VISITS} times; remove some")


def _read_file(path: Path) -> bytes:
    try:
        return read_bounded(path, IMAGE_BYTES)
    except OSError as error:
        raise PpvitError(f"{path} cannot be read ({error.strerror}); check its permissions") from None


def tar_entries(path: Path) -> Iterator[Entry]:
    """The entries of a tar, compressed or not, in order; see :func:`entries`."""
    with _open_tar(path) as tar:
        while True:
            with _whole(path):
                member = tar.next()
            if member is None:
                return
            # tarfile would keep every header: memory in proportion to the number of images
            tar.members = []  # type: ignore[attr-defined]  # which typeshed lacks
            if not 0 <= member.size <= _MEMBER_BYTES:  # by a pax header
                raise PpvitError(f"{path} is damaged: a member of {member.size} bytes; copy or download it again")
            parts = _safe_parts(member.name, path)
            if member.isdir():
                yield Entry.folder(parts)
            elif member.isfile():
                yield Entry(parts, member.size, partial(_read_member, tar, member, path))
            elif member.issym() or member.islnk():
                yield Entry(parts, 0, partial(_refuse_link, path, member.name))


def _open_tar(path: Path) -> tarfile.TarFile:
    with _whole(path):
        with open_regular(path) as file:
            start = file.read(6)
        # compressed: strictly forward; otherwise it seeks over members that nobody reads
        mode: Any = next((mode for magic, mode in _COMPRESSED.items() if start.startswith(magic)), "r:")
        return tarfile.open(path, mode, tarinfo=_StrictTarInfo)


class _StrictTarInfo(tarfile.TarInfo):
    """A member header that must be whole, up to the archive's end mark: tarfile takes a cut one for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # which typeshed lacks
            raise  # two blocks of zeros: the end as it should be
        except tarfile.HeaderError as error:
            if tarfile_.offset == 0:
                raise  # no tar at all, which tarfile itself reports, or a compressed one
            raise EOFError(f"it ends early, at a member that has {error}") from None

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if not 0 <= member.size <= (_EXTENSION_BYTES if member.type in _EXTENSIONS else _MEMBER_BYTES):
            raise EOFError(f"a member says that it has {member.size:,} bytes")
        return member


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    _require_bounded(path, member.name, member.size)
    if member.issparse():
        raise PpvitError(f"{path}: {member.name} is stored with holes; pack the archive without tar --sparse")
    with _whole(path):
        file = tar.extractfile(member)
        data = file.read() if file else b""
        if len(data) != member.size:
            raise EOFError(f"{member.name} ends early")
        return data


def _refuse_link(path: Path, name: str) -> bytes:
    raise PpvitError(f"{path}: {name} is a link; pack the archive with tar --dereference --hard-dereference")


def _zip(path: Path) -> Iterator[Entry]:
    with _whole(path):
        archive = zipfile.ZipFile(path)
    with archive:
        members = archive.infolist()
        names = member_names(members, str(path))
        twice = next((name for name, times in Counter(names).items() if times > 1 and not name.endswith("/")), None)
        if twice is not None:
            raise PpvitError(
                f"{path} holds '{_text(twice)}' twice, of which unpacking would keep one; "
                "unpack it and set dataset.path to the folder"
            )
        for info, name in zip(members, names, strict=True):
            parts = _safe_parts(name, path)
            if not parts:
                continue
            if name.endswith("/"):
                yield Entry.folder(parts)
            elif stat.S_ISLNK(info.external_attr >> 16):
                yield Entry(parts, 0, partial(_refuse_link, path, info.filename))
            else:
                yield Entry(parts, info.file_size, partial(_read_zipped, archive, info, path))


def _read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    if info.flag_bits & 1:
        raise PpvitError(f"{path} is protected by a password; unpack it and set dataset.path to the folder")
    _require_bounded(path, info.filename, info.file_size)
    with _whole(path), archive.open(info) as file:
        # in pieces, since zipfile unpacks what it is asked for before it compares sizes; at the end it checks the CRC
        return b"".join(iter(partial(file.read, _PIECE_BYTES), b""))


def _require_bounded(path: Path, name: str, size: int) -> None:
    if size > IMAGE_BYTES:
        raise PpvitError(f"{path}: {name} has {size:,} bytes, more than {IMAGE_BYTES:,}; leave it out of the archive")


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (PpvitError, MemoryError):
        raise
    except PermissionError:
        raise PpvitError(f"{path} cannot be read; check its permissions") from None
    except Exception as error:  # tarfile and zipfile also raise IndexError, TypeError and others over damaged headers
        raise PpvitError(
            f"{path} is damaged or not an archive of a known kind (tar, tar.gz, tar.xz, tar.bz2, zip): {brief(error)}; "
            "copy or download it again, or unpack it and set dataset.path to the folder"
        ) from None


def _safe_parts(name: str, path: Path) -> tuple[str, ...]:
    parts = tuple(_text(part) for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise PpvitError(
            f"{path}: the member '{_text(name)}' points out of the archive; refuse it and ask for a clean one"
        )
    if len(parts) > _DEEPEST:
        raise PpvitError(f"{path} has more than {_DEEPEST} folders in each other, as in {parts[0]}; flatten them")
    return parts


def _text(name: str) -> str:
    """A name in one spelling; two names that are no UTF-8 stay two."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
