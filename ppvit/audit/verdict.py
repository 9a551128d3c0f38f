"""One plain sentence an attack, and the overall verdict: that of the strongest attack.

An attack is judged by what it shows of unseen images as well as by the key, for either may be little where the other
is all: grey images never tell the colour copies of a pixel apart, yet without that part of the key they are readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ppvit.audit.amount import ALL_VIEWS

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
        identified_percent, chance_percent: share of the images that were picked out of candidates, and by luck.
        says: the sentence, where the attack has one of its own.
        fixed_strength: the strength, where the attack has one of its own.
        free: what nothing tells the attacker; the scores are the best over it.
        variant: as of :class:`ppvit.audit.view.Finding`.
    """

    attack: str
    needs: str
    key_recovered_percent: float | None
    guess_key_percent: float
    ssim: float
    baseline_ssim: float
    identified_percent: float | None = None
    chance_percent: float = 0.0
    says: str = ""
    fixed_strength: float | None = None
    free: str = ""
    variant: str = ""

    @property
    def strength(self) -> float:
        """0 .. 1: how far key or images, whichever are further, are from the baseline (0) to all (1)."""
        if self.fixed_strength is not None:
            return self.fixed_strength
        if self.says:
            return 0.0
        if self.identified_percent is not None:  # worse than nothing, and better than reading the image
            return READABLE * _gained(self.identified_percent / 100, self.chance_percent / 100)
        seen = _gained(self.ssim, self.baseline_ssim)
        return max(seen, _gained((self.key_recovered_percent or 0.0) / 100, self.guess_key_percent / 100))

    @property
    def readable(self) -> bool:
        """Whether people see what the images show."""
        return self.identified_percent is None and self.strength >= READABLE


def _gained(value: float, baseline: float) -> float:
    return min(1.0, max(0.0, value - baseline) / max(1e-3, 1 - baseline))


def sentence(scored: Scored, keyed: bool) -> str:
    """What an attack showed, for readers who are no specialists."""
    if not keyed:
        return "The images are not encrypted: whoever holds them sees them."
    if scored.says:
        return scored.says
    how = f"with {scored.needs}"
    if scored.identified_percent is not None:
        return _identification(scored, how)
    key = scored.key_recovered_percent
    share = "" if key is None else f" and {_percent(key)} of the key found"
    free = f", {scored.free} aside" if scored.free else ""
    how += f" (SSIM {scored.ssim:.2f}{share}{free})"
    baseline = f"; without the attack SSIM is {scored.baseline_ssim:.2f}"
    if scored.readable:
        spared = key is not None and key < 99 and scored.ssim > 0.99
        rest = "; the rest of the key changes nothing that these images show" if spared else ""
        return f"Broken: unseen images can be read {how}{rest}."
    if scored.strength >= NOTICEABLE:
        return f"Leaks: unseen images can partly be recovered {how}{baseline}."
    return f"Nothing found beyond a guess {how}{baseline}."


def _identification(scored: Scored, how: str) -> str:
    told = f"in {scored.identified_percent:.0f} % of the cases {how} (by luck {scored.chance_percent:.0f} %)"
    if scored.strength >= NOTICEABLE * READABLE:
        return f"Leaks: which plain image a ciphertext shows is told {told}."
    return f"Nothing found beyond luck: which plain image a ciphertext shows is told {told}."


def views_raise(found: Mapping[str, list[Scored]], views: int) -> tuple[dict[str, float], str]:
    """How much more attacks find in all views of some training images than in the first of each.

    Args:
        found: findings by attack.
        views: of each image.

    Returns:
        Strength in the first views alone, in percent, by attack, of those that tried both; and a sentence, which has
        the number of images at which an attack gains most.
    """
    first, raised = {}, []
    for attack, findings in found.items():
        percent = {scored.variant: round(100 * scored.strength, 1) for scored in findings}
        both = {name: name.removesuffix(f"_{ALL_VIEWS}") for name in percent if name.endswith(ALL_VIEWS)}
        if not both:
            continue
        first[attack] = max(percent[name] for name in both.values())
        most = max(both, key=lambda name: percent[name] - percent[both[name]])
        if percent[most] > (before := percent[both[most]]):
            images = "1 image" if both[most] == "1" else f"{both[most]} images"
            raised.append(f"{attack} finds of {images} from {before:g} to {percent[most]:g} %")
    told = f"Training images have {views} views, which raise what {' and what '.join(raised)}."
    return first, told if raised else f"Training images have {views} views, in which no attack here finds more."


def strongest(findings: list[Scored]) -> Scored:
    """The finding that recovered most; of equal ones the first."""
    return max(findings, key=lambda scored: round(scored.strength, 2))


def overall(
    findings: list[Scored],
    keyed: bool,
    missing: Sequence[str] = (),
    published: Mapping[str, tuple[float, str]] | None = None,
) -> str:
    """The verdict on a run: that of the strongest finding, and what a low figure does not prove.

    Args:
        findings: of all attacks that could be made.
        keyed: whether there is a key.
        missing: attacks that could not be made on this cipher.
        published: as of :class:`ppvit.ciphers.Cipher`.
    """
    if findings and not keyed:
        return sentence(findings[0], keyed)
    best = strongest(findings) if findings else None
    if best and best.strength >= NOTICEABLE:
        parts = [sentence(best, keyed), f"Strongest attack: {best.attack}."]
    elif best:
        best = next((scored for scored in findings if not scored.says), best)
        parts = [sentence(best, keyed), "This is the best of the attacks that were run, and no proof of security."]
    else:
        parts = []
    if missing and not (best and best.readable):
        parts.append(f"Not attacked, which is no evidence of safety: {', '.join(missing)}.")
    parts += [f"Published: {name}, {percent:g} % ({by})." for name, (percent, by) in (published or {}).items()]
    return " ".join(parts)


def _percent(value: float) -> str:
    # 99.96 is not the whole key
    return "all" if value == 100 else f"{min(value, 99.9):.1f} %"
