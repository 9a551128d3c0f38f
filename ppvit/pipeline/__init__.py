"""The table of stages, from which the verbs of `ppvit`, the scripts in `stages/` and the tests of `dvc.yaml` are made.

A stage is one word: a section of ``params.yaml``, a file in ``ppvit/verbs``, a verb, a stage of ``dvc.yaml``.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppvit.pipeline.reads import READS

if TYPE_CHECKING:  # the help of the command needs neither pydantic nor anything else
    from ppvit.config import Config
    from ppvit.places import Places


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: the word.
        party: who runs it: owner, trainer, or both in turn.
        does: one sentence, which is its help.
        sections: what it reads of ``params.yaml``: whole sections or single parameters. What the chosen cipher, method
            or attack does not read of these is left out, see :meth:`narrowed`.
        inputs, outputs: the places it reads and writes, by the names of :class:`ppvit.places.Places`; the first output
            is the one that ``--out`` means.
        shared: whether several processes can share its work, see :mod:`ppvit.core.sharing`.
        apart: more places that it reads or writes where it is run by hand, of which DVC knows nothing.
        instead: what a trainer can do, who has not the plain images that it reads.
    """

    name: str
    party: str
    does: str
    sections: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shared: bool = False
    apart: tuple[str, ...] = ()
    instead: str = ""

    def narrowed(self, config: Config) -> Config:
        """The parameters that decide the stage's result.

        Returns:
            A configuration that has the sections of this stage only. Parameters that are not read are at their
            defaults, whatever ``config`` says, and not in ``model_fields_set``.
        """
        from ppvit.config import Config

        asked: dict[str, set[str]] = {}
        for entry in self.sections:
            section, _, name = entry.partition(".")
            asked.setdefault(section, set()).update([name] if name else type(getattr(config, section)).model_fields)
        sections = {}
        for section, names in asked.items():
            reads = READS.get(f"{self.name}.{section}") or READS.get(section)
            sections[section] = getattr(config, section).narrowed(names & reads(config) if reads else names)
        return Config.model_construct(set(sections), **sections)

    def run(self, config: Config, places: Places) -> None:
        """Run it on the values that it reads, and no others."""
        from ppvit.core.process import without_collecting

        if self.name == "finetune":
            from ppvit.config.recipes import told
            from ppvit.core.errors import say
            from ppvit.core.git import require_commit

            require_commit()  # before what takes seconds to load
            if os.environ.get("RANK", "0") == "0" and (line := told(config)):
                say(line)
        with without_collecting():
            verb = importlib.import_module(f"ppvit.verbs.{self.name}")
        read = self.narrowed(config)
        verb.run(read, places)
        result = places.result(self.name)
        if "results" in self.outputs and os.environ.get("RANK", "0") == "0" and result.exists():
            from ppvit.core.results import write_parameters

            write_parameters(result, read.model_dump(mode="json", exclude_unset=True))

    def run_as_asked(self, config: Config, places: Places) -> None:
        """The same as a command of its own: in as many processes as ``$PPVIT_PROCESSES`` says, where it is shared.

        Raises:
            UsageError: it was started in several processes and is not shared; see also :mod:`ppvit.core.sharing`; at
                the owner, values do not go with the cipher.
        """
        from ppvit.config.fitting import require_encryptable
        from ppvit.core.launching import launch
        from ppvit.core.process import command
        from ppvit.core.sharing import join, leave, require_alone, require_as_asked

        if self.party != "trainer":  # who has no cipher; the shards say what of it counts
            require_encryptable(config)
        self._require_plain_images(places)
        if not self.shared:
            require_alone(self.name)
        elif launch(command()):
            return
        else:
            require_as_asked(join()[1])
        self.run(config, places)
        leave()

    def _require_plain_images(self, places: Places) -> None:
        """Tell a trainer, who has been sent to the owner's check, what there is for him."""
        from ppvit.core.errors import PpvitError

        if self.instead and not places.raw.exists():
            raise PpvitError(
                f"{places.raw} is missing: `{self.name}` needs the plain images, which the owner alone has. Owner: run "
                f"dvc repro download. Trainer: {self.instead}"
            )


