"""What model folders may say of themselves: the strict form of ``config.json`` and of the records in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from ppvit.core.reading import Line, Record

_Option = StrictBool | StrictInt | StrictFloat | Annotated[StrictStr, Field(max_length=100)] | None
_Options = Annotated[dict[Annotated[str, Field(max_length=50)], _Option], Field(max_length=20)]
_Size = Annotated[int, Field(ge=1, le=65536)]


class OriginRecord(Record):
    """Where weights are from, and how they normalised pictures: :class:`ppvit.models.normalization.Origin`.

    Attributes:
        weights: what the checkpoint held, in words.
        normalization: who said the mean and the standard deviation.
    """

    weights: Line
    normalization: Annotated[Line, Field(max_length=300)]
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[float], Field(min_length=3, max_length=3)]


class ModelRecord(Record):
    """What models say of the cipher that they are for; names as in :attr:`ppvit.ciphers.Cipher.record`.

    Attributes:
        model: ``model.name``.
        adapted: whether the weights are adapted to the key.
        origin: of the weights before; None where it is not known.
        pretrained: ``pretrain.method`` of a pre-training after that; empty for none.
    """

    key_id: Annotated[str, Field(pattern=r"^pk-[0-9a-f]{16}$")] | None
    cipher: _Options
    image_size: _Size
    demo_key: bool = False
    isometry: Literal["values", "length", "none"] = "none"
    isometry_options: _Options = Field(default_factory=dict)
    model: Annotated[str, Field(max_length=200)] = ""
    adapted: bool = True
    origin: OriginRecord | None = None
    pretrained: Annotated[str, Field(max_length=50)] = ""


class ModelArguments(Record):
    """Arguments of ``timm.create_model`` that shape a model; never one that names a file or repository."""

    img_size: _Size = 1
    patch_size: _Size = 1
    embed_dim: _Size = 1
    depth: Annotated[int, Field(ge=1, le=256)] = 1  # building takes time for each block
    num_heads: _Size = 1
    dim: _Size = 1
    kernel_size: Annotated[int, Field(ge=1, le=99)] = 1
    alpha: Annotated[int, Field(ge=1, le=9999)] = 1
    shake_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    stem_padding: Annotated[int, Field(ge=0, le=64)] = 1
    class_token: bool = True
    no_embed_class: bool = False
    pre_norm: bool = False
    qk_norm: bool = False
    reg_tokens: Annotated[int, Field(ge=0, le=4096)] = 0
    global_pool: Literal["token", "avg", "max", "map", ""] = "token"
    init_values: Annotated[float, Field(gt=0, le=1)] | None = None
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Stem(Record):
    """Arguments of :func:`ppvit.models.stems.install_stem`."""

    blocks: Annotated[int, Field(ge=0, le=2**20)] = 0
    nibbles: bool = False
    bias: Literal[True] = True
    order: Annotated[int, Field(ge=1, le=2**20)] = 1
    tokens: Annotated[int, Field(ge=1, le=2**20)] = 1
    token_width: _Size = 1
    adaptive_matrix: Annotated[int, Field(ge=1, le=2**16)] = 1
    matrix_form: Literal["l12", "sinkhorn"] = "l12"
    adaptnet: Literal["le", "ele"] = "le"
    adaptnet_block: Annotated[int, Field(ge=1, le=512)] = 1
    adaptnet_blocks: Annotated[int, Field(ge=1, le=2**16)] = 1
    normalization: Literal[True] = True


_Module = Annotated[str, Field(min_length=1, max_length=100)]
_Modules = _Module | Annotated[list[_Module], Field(min_length=1, max_length=8)]


class Pretrained(Record):
    """What timm says of checkpoints, ``pretrained_cfg``: how pictures are prepared, and where head and first layer are.

    Attributes:
        first_conv, classifier: names of modules; distilled models have two heads, models with a stem say none.
    """

    input_size: Annotated[list[_Size], Field(min_length=3, max_length=3)]
    fixed_input_size: bool
    crop_pct: float
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[float], Field(min_length=3, max_length=3)]
    num_classes: Annotated[int, Field(ge=0, le=2**20)]
    first_conv: _Modules | None
    classifier: _Modules | None


class ModelConfiguration(Record):
    """``config.json`` of a model folder; what is not narrowed here is compared with what the model would write.

    Attributes:
        architecture: a name of timm, never an address.
        ppvit: a record of ``adapt`` or of ``finetune``.
    """

    architecture: Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)?$", max_length=100)]
    num_classes: Annotated[int, Field(ge=0, le=2**20)]
    num_features: int
    model_args: ModelArguments
    pretrained_cfg: Pretrained
    ppvit: dict[str, Any]
    stem: Stem | None = None

    def arguments(self) -> dict[str, Any]:
        """``model_args`` as they were written."""
        return self.model_args.model_dump(exclude_unset=True)
