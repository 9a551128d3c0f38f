"""The shape of ppvit as `benchmarks/house.py` measures it: few entries, imports one way only, a short dvc.yaml."""

from __future__ import annotations

import sys

import pytest
from imports import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import house


@pytest.fixture(scope="module")
def found() -> list[house.Import]:
    return house.imports(ROOT)


def test_entries_at_the_top_are_few():
    assert len(house.entries(ROOT)) <= 22


def test_imports_point_one_way(found):
    edges = house.arrows(found)
    assert ("verbs", "training") in edges  # that any were found
    assert house.circles(edges) == []


def test_no_verb_imports_a_verb(found):
    assert house.verbs_that_import_verbs(found) == []


def test_dvc_yaml_has_few_code_dependencies_and_config_is_none_of_them():
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    dependencies = house.code_dependencies(house.stages_of(text))
    assert sum(map(len, dependencies.values())) <= 90
    assert not any(name.startswith("ppvit/config") for deps in dependencies.values() for name in deps)


def test_circles_and_verbs_are_found_where_they_are(tmp_path):
    """The measures themselves, on a package that breaks every rule."""
    files = {
        "__init__.py": "",
        "a/__init__.py": "def f():\n    from ppvit.b.deep import g\n",
        "b/__init__.py": "",
        "b/deep.py": "import ppvit.c\ng = 1\n",
        "c.py": "from ppvit import a\n",
        "d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ppvit import e\n",
        "e.py": "from ppvit.d import x\n",
        "verbs/__init__.py": "",
        "verbs/one.py": "from ppvit.verbs.two import run\nfrom ppvit.verbs import one\n",
        "verbs/two.py": "",
    }
    for name, text in files.items():
        (tmp_path / "ppvit" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ppvit" / name).write_text(text)
    house.git(tmp_path, "init", "-q")
    found = house.imports(tmp_path)
    assert house.arrows(found) == {("a", "b"), ("b", "c"), ("c", "a"), ("e", "d")}
    assert house.circles(house.arrows(found)) == [["a", "b", "c"]]
    assert house.verbs_that_import_verbs(found) == ["one imports two"]


def test_stages_that_a_change_touches():
    dependencies = {"encrypt": ["ppvit/ciphers", "ppvit/verbs/encrypt.py"], "report": ["ppvit/report"]}
    assert house.touched(dependencies, ["ppvit/ciphers/base.py", "ppvit/cipher"]) == ["encrypt"]
    assert house.touched(dependencies, ["ppvit/verbs/encrypt.py", "ppvit/report/page.html.j2"]) == ["encrypt", "report"]
    assert house.touched(dependencies, ["ppvit/config/loading.py"]) == []
