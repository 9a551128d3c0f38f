"""Which networks ``model.name`` can mean and what their names and timm's sources say of them, without loading timm.

Importing timm takes seconds, since it imports torch; reading where it defines a network takes milliseconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import ppvit
from ppvit.core.errors import UsageError
from ppvit.core.nearest import nearest

_MICRO = "vit_micro_patch4_32"  # of ppvit.models.names, whose package imports torch
_MICRO_LINEAR = tuple(
    f"blocks.{block}.{layer}" for block in range(4) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
)
_DEFINITION = re.compile(r"^@register_model\n(?:@[^\n]*\n)*def (\w+)\(", re.M)
_TAGGED = re.compile(r"""["']([\w-]+\.[\w-]+)["']""")
_DEPRECATED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}", re.M | re.S)
_OURS = ("pyramidnet", "convmixer")  # names whose sizes ppvit.models.names reads off
_CONVOLUTIONAL = ("resnet", "pyramidnet", "convmixer")  # files


@dataclass(frozen=True)
class Network:
    """What is known of a network before it is built.

    Attributes:
        file: the file that defines it, without suffix, which timm names after the family.
        patch: side of its patches in pixels; None where neither name nor definition says it.
        plain_vit: whether the file has to do with timm's VisionTransformer; where not, the network is none.
        linear: whole names of the linear layers that take an adapter; empty where they are not known.
    """

    file: str
    patch: int | None
    plain_vit: bool
    linear: tuple[str, ...] = ()

    @property
    def convolutional(self) -> bool:
        """Whether it is a ResNet, PyramidNet or ConvMixer, without linear layers but its head."""
        return self.file in _CONVOLUTIONAL

    @property
    def overlapping(self) -> bool:
        """Whether it is a ResNet or PyramidNet, whose first layer mixes pixels of neighbouring blocks."""
        return self.file in ("resnet", "pyramidnet")


@cache
def network(name: str) -> Network | None:
    """What is known of the network that ``model.name`` means; None where there is none, or nothing is known."""
    if name == _MICRO:
        return Network("vision_transformer", 4, True, _MICRO_LINEAR)
    base = name.partition(".")[0]
    if base not in _OURS:
        for file, text in _sources():
            if (found := re.search(rf"^def {re.escape(base)}\(", text, re.M)) and base in _defined(text):
                body = text[found.end() :].partition("\n@register_model")[0]
                return Network(file, _patch(base, body), "VisionTransformer" in text)
    own = next((kind for kind in _OURS if name.startswith(kind)), None)
    patch = re.search(r"_p(\d+)$", name)
    return Network(own, int(patch[1]) if own == "convmixer" and patch else None, False) if own else None


def _patch(name: str, body: str) -> int | None:
    sizes = set(re.findall(r"\bpatch_size=(\d+)", body)) or set(re.findall(r"_patch(\d+)", name))
    return int(sizes.pop()) if len(sizes) == 1 else None


def require_network(name: str) -> None:
    """Refuse a ``model.name`` that neither timm nor ppvit has.

    Raises:
        UsageError: it is none, or one that timm has no longer, or its tag is none; the nearest are suggested.
    """
    base, dot, tag = name.partition(".")
    if name == _MICRO or not _defined_by_timm():
        return
    if base.startswith(_OURS) and base not in _defined_by_timm():
        importlib.import_module("ppvit.models.names").parsed(name)  # refuses what says no such network
        return
    if base in _OURS or base not in names():
        raise UsageError(f"unknown model.name '{name[:100]}'; {_offer(base)}")
    tags = sorted(each for each in _tagged() if each.startswith(f"{base}."))
    if dot and tags and name not in tags:
        close = [f"{base}.{near}" for near in nearest(tag, [each.partition(".")[2] for each in tags], 3)]
        raise UsageError(
            f"model.name '{name[:100]}': timm's {base} has no weights of that name; "
            + (f"did you mean {_or(close)}?" if close else f"there are {', '.join(tags)}")
        )


@cache
def names() -> frozenset[str]:
    """All names without tags, but for those of ours that say sizes."""
    ours = (name for _, text in _ours() for name in _defined(text))
    return frozenset({_MICRO, *_defined_by_timm(), *_deprecated(), *ours})


def _offer(name: str) -> str:
    if close := nearest(name, sorted(names() - set(_OURS) - _deprecated()), 3):
        return f"did you mean {_or(close)}?"
    return f"take {_MICRO}, which comes with ppvit, or a network of timm such as vit_base_patch16_224"


def _or(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


@cache
def _sources() -> tuple[tuple[str, str], ...]:
    """Files that define networks and their texts: ours, then timm's; none of the latter where timm has no sources."""
    return (*_ours(), *_timms())


@cache
def _ours() -> tuple[tuple[str, str], ...]:
    return tuple(_read(Path(ppvit.__file__).parent / "models"))


@cache
def _timms() -> tuple[tuple[str, str], ...]:
    found = importlib.util.find_spec("timm")  # which does not import it
    folders = (found.submodule_search_locations if found else None) or ()
    return tuple(each for folder in folders for each in _read(Path(folder) / "models"))


def _read(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "@register_model\n" in text:
            yield path.stem, text


@cache
def _defined(text: str) -> frozenset[str]:
    return frozenset(_DEFINITION.findall(text))


@cache
def _defined_by_timm() -> frozenset[str]:
    return frozenset(name for _, text in _timms() for name in _defined(text))


@cache
def _tagged() -> frozenset[str]:
    return frozenset(name for _, text in _timms() for name in _TAGGED.findall(text))


@cache
def _deprecated() -> frozenset[str]:
    tables = (table for _, text in _timms() for table in _DEPRECATED.findall(text))
    return frozenset(name for table in tables for name in re.findall(r"^\s*['\"]([\w.-]+)['\"]:", table, re.M))
