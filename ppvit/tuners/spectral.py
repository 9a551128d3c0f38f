"""FourierFT: the update of a weight matrix has few learned entries in the frequency domain."""

from __future__ import annotations

from peft import FourierFTConfig, get_peft_model
from torch import nn

from ppvit.core.errors import UsageError
from ppvit.models.networks import head_names
from ppvit.tuners.base import TUNERS, Tuner, target_layers
from ppvit.tuners.lora import Lora


@TUNERS.register()
class Fourierft(Tuner):
    """n learned entries of the update's spectrum F: ``W' = W + alpha Re(IDFT2(F))`` (Gao et al., arXiv 2405.03003, eq.
    2-4).

    n is ``finetune.frequencies``, the count a layer. ``finetune.seed`` chooses where the entries are, alike in layers
    of one shape; the adapter keeps the seed. alpha is not divided by a rank. The entries start at zero, not at random
    as in the paper, so that training starts at the pretrained model.
    """

    name = "fourierft"
    reads = ("frequencies", "alpha", "target_modules")
    targets = Lora.targets

    def attach(self, model: nn.Module) -> nn.Module:
        names, frequencies = self.target_names(model), self.settings.frequencies
        name, layer = min(target_layers(model, names).items(), key=lambda item: item[1].weight.numel())
        if frequencies > layer.weight.numel():
            raise UsageError(
                f"finetune.frequencies {frequencies} exceeds the {layer.weight.numel()} entries of {name}; "
                "use at most that many"
            )
        config = FourierFTConfig(
            n_frequency=frequencies,
            scaling=self.settings.alpha,
            random_loc_seed=self.settings.seed,
            init_weights=True,
            target_modules=names,
            modules_to_save=head_names(model),
        )
        return get_peft_model(model, config)
