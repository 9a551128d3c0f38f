"""Tables of images in parquet and arrow files, as Hugging Face `datasets` writes them, read by pyarrow alone.

`datasets` itself would copy all images into a cache of its own, and believe the paths and addresses that stand in a
folder's files. Nothing here is believed: what lies in the files is checked before it is used, and none of it is code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppvit.core.errors import PpvitError, brief
from ppvit.core.reading import open_regular

_ROWS, _LABEL_ROWS = 8, 256  # read at once: a small file may say a large image, or text, many times over
_MOST_ROWS = 2**26
_HEADER_BYTES = 2**26  # of a parquet file's description of itself


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: of the column.
        kind: ``image``, ``whole`` (numbers), ``text``, a list of these or of others (``several whole``, ``several
            text``, ``several broken``), or ``other``.
        names: of the classes that its numbers stand for; None where it has none.
    """

    name: str
    kind: str
    names: list[str] | None = None


def columns_of(path: Path, card: dict[str, Any]) -> dict[str, Column]:
    """The columns of a file, by name.

    Args:
        path: a parquet or arrow file.
        card: what README.md says of the data set; used for class names where the file itself has none.

    Raises:
        PpvitError: the file is damaged, or pyarrow is not installed.
    """
    with _whole(path):
        schema = _schema(path)
        told = {**_told_by_card(card), **_told_by_file(schema.metadata or {})}
        return {field.name: _column(field.name, field.type, told.get(field.name, (None, None))) for field in schema}


def images(path: Path, name: str) -> Iterator[Any]:
    """What a column of images holds, row by row, as Python objects; raises as :func:`columns_of`."""
    with _whole(path):
        yield from _values(path, name, _ROWS)


def labels(path: Path, name: str) -> Iterator[Any]:
    """The same of a column of labels."""
    with _whole(path):
        yield from _values(path, name, _LABEL_ROWS)


def _values(path: Path, name: str, size: int) -> Iterator[Any]:
    seen = 0
    for batch in _batches(path, name, size):
        batch.validate(full=True)  # offsets that lead out of the memory, in a file that lies
        seen += batch.num_rows
        if seen > _MOST_ROWS:
            raise ValueError(f"more than {_MOST_ROWS:,} rows")
        array = batch.column(batch.schema.get_field_index(name))
        yield from (array[number].as_py() for number in range(len(array)))


def _batches(path: Path, name: str, size: int) -> Iterator[Any]:
    import pyarrow.ipc

    with open_regular(path) as file:
        if _is_parquet(path):
            yield from _parquet(file).iter_batches(size, columns=[name], use_threads=False)
        else:
            yield from pyarrow.ipc.open_stream(file)


def _schema(path: Path) -> Any:
    import pyarrow.ipc

    with open_regular(path) as file:
        return _parquet(file).schema_arrow if _is_parquet(path) else pyarrow.ipc.open_stream(file).schema


def _parquet(file: Any) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(
        file, pre_buffer=False, thrift_string_size_limit=_HEADER_BYTES, thrift_container_size_limit=_HEADER_BYTES
    )


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    kind = "parquet" if _is_parquet(path) else "arrow"
    try:
        yield
    except PpvitError:
        raise
    except ImportError:
        raise PpvitError(f"{path} is {kind}, which needs pyarrow; install it: pip install 'ppvit[hf]'") from None
    except Exception as error:  # pyarrow raises its own, OSError, ValueError, KeyError and others over damaged files
        if _begins(path, b"version https://git-lfs"):
            raise PpvitError(f"{path} is a pointer of Git LFS, not the file; fetch it: git lfs pull") from None
        raise PpvitError(f"{path} is damaged or no {kind} file ({brief(error)}); copy or download it again") from None


def _begins(path: Path, start: bytes) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def _column(name: str, of_type: Any, told: tuple[str | None, list[str] | None]) -> Column:
    from pyarrow import types

    kind, names = told
    if types.is_list(of_type) or types.is_large_list(of_type) or types.is_fixed_size_list(of_type):
        inner = _simple(of_type.value_type)
        if types.is_floating(of_type.value_type):
            inner = "broken"
        kind = f"several {inner}" if inner in ("whole", "text", "broken") else "other"
        return Column(name, kind, names if inner == "whole" else None)
    is_image = types.is_struct(of_type) and of_type.get_field_index("bytes") >= 0
    is_image = is_image or types.is_binary(of_type) or types.is_large_binary(of_type)
    if is_image and kind in (None, "Image", "Value"):  # not "Audio", which has the same form
        return Column(name, "image")
    inner = _simple(of_type)
    return Column(name, inner, names if inner == "whole" else None)


def _simple(of_type: Any) -> str:
    from pyarrow import types

    if types.is_dictionary(of_type):  # categories of pandas and polars
        return _simple(of_type.value_type)
    if types.is_integer(of_type) or types.is_boolean(of_type):
        return "whole"
    if types.is_string(of_type) or types.is_large_string(of_type) or types.is_string_view(of_type):
        return "text"
    return "other"


def _told_by_file(metadata: dict[bytes, bytes]) -> dict[str, tuple[str | None, list[str] | None]]:
    """(type, class names) by column, from what `datasets` writes into a file's schema."""
    try:
        said = json.loads(metadata.get(b"huggingface", b"{}"))
        features = said["info"]["features"]
        found = {str(name): _told_by_feature(feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: told for name, told in found.items() if told != (None, None)}


def _told_by_feature(feature: Any) -> tuple[str | None, list[str] | None]:
    inner = feature[0] if isinstance(feature, list) and len(feature) == 1 else feature
    if isinstance(inner, dict) and inner.get("_type") in ("List", "LargeList", "Sequence"):
        inner = inner.get("feature")
    if not isinstance(inner, dict):
        return None, None
    kind = inner.get("_type")
    return (kind if isinstance(kind, str) else None), _class_names(inner.get("names")) if kind == "ClassLabel" else None


def _told_by_card(card: dict[str, Any]) -> dict[str, tuple[str | None, list[str] | None]]:
    """The same from ``dataset_info`` of README.md."""
    features = card.get("features")
    found: dict[str, tuple[str | None, list[str] | None]] = {}
    for feature in features if isinstance(features, list) else []:
        if not isinstance(feature, dict) or not isinstance(feature.get("name"), str):
            continue
        kind = next((feature[key] for key in ("dtype", "sequence", "list", "large_list") if key in feature), None)
        if isinstance(kind, dict) and isinstance(kind.get("class_label"), dict):
            found[feature["name"]] = ("ClassLabel", _class_names(kind["class_label"].get("names")))
        elif isinstance(kind, str):
            found[feature["name"]] = (kind.capitalize() if kind in ("image", "audio", "video") else "Value", None)
    return found


def _class_names(names: Any) -> list[str] | None:
    """Names in order of class number: of a list, or of an object whose keys are the numbers."""
    if isinstance(names, dict):
        names = [names.get(str(number), names.get(number)) for number in range(len(names))]
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None
