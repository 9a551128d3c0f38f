"""Kills stages at random moments and at every change of a file, and looks whether a rerun puts everything right.

    python tests/harness/kill.py --cases 100
    python tests/harness/kill.py --cases 20 --stage finetune --seed 7
    python tests/harness/kill.py --cases 12 --stage dvc        # all of `dvc repro`
    python tests/harness/kill.py --every --stage encrypt       # at each of its changes of files, by each signal

A case runs a stage in a small project that is finished, with that stage's outputs there or removed as DVC does; ends it
by SIGKILL, SIGTERM or Ctrl-C; and runs it again. It is good if after the end each output was the old one, whole, or
absent; SIGTERM and Ctrl-C gave one line and the right exit code and left no temporary file; and after the rerun all
outputs have the bytes of an undisturbed run, and no process, lock, temporary or scratch file is left.

One case of thirteen, unless stages are named, is of `dvc repro`: in a copy of this repository whose pipeline has run,
some stages have neither outputs nor a place in DVC's cache; `dvc repro` is ended at a random moment, by a signal to DVC
alone or by Ctrl-C to all that it has started; and run again. It is good if no process was left and the stage that ran
said one line; and after the rerun all outputs and dvc.lock have the bytes of an undisturbed run, nothing is left as
above, and `dvc status` finds nothing to do. What DVC prints itself is not looked at.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent)]

import kill_dvc
from kill_dvc import Repository
from kill_world import ORDER, World
from warm_python import python

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_RERUN = 3  # stages that a `dvc repro` has to run, of thirteen: enough to be between two, and half a minute a case

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell that has started this in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def case(world: World, stage: str, by: signal.Signals, removed: bool, **when: str) -> list[str]:
    """Kill a stage once, run it again; returns what was wrong."""
    wrong: list[str] = []
    if removed:
        world.remove_outputs(stage)
    started_with = world.snapshot()
    ended = world.run(stage, KILL_BY=str(int(by)), **when)
    if left := world.wait_for_no_process():
        wrong.append(f"processes left after the end: {left}")
    killed = ended.code == 128 + by or (by == signal.SIGKILL and "a party was killed by signal 9" in ended.errors)
    if not killed and ended.code:
        wrong.append(f"exit code {ended.code}: {ended.errors[-500:]}")
    lines = [line for line in ended.errors.splitlines() if not line.startswith(("warning: the public demo key", "he"))]
    if killed and by != signal.SIGKILL:
        if len([line for line in lines if "stopped by" in line]) != 1 or "Traceback" in ended.errors:
            wrong.append(f"not one line: {ended.errors[-800:]}")
        wrong += [f"left after the end: {name}" for name in world.left(world.project, world.scratch)]
        wrong += [f"left after the end: {path}" for path in world.temporaries()]
    wrong += _half_written(world, stage, started_with) if killed else []
    again = world.run(stage)
    if again.code:
        wrong.append(f"the rerun ended with {again.code}: {again.errors[-500:]}")
    if left := world.wait_for_no_process():
        wrong.append(f"processes left after the rerun: {left}")
    wrong += world.different()
    return wrong


def _half_written(world: World, stage: str, before: dict[str, str]) -> list[str]:
    """Outputs that are neither as they were, nor whole, nor absent; those that were there must be there still."""
    now, wrong = world.snapshot(), []
    for output in world.outputs(stage):
        if output.endswith("/live"):  # grows while training goes on, on purpose
            continue

        def part(files: dict[str, str], output: str = output) -> dict[str, str]:
            return {name: value for name, value in files.items() if name == output or name.startswith(output + "/")}

        if part(now) not in (part(before), part(world.whole)):
            wrong.append(f"half-written: {output}: {sorted(part(now))}")
    return wrong


def moments(world: World, stage: str, random_: random.Random) -> dict[str, str]:
    """A random moment of a stage: before one of its changes of files, or after some time."""
    if random_.random() < 0.6:
        return {"KILL_AT": str(random_.randint(1, world.changes[stage]))}
    return {"KILL_AFTER": f"{random_.random() * world.seconds[stage]:.3f}"}


Tried = tuple[str, Callable[[], list[str]]]  # what it is, for people; does it and returns what was wrong


def case_of(world: World, stage: str, by: signal.Signals, removed: bool, when: dict[str, str]) -> Tried:
    told = f"{stage}, {by.name}, {'removed' if removed else 'kept'}, {when}"
    return told, partial(case, world, stage, by, removed, **when)


def every_case(world: World, stages: list[str]) -> list[Tried]:
    """At each change of a file, by each signal, with the outputs there or removed."""
    return [
        case_of(world, stage, by, removed, {"KILL_AT": str(at)})
        for stage in stages
        for at in range(1, world.changes[stage] + 1)
        for by in SIGNALS
        for removed in (False, True)
    ]


def random_case(world: World, stage: str, draw: random.Random) -> Tried:
    return case_of(world, stage, draw.choice(SIGNALS), draw.random() < 0.5, moments(world, stage, draw))


def random_case_of_dvc(repository: Repository, number: int, draw: random.Random) -> Tried:
    """Some stages to run, each signal in turn, and a moment until when these are about to end."""
    stages = draw.sample(sorted(repository.seconds), _RERUN)
    after = draw.random() * (repository.start_seconds + sum(map(repository.seconds.__getitem__, stages)))
    by = SIGNALS[number % len(SIGNALS)]
    told = f"dvc repro of {', '.join(stages)}, {by.name}, after {after:.2f} s"
    return told, partial(kill_dvc.case, repository, stages, by, after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument(
        "--stage", choices=[*ORDER, "dvc"], action="append", help="this stage only; may be given several times"
    )
    parser.add_argument("--every", action="store_true", help="at every change of a file instead of at random moments")
    parser.add_argument(
        "--cold", action="store_true", help="start Python anew for each run, so that imports are killed"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chosen, draw, bad, started = given.stage or [*ORDER, "dvc"], random.Random(given.seed), 0, time.monotonic()
    stages = [stage for stage in chosen if stage != "dvc"]
    with tempfile.TemporaryDirectory(prefix="ppvit-kill-") as folder:
        world = World(Path(folder) / "world", stages, sys.executable if given.cold or not stages else python())
        print(f"changes of files: {world.changes}", flush=True)
        if given.every:
            cases = every_case(world, stages)
        else:
            turns = [chosen[number % len(chosen)] for number in range(given.cases)]
            cases = [random_case(world, stage, draw) for stage in turns if stage != "dvc"]
            if of_dvc := turns.count("dvc"):
                repository = Repository(Path(folder) / "repository")
                cases += [random_case_of_dvc(repository, number, draw) for number in range(of_dvc)]
        for told, try_it in cases:
            if wrong := try_it():
                bad += 1
                print(f"{told}:", *wrong, sep="\n    ", flush=True)
    print(f"{len(cases)} cases, {bad} bad, {time.monotonic() - started:.0f} s")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
