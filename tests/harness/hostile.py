"""Hostile and damaged files, thousands of them: each is read by the command as the other party would, and judged.

    python tests/harness/hostile.py --cases 10000 [--only manifest] [--seed 1] [--jobs 2]

A case is a part of a small finished run (:mod:`world`) in which one or two files were damaged (:mod:`mutations`). It
holds if the command ends in one line and exit code 1 or 2, or in the result of untouched files, or in one that carries
another identity; within 10 s of processor time and 2 GiB, with nothing executed, nothing from the network and nothing
written elsewhere (:mod:`arena`). Exit code 1 where a case does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import re
import shutil
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
os.environ.update(OMP_NUM_THREADS="1", PPVIT_WORKERS="0", HF_HUB_OFFLINE="0", DVC_NO_ANALYTICS="1")

import arena
import mutations
import world
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

IMPORTED = (
    "encrypt",
    "adapt",
    "finetune",
    "evaluate",
    "robustness",
    "verify",
    "threats",
    "audit",
    "predict",
    "report",
    "he",
    "rekey",
    "show",
    "download",
    "keys",
)


class Base:
    """The untouched world, and what every verb makes of it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "world"
        self._cases = root / "cases"
        self.root.mkdir()
        self._cases.mkdir()
        world.build(self.root)
        self.files = {
            name: sorted({path for glob in each.files for path in self.root.glob(glob) if path.is_file()})
            for name, each in world.ARTEFACTS.items()
        }
        self._usual: dict[str, tuple[arena.Ending, Any]] = {}

    def usual(self, artefact: str, verb: str) -> tuple[arena.Ending, Any]:
        """Ending and outcome of a verb on untouched files."""
        if verb not in self._usual:
            self._usual[verb] = self.run(artefact, verb, {}, {})
            ending = self._usual[verb][0]
            if bool(ending.code) != world.VERBS[verb].refused or ending.traceback:
                raise RuntimeError(f"{verb} fails on untouched files: {ending}")
            arena.warm(ending)
        return self._usual[verb]

    def run(
        self,
        artefact: str,
        verb: str,
        damaged: dict[Path, mutations.Damage],
        extra: dict[str, bytes],
        resign: bool = False,
    ) -> tuple[arena.Ending, Any]:
        """Run a verb on a copy of what it needs in which some files are damaged."""
        with tempfile.TemporaryDirectory(dir=self._cases) as name:
            folder = Path(name)
            world.copy(self.root, folder, world.ARTEFACTS[artefact].needs)
            for path, damage in damaged.items():
                _put(folder / path.relative_to(self.root), damage)
            for other, data in extra.items():
                (folder / other).write_bytes(data)
            if resign:
                _resign(folder, {path: each for path, each in damaged.items() if each.data is not None})
            before = world.VERBS[verb].outcome(folder)
            ending = arena.run(list(world.VERBS[verb].arguments), folder)
            outcome = world.VERBS[verb].outcome(folder) if not ending.traceback else None
            if world.VERBS[verb].printed and not ending.code:
                outcome = ending.out
            if (
                ending.code in (1, 2)
                and not world.VERBS[verb].printed
                and outcome != before
                and not _among(damaged, verb)
            ):
                outcome = "changed by a command that failed"
            return ending, outcome


def _among(damaged: dict[Path, mutations.Damage], verb: str) -> bool:
    """Whether the verb writes what was damaged."""
    place = {"encrypt": "data/encrypted", "adapt": "models/adapted", "finetune": "models/finetuned"}.get(
        verb, "results"
    )
    return any(place in path.as_posix() for path in damaged)


def _put(path: Path, damage: mutations.Damage) -> None:
    path.unlink()
    if damage.data is not None:
        path.write_bytes(damage.data)
        path.chmod(0o600)
    elif damage.kind == "folder":
        path.mkdir()
    elif damage.kind == "pipe":
        os.mkfifo(path)
    elif damage.kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif damage.kind == "sparse":
        with path.open("wb") as file:
            file.truncate(3 * 2**30)
    elif damage.kind == "loop":
        path.symlink_to(path.name)
    elif damage.kind != "missing":
        path.symlink_to(damage.kind)


def _resign(folder: Path, damaged: dict[Path, mutations.Damage]) -> None:
    """Put the hashes of the damaged files wherever those of the sound ones stand, as whoever wrote both can."""
    for path, damage in damaged.items():
        old, new = (hashlib.sha256(data).hexdigest() for data in (path.read_bytes(), damage.data or b""))
        for other in folder.rglob("*.json"):
            if (
                other.is_file()
                and other.stat().st_size < 2**20
                and old in (text := other.read_text("utf-8", "surrogateescape"))
            ):
                other.unlink()
                other.write_text(text.replace(old, new), "utf-8", "surrogateescape")


