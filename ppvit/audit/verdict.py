"""One plain sentence an attack, and the overall verdict: that of the strongest attack.

An attack is judged by what it shows of unseen images as well as by the key, for either may be little where the other
is all: grey images never tell the colour copies of a pixel apart, yet without that part of the key they are readable.
"""

from __future__ import annotations

from dataclasses import dataclass

READABLE = 0.5  # half of the key, or of the way from what a guess shows to the plain image: faces and digits are seen
NOTICEABLE = 0.1  # below this, random keys differ as much from each other


@dataclass(frozen=True)
class Scored:
    """A finding with its score.

    Attributes:
        attack: its name.
        needs: what the attacker had to hold.
        key_recovered_percent: 0 (a guess) .. 100, or None where there is no key or the attack looks for none.
        guess_key_percent: what luck can give: the best of many random keys.
        ssim: of the recovered images.
        baseline_ssim: what is seen without the attack: with a random key or on the ciphertext, whichever is more.
        seconds: wall time of the attack.
    """

    attack: str
    needs: str
    key_recovered_percent: float | None
    guess_key_percent: float
    ssim: float
    baseline_ssim: float
    seconds: float

    @property
    def strength(self) -> float:
        """0 .. 1: how far key or images, whichever are further, are from the baseline (0) to all (1)."""
        seen = _gained(self.ssim, self.baseline_ssim)
        return max(seen, _gained((self.key_recovered_percent or 0.0) / 100, self.guess_key_percent / 100))


def _gained(value: float, baseline: float) -> float:
    return min(1.0, max(0.0, value - baseline) / max(1e-3, 1 - baseline))


def sentence(scored: Scored, keyed: bool) -> str:
    """What an attack showed, for readers who are no specialists."""
    if not keyed:
        return "The images are not encrypted: whoever holds them sees them."
    key = scored.key_recovered_percent
    share = "" if key is None else f" and {_percent(key)} of the key found"
    how = f"with {scored.needs}, in {_duration(scored.seconds)} (SSIM {scored.ssim:.2f}{share})"
    baseline = f"; without the attack SSIM is {scored.baseline_ssim:.2f}"
    if scored.strength >= READABLE:
        spared = key is not None and key < 99 and scored.ssim > 0.99
        rest = "; the rest of the key changes nothing that these images show" if spared else ""
        return f"Broken: unseen images can be read {how}{rest}."
    if scored.strength >= NOTICEABLE:
        return f"Leaks: unseen images can partly be recovered {how}{baseline}."
    return f"Nothing found beyond a guess {how}{baseline}."


def overall(findings: list[Scored], keyed: bool) -> str:
    """The verdict on a run: the strongest finding; of equal ones the first."""
    strongest = max(findings, key=lambda scored: round(scored.strength, 2))
    if not keyed:
        return sentence(strongest, keyed)
    if strongest.strength < NOTICEABLE:
        return f"{sentence(strongest, keyed)} This is the best of the attacks that were run, and no proof of security."
    return f"{sentence(strongest, keyed)} Strongest attack: {strongest.attack}."


def _percent(value: float) -> str:
    # 99.96 is not the whole key
    return "all" if value == 100 else f"{min(value, 99.9):.1f} %"


def _duration(seconds: float) -> str:
    return "less than a second" if seconds < 1 else f"{seconds:.0f} s"
