"""One network of every kind of positions, tiny and with random weights, under names that timm knows once this is
imported: for 32-pixel images, patches of 8 pixels, or of 4 where the architecture has no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm.models as timm
import torch
from timm.models import (
    beit,
    cait,
    convit,
    convnext,
    eva,
    focalnet,
    mlp_mixer,
    naflexvit,
    register_model,
    swin_transformer,
    swin_transformer_v2,
    vision_transformer_relpos,
    vision_transformer_sam,
)

_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
_MIXER = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_blocks": 2}
_STAGES = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}
_MLP = {"mlp_ratio": 2.0}


def _made(name: str, create: Callable[..., torch.nn.Module], variant: str, **arguments: Any) -> str:
    """Register a network with timm as ``name``: ``create`` for the variant of timm, with other arguments."""

    def build(pretrained: bool = False, **given: Any) -> torch.nn.Module:
        return create(variant, pretrained=pretrained, **{**arguments, **given})

    build.__name__, build.__module__ = name, __name__
    register_model(build)
    return name


TABLES = {  # plain timm loads them adapted: places are in tables that are permuted
    "eva": _made("tiny_eva", eva._create_eva, "eva_giant_patch14_224", **_VIT, **_MLP),
    "cait": _made("tiny_cait", cait._create_cait, "cait_xxs24_224", **_VIT, depth_token_only=1),
    "mixer": _made("tiny_mixer", mlp_mixer._create_mixer, "mixer_s32_224", **_MIXER),
    "gmixer": _made(
        "tiny_gmixer", mlp_mixer._create_mixer, "gmixer_24_224", **_MIXER, mlp_ratio=(1.0, 4.0),
        mlp_layer=timm.mlp_mixer.GluMlp, act_layer=torch.nn.SiLU,
    ),
    "resmlp": _made(
        "tiny_resmlp", mlp_mixer._create_mixer, "resmlp_12_224", **_MIXER, mlp_ratio=4,
        block_layer=mlp_mixer.ResBlock, norm_layer=mlp_mixer.Affine,
    ),
    "gmlp": _made(
        "tiny_gmlp", mlp_mixer._create_mixer, "gmlp_ti16_224", **_MIXER, mlp_ratio=4,
        block_layer=mlp_mixer.SpatialGatingBlock, mlp_layer=timm.mlp_mixer.GatedMlp,
    ),
}  # fmt: skip
ORDERED = {  # timm alone stops at them: the patch projection puts the patches in order
    "dinov3": _made(
        "tiny_dinov3", eva._create_eva, "vit_small_patch16_dinov3", **_VIT, num_reg_tokens=4, use_rot_pos_emb=True,
        rope_type="dinov3", use_abs_pos_emb=False, qkv_bias=False, init_values=1.0, rope_rotate_half=True,
        dynamic_img_size=True, **_MLP,
    ),
    "eva02": _made(
        "tiny_eva02", eva._create_eva, "eva02_tiny_patch14_224", **_VIT, swiglu_mlp=True, use_rot_pos_emb=True,
        ref_feat_shape=(4, 4), **_MLP,
    ),
    "pe": _made(
        "tiny_pe", eva._create_eva, "vit_pe_core_tiny_patch16_384", **_VIT, global_pool="map", attn_type="rope",
        use_pre_transformer_norm=True, use_rot_pos_emb=True, ref_feat_shape=(4, 4), rope_grid_indexing="xy",
        use_post_transformer_norm=True, use_fc_norm=False, class_token=True, **_MLP,
    ),
    "rope mixed": _made(
        "tiny_rope_mixed", eva._create_eva, "vit_small_patch16_rope_mixed_224", **_VIT, use_abs_pos_emb=False,
        use_rot_pos_emb=True, rope_type="mixed", rope_grid_indexing="xy", init_values=1e-5, **_MLP,
    ),
    "beit": _made("tiny_beit", beit._create_beit, "beit_base_patch16_224", **_VIT, use_abs_pos_emb=False,
                  use_rel_pos_bias=True, init_values=0.1),
    "relpos": _made("tiny_relpos", vision_transformer_relpos._create_vision_transformer_relpos,
                    "vit_relpos_small_patch16_224", **_VIT, qkv_bias=False, fc_norm=True),
    "convit": _made("tiny_convit", convit._create_convit, "convit_tiny", **_VIT, local_up_to_layer=1),
    "naflex": _made(
        "tiny_naflex", naflexvit._create_naflexvit, "naflexvit_base_patch16_gap",
        cfg=naflexvit.NaFlexVitCfg(patch_size=8, embed_dim=32, depth=2, num_heads=2, pos_embed_grid_size=(4, 4),
                                   global_pool="avg", class_token=False, reg_tokens=1, fc_norm=True),
    ),
    "swin": _made("tiny_swin", swin_transformer._create_swin_transformer, "swin_tiny_patch4_window7_224", **_STAGES),
    "swinv2": _made("tiny_swinv2", swin_transformer_v2._create_swin_transformer_v2, "swinv2_tiny_window8_256",
                    **_STAGES),
    "convnext": _made("tiny_convnext", convnext._create_convnext, "convnext_tiny", depths=(1, 1, 1, 1),
                      dims=(16, 16, 32, 32)),
    "focalnet": _made("tiny_focalnet", focalnet._create_focalnet, "focalnet_tiny_srf", depths=(1, 1, 1, 1),
                      embed_dim=16),
    "sam": _made("tiny_sam", vision_transformer_sam._create_vision_transformer, "samvit_base_patch16_224", **_VIT,
                 neck_chans=32, global_attn_indexes=(1,), window_size=2, use_rel_pos=True),
}  # fmt: skip
KINDS = TABLES | ORDERED
PATCH_4 = {"swin", "swinv2", "convnext", "focalnet"}
MIXERS = {"mixer", "gmixer", "resmlp", "gmlp"}