def judged(base: Base, artefact: str, verb: str, ending: arena.Ending, outcome: Any, resign: bool) -> list[str]:
    """What breaks the promise in a case."""
    usual, expected = base.usual(artefact, verb)
    found = ending.faults(() if usual.code else tuple(usual.err.splitlines()))
    if outcome == "changed by a command that failed":
        return [*found, outcome]
    if verb == "report" and not ending.code:
        for number in re.findall(r"(-?[\d.]+|nan|inf) %", ending.out):
            if not 0 <= float(number) <= 100:  # NaN is not either
                found.append(f"a headline of {number} %")
    another = outcome != expected and not world.ARTEFACTS[artefact].own and not _named_otherwise(outcome, expected)
    # gives another model, rightly
    trained_on_others = verb in ("finetune", "rekey") and (resign or artefact != "shards")
    # what a dishonest trainer of CKKS hands over is measured, and told by its distance from the owner's own training
    warned = verb == "he decrypt" and resign and "warning: max_weight_error" in ending.err
    if ending.code == 0 and another and not trained_on_others and not warned:
        found.append(f"another result under the same name: {_difference(outcome, expected)}")
    return found


def _named_otherwise(outcome: Any, expected: Any) -> bool:
    """Whether a result carries another identity, so that nobody takes it for the usual one."""
    if not isinstance(outcome, dict) or not isinstance(expected, dict):
        return False
    names = {name for name in outcome.keys() | expected.keys() if name.endswith(("_id", "_sha256"))}
    return any(outcome.get(name) != expected.get(name) for name in names)


def _difference(outcome: Any, expected: Any) -> str:
    if not isinstance(outcome, dict) or not isinstance(expected, dict):
        return f"{str(outcome)[:80]!r} for {str(expected)[:80]!r}"
    names = [name for name in expected.keys() | outcome.keys() if outcome.get(name) != expected.get(name)]
    return ", ".join(
        f"{name} {str(outcome.get(name))[:20]} for {str(expected.get(name))[:20]}" for name in sorted(names)[:4]
    )


@st.composite
def cases(
    draw: Any, base: Base, only: list[str]
) -> tuple[str, str, dict[Path, mutations.Damage], dict[str, bytes], bool]:
    """An artefact, who reads it, its damaged files, files put beside it, and whether hashes are made to fit."""
    artefact, verb = draw(st.sampled_from([(name, verb) for name in only for verb in world.ARTEFACTS[name].turns()]))
    kind, files = world.ARTEFACTS[artefact], base.files[artefact]
    damaged: dict[Path, mutations.Damage] = {}
    for _ in range(draw(st.sampled_from((1, 1, 1, 1, 1, 1, 2)))):
        path = draw(st.sampled_from(files))
        data = path.read_bytes()
        if draw(st.integers(0, 11)) == 0:
            other = draw(st.sampled_from([each for each in files if each != path] or [base.root / "params.yaml"]))
            damaged[path] = mutations.Damage(f"the content of {other.name}", other.read_bytes())
        else:
            damaged[path] = mutations.of_kind(path.name)(draw, data)
    extra: dict[str, bytes] = {}
    if kind.extra and draw(st.integers(0, 7)) == 0:
        name = draw(st.sampled_from(sorted(kind.extra)))
        extra[name] = kind.extra[name] if kind.extra[name] != b"@" else pickle.dumps(mutations.Payload())
    if verb not in (readers := _readers(kind, damaged)):
        verb = draw(st.sampled_from(readers))
    return artefact, verb, damaged, extra, draw(st.booleans())


def _readers(kind: world.Artefact, damaged: dict[Path, mutations.Damage]) -> list[str]:
    """The verbs that read a damaged file, where each reads files of its own."""
    own = {"own.npz": "download npz", "wds": "download tar", "own.zip": "download zip", "own": "download folder"}
    verbs = [verb for path in damaged for part in path.parts[-3:] if (verb := own.get(part)) in kind.verbs]
    return verbs or list(kind.verbs)


def told(
    root: Path, artefact: str, verb: str, damaged: dict[Path, mutations.Damage], extra: dict[str, bytes], resign: bool
) -> str:
    """A case in a line."""
    what = "; ".join(f"{path.relative_to(root)}: {damage.told}" for path, damage in damaged.items())
    more = "".join(f"; {name} added" for name in extra) + ("; hashes made to fit" if resign else "")
    return f"[{artefact}] {what}{more} -> ppvit {' '.join(world.VERBS[verb].arguments)}".encode(
        "ascii", "backslashreplace"
    ).decode()


