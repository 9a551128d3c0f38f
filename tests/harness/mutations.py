"""Strategies of damage: what a hostile or broken file of a kind may hold, made from a sound one."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from arena import CANARY
from hypothesis import strategies as st

Draw = Callable[..., Any]


@dataclass(frozen=True)
class Damage:
    """What takes the place of a file.

    Attributes:
        told: what was done, for people.
        data: the new bytes; None where ``kind`` says what else stands there.
        kind: file, missing, folder, pipe, sparse, or the target of a link.
    """

    told: str
    data: bytes | None
    kind: str = "file"

    def __repr__(self) -> str:
        return self.told


class Raw(str):
    """Text that stands in a file as it is."""


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {CANARY}",)


KINDS = ("missing", "folder", "pipe", "sparse", "/dev/zero", "/dev/stdin", "/etc/passwd", "/nowhere", "loop", "socket")
DEEP = 100_000
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 0.5, -0.5, 100.5, 1e308, 1e-320, 10**9, 2**31, 2**63, 2**64, 10**25),
    *(Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("9" * 400), Raw("9" * 5000), Raw("-0")),
    *("", " ", "0", "1", "nan", "true", "none", "test", "train", "../../evil", "/etc/passwd", "/dev/zero", ".", "a/b"),
    *("\x1b[31mred\x1b]0;title\x07", "a\nerror: b", "\u202eevil", "\ud800", "\x00", "A" * 100_000, "{{ 7 * 7 }}"),
    *(
        "<script>alert(1)</script>",
        "hf-hub:evil/model",
        "evil/model",
        "timm/vit_base",
        "os.system",
        "float64",
        "object",
    ),
    *([], {}, [[]], [0], [""], [None], {"": 0}, {"a": {"b": [1]}}, [0] * 5000, ["x"] * 5000),
    *(Raw("[" * DEEP + "]" * DEEP), Raw('{"a":' * DEEP + "1" + "}" * DEEP), Raw("[[[[[[]]]]]]")),
)
YAML_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, 10**9, 2**63, 10**25, "", "none", "test", [], {}, [0], {"a": 1}),
    *(
        "\x1b[31m",
        "\x07",
        "A" * 100_000,
        "../../evil",
        "/etc/passwd",
        "/dev/zero",
        "{{ 7 * 7 }}",
        [[]],
        [None],
        ["x"] * 5000,
    ),
    *map(
        Raw,
        (".nan", ".inf", "-.inf", "010", "0o10", "0x10", "1_000", "1:30", "2020-01-01", "yes", "~", "!!binary aGk="),
    ),
    *map(
        Raw,
        ("!!set {a}", "!!omap [a: 1]", "*nothing", "&a [*a]", "&a {a: *a}", "|\n  text", "? [a]\n  : b", "1 2", "'"),
    ),
    *map(
        Raw,
        ("[" * 10_000 + "]" * 10_000, "[" * 3000, "{a: " * 500 + "1" + "}" * 500, "!evil x", "!!float one", "9" * 5000),
    ),
    *map(
        Raw, (f"!!python/object/apply:os.system ['touch {CANARY}']", "!!python/name:os.system", "@", "`", "%", "\t- a")
    ),
)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)


def pick(draw: Draw, values: Any) -> Any:
    return draw(st.sampled_from(list(values)))


def below(draw: Draw, bound: int) -> int:
    return draw(st.integers(0, max(0, bound - 1)))


def any_file(draw: Draw, data: bytes) -> Damage:
    """Damage that needs no knowledge of the format."""
    how = pick(
        draw, ("flip", "flip", "flip", "cut", "add", "insert", "zero", "drop", "empty", "text", "kind", "kind", "bom")
    )
    at = below(draw, len(data))
    if how == "flip":
        count, changed = draw(st.integers(1, 4)), bytearray(data)
        for _ in range(count):
            changed[below(draw, len(data))] ^= 1 << below(draw, 8)
        return Damage(f"{count} bits flipped near {at}", bytes(changed))
    if how == "cut":
        return Damage(f"cut at {at}", data[:at])
    if how == "add":
        more = pick(draw, (b"\0", b"\n", b"}", b"x" * 1000, b"\0" * 2**20, b"\x80\x81\xff"))
        return Damage(f"{len(more)} bytes {more[:1]!r} added", data + more)
    if how == "insert":
        return Damage(f"a byte inserted at {at}", data[:at] + bytes([below(draw, 256)]) + data[at:])
    if how == "zero":
        size = draw(st.integers(1, 600))
        return Damage(f"{size} zeros at {at}", data[:at] + bytes(min(size, len(data) - at)) + data[at + size :])
    if how == "drop":
        size = draw(st.integers(1, 600))
        return Damage(f"{size} bytes dropped at {at}", data[:at] + data[at + size :])
    if how == "empty":
        return Damage("empty", b"")
    if how == "bom":
        return Damage("UTF-16", data.decode("latin-1").encode("utf-16") if len(data) < 10**6 else data[:9])
    if how == "text":
        other = pick(
            draw, (b"null", b"[]", b"{}", b"\xff\xfe", b"PK\x03\x04", b"{" * DEEP, b"[" * DEEP, b"0", b"\x1b[2J", b"a")
        )
        return Damage(f"the text {other[:8]!r}", other)
    kind = pick(draw, KINDS)
    return Damage(kind, None, kind)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:40]) if isinstance(tree, list) else ()
    for name, value in items:
        found += _places(value, (*path, name))
    return found


def _tree(draw: Draw, tree: Any, values: tuple[Any, ...]) -> tuple[str, Any, str]:
    """A change somewhere in a tree of dicts and lists: what was done, the tree, and a text to repeat in its place."""
    tree = copy.deepcopy(tree)
    path = pick(draw, _places(tree)[1:] or [()])
    where = ".".join(map(str, path))
    if not path:
        return "whole", pick(draw, values), ""
    parent = tree
    for step in path[:-1]:
        parent = parent[step]
    old, last = parent[path[-1]], path[-1]
    how = pick(
        draw, ("set", "set", "set", "set", "near", "near", "delete", "rename", "add", "swap", "copy", "twice", "wrap")
    )
    if how == "near":
        if isinstance(old, bool):
            new: Any = not old
        elif isinstance(old, int | float):
            new = pick(draw, (old + 1, old - 1, -old, old * 2, old * 1000, float(old), str(old), old / 3, [old]))
        elif isinstance(old, str):
            new = pick(
                draw, (old + "x", old[:-1], old.upper(), old[::-1], old + "\n", " " + old, old + "\0", [old], old * 2)
            )
        else:
            new = list(old) * 2 if isinstance(old, list) else dict(list(old.items())[:-1]) if old else {"x": 1}
        parent[last] = new
        return f"{where} = {str(new)[:40]!r}", tree, ""
    if how == "delete":
        del parent[last]
    elif how == "rename" and isinstance(parent, dict):
        parent[pick(draw, ("x", str(last) + "x", str(last).upper(), "", "__class__", "\x1b[1m", "a" * 5000))] = (
            parent.pop(last)
        )
    elif how == "add" and isinstance(old, dict):
        old[pick(draw, ("x", "pickle", "auto_map", "\x1b[1m", "base_model_class", "rank_pattern", "__init__"))] = pick(
            draw, values
        )
    elif how == "add" and isinstance(old, list):
        old.append(pick(draw, (*values, *old[:1])))
    elif how == "copy" and isinstance(parent, list):
        parent.extend([old] * pick(draw, (1, 3, 2000)))
    elif how == "swap":
        names = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        other = pick(draw, names)
        parent[last], parent[other] = parent[other], parent[last]
    elif how == "twice" and isinstance(parent, dict):
        return f"{where} twice", tree, str(last)
    elif how == "wrap":
        parent[last] = [old]
    else:
        how, parent[last] = "set", pick(draw, values)
        return f"{where} = {str(parent[last])[:40]!r}", tree, ""
    return f"{how} {where}", tree, ""


def _with_raw(tree: Any, dump: Callable[[Any], str]) -> str:
    """Dump a tree in which :class:`Raw` texts stand as they are."""
    raws: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, Raw):
            raws.append(str(value))
            return f"@raw{len(raws) - 1}@"
        if isinstance(value, dict):
            return {name: marked(each) for name, each in value.items()}
        return [marked(each) for each in value] if isinstance(value, list) else value

    text = dump(marked(tree))
    return re.sub(r"""["']?@raw(\d+)@["']?""", lambda found: raws[int(found[1])], text)


def json_file(draw: Draw, data: bytes) -> Damage:
    if draw(st.integers(0, 3)) == 0:
        return any_file(draw, data)
    told, tree, twice = _tree(draw, json.loads(data), VALUES)
    text = _with_raw(tree, lambda each: json.dumps(each, indent=2))
    if twice:
        text = re.sub(
            rf"(\n *){re.escape(json.dumps(twice))}:", lambda m: f"{m[1]}{json.dumps(twice)}: 1,{m[0]}", text, count=1
        )
    return Damage(told, text.encode("utf-8", "surrogatepass"))


def yaml_file(draw: Draw, data: bytes) -> Damage:
    how = draw(st.integers(0, 9))
    if how == 0:
        return any_file(draw, data)
    text = data.decode()
    if how == 1:
        line = below(draw, text.count("\n"))
        lines = text.splitlines()
        lines.insert(
            line,
            pick(
                draw, ("\t", "---", "...", lines[line], "x: 1", "x", "- a", "<<: *a", "%YAML 9.9", "  : ", "? ", BOMB)
            ),
        )
        return Damage(f"a line {lines[line][:30]!r} put in at {line}", "\n".join(lines).encode())
    if how == 2:
        return Damage("alias bomb", (BOMB + text + pick(draw, ("", "\nreport: *i\n"))).encode())
    told, tree, twice = _tree(draw, yaml.safe_load(data), YAML_VALUES)
    if how == 3 and isinstance(tree, dict):
        name = pick(draw, tree)
        return Damage(f"section {name} twice", (text + f"\n{name}: {{}}\n").encode())
    dumped = _with_raw(tree, lambda each: yaml.safe_dump(each, sort_keys=False, allow_unicode=True, width=10**6))
    if twice:
        dumped = re.sub(rf"(\n *){re.escape(twice)}:", lambda m: f"{m[1]}{twice}: 1{m[0]}", dumped, count=1)
    return Damage(told, dumped.encode("utf-8", "surrogatepass"))


def table(draw: Draw, data: bytes) -> Damage:
    """CSV or TSV."""
    if draw(st.integers(0, 3)) == 0:
        return any_file(draw, data)
    separator = "\t" if b"\t" in data else ","
    rows = [line.split(separator) for line in data.decode().splitlines()]
    row = below(draw, min(len(rows), 6))
    cell = below(draw, len(rows[row]))
    new = pick(
        draw,
        (
            "",
            "x",
            "-1",
            "nan",
            "inf",
            "1e999",
            "9" * 30,
            "9" * 6000,
            "1.5",
            "0x1",
            "\x1b[1m",
            '"',
            '"a\nb"',
            "0" * 200_000,
        ),
    )
    rows[row][cell] = new
    if pick(draw, (True, False)):
        rows += [rows[-1]] * pick(draw, (1, 1000, 300_000))
    return Damage(
        f"row {row} cell {cell} = {new[:20]!r}, {len(rows)} rows", "\n".join(map(separator.join, rows)).encode() + b"\n"
    )


def safetensors_file(draw: Draw, data: bytes) -> Damage:
    if draw(st.integers(0, 4)) == 0:
        return any_file(draw, data)
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    names = [name for name in header if name != "__metadata__"]
    name = pick(draw, names)
    entry = header[name]
    begin, end = entry["data_offsets"]
    how = pick(
        draw,
        (
            "value",
            "value",
            "dtype",
            "shape",
            "huge",
            "offsets",
            "delete",
            "rename",
            "extra",
            "extra",
            "base",
            "length",
            "tree",
            "metadata",
        ),
    )
    if how == "value":
        number = pick(draw, (float("nan"), float("inf"), -1e30, 3e38, 0.0))
        body[begin : begin + 4] = struct.pack("<f", number)
        told = f"{name} holds {number}"
    elif how == "dtype":
        entry["dtype"] = pick(draw, ("F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "X", "C64", 7))
        told = f"{name} is {entry['dtype']}"
    elif how == "shape":
        shape = entry["shape"]
        entry["shape"] = pick(
            draw, (shape[::-1], [*shape, 1], [1, *shape], [], [0], shape[:-1], [-1], [sum(shape)], "x", [1.5])
        )
        told = f"{name} has shape {entry['shape']}"
    elif how == "huge":
        entry["shape"] = pick(draw, ([2**40], [2**31, 2**31, 2**2], [2**63], [10**9, 4], [2**64]))
        told = f"{name} has shape {entry['shape']}"
    elif how == "offsets":
        entry["data_offsets"] = pick(
            draw, ([0, 4], [begin, 2**62], [end, begin], [-4, 0], [begin + 1, end + 1], [begin], "x")
        )
        told = f"{name} at {entry['data_offsets']}"
    elif how == "delete":
        del header[name]
        header, body = _packed(header, body)
        told = f"no {name}"
    elif how == "rename":
        new = pick(draw, (name + "x", "", "x" * 5000, "\x1b[1m", name.replace(".", "_"), names[0] + ".y"))
        header[new] = header.pop(name)
        told = f"{name} renamed {new[:30]!r}"
    elif how in ("extra", "base"):
        plain = re.sub(r"^base_model\.model\.|lora_[AB]\.|modules_to_save\.", "", name)
        new = pick(
            draw,
            (plain, plain.replace("bias", "weight"), "x", "base_model.model." + plain, f"{name}.extra", "cls_token"),
        )
        count = pick(draw, (1, 1, 200_000)) if how == "extra" else 1
        body += body[begin:end]
        header.update(
            {
                new if each == 0 else f"{new}{each}": {**entry, "data_offsets": [len(body) - (end - begin), len(body)]}
                for each in range(count)
            }
        )
        told = f"{count} more {new!r} as {name}"
    elif how == "length":
        length = pick(draw, (0, 1, size - 1, size + 1, 2**63, 2**64 - 1, 2**40, 100 * 2**20))
        return Damage(f"header of {length} bytes", struct.pack("<Q", length) + data[8:])
    elif how == "metadata":
        header["__metadata__"] = pick(
            draw, ({"format": "tf"}, {"format": "x"}, {}, None, 3, {"format": 3}, {"x": "y" * 10**6})
        )
        told = f"metadata {str(header['__metadata__'])[:30]}"
    else:
        told, header, _ = _tree(draw, header, VALUES)
    text = _with_raw(header, json.dumps).encode("utf-8", "surrogatepass")
    return Damage(told, struct.pack("<Q", len(text)) + text + bytes(body))


def _packed(header: dict[str, Any], body: bytearray) -> tuple[dict[str, Any], bytearray]:
    """A header whose offsets have no gap."""
    packed, kept = bytearray(), {}
    for name, entry in header.items():
        if name == "__metadata__":
            kept[name] = entry
            continue
        begin, end = entry["data_offsets"]
        packed += body[begin:end]
        kept[name] = {**entry, "data_offsets": [len(packed) - (end - begin), len(packed)]}
    return kept, packed


def npy_file(draw: Draw, data: bytes) -> Damage:
    """An npy file; the data are kept behind another header."""
    if draw(st.integers(0, 3)) == 0:
        return any_file(draw, data)
    payload = pickle.dumps(Payload())
    descr = pick(
        draw,
        (
            "'|O'",
            "'<f4'",
            "'<f8'",
            "'<U4'",
            "'|V8'",
            "'<c16'",
            "'<M8[ns]'",
            "[('a','<f4')]",
            "'|S8'",
            "'>f2'",
            "'|b1'",
            "'<f16'",
            "'x'",
        ),
    )
    shape = pick(
        draw,
        (
            "(2**40,)",
            "(1000000000,3)",
            "(-1,)",
            "(0,)",
            "()",
            "(3,32,32)",
            "(32,32,3)",
            "(99999999999999,)",
            "(1,)*70",
            "'x'",
            "(True,)",
        ),
    )
    shape = {"(2**40,)": f"({2**40},)", "(1,)*70": str((1,) * 70)}.get(shape, shape)
    order = pick(draw, ("False", "True", "1", "'x'"))
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    version = pick(draw, (b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    size = pick(draw, (len(text), len(text), len(text), 65535, 0))
    head = b"\x93NUMPY" + version + (struct.pack("<H", size) if version == b"\x01\x00" else struct.pack("<I", size))
    return Damage(f"npy {text}", head + text.encode() + (payload if "O" in descr else data[-6144:]))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def pictures() -> dict[str, bytes]:
    """Pictures that decoders stumble over, by what they are."""
    sign = b"\x89PNG\r\n\x1a\n"

    def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"", more: bytes = b"") -> bytes:
        head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        return sign + head + more + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")

    noise = bytes(range(97)) * 32
    return {
        "16000 x 16000 PNG": png(16000, 16000, 1, 0, bytes(2001 * 16000)),
        "PNG of 2**31 columns": png(2**31 - 1, 2**31 - 1),
        "PNG of no rows": png(32, 0),
        "PNG without data": png(32, 32),
        "PNG with a text bomb": png(
            32, 32, rows=noise, more=_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28), 9))
        ),
        "PNG with a profile bomb": png(
            32, 32, rows=noise, more=_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**28), 9))
        ),
        "PNG without palette": png(32, 32, 8, 3, bytes(33 * 32)),
        "PNG of 16 bits": png(32, 32, 16, 2, bytes(193 * 32)),
        "PNG grey": png(32, 32, 8, 0, bytes(33 * 32)),
        "PNG with alpha": png(32, 32, 8, 6, bytes(129 * 32)),
        "PNG 31 wide": png(31, 32, rows=bytes(94 * 32)),
        "PPM of 10**10 pixels": b"P6 100000 100000 255\n" + bytes(99),
        "PPM": b"P6 32 32 255\n" + bytes(3072),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(x) print quit\n",
        "GIF of 65535 columns": b"GIF89a\xff\xff\xff\xff\x80\0\0"
        + bytes(6)
        + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
        "BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        "TIFF": b"II*\0\x08\0\0\0\xff\xff" + b"\x00\x01\x04\0\x01\0\0\0\xff\xff\xff\x7f" * 40,
        "SVG": b"<svg xmlns='x'><image href='file:///etc/passwd'/></svg>",
        "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 300000, 300000, 8, 3),
        "ICNS": b"icns" + struct.pack(">I", 2**31) + b"ic10" + struct.pack(">I", 2**31 - 1),
        "text": b"no picture",
        "pickle": pickle.dumps(Payload()),
    }


