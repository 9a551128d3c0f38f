"""Trainer: Nesterov's accelerated gradient on encrypted features, labels and weights. Holds no secret key."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from ppvit.files import atomic_output, write_json
from ppvit.he.ckks import Session
from ppvit.he.folders import load_plan, read_manifest, weights_name, write_manifest
from ppvit.he.forks import Forks, process_count
from ppvit.he.gradient import Worker
from ppvit.he.parameters import Plan, require_memory
from ppvit.he.refresh import ask_owner
from ppvit.he.twin import momentum
from ppvit.results import Stopwatch, environment, peak_memory_bytes

Weights = list[Any]  # one ciphertext a block


def run(folder: Path, data: Path | None = None) -> None:
    """Train on what the owner sent and write encrypted weights to ``weights`` beside it.

    Args:
        folder: the trainer's: ``plan.json``, ``keys``, ``data``.
        data: encrypted features and labels, where they lie elsewhere.

    Raises:
        PpvitError: a file is missing, altered or of another key; too little memory; in refresh mode, no answer.
    """
    watch = Stopwatch()
    plan, fingerprint = load_plan(folder)
    require_memory(plan, psutil.virtual_memory().available)
    data = data or folder / "data"
    for place, made_by in ((folder / "keys", "keys"), (data, "encrypt")):
        read_manifest(place, made_by, fingerprint)
    session = load_session(folder, plan)
    renew = (lambda state: ask_owner(folder, session, fingerprint, state)) if plan.mode == "refresh" else None
    with tqdm(total=plan.key_switches(), desc="train", unit="key switch", disable=None, file=sys.stderr) as bar:
        weights, switches = train(session, plan, data, bar, renew)
    with atomic_output(folder / "weights", directory=True) as out:
        for block, ciphertext in enumerate(weights):
            session.save(ciphertext, out / weights_name(block))
        measured = {
            "train_seconds": round(watch.seconds(), 3),
            "key_switches": switches,
            "memory_bytes": _memory_bytes(process_count(len(plan.batch_groups(0)))),
            **environment(),
        }
        write_json(out / "training.json", measured)
        write_manifest(out, fingerprint)


def _memory_bytes(processes: int) -> int:
    """Peak memory of this process and its workers, what they share counted in each."""
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # KiB on Linux, where alone there are any
    return peak_memory_bytes() + (processes * largest if processes > 1 else 0)


def load_session(folder: Path, plan: Plan) -> Session:
    """The arithmetic with the owner's evaluation keys."""
    session = Session(plan.parameters)
    session.relinearisation = session.load("RelinKeys", folder / "keys" / "relinearisation.key")
    session.rotation = session.load("GaloisKeys", folder / "keys" / "rotation.key")
    return session


def train(
    session: Session, plan: Plan, data: Path, bar: Any, renew: Callable[[list[Weights]], list[Weights]] | None = None
) -> tuple[Weights, int]:
    """Run all iterations.

    Args:
        session: with evaluation keys.
        plan: the layout and the settings.
        data: folder of encrypted features and labels.
        bar: progress in key switches.
        renew: gives weights at the lowest level back at the top; None where the chain holds all iterations.

    Returns:
        Encrypted weights, one ciphertext a block, and the number of key switches.
    """
    processes = process_count(len(plan.batch_groups(0)))
    weights: Weights | None = None
    ahead: Weights | None = None
    switches = 0
    with Forks(lambda number: Worker(session, plan, data, number, processes), processes) as forks:

        def ask(messages: list[tuple[str, Any]]) -> list[list[bytes]]:
            nonlocal switches
            answers = forks.ask(messages)
            switches += sum(count for _, count in answers)
            bar.update(sum(count for _, count in answers))
            return [ciphertexts for ciphertexts, _ in answers]

        for iteration in range(plan.iterations):
            level = session.level(ahead[0]) if ahead else session.parameters.top_level
            bar.set_postfix_str(f"iteration {iteration + 1}/{plan.iterations}, depth left {level}")
            if renew and weights and ahead:
                weights, ahead = renew([weights, ahead])
            sent = ahead and [session.to_bytes(each) for each in ahead]
            parts = [part for part in ask([("gradient", (iteration, sent))] * processes) if part]
            blocks = [[part[block] for part in parts] for block in range(plan.blocks)]
            shares = ask([("finish", blocks[number::processes]) for number in range(processes)])
            gradient = [b""] * plan.blocks
            for number, share in enumerate(shares):
                gradient[number::processes] = share
            loaded = [session.from_bytes("Ciphertext", each) for each in gradient]
            weights, ahead = step(session, plan, iteration, loaded, weights, ahead)
    return weights, switches


def step(
    session: Session, plan: Plan, iteration: int, gradient: Weights, weights: Weights | None, ahead: Weights | None
) -> tuple[Weights, Weights]:
    """W' = (1 - lr l2) V + (lr/n) G and V' = W' + beta (W' - W), at the level of the gradient.

    The factor of G costs nothing: the same integers are read at another scale. Those of V and W use levels that these
    have to spare, being four above the gradient.

    Returns:
        W' and V'.
    """
    beta, decay = momentum(iteration), 1 - plan.learning_rate * plan.l2
    scale = gradient[0].scale * len(plan.batch_images(iteration)) / plan.learning_rate
    if weights is None or ahead is None:
        stepped = [session.read_at(each, scale) for each in gradient]
        return stepped, [session.read_at(each, scale / (1 + beta)) for each in gradient]
    level = session.level(gradient[0])
    stepped, next_ahead = [], []
    for g, w, v in zip(gradient, weights, ahead, strict=True):
        stepped.append(session.add(session.read_at(g, scale), scaled(session, v, decay, level, scale)))
        scale_ahead = scale / (1 + beta)
        both = session.add(
            scaled(session, v, (1 + beta) * decay, level, scale_ahead),
            scaled(session, w, -beta, level, scale_ahead),
        )
        next_ahead.append(session.add(session.read_at(g, scale_ahead), both))
    return stepped, next_ahead


def scaled(session: Session, ciphertext: Any, factor: float, level: int, scale: float) -> Any:
    """A ciphertext times a known factor, brought exactly to a lower level and another scale."""
    prime = session.primes[session.level(ciphertext)]
    product = session.rescale(session.multiply_plain(ciphertext, factor, scale * prime / ciphertext.scale))
    return session.as_scale(session.drop(product, level), scale)