@dataclass
class Tally:
    """What came of some cases.

    Attributes:
        findings: what went wrong, each kind once: how often, and the shortest case.
        codes: how often each exit code, by artefact.
        seconds: of processor time, the most that one took, by artefact.
        slowest: the same over all, and which case it was.
    """

    findings: dict[str, tuple[int, str]] = field(default_factory=dict)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")

    def add(self, other: Tally) -> None:
        for kind, (times, line) in other.findings.items():
            before = self.findings.get(kind, (0, line))
            self.findings[kind] = (before[0] + times, min(before[1], line, key=len))
        self.codes += other.codes
        self.seconds |= other.seconds
        self.slowest = max(self.slowest, other.slowest)


def hunt(base: Base, count: int, only: list[str], number: int) -> Tally:
    """Run this many cases, which the seed ``number`` decides, and tell each new kind of finding as it is made."""
    tally = Tally()

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(base, only))
    def every(case: Any) -> None:
        artefact, verb, damaged, extra, resign = case
        base.usual(artefact, verb)
        ending, outcome = base.run(artefact, verb, damaged, extra, resign)
        line = told(base.root, artefact, verb, damaged, extra, resign)
        one = Tally(
            slowest=(ending.seconds, line),
            codes=Counter({(artefact, ending.code): 1}),
            seconds=Counter({artefact: ending.seconds}),
        )
        for fault in judged(base, artefact, verb, ending, outcome, resign):
            kind = re.sub(r"\d+|'.*?'", "*", f"{artefact}: {fault}")[:160]
            one.findings[kind] = (1, f"{fault}\n    {line}")
            if kind not in tally.findings:
                print(f"new: {fault}\n    {line}", flush=True)
        tally.add(one)

    every()
    return tally


def hunt_together(base: Base, count: int, only: list[str], number: int, jobs: int) -> Tally:
    """:func:`hunt` in several forks, each with a share of the cases and a seed of its own."""
    readers = {}
    for job in range(jobs):
        reader, writer = os.pipe()
        if not (child := os.fork()):
            code = 1
            try:
                with os.fdopen(writer, "wb") as file:
                    pickle.dump(hunt(base, -(-count // jobs), only, number * jobs + job), file)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        readers[child] = reader
    tally = Tally()
    for child, reader in readers.items():
        with os.fdopen(reader, "rb") as file:
            told = file.read()
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("a job has failed, as it said above")
        tally.add(pickle.loads(told))
    return tally


_HUGE_PAGES = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def _with_huge_pages() -> None:
    """Start again with an allocator that asks for huge pages: a fork copies their tables in a third of the time."""
    if any(os.environ.get(name) != value for name, value in _HUGE_PAGES.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_HUGE_PAGES})
    for name in _HUGE_PAGES:
        del os.environ[name]  # what is tried has the usual one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument(
        "--only", nargs="+", choices=sorted(world.ARTEFACTS), default=sorted(world.ARTEFACTS), metavar="ARTEFACT"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time")
    chosen = parser.parse_args()
    _with_huge_pages()
    _import_all()
    with tempfile.TemporaryDirectory(prefix="ppvit-hostile-", dir=_in_memory()) as folder:
        base = Base(Path(folder))
        started = time.monotonic()
        tally = hunt_together(base, chosen.cases, chosen.only, chosen.seed, chosen.jobs)
        seconds = time.monotonic() - started
    total = tally.codes.total()
    print(f"\n{total} cases in {seconds:.0f} s, {total / seconds:.1f} a second")
    for artefact in sorted(tally.seconds):
        ends = ", ".join(
            f"{times} times exit {code}" for (name, code), times in sorted(tally.codes.items()) if name == artefact
        )
        print(f"  {artefact:<24} {ends}; at most {tally.seconds[artefact]:.1f} s of processor time")
    print(f"the slowest took {tally.slowest[0]:.1f} s: {tally.slowest[1]}")
    for times, line in sorted(tally.findings.values(), reverse=True):
        print(f"\n{times} times {line}")
    print(f"\n{len(tally.findings)} kinds of findings")
    return int(bool(tally.findings))


def _in_memory() -> str | None:
    """Where a hundred small files a case are made and removed fastest; None, the usual place, without room there."""
    place = "/dev/shm"
    return place if os.path.isdir(place) and shutil.disk_usage(place).free > 4 * 2**30 else None


def _import_all() -> None:
    """Import what forks would import again and again; what they import in functions is seen when they first run."""
    import importlib

    for verb in IMPORTED:
        importlib.import_module(f"ppvit.verbs.{verb}")
    for name in (
        "ppvit.cli",
        "dvclive.live",
        "ppvit.export",
        "ppvit.tuners",
        "peft",
        "tenseal",
        "matplotlib.backends.backend_svg",
    ):
        importlib.import_module(name)
    # else each fork that may start workers starts these two, which outlive it by the time that Python takes to start
    for name in ("multiprocessing", "joblib.externals.loky.backend"):
        importlib.import_module(f"{name}.resource_tracker").ensure_running()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # triton would tell of objects that it leaks
