"""Terms are explained where they occur, in the words of the glossary."""

import re

import pytest
from imports import ROOT

from ppvit.report.terms import _TERMS, explained


def test_the_glossary_says_the_same():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=\n- |\n#|\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    glossary = {term: " ".join(meaning.split()) for term, meaning in entries}
    assert {term: glossary.get(term) for term in _TERMS} == _TERMS


@pytest.mark.parametrize(
    ("html", "terms"),
    [
        ("<td>SSIM of unseen images</td>", ["SSIM"]),
        ("<p>linf 8 under PGD-20, APGD-CE and APGD-T</p>", ["APGD-CE, APGD-T", "L2, Linf", "PGD"]),
        ("<p>strongest attacker, K1</p>", ["K1 to K4"]),
        ("<p>square images, a spring, transfer; not IND-CPA-D</p>", ["IND-CPA-D"]),
        ("<p title='SSIM'>nothing</p><script>AUROC</script>", []),
        ("<p>without the\n attack, wrong\nkey: chance</p>", ["Chance", "Wrong key"]),
    ],
)
def test_what_occurs_is_explained_and_nothing_else(html, terms):
    assert [term for term, _ in explained(html)] == terms
