"""What this study shows beside the usual table: training by epoch."""

from __future__ import annotations

from statistics import mean

import matplotlib.figure
from paper import rows_of
from study import Study
from table import Results, svg


def plots(study: Study, size: str, results: Results) -> dict[str, tuple[str, bytes]]:
    """Loss and accuracy by epoch, a line a kind of images: mean over the seeds, all seeds thin.

    Of the test images where they were tracked, as in Fig. 6, else of the training images.
    """
    rows, plot = rows_of(study, size, results), study.about["plot"]
    tracked = all("test_loss_by_epoch" in run for images in plot["images"] for run in rows[images, plot["method"]])
    split, of = ("test", "test") if tracked else ("train", "training")
    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    styles = {"plain": ("C0", "-"), "block_adapted": ("C1", "--")}
    for axes, name, label in zip(panels, ("loss", "accuracy_percent"), ("loss", "accuracy, percent"), strict=True):
        for images in plot["images"]:
            runs = [run[f"{split}_{name}_by_epoch"] for run in rows[images, plot["method"]]]
            epochs = range(1, len(runs[0]) + 1)
            colour, line = styles.get(images, ("C3", "-"))
            for run in runs:
                axes.plot(epochs, run, line, color=colour, linewidth=0.5, alpha=0.5)
            average = [mean(values) for values in zip(*runs, strict=True)]
            axes.plot(epochs, average, line, color=colour, marker="o", label=images)
        axes.set(xlabel="epoch", ylabel=f"{of} {label}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    panels[0].legend()
    return {"curves": (plot["title"], svg(figure))}
