"""Train the embedded micro ViT on rendered letters and digits; 10 to 15 minutes on two cores."""

from __future__ import annotations

from ppvit.config import Config
from ppvit.places import Places
from ppvit.training.pretraining import save, train


def run(config: Config, places: Places) -> None:
    """Write the weights that come with ppvit again, float16 to halve their size.

    Args:
        config: ``pretrain`` is used.
        places: ``embedded`` is written.

    Raises:
        PpvitError: the loss is no finite number.
    """
    model, measured = train(config.pretrain)
    save(model, places.embedded)
    print(f"pretrain: {measured['train_accuracy_percent']} % of the last glyphs named, see {places.embedded}")
