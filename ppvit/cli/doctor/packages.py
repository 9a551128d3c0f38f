"""Whether Python and packages are what ppvit needs, and which extras are installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import TYPE_CHECKING

from ppvit.cli.doctor.finding import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def versions() -> Iterator[Finding]:
    """Python and packages against what ppvit says that it needs."""
    from packaging.specifiers import SpecifierSet

    python = ".".join(map(str, sys.version_info[:3]))
    try:
        allowed = SpecifierSet(metadata("ppvit")["Requires-Python"] or "")
    except PackageNotFoundError:
        yield Finding("versions", "problem", "ppvit is not installed here", "pip install -e . in the clone")
        return
    if python in allowed:
        yield Finding("python", "ok", python)
    else:
        yield Finding("python", "problem", f"{python}, and ppvit needs {allowed}", "use a Python in that range")
    needed = _requirements()
    if lacking := _lacking(needed):
        wanted = " ".join(f"'{each.name}{each.specifier}'" for each in needed if _lacking([each]))
        yield Finding("packages", "problem", ", ".join(lacking), f"pip install {wanted}")
    else:
        main = ", ".join(f"{name} {version(name)}" for name in ("ppvit", "torch", "timm", "peft", "dvc"))
        yield Finding("packages", "ok", f"{main}; all {len(needed)} in range")


def extras() -> Iterator[Finding]:
    """Extras whose packages are all there, and those that are not."""
    try:
        extras = metadata("ppvit").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return
    lacking = {each: _lacking(_requirements(each)) for each in extras if each not in ("test", "fuzz")}
    there = [each for each, missing in lacking.items() if not missing and _requirements(each)]
    yield Finding("extras", "ok", ", ".join(there) or "none")
    if absent := [each for each, missing in lacking.items() if missing]:
        remedy = f"pip install 'ppvit[{','.join(absent)}]', of these only what you use"
        yield Finding("extras", "note", f"not installed: {', '.join(absent)}", remedy)


def _requirements(extra: str | None = None) -> list[Requirement]:
    from packaging.requirements import Requirement

    parsed = [Requirement(text) for text in requires("ppvit") or []]
    if extra is None:
        return [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]
    of_all = _requirements()
    return [each for each in parsed if each not in of_all and each.marker and each.marker.evaluate({"extra": extra})]


def _lacking(requirements: list[Requirement]) -> list[str]:
    """Requirements that are not installed, or in another version, each with what there is."""
    found = []
    for each in requirements:
        try:
            there = version(each.name)
        except PackageNotFoundError:
            found.append(f"{each.name} (missing)")
            continue
        if not each.specifier.contains(there, prereleases=True):
            found.append(f"{each.name} {there} (needs {each.specifier})")
    return found
