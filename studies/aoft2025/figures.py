"""The usual figures, and angles between columns: are matrices orthogonal, in the backbone and in trained adapters?

Yang et al., arXiv 2507.13260, observe that those of pretrained backbones are nearly so and those of LoRA are not.
Random columns of n entries are so, too: their angles spread by about 57 / sqrt(n) degrees around 90, hence `gaussian`
matrices of the same sizes beside everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from measure import Run, trained_and_tested
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from ppvit.tuners import load_adapter, read_finetuned_record
from ppvit.tuners.adapter import BottleneckLinear
from ppvit.tuners.aoft import AoftLinear
from ppvit.tuners.orthogonal import orthogonal_columns
from ppvit.tuners.vpt import VptBlock

NEAR_DEGREES = 5
ADAPTER = "default"  # peft's name of the only one


def figures(run: Run) -> dict[str, Any]:
    """The usual ones alone for benchmarks, where whole models are trained, too, and accuracy is the question."""
    usual = trained_and_tested(run)
    if "task" in run.variant.axes:
        return usual
    return usual | run.call(measured_angles, run.places.adapted, run.places.finetuned)


def column_angles(matrix: Tensor) -> Tensor:
    """Angles of all pairs of columns, in degrees; a column of zeros is at 90 to all others.

    Args:
        matrix: (n, d).

    Returns:
        float64, (d (d - 1) / 2,).
    """
    columns = nn.functional.normalize(matrix.detach().double(), dim=0)
    cosines = (columns.T @ columns).clamp(-1, 1)
    first, second = torch.triu_indices(len(cosines), len(cosines), offset=1)
    return torch.rad2deg(torch.arccos(cosines[first, second]))


def histogram(matrices: list[Tensor]) -> list[int]:
    """How many angles of all matrices lie in each degree of 0 .. 180."""
    angles = torch.cat([column_angles(matrix) for matrix in matrices])
    return torch.bincount(angles.long().clamp(max=179), minlength=180).tolist()


def near_right_percent(counts: list[int]) -> float:
    """Share of the angles within 5 degrees of 90."""
    return 100 * sum(counts[90 - NEAR_DEGREES : 90 + NEAR_DEGREES]) / sum(counts)


def measured_angles(adapted: Path, finetuned: Path) -> dict[str, Any]:
    """Histograms of a trained adapter's ``down`` and ``up`` matrices, of the ``backbone``'s, and of Gaussian ones.

    Args:
        adapted: the model that was trained on.
        finetuned: the adapter.

    Returns:
        ``angles``: counts by kind of matrix; ``angles_near_90_percent``: share within 5 degrees of 90, by the same.
    """
    record = read_finetuned_record(finetuned)
    model = load_adapter(adapted, finetuned, record["num_classes"])
    down, up = [], []
    for module in model.modules():
        pairs = factors(module, record["method"])
        down += [pair[0] for pair in pairs if pair[0] is not None]
        up += [pair[1] for pair in pairs if pair[1] is not None]
    backbone = backbone_matrices(model)
    kinds = {"down": down, "up": up, "backbone": backbone}
    kinds |= {f"{kind}_gaussian": gaussian(matrices) for kind, matrices in kinds.items()}
    counts = {kind: histogram(matrices) for kind, matrices in kinds.items() if matrices}
    near = {kind: near_right_percent(values) for kind, values in counts.items()}
    return {"angles": counts, "angles_near_90_percent": near}


def factors(module: nn.Module, method: str) -> list[tuple[Tensor | None, Tensor | None]]:
    """Down (in, d) and up (out, d) matrices that a layer's adapter consists of; prompts (D, d) count as up."""
    if isinstance(module, LoraLinear):
        down, up = module.lora_A[ADAPTER].weight.T, module.lora_B[ADAPTER].weight
        if method not in ("melo", "lora_patch"):
            return [(down, up)]
        rank, width = down.shape[1] // 2, len(up) // 3  # of q and of v; see ppvit.tuners.melo
        return [(down[:, :rank], up[:width, :rank]), (down[:, rank:], up[2 * width :, rank:])]
    if isinstance(module, BottleneckLinear):
        return [(module.bottleneck_down[ADAPTER].weight.T, module.bottleneck_up[ADAPTER].weight)]
    if isinstance(module, AoftLinear):
        columns = module.configs[ADAPTER].r
        pairs = [(module.aoft_down[ADAPTER][part], module.aoft_up[ADAPTER][part]) for part in module.aoft_down[ADAPTER]]
        return [(orthogonal_columns(down, columns), orthogonal_columns(up, columns)) for down, up in pairs]
    return [(None, module.prompts(ADAPTER).T)] if isinstance(module, VptBlock) else []


def backbone_matrices(model: nn.Module) -> list[Tensor]:
    """The query and value matrices of every layer, (D, D) each."""
    weights = [
        parameter
        for name, parameter in model.named_parameters()
        if name.endswith(("attn.qkv.weight", "attn.qkv.base_layer.weight"))
    ]
    return [part for weight in weights for part in (weight.chunk(3)[0], weight.chunk(3)[2])]


def gaussian(matrices: list[Tensor]) -> list[Tensor]:
    """Random matrices of the same sizes, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(matrix.shape, generator=generator) for matrix in matrices]
