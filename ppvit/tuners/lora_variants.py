"""LoRA with another scale (rsLoRA), a learned magnitude (DoRA) or another start (PiSSA, OLoRA, EVA), as in peft."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ppvit.core.device import device
from ppvit.core.errors import PpvitError, UsageError
from ppvit.tuners.base import TUNERS, save_adapter, target_layers
from ppvit.tuners.lora import Lora


@TUNERS.register(place=4)
class Rslora(Lora):
    """LoRA whose scale does not shrink as fast with r: ``W' = W + (alpha / sqrt(r)) B A`` (Kalajdzievski, arXiv
    2312.03732).
    """

    name = "rslora"
    variant: ClassVar[dict[str, Any]] = {"use_rslora": True}


@TUNERS.register(place=4)
class Dora(Lora):
    """LoRA for the direction of every row of W, and a learned magnitude m: ``W' = m V / |V|``, ``V = W + (alpha / r) B
    A`` (Liu et al., arXiv 2402.09353, eq. 5).

    r (in + out) + out parameters a layer: the magnitudes m train too, and start at the norms of W.
    """

    name = "dora"
    variant: ClassVar[dict[str, Any]] = {"use_dora": True}


class MovedBaseLora(Lora):
    """LoRA whose start ``B0 A0`` is a part of W, which keeps the rest: ``W' = W - s B0 A0 + s B A``, s = alpha / r.

    peft changes the base weights for that. The saved adapter must fit the unchanged base, hence
    ``B A - B0 A0 = [B, -B0] [A; A0]``: a stock LoRA of rank 2 r with 2 alpha, equal up to rounding in float32.
    """

    convolutions = False  # their starts are decompositions of matrices

    def attach(self, model: nn.Module) -> nn.Module:
        require_rank(self.settings.rank, self.name, model, self.target_names(model))
        tuned = super().attach(model)
        self._start = {name: tensor.clone() for name, tensor in tuned.state_dict().items() if _is_factor(name)}
        return tuned

    def attach_saved(self, model: nn.Module, saved: Mapping[str, Any]) -> nn.Module:
        twice = {"rank": 2 * self.settings.rank, "alpha": 2 * self.settings.alpha}
        return Lora(self.settings.model_copy(update=twice)).attach(model)

    def save(self, model: PeftModel, folder: Path) -> None:
        state = dict(model.state_dict())
        for name, start in self._start.items():
            start = start.to(state[name])
            state[name] = torch.cat([state[name], start]) if "lora_A" in name else torch.cat([state[name], -start], 1)
        trained = cast(LoraConfig, model.peft_config["default"])
        stock = copy.deepcopy(trained)
        stock.r, stock.lora_alpha, stock.init_lora_weights = 2 * trained.r, 2 * trained.lora_alpha, True
        model.peft_config["default"] = stock
        try:
            save_adapter(model, folder, state_dict=state)
        finally:
            model.peft_config["default"] = trained


@TUNERS.register(place=4)
class Pissa(MovedBaseLora):
    """LoRA that starts at the r largest singular triplets of W (Meng et al., arXiv 2404.02948, eq. 2-4).

    By an exact SVD. The faster randomised SVD of peft would make the start, and so a resumed run, depend on the random
    state.
    """

    name = "pissa"
    variant: ClassVar[dict[str, Any]] = {"init_lora_weights": "pissa"}


@TUNERS.register(place=4)
class Olora(MovedBaseLora):
    """LoRA that starts at ``B0 = Q[:, :r]``, ``A0 = R[:r]`` of ``W = Q R`` (Buyukakyuz, arXiv 2406.01775)."""

    name = "olora"
    variant: ClassVar[dict[str, Any]] = {"init_lora_weights": "olora"}


@TUNERS.register(place=4)
class Eva(Lora):
    """LoRA whose A starts at the principal directions of each layer's inputs (Paischer et al., arXiv 2410.07170).

    B starts at zero. Directions that explain more of the variance are taken first, from all layers together, so layers
    get different ranks that sum to r times their number; a layer may get none. The scale alpha / r stays the same
    everywhere.
    """

    name = "eva"
    convolutions = False
    rho = 2.0  # as in peft: a layer's rank is at most rho times the one asked for
    images, batch = 512, 32  # at most so many training inputs are looked at, so many at once
    most_steps = 500  # peft goes through the batches until the directions settle, which some inputs never do

    def attach(self, model: nn.Module) -> nn.Module:
        require_rank(round(self.rho * self.settings.rank), self.name, model, self.target_names(model), self.rho)
        return super().attach(model)

    def initialise(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        assert isinstance(model, PeftModel)
        model.to(device())
        inputs = [batch.to(device()) for batch in equal_batches(batches, self.batch, self.images)]
        self._require_rows(model, inputs[0])
        config = cast(LoraConfig, model.peft_config["default"])
        config.init_lora_weights, config.eva_config = "eva", EvaConfig(rho=self.rho)
        steps = itertools.count(1)

        def forward(model: nn.Module, batch: Tensor) -> None:
            if next(steps) > self.most_steps:
                raise PpvitError(
                    f"eva: the principal directions of the inputs did not settle in {self.most_steps} steps; "
                    f"lower finetune.rank ({self.settings.rank}) or use finetune.method=lora"
                )
            model(batch)

        initialize_lora_eva_weights(
            model,
            inputs,
            forward_fn=forward,
            prepare_model_inputs_fn=None,
            prepare_layer_inputs_fn=_rows,
            gather_distributed_inputs=False,  # every process reads the same batches
            show_progress_bar=sys.stderr.isatty(),
        )
        # from here on it is a plain LoRA with a rank for each layer, and peft loads it as such
        config.init_lora_weights, config.eva_config = True, None
        layers = model.get_base_model().named_modules()
        config.target_modules = sorted(name for name, module in layers if isinstance(module, LoraLayer))

    def attach_saved(self, model: nn.Module, saved: Mapping[str, Any]) -> nn.Module:
        names, ranks = saved.get("target_modules"), saved.get("rank_pattern")
        if not isinstance(names, list):  # of a model whose start was not chosen
            return self.attach(model)
        layers = target_layers(model, self.target_names(model))
        if not all(isinstance(name, str) and name in layers for name in names):
            raise UsageError("target_modules in adapter_config.json names layers that eva is not for")
        most = round(self.rho * self.settings.rank)
        if not isinstance(ranks, dict) or not all(
            name in names and type(rank) is int and 1 <= rank <= most for name, rank in ranks.items()
        ):
            raise UsageError(f"rank_pattern in adapter_config.json does not give layers a rank from 1 to {most}")
        shares = {name: rank / self.settings.rank for name, rank in ranks.items()}
        config = self.configuration(model)
        config.target_modules, config.rank_pattern = names, ranks
        config.alpha_pattern = {name: self.settings.alpha * share for name, share in shares.items() if share != 1}
        return get_peft_model(model, config)

    def _require_rows(self, model: PeftModel, batch: Tensor) -> None:
        with torch.no_grad():
            base: Any = model.get_base_model()
            tokens = base.forward_features(batch[:1]).numel() // base.num_features  # whatever the order of its axes
        directions = round(self.rho * self.settings.rank)
        if len(batch) * tokens < directions:
            raise UsageError(
                f"finetune.rank {self.settings.rank}: eva looks for {directions} directions in {len(batch)} training "
                f"images of {tokens} tokens; lower finetune.rank"
            )


def _rows(layer_input: tuple[Tensor, ...], model_input: Any, layer: str) -> Tensor:
    """The inputs of a layer as rows, as peft does it, but for tensors that are not contiguous as well."""
    return layer_input[0].reshape(-1, layer_input[0].shape[-1])


def equal_batches(batches: Iterable[Tensor], size: int, most: int) -> list[Tensor]:
    """The first inputs, at most ``most``, in batches of ``size``, or all in one where there are fewer.

    A short last batch is left out: it could have fewer rows than directions are looked for.
    """
    found: list[Tensor] = []
    for batch in batches:
        found.append(batch)
        if sum(map(len, found)) >= most:
            break
    inputs = torch.cat(found)[:most]
    return [inputs[end - size : end] for end in range(size, len(inputs) + 1, size)] or [inputs]


def require_rank(rank: int, method: str, model: nn.Module, names: str, share: float = 1.0) -> None:
    """Refuse a rank that a weight matrix cannot have.

    Args:
        rank: how many directions of a matrix are needed.
        method: named in the error.
        model: whose layers are tuned.
        names: regular expression of their names.
        share: directions needed for each unit of ``finetune.rank``.

    Raises:
        UsageError: larger than the smallest side of a matrix.
    """
    name, layer = min(target_layers(model, names).items(), key=lambda item: min(item[1].weight.shape))
    side = min(layer.weight.shape)
    if rank > side:
        raise UsageError(
            f"finetune.rank {round(rank / share)} is too large for {method}, whose start comes from {name} "
            f"of {layer.out_features} x {layer.in_features}; use at most {int(side / share)}"
        )


def _is_factor(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name
