"""What is installed beside ppvit: every file has a hash, every package a licence that somebody has looked at."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions

import pytest
from imports import ROOT

LOCKS = ("constraints.txt", "tests/harness/tools.txt", "tests/harness/atheris.txt")
PERMISSIVE = re.compile(
    r"\(?(Apache([- ]2\.0)?( Software)?( License( 2\.0)?)?( WITH LLVM-exception)?"
    r"|(0|New |2-clause )?BSD(-[23]-Clause)?( License)?|MIT(-0|-CMU)?( License)?"
    r"|ISC( License \(ISCL\))?|BSL-1\.0|Zlib|CC0-1\.0|CNRI-Python|DFSG approved|PSF-2\.0"
    r"|Python Software Foundation License|Zope Public License|MPL-2\.0|Mozilla Public License 2\.0 \(MPL 2\.0\))\)?"
)


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: str) -> dict[str, str]:
    """Each package of a lock with the lines that stand under it."""
    text = "".join(line for line in (ROOT / lock).open() if not line.startswith("#"))
    parts = re.split(r"^(?=\S)", text, flags=re.M)[1:]
    return {re.match(r"[\w.-]+", part)[0]: part for part in parts}


def licences() -> dict[str, str]:
    rows = re.findall(r"^\| (\S+) +\| (.+?) +\|$", (ROOT / "docs" / "licences.md").read_text(), re.M)
    return {normalised(name): licence for name, licence in rows if name not in ("Name", ":---")}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_one_version_with_hashes_and_no_address(lock):
    assert "://" not in (ROOT / lock).read_text()
    for name, part in locked(lock).items():
        assert re.fullmatch(
            rf"{re.escape(name)}==[\w.+!-]+( ; [^\\\n]+)? \\\n( +--hash=sha256:[0-9a-f]{{64}}( \\)?\n?)+", part
        ), part[:200]


def test_the_lock_has_every_dependency_and_what_builds_those_without_a_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    # Ray is large, and its tests are skipped where it is not installed
    needed += [each for name, extra in extras.items() if name not in ("fuzz", "openfhe", "ray") for each in extra]
    names = {normalised(re.match(r"[\w.-]+", each)[0]) for each in needed}
    assert names - locked("constraints.txt").keys() == set()
    assert {normalised(re.match(r"[\w.-]+", each)[0]) for each in extras["fuzz"]} == locked(LOCKS[2]).keys()


def test_every_package_has_a_licence_that_allows_all_or_is_named_in_the_docs():
    told = (ROOT / "docs" / "dependencies.md").read_text().partition("## Licences")[2]
    table = licences()
    installed = {normalised(each.metadata["Name"]): each.metadata for each in distributions()}
    for name in locked("constraints.txt").keys() & installed.keys():
        assert name in table, f"{name}: run make licences"
        expression = installed[name].get("License-Expression")
        assert expression in (None, table[name]), f"{name}: run make licences"
    for name, licence in table.items():
        parts = re.split(r" AND | OR |; ", licence)
        if not all(PERMISSIVE.fullmatch(part) for part in parts):
            assert f"`{name}`" in told or (name.startswith("nvidia-") and "`nvidia-*`" in told), f"{name}: {licence}"
