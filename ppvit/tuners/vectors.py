"""Learned vectors that scale features: (IA)^3 those of a layer, VeRA those of a random update that layers share."""

from __future__ import annotations

from peft import IA3Config, VeraConfig, get_peft_model
from torch import nn

from ppvit.models.networks import head_names
from ppvit.tuners.base import TUNERS, Tuner
from ppvit.tuners.lora import Lora


@TUNERS.register()
class Ia3(Tuner):
    """Learned scales of q, k, v and of the inner activations of the MLP (Liu et al., arXiv 2205.05638).

    timm keeps q, k and v in one matrix, so queries are scaled as well: 3 D + 4 D parameters a layer. That is the same
    set of functions, since queries and keys meet only in ``sum_i q_i k_i``, where their scales multiply. Of layers that
    the user names, ``mlp.fc2`` is scaled at its input, all others at their output. In a network without linear layers
    every convolution is scaled at its output, one number a channel.
    """

    name = "ia3"
    reads = ("target_modules",)
    convolutions = True
    undecayed = ("ia3_l",)
    targets = ("attn.qkv", "mlp.fc2")

    def attach(self, model: nn.Module) -> nn.Module:
        config = IA3Config(
            target_modules=self.target_names(model),
            feedforward_modules=r"(.*\.)?mlp\.fc2",
            modules_to_save=self.saved_modules(model),
        )
        return get_peft_model(model, config)


@TUNERS.register()
class Vera(Tuner):
    """Learned scales of a random low-rank update that all layers share: ``W' = W + diag(b) B diag(d) A`` (Kopiczko et
    al., arXiv 2310.11454).

    out + r parameters a layer. ``finetune.seed`` draws A and B. They are saved with the adapter, r (max in + max out)
    numbers, so that it does not depend on what a seed means to another version of torch.
    """

    name = "vera"
    reads = ("rank", "dropout", "target_modules")
    targets = Lora.targets

    def attach(self, model: nn.Module) -> nn.Module:
        config = VeraConfig(
            r=self.settings.rank,
            vera_dropout=self.settings.dropout,
            projection_prng_key=self.settings.seed,
            save_projection=True,
            target_modules=self.target_names(model),
            modules_to_save=head_names(model),
        )
        return get_peft_model(model, config)
