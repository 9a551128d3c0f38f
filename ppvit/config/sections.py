"""The parameters of a run: pydantic models that mirror ``params.yaml`` one to one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ppvit.config.adversarial import Adversarial, require_consistent
from ppvit.config.augment import Augment
from ppvit.config.dataset import Dataset
from ppvit.config.finetune import Finetune
from ppvit.config.he import He
from ppvit.config.pretrain import Pretrain
from ppvit.config.robustness import Robustness, Threats
from ppvit.config.section import Auto, AutoOr, Section, Text

NO_MODEL = "models/none"  # where model.checkpoint points when the user names no weights of their own; a file in git
Value = Annotated[float, Field(ge=-1e30, le=1e30)]  # of a pixel, in whatever unit the files have
DEMO_KEY_ID = "pk-6a84562a80f3ffa0"  # of ppvit.ciphers.keys.DEMO_KEY, public


class Cipher(Section):
    """how the images are encrypted; `ppvit list ciphers` says which cipher reads what; the secret key is never here"""

    name: Text = "block"
    """`ppvit list ciphers` names all; none leaves the images plain"""
    key_id: str = Field(DEMO_KEY_ID, pattern=r"^pk-[0-9a-f]{16}$")
    """which secret key encrypts; `ppvit keygen` makes one and prints its id, which is public"""
    block_size: int = Field(4, ge=1, le=512)
    """side of a block in pixels; must be the model's patch size and divide image_size"""
    sub_block_size: int = Field(2, ge=1, le=512)
    """side in pixels of the parts of a block that are encrypted alike; must divide block_size"""
    key_scope: Literal["shared", "block", "image"] = "shared"
    """one key for everything (shared), for every block position (block) or for every image (image)"""
    colour_order: bool = True
    """whether the colours of every pixel change places as well"""
    fixed_blocks: float = Field(0.61, ge=0, le=1)
    """share of the blocks that stay in place; more keeps accuracy and hides less"""
    fixed_values: float = Field(0.651, ge=0, le=1)
    """share of the values of a block that stay in place; more keeps accuracy and hides less"""
    storage: Literal["float32", "float16", "uint8"] = "float32"
    """how ciphertext is stored; float16 takes half the bytes, uint8 a quarter, and both round what adaptation keeps"""
    token_width: int = Field(2048, ge=1, le=65_536)
    """numbers in a token; time and the size of the shards grow with it"""


Normalization = Annotated[list[Annotated[float, Field(ge=-10, le=10)]], Field(max_length=3)] | Literal["none"]


