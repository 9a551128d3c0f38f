"""Names of tensors as other programs write them, turned into timm's: wrappers taken off, then one table of renamings.

What timm's own filters know (OpenAI's and OpenCLIP's names, DINOv2's registers, torchvision's RegNets, patches and
positions of other sizes) is left to them, see :func:`ppvit.models.building.filter_of`.

Sources of the names: transformers 4 and 5, torchvision 0.24 to 0.29, open_clip 3.3, MAE (arXiv 2111.06377), DINO
(2104.14294) and DINOv2 (2304.07193), MoCo v3 (2104.02057), solo-learn (JMLR 23(56), 2022).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# the first layer under the names of each writer: by it the network is found among wrappers; the first that fits counts
_FIRST_LAYERS = {
    "visual.trunk.patch_embed.proj.weight": "open_clip",
    "visual.trunk.stem.0.weight": "open_clip",
    "visual.conv1.weight": "open_clip",
    "embeddings.patch_embeddings.projection.weight": "transformers",
    "embeddings.patch_embedding.weight": "transformers",
    "embeddings.patch_embeddings.weight": "transformers' DINOv3",
    "embedder.embedder.convolution.weight": "transformers",
    "conv_proj.weight": "torchvision",
    "patch_embed.proj.weight": "timm",
    "stem.0.weight": "timm",
    "stem.conv.weight": "timm",
    "conv_stem.weight": "timm",
    "conv1.weight": "timm",
}
# parts of names that belong to a copy, which is not the network that its authors evaluate
_COPIES = re.compile(r"momentum|(\b|_)ema(\b|_)|target|student|encoder_k|predictor|decoder|(^|\.)text")
# networks under these have a projection in place of a head
_SELF_SUPERVISED = re.compile(r"(^|\.)(base_encoder|momentum_encoder|encoder_q|encoder_k|teacher|student)\.")
_PROJECTIONS = re.compile(r"(head|fc)\.(\d+|mlp|last_layer)\.|(decoder|predictor|projector|projection_head)[._]")

_Q = r"(q|k|v)"
_TABLE: dict[str, tuple[tuple[str, str], ...]] = {
    "transformers": (
        (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^embeddings\.(mask_token|register_tokens)$", r"\1"),
        (r"^embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
        (r"^embeddings\.(patch_embeddings\.projection|patch_embedding)\.", "patch_embed.proj."),
        (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
        (r"\battention\.attention\.(q)uery\.|\battention\.attention\.(k)ey\.|\battention\.attention\.(v)alue\.",
         r"attn.\1\2\3."),
        (rf"\b(attention|self_attn)\.{_Q}_proj\.", r"attn.\2."),
        (r"\b(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", "attn.proj."),
        (r"\battention\.attention\.relative_position_bias\.", "attn."),
        (r"^(blocks\.\d+)\.relative_position_bias\.", r"\1.attn."),
        (r"\bintermediate\.dense\.", "mlp.fc1."),
        (r"\boutput\.dense\.", "mlp.fc2."),
        (r"\bmlp\.weights_in\.", "mlp.fc1."),
        (r"\bmlp\.(weights_out|down_proj)\.", "mlp.fc2."),
        (r"\b(layernorm_before|layer_norm1)\.", "norm1."),
        (r"\b(layernorm_after|layer_norm2)\.", "norm2."),
        (r"\blambda_(\d)$", r"gamma_\1"),
        (r"\blayer_scale(\d)\.lambda1$", r"ls\1.gamma"),
        (r"^(post_)?layernorm\.", "norm."),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^pooler\.layernorm\.", "fc_norm."),
        (r"^head\.probe$", "attn_pool.latent"),
        (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
        (r"^head\.attention\.in_proj_", "attn_pool.in_proj."),
        (r"^head\.layernorm\.", "attn_pool.norm."),
        (r"^head\.mlp\.", "attn_pool.mlp."),
        (r"^(classifier|cls_classifier|visual_projection)\.(?!\d)", "head."),
        (r"^distillation_classifier\.", "head_dist."),
        (r"^embedder\.embedder\.convolution\.", "conv1."),
        (r"^embedder\.embedder\.normalization\.", "bn1."),
        (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.", r"layer<\1>.\2.conv<\3>."),
        (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.", r"layer<\1>.\2.bn<\3>."),
        (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.", r"layer<\1>.\2.downsample.0."),
        (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.", r"layer<\1>.\2.downsample.1."),
        (r"^classifier\.1\.", "fc."),
    ),
    "transformers' DINOv3": (
        (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.", ""),
        (r"^(model\.)?layer\.(\d+)\.", r"blocks.\2."),
        (rf"\battention\.{_Q}_proj\.", r"attn.\1."),
        (r"\battention\.o_proj\.", "attn.proj."),
        (r"\blayer_scale(\d)\.lambda1$", r"gamma_\1"),
        (r"\bmlp\.gate_proj\.", "mlp.fc1_g."),
        (r"\bmlp\.up_proj\.", "mlp.fc1_x."),
        (r"\bmlp\.down_proj\.", "mlp.fc2."),
    ),
    "torchvision": (
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"\bln_(\d)\.", r"norm\1."),
        (r"\bself_attention\.in_proj_", "attn.qkv."),
        (r"\bself_attention\.out_proj\.", "attn.proj."),
        (r"\bmlp\.(0|linear_1)\.", "mlp.fc1."),
        (r"\bmlp\.(3|linear_2)\.", "mlp.fc2."),
        (r"^encoder\.ln\.", "norm."),
        (r"^heads\.head\.", "head."),
    ),
    "timm": ((r"^blocks\.\d+\.(\d+)\.(?=norm|attn|mlp|ls)", r"blocks.\1."),),  # DINOv2 in training: blocks in chunks
}  # fmt: skip
_JOINED = re.compile(r"\.attn\.[kv]\.(weight|bias)$|\.mlp\.up_proj\.|^pooler\.")  # with others, or left out
_RULES = {writer: [(re.compile(old), new) for old, new in rules] for writer, rules in _TABLE.items()}
_HEADS = ("head.weight", "fc.weight", "head.fc.weight", "classifier.weight")


@dataclass(frozen=True)
class Renamed:
    """A network's tensors under timm's names.

    Attributes:
        state: tensors by name.
        writer: whose names they had: a writer of the table, open_clip; or MAE, DINOv2, CLIP where names tell.
        prefix: what stood in front of the names of the network that was taken.
        left_out: first parts of the names of what is no part of it.
    """

    state: dict[str, Tensor]
    writer: str
    prefix: str
    left_out: tuple[str, ...]


def timm_names(state: dict[str, Tensor], wanted: Collection[str] = ()) -> Renamed:
    """Find the network in a checkpoint and give its tensors timm's names.

    Args:
        state: tensors by name, as read from the file.
        wanted: names of the tensors of the network that they are meant for.

    Returns:
        The network without projections, decoders, momentum copies and text towers, which are no part of what is
        fine-tuned; all of the tensors where no first layer is known.
    """
    prefix, writer = _network(state, wanted)
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    left = set(outside)
    if writer == "transformers":  # its head stands beside the network, of which two kinds compute what timm's do
        heads = {name: value for name, value in outside.items() if _is_head(name, inside, outside)}
        inside, left = {**inside, **heads}, left - heads.keys()
    elif writer == "open_clip":
        left |= {name for name in inside if not name.startswith("visual.")}
        inside = {name: value for name, value in inside.items() if name.startswith("visual.")}
    kind = _kind(inside, writer)
    dropped = {name for name in inside if writer == "timm" and _is_projection(name, prefix, wanted)}
    dropped |= {"mask_token"} & inside.keys() if kind == "MAE" else set()
    kept = {name: value for name, value in inside.items() if name not in dropped}
    renamed = {name if name in wanted else _renamed(name, writer): value for name, value in kept.items()}
    if writer.startswith("transformers"):
        renamed = _transformers_shapes(renamed)
    return Renamed(renamed, kind, prefix, tuple(sorted({name.split(".")[0] for name in left | dropped})))


def _network(state: Collection[str], wanted: Collection[str]) -> tuple[str, str]:
    """What stands in front of the names of the network to take, and whose names these are."""
    names = list(state)
    fronts = {name.removesuffix(one) for one in list(wanted)[:3] for name in names if ("." + name).endswith("." + one)}
    fronts = {front for front in fronts if not front.endswith("visual.trunk.")}  # open_clip's head is beside it
    whole = [front for front in fronts if sum(front + one in state for one in wanted) > 0.9 * len(wanted)]
    if whole:  # under timm's own names, whichever they are
        return min(whole, key=_preference), "timm"
    for first, writer in _FIRST_LAYERS.items():
        fronts = {name.removesuffix(first) for name in names if name == first or name.endswith("." + first)}
        if fronts:
            return min(fronts, key=_preference), writer
    return "", "timm"


def _preference(front: str) -> tuple[bool, int, str]:
    return bool(_COPIES.search(front)), len(front), front


def _kind(inside: Iterable[str], writer: str) -> str:
    """The method or program that names speak of, where it is more than the writer."""
    names = set(inside)
    if any(name.startswith("decoder_") for name in names) and writer == "timm":
        return "MAE"
    if writer == "timm" and "mask_token" in names and not any("relative_position" in name for name in names):
        return "DINOv2"
    if any(name.startswith("trunk_output.") for name in names):
        return "torchvision"
    return "CLIP" if "visual.class_embedding" in names else writer


def _is_projection(name: str, prefix: str, wanted: Collection[str]) -> bool:
    """Whether a tensor is of a head that only its authors' training had; a name of timm's."""
    unwanted = name not in wanted and _PROJECTIONS.match(name)
    return bool(unwanted or (_SELF_SUPERVISED.search(prefix) and name.startswith(("head.", "fc."))))


def _is_head(name: str, inside: dict[str, Tensor], outside: dict[str, Tensor]) -> bool:
    """Whether a tensor beside a network of transformers is of a head that timm's network has as well."""
    part, _, _ = name.rpartition(".")
    if part in ("cls_classifier", "distillation_classifier", "visual_projection", "classifier.1"):
        return True
    width = next((len(value) for key, value in inside.items() if key.endswith("layernorm.weight")), None)
    single = not any(key.endswith(("distillation_token", "head.probe")) for key in inside)
    # DINOv2's reads the class token and the mean of the patches, twice the width
    return part == "classifier" and single and outside["classifier.weight"].shape[-1:] == (width,)