def picture_file(draw: Draw, data: bytes) -> Damage:
    if draw(st.integers(0, 1)) == 0:
        return any_file(draw, data)
    name = pick(draw, pictures())
    return Damage(name, pictures()[name])


def tar_file(draw: Draw, data: bytes) -> Damage:
    """A tar with one member changed, doubled, taken away, or of another type."""
    if draw(st.integers(0, 5)) == 0:
        return any_file(draw, data)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [(each, archive.extractfile(each).read()) for each in archive if each.isfile()]  # type: ignore[union-attr]
    at = below(draw, min(len(members), 8))
    member, content = members[at]
    how = pick(
        draw,
        ("name", "type", "size", "drop", "double", "swap", "content", "content", "content", "pax", "header", "order"),
    )
    told = f"{how} of {member.name}"
    if how == "name":
        member.name = pick(
            draw,
            (
                "../../evil.png",
                "/etc/evil.png",
                "x.png",
                "00000000.png.cls",
                "a/" * 150 + "x",
                "00000000.exe",
                "99999999.png",
                "\x1b[1m.png",
                "0.cls",
                "\udcff.png",
            ),
        )
        told = f"{told}: {member.name[:30]!r}"
    elif how == "type":
        member.type = pick(
            draw,
            (
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.DIRTYPE,
                tarfile.FIFOTYPE,
                tarfile.CHRTYPE,
                tarfile.GNUTYPE_SPARSE,
                b"Z",
                tarfile.CONTTYPE,
            ),
        )
        member.linkname = pick(draw, ("/etc/passwd", "../../x", members[0][0].name, member.name, ""))
        told = f"{told}: {member.type!r} to {member.linkname}"
    elif how == "drop":
        del members[at]
    elif how == "double":
        members.insert(at, members[at])
    elif how == "swap":
        other = below(draw, min(len(members), 8))
        members[at], members[other] = members[other], members[at]
    elif how == "order":
        members.reverse()
    elif how == "pax":
        member.pax_headers = pick(
            draw,
            (
                {"path": "../../evil"},
                {"size": "9" * 30},
                {"size": "-1"},
                {"mtime": "nan"},
                {"a": "b" * 10**6},
                {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99999999999"},
            ),
        )
        told = f"{told}: {str(member.pax_headers)[:40]}"
    elif how == "content":
        end = member.name.rpartition(".")[2]
        if end == "cls":
            content = pick(
                draw,
                (
                    b"",
                    b"-1",
                    b"2",
                    b"3",
                    b"99",
                    b"9" * 30,
                    b"9" * 6000,
                    b"1.0",
                    b" 1",
                    b"1\n",
                    b"x",
                    "٣".encode(),
                    b"\xff",
                    b"0x1",
                    b"1_0",
                ),
            )
            told = f"{told}: {content[:20]!r}"
        elif end == "txt":
            content = pick(draw, (b"", b"\x1b[1m", b"\xff", b"../../x", b"x" * 10**6, b"train/0/0.png"))
        elif end == "npy":
            damage = npy_file(draw, content)
            content, told = damage.data or b"", f"{told}: {damage.told}"
        else:
            damage = picture_file(draw, content)
            content, told = damage.data or b"", f"{told}: {damage.told}"
        member.size = len(content)
        members[at] = (member, content)
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT if how == "pax" else tarfile.GNU_FORMAT
    ) as archive:
        for each, held in members:
            archive.addfile(each, io.BytesIO(held))
    made = bytearray(buffer.getvalue())
    if how in ("size", "header"):
        field = pick(
            draw,
            (b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"\xff" * 12, b"xyz\0" * 3, b"00000000001\0"),
        )
        offset = pick(draw, (124, 136, 100, 257)) if how == "header" else 124
        made[offset : offset + 12] = field
        made[148:156] = b"%06o\0 " % (sum(made[:148]) + 256 + sum(made[156:512]))
        told = f"{how} field of the first member: {field[:12]!r} at {offset}"
    return Damage(told, bytes(made))