class Model(Section):
    """the pretrained network"""

    name: Text = Field(
        "vit_micro_patch4_32",
        description="vit_micro_patch4_32, which comes with ppvit, or any network of timm whose patches do not "
        "overlap, or convmixer_256_8; with cipher.name=none or adapt.enabled=false also ResNets, resnet18_cifar, "
        "and pyramidnet_110_270, both for 32 px",
    )
    checkpoint: Text = NO_MODEL
    """leave as it is for the weights that come with ppvit or from timm's hub; or the path of your own file or folder"""
    pretrained: bool = True
    """false starts from random weights: for baselines, and for networks that have no others"""
    mean: Normalization = Field([])
    """of the input by colour, pixels in 0..1; [] takes what the checkpoint says, none leaves them as they are"""
    std: Normalization = Field([])
    """standard deviation, the same; none together with mean=none, as in Chiang's features"""
    adaptive_matrix: bool = False
    """ConvMixers only: a learned matrix over the patches after the first layer, against block scrambling (Qi 2023)"""
    matrix_form: Literal["free", "l12", "sinkhorn"] = "free"
    """its numbers: free, rows of length 1 with finetune.permutation_penalty, or doubly stochastic"""
    adaptnet: Literal["none", "le", "ele"] = "none"
    """PyramidNets and ResNets only: learned layers for scrambled blocks in front, of Tanaka (le) or Madono (ele)"""
    shake_drop: float = Field(0.5, ge=0, lt=1)
    """PyramidNets only: chance that the last unit is disturbed in a training step; less before it"""

    @model_validator(mode="after")
    def _normalizes(self) -> Model:
        if (self.mean == "none") != (self.std == "none"):
            raise ValueError(
                "model.mean and model.std are none together, or neither is; set both or none of them to none"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values != "none" and len(values) not in (0, 3):
                raise ValueError(f"model.{name} has {len(values)} values; give three, one a colour, or [] or none")
        if self.std != "none" and min(self.std, default=1) <= 0:
            raise ValueError("model.std holds a value that is not above 0; pixels are divided by it")
        return self


class Download(Section):
    """fetching the data set, or reading your own, into data/raw"""

    holdout_fraction: float = Field(0.2, gt=0, lt=1)
    """share of the images held out as test, stratified, where the data set brings no test split of its own"""
    key_id: str = Field("none", pattern=r"^(none|pk-[0-9a-f]{16})$")
    """which secret key seals data/raw, so that no plain image is on disk or in DVC's cache; none leaves it plain"""


class Encrypt(Section):
    """from data/raw to encrypted shards"""

    resize_filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bicubic"
    """how pixels are interpolated when an image is brought to image_size"""
    crop: Literal["center", "squash", "pad"] = "center"
    """center: shorter side to image_size, middle cut out; squash: aspect ratio given up; pad: black bars"""
    value_range: list[Value] = Field([], max_length=2)
    """images above 8 bits: [low, high] become 0 and 255; empty takes the extremes of the training images"""
    window: list[Value] = Field([], max_length=2)
    """the same range as [centre, width], as radiology names it; empty leaves it to value_range"""
    images_per_shard: int = Field(512, ge=1, le=1_000_000)
    """images in one tar; more tars spread over more processes, fewer suit object storage better"""
    compress: bool = False
    """PNG with compression: less disk under none, scramble and etc, hardly under others; bytes depend on zlib"""
    repeated_values: Literal["stored", "once"] = "stored"
    """once: images that resize_filter=nearest enlarges by a whole number keep each value once, with where it repeats"""
    views: int = Field(1, ge=1, le=1000)
    """pictures of each training image: the first as it is, the others random; takes as many times the disk"""
    view_recipe: Literal["none", "flip_crop", "flip_crop_colour", "randaugment", "contrastive"] = "flip_crop"
    """what the random views are: none repeats the first, others show a part of the picture and mirror half of them"""
    view_key_id: str = Field(DEMO_KEY_ID, pattern=r"^pk-[0-9a-f]{16}$")
    """which secret key draws the views, and need not be the cipher's, so that other keys encrypt the same views"""

    @model_validator(mode="after")
    def _enlarged(self) -> Encrypt:
        if self.repeated_values == "once" and self.compress:
            raise ValueError(
                "encrypt.compress is for PNG, and with encrypt.repeated_values once values are in NumPy's format; "
                "set encrypt.compress=false"
            )
        if self.repeated_values == "once" and self.views > 1 and self.view_recipe != "none":
            raise ValueError(
                f"encrypt.repeated_values is once, and the random ones of encrypt.views {self.views} are not enlarged "
                "by a whole number; set encrypt.repeated_values=stored"
            )
        return self

    @model_validator(mode="after")
    def _one_range(self) -> Encrypt:
        for name, form in (("value_range", "[low, high]"), ("window", "[centre, width]")):
            if len(getattr(self, name)) == 1:
                raise ValueError(f"encrypt.{name} has one number, expected are two, {form}, or none")
        if self.value_range and self.window:
            raise ValueError("encrypt.value_range and encrypt.window are both set; leave one of them empty: []")
        if self.value_range and self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"encrypt.value_range {self.value_range}: the lowest value comes first and is the smaller")
        if self.window and self.window[1] <= 0:
            raise ValueError(f"encrypt.window {self.window}: the centre comes first, and the width is more than 0")
        return self


