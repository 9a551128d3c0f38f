"""Progress: bars on a terminal, lines elsewhere, nothing for what is short."""

import io
import sys

import pytest

from ppvit.core import progress
from ppvit.core.measures import hardly_trained


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def test_off_a_terminal_a_line_every_half_minute_tells_the_time_left(clock, capsys):
    """100 images at one every 4 s: lines after 32 s, 64 s ..., the first with 92 images to go, 368 s."""
    for _ in progress.tqdm(range(100), desc="evaluate", unit="image", disable=None):
        clock.now += 4
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "evaluate: 8 %, about 6 min left"
    assert len(lines) == 400 // 32
    assert not any("\r" in line for line in lines)


def test_postfixes_and_an_unknown_total_tell_no_more_lines_than_that(clock, capsys):
    with progress.tqdm(desc="download", unit="image") as bar:
        for number in range(100):
            clock.now += 1
            bar.set_postfix(number=number)
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 3
    assert all(line.startswith("download: ") and line.endswith(" image so far") for line in lines)


def test_a_short_step_shows_nothing_and_a_long_one_its_bar(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for seconds, shown in ((0.1, False), (1.0, True)):
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        for _ in progress.tqdm(range(10), desc="audit", ncols=80):
            clock.now += seconds
        assert ("audit: 100%" in terminal.getvalue()) == shown
        assert bool(terminal.getvalue()) == shown


def test_one_of_several_processes_shows_nothing(clock, capsys):
    for _ in progress.tqdm(range(10), desc="audit", disable=True):
        clock.now += 60
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (59, "59 s"), (300, "5 min"), (7200, "2 h"), (86400 * 3, "3 days")]
)
def test_durations_are_in_words(seconds, words):
    assert progress.duration(seconds) == words


def test_very_few_steps_hardly_train():
    values = {"optimiser_steps": 6, "epochs": 3, "train_accuracy_percent": 31.0}
    assert hardly_trained(values).startswith("hardly trained: 6 steps of the optimiser; set finetune.epochs=100,")
    assert not hardly_trained({**values, "optimiser_steps": 410})
    assert not hardly_trained({**values, "train_accuracy_percent": 99.0})  # few were enough
    assert not hardly_trained({"epochs": 3})  # of an older version