_IMAGES = (
    *("dataset.name", "dataset.image_size", "dataset.train_fraction", "dataset.test_fraction", "dataset.frames"),
    *("dataset.first_images", "dataset.val_fraction", "dataset.seed"),
)
_TESTED = ("dataset.name", "dataset.image_size", "dataset.test_fraction", "dataset.frames", "dataset.seed")
_VIEWS = ("encrypt.views", "encrypt.view_recipe", "encrypt.view_key_id")
_PREPARE = ("encrypt.resize_filter", "encrypt.crop", "encrypt.value_range", "encrypt.window")
_DOWNLOADED = ("dataset.own_val", "dataset.frames", "dataset.bad_images", "dataset.duplicates")
# what only some data sets read: ppvit.datasets.CHOICES, whose import the help of the command does not need
_CHOICES = tuple(
    f"dataset.{name}" for name in ("source_size", "slices", "slice_axis", "subset", "image_column", "label_column")
)
_BACKBONE = ("model.name", "model.checkpoint", "model.pretrained", "model.mean", "model.std", "model.shake_drop")
_EVERYTHING: tuple[str, ...] = (
    *("dataset", "cipher", "model", "pretrain", "download", "encrypt", "adapt", "finetune", "augment", "adversarial"),
    *("evaluate", "robustness", "verify", "audit", "threats", "he", "report"),
)
_ADVERSARY = tuple(
    f"robustness.{name}" for name in ("attack", "norm", "epsilon", "step_size", "steps", "epsilons", "seed")
)
# how long training took, which is what `auto` may take at most
_TRAINING = ("finetune.method", "finetune.epochs", "finetune.adversarial", "adversarial.steps")
_TRAINED = ("encrypted", "adapted", "finetuned")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "pretrain",
            "owner",
            "Train the embedded micro-ViT on glyphs (12 minutes on two cores), or the adapted model without labels.",
            ("pretrain", *(f"adversarial.{name}" for name in ("norm", "epsilon", "steps", "step_size"))),
            (),
            ("embedded",),
            apart=("encrypted", "adapted", "pretrained", "results"),
        ),
        Stage(
            "download",
            "owner",
            "Fetch a data set, or take your own, as plain shards.",
            ("dataset.name", "dataset.path", *_DOWNLOADED, "dataset.seed", *_CHOICES, "download"),
            (),
            ("raw",),
        ),
        Stage(
            "encrypt",
            "owner",
            "Encrypt the plain images into keyed shards.",
            (*_IMAGES, "cipher", "encrypt"),
            ("raw",),
            ("encrypted",),
        ),
        Stage(
            "adapt",
            "owner",
            "Adapt pretrained weights to the key, exactly.",
            ("dataset.name", "dataset.image_size", "cipher", "dataset.frames", *_PREPARE, "model", "adapt"),
            ("raw", "embedded"),
            ("adapted", "results"),
        ),
        Stage(
            "finetune",
            "trainer",
            "Fine-tune on encrypted shards; needs no key.",
            ("finetune", "augment", "adversarial"),
            ("encrypted", "adapted"),
            ("finetuned", "live", "results"),
            shared=True,
        ),
        Stage(
            "evaluate",
            "trainer",
            "Measure the fine-tuned model on encrypted test shards; needs no key.",
            ("evaluate",),
            _TRAINED,
            ("plots", "results"),
            shared=True,
        ),
        Stage(
            "robustness",
            "trainer",
            "Attack the fine-tuned model with adversarial images, on encrypted test shards; needs no key.",
            ("robustness",),
            _TRAINED,
            ("curves", "results"),
            shared=True,
        ),
        Stage(
            "verify",
            "owner",
            "Check the model that came back against images encrypted here, plain images and wrong keys.",
            (*_TESTED, "cipher", *_PREPARE, "verify"),
            ("raw", "adapted", "finetuned"),
            ("results",),
            instead="`ppvit evaluate` measures on the encrypted test images, and the owner verifies what you send",
        ),
        Stage(
            "audit",
            "owner",
            "Attack the privacy of what the trainer sees, and measure what leaks.",
            (*_IMAGES, "cipher", *_PREPARE, *_VIEWS, *_BACKBONE, "audit", *_TRAINING),
            ("raw", "embedded", *_TRAINED),
            ("pictures", "results"),
            instead="nothing is to be done; it plays your part, for the owner to know what leaks",
        ),
        Stage(
            "threats",
            "owner",
            "Measure robustness to adversarial images made with the key, the weights, other models or nothing.",
            (*_IMAGES, "cipher", *_PREPARE, "model", "adapt", *_ADVERSARY, "threats", *_TRAINING),
            ("raw", "embedded", "adapted", "finetuned"),
            ("results",),
            instead="`ppvit robustness` attacks the model without plain images",
        ),
        Stage(
            "he",
            "both",
            "Train a linear head on CKKS ciphertexts: all parties, or one of them by its own verb.",
            (*_IMAGES, *_PREPARE, *_BACKBONE, "he"),
            ("raw", "embedded"),
            ("he", "results"),
        ),
        Stage(
            "report",
            "owner",
            "Write the report page from all results.",
            _EVERYTHING,  # which it prints
            ("raw", "adapted", "finetuned", "results", "live", "plots", "curves", "pictures"),
            ("page",),
        ),
    )
}
