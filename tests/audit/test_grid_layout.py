"""Placing things on a grid by their distances."""

from collections import defaultdict

import numpy as np
import pytest

from ppvit.audit.solvers.grid_layout import GridLayout


@pytest.mark.parametrize(("colours", "rows", "columns"), [(1, 4, 4), (1, 3, 5), (3, 3, 3)])
def test_the_misfit_is_the_weighted_squared_error_of_what_offset_and_colours_make_expected(colours, rows, columns):
    rng = np.random.default_rng(0)
    count = colours * rows * columns
    distances = rng.random((count, count)) + 1e-6
    distances += distances.T
    np.fill_diagonal(distances, 0)
    for _ in range(3):
        site = rng.permutation(count)
        colour, row, column = np.unravel_index(site, (colours, rows, columns))
        pairs = [(one, other) for one in range(count) for other in range(count) if one != other]
        logs, weights = defaultdict(list), {}
        for one, other in pairs:
            there = (colour[one], colour[other], row[other] - row[one], column[other] - column[one])
            back = (colour[other], colour[one], -there[2], -there[3])
            logs[min(there, back)].append(np.log(distances[one, other]))
            weights[min(there, back)] = 1 / max(1, np.hypot(*there[2:]))
        error = sum(weights[kind] * np.sum((np.array(each) - np.mean(each)) ** 2) for kind, each in logs.items())
        total = sum(weights[kind] * len(each) for kind, each in logs.items())
        assert GridLayout(distances, rows, columns, colours).misfit(site) == pytest.approx(error / total, rel=1e-9)