def _renamed(name: str, writer: str) -> str:
    for old, new in _RULES.get(writer, ()):
        name = old.sub(new, name)
    return re.sub(r"<(\d+)>", lambda match: str(int(match[1]) + 1), name)  # timm counts stages and layers from one


def _transformers_shapes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join what timm has in one tensor: queries, keys and values, gate and value; give tokens their first dimension."""
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        stem, _, last = name.rpartition(".attn.")
        if last in ("q.weight", "q.bias"):
            of = last[2:]
            parts = [state.get(f"{stem}.attn.{each}.{of}") for each in "qkv"]
            if all(part is not None for part in parts):
                renamed[f"{stem}.attn.qkv.{of}"] = torch.cat([part for part in parts if part is not None])
            elif of == "bias" and parts[2] is not None:  # BEiT has no bias of keys
                renamed[f"{stem}.attn.q_bias"], renamed[f"{stem}.attn.v_bias"] = value, parts[2]
        elif ".mlp.gate_proj." in name:
            other = state.get(name.replace("gate_proj", "up_proj"))
            renamed[name.replace("gate_proj", "fc1")] = value if other is None else torch.cat([value, other])
        elif ".mlp.fc1_x." in name and name.replace("fc1_x", "fc1_g") not in state:  # DINOv3's that is not gated
            renamed[name.replace("fc1_x", "fc1")] = value
        elif name.startswith("attn_pool.in_proj."):
            of, width = name.rpartition(".")[2], len(value) // 3
            renamed[f"attn_pool.q.{of}"], renamed[f"attn_pool.kv.{of}"] = value[:width], value[width:]
        elif name in ("cls_token", "pos_embed") and value.ndim < 3:
            renamed[name] = value.reshape(1, -1, value.shape[-1])
        elif not _JOINED.search(name):
            renamed[name] = value
    if "head.weight" in renamed and "head.bias" not in renamed:
        renamed["head.bias"] = torch.zeros(len(renamed["head.weight"]))  # CLIP's projection has none
    if "mask_token" in renamed and "register_tokens" not in renamed:
        del renamed["mask_token"]  # timm's filter takes registers over where it is there
    return renamed


def classes_of(state: Mapping[str, Tensor], heads: Collection[str] = ()) -> int:
    """Number of classes of the head in a state, or width of CLIP's projection; 0 where it has none.

    Args:
        state: tensors by name.
        heads: names of weights of heads that are looked for first.
    """
    if "visual.class_embedding" in state and "visual.proj" in state:
        return state["visual.proj"].shape[-1]
    names = (*heads, *_HEADS, "visual.head.proj.weight")
    return next((len(state[name]) for name in names if name in state and state[name].ndim), 0)