def torch_file(draw: Draw, data: bytes) -> Damage:
    """A file of ``torch.save``: a pickle in a zip."""
    how = pick(draw, ("any", "any", "pickle", "legacy", "member", "member", "drop", "bomb", "name"))
    if how == "any":
        return any_file(draw, data)
    if how == "legacy":
        return Damage("a bare pickle that runs a command", pickle.dumps(Payload(), 2))
    source = zipfile.ZipFile(io.BytesIO(data))
    members = {each.filename: source.read(each) for each in source.infolist()}
    name = pick(draw, members)
    told = f"{how} {name}"
    top = name.partition("/")[0]
    if how == "pickle":
        members[f"{top}/data.pkl"] = pickle.dumps(
            pick(draw, (Payload(), None, [], {}, {"model": {}}, {"progress": 1}, "x", {"model": Payload()})), 2
        )
    elif how == "member":
        members[name] = any_file(draw, members[name] or b"x").data or b""
    elif how == "drop":
        del members[name]
    elif how == "name":
        members["../../evil"] = members.pop(name)
    else:
        members[name] = bytes(3 * 2**30 // 8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if how == "bomb" else zipfile.ZIP_STORED) as archive:
        for each, held in members.items():
            archive.writestr(each, held)
    return Damage(told, buffer.getvalue())


def npz_file(draw: Draw, data: bytes) -> Damage:
    if draw(st.integers(0, 3)) == 0:
        return any_file(draw, data)
    source = zipfile.ZipFile(io.BytesIO(data))
    members = {each.filename: source.read(each) for each in source.infolist()}
    name = pick(draw, members)
    damage = npy_file(draw, members[name])
    members[name] = damage.data or b""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, held in members.items():
            archive.writestr(each, held)
    return Damage(f"{name}: {damage.told}", buffer.getvalue())


def of_kind(name: str) -> Callable[[Draw, bytes], Damage]:
    """The damage that fits a file's name."""
    ends = {
        **{
            ".json": json_file,
            ".yaml": yaml_file,
            ".lock": yaml_file,
            ".csv": table,
            ".tsv": table,
            ".safetensors": safetensors_file,
        },
        **{
            ".tar": tar_file,
            ".png": picture_file,
            ".npz": npz_file,
            ".npy": npy_file,
            ".pt": torch_file,
            ".pth": torch_file,
        },
    }
    return next((damage for end, damage in ends.items() if name.endswith(end)), any_file)