class Adapt(Section):
    """from pretrained weights to weights for the key"""

    enabled: bool = True
    """false leaves the model unadapted, as the baseline of the published tables"""


class Evaluate(Section):
    """measuring the fine-tuned model, at the trainer"""

    calibration_bins: int = Field(15, ge=1, le=10_000)
    """equal-width bins of confidence in the expected calibration error"""


class Verify(Section):
    """the owner's check of the model that came back"""

    wrong_keys: int = Field(3, ge=1, le=200)
    """how many other keys the wrong-key accuracy is averaged over"""


class Audit(Section):
    """attacks on privacy: what the encrypted images leak"""

    attacks: list[Text] = Field(["all"], min_length=1, max_length=100)
    """which attacks the audit runs; `ppvit list attacks` names them"""
    known_pairs: list[Annotated[int, Field(ge=1, le=100_000)]] = Field([1, 2, 3, 10], min_length=1, max_length=100)
    """numbers of plain images that the known-plaintext attacker holds; one run for each"""
    pooled_images: list[Annotated[int, Field(ge=1, le=1_000_000)]] = Field([1, 20, 100], min_length=1, max_length=100)
    """numbers of ciphertexts that the ciphertext-only attacker combines, a run each; 1 of small blocks only"""
    candidates: int = Field(100, ge=2, le=100_000)
    """plain images among which the attacker must find the one that a ciphertext shows"""
    training_steps: Annotated[int | Auto, AutoOr(1, 1_000_000)] = "auto"
    """steps of the network that an attacker trains to invert the cipher; auto: 100, fewer where training was short"""
    images: int = Field(20, ge=1, le=100_000)
    """images that are attacked, none of which the attacker knows"""
    seed: int = Field(0, ge=0, lt=2**32)
    """decides which images are known and which are attacked"""


class Report(Section):
    """the report page"""

    images: int = Field(4, ge=1, le=32)
    """examples shown plain, encrypted and recovered"""


class Config(Section):
    """All of ``params.yaml``."""

    dataset: Dataset
    cipher: Cipher
    model: Model
    pretrain: Pretrain
    download: Download
    encrypt: Encrypt
    adapt: Adapt
    finetune: Finetune
    augment: Augment
    adversarial: Adversarial
    evaluate: Evaluate
    robustness: Robustness
    verify: Verify
    audit: Audit
    threats: Threats
    he: He
    report: Report

    @model_validator(mode="after")
    def _blocks_fit(self) -> Config:
        if self.dataset.image_size % self.cipher.block_size:
            raise ValueError(
                f"cipher.block_size {self.cipher.block_size} does not divide dataset.image_size "
                f"{self.dataset.image_size}; blocks have the size of the model's patches, and images a multiple of it"
            )
        return self

    @model_validator(mode="after")
    def _attack_fits(self) -> Config:
        require_consistent(self.finetune.adversarial, self.adversarial, self.finetune.epochs)
        plain_or_last = self.finetune.adversarial == "none" or not self.finetune.keeps_best
        if self.finetune.schedule == "halving" and plain_or_last:
            raise ValueError(
                "finetune.schedule halving goes on from the best weights under attack; set finetune.adversarial to at "
                "or trades and finetune.select to auto, or finetune.schedule=cosine"
            )
        widest = 255 * (3 * self.dataset.image_size**2) ** 0.5  # from black to white
        for section, attack in (("adversarial", self.adversarial), ("robustness", self.robustness)):
            if attack.norm == "l2" and attack.epsilon > widest:
                raise ValueError(
                    f"{section}.epsilon {attack.epsilon:g} (l2) is beyond the {widest:.0f} between black and white at "
                    f"dataset.image_size {self.dataset.image_size}; choose less"
                )
        return self
