"""What an audit found, as rows and titles that people read."""

from __future__ import annotations

from typing import Any

from ppvit.audit.amount import ALL_VIEWS
from ppvit.audit.base import ATTACKS

NOT_ATTACKED = "not attacked"  # what a table says of an attack that cannot be made on a cipher; 0 would read as safety


def attack_rows(audit: dict[str, Any]) -> list[tuple[str, str, str]]:
    """One row an attack of the audit's result file: name, key recovered, SSIM of the recovered pictures."""
    suffix = "_ssim"
    names = [name.removesuffix(suffix) for name in audit if name.endswith(suffix)]
    rows = []
    for name in names:
        if not _is_repeated(name, names):
            key = audit.get(f"{name}_key_recovered_percent")
            rows.append((title(name), "–" if key is None else f"{key:.2f} %", _what_is_seen(audit, name)))
    return rows


def _is_repeated(name: str, names: list[str]) -> bool:
    """Whether these are the figures of an attack's headline, which are those of one of its variants too."""
    attack = ATTACKS.get(name) if name in ATTACKS else None
    if attack is None or "" in attack.variants or not (attack.counts or attack.variants):
        return False
    return any(_split(other)[0] == name and _split(other)[1] for other in names)


def _what_is_seen(audit: dict[str, Any], name: str) -> str:
    """What an attack saw: the similarity of pictures, or its own figure where it recovers none."""
    if f"{name}_top1_percent" in audit:
        share, chance = audit[f"{name}_top1_percent"], audit[f"{name}_chance_percent"]
        return f"picked out in {share:.0f} %, by luck {chance:.0f} %"
    if f"{name}_key_bits" in audit:
        return f"{audit[f'{name}_key_bits']:.0f} bits to try"
    if audit.get(f"{name}_strength_percent", 0.0) is None:
        return NOT_ATTACKED
    ssim = audit[f"{name}_ssim"]
    return "–" if ssim is None else f"{ssim:.3f}"


def _split(name: str) -> tuple[str, str]:
    """``known_plaintext_10`` as attack and variant; a name that is no attack's is all attack."""
    attacks = (each for each in ATTACKS if name == each or name.startswith(f"{each}_"))
    attack = max(attacks, key=len, default=name)
    return attack, name.removeprefix(attack).removeprefix("_")


def title(name: str) -> str:
    """``known_plaintext_10`` as people read it: known plaintext, 10 pairs."""
    attack, variant = _split(name)
    words = attack.replace("_", " ")
    if not variant:
        return words
    number = variant.removesuffix(f"_{ALL_VIEWS}")
    if number.isdigit():
        what = ATTACKS[attack].counts or "image"
        return f"{words}, {number} {what}" + ("" if number == "1" else "s") + (", all views" * (number != variant))
    return f"{words}, {ATTACKS[attack].variants.get(variant, variant.replace('_', ' '))}"
