"""Parameters of training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ppvit.config.adversarial import AdversarialLoss
from ppvit.config.section import Section, Text


class Finetune(Section):
    """training, at the trainer; `ppvit list methods` says which method reads what"""

    method: Text = "lora"
    """how to fine-tune; `ppvit list methods` names all, docs/methods.md compares them"""
    recipe: Text = "none"
    """published set-up, `ppvit list recipes`, whose values replace built-in ones of this section and `adversarial`"""
    rank: int = Field(8, ge=1, le=8192)
    """size of the update: rank of a low-rank one, width of an adapter, prompts in a layer, as the method has it"""
    alpha: float = Field(16.0, gt=0, le=1e6)
    """scale of the low-rank update, which is multiplied by alpha / rank"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """share of its inputs that the update drops in training, where the method has dropout"""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """stochastic depth: share of the images that skip the last block in training; less before it, none the first"""
    target_modules: list[Text] = Field([], max_length=1000)
    """layers to attach to, by the ends of their names, such as attn.qkv; empty leaves the choice to the method"""
    batch_norm: Literal["frozen", "stats", "affine"] = "frozen"
    """ResNets only: stats lets running statistics follow the training images, affine trains weight and bias too"""
    scaled: bool = True
    """a learned factor for every column of the update; false subtracts the first product, so as to start at zero"""
    frequencies: int = Field(1000, ge=1, le=2**24)
    """learned spectral entries in a layer"""
    vector_learning_rate: float = Field(1.0, gt=0, le=1e6)
    """learning rate of the vectors that matrices are built from, as a multiple of learning_rate"""
    scale_learning_rate: float = Field(1.0, gt=0, le=1e6)
    """learning rate of the learned factors, as a multiple of learning_rate"""
    patch_learning_rate: float = Field(1.0, gt=0, le=1e6)
    """learning rate of the patch embedding, where it trains, as a multiple of learning_rate"""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """learning rate of a layer as a multiple of that of the layer behind it; the head's is learning_rate"""
    epochs: int = Field(10, ge=1, le=10_000)
    """passes over the training images"""
    select: Literal["auto", "best", "last"] = "auto"
    """which epoch is kept: best on validation images, or last; auto: best under attack, with patience or select_by"""
    select_by: Literal["auto", "loss", "accuracy", "balanced_accuracy", "auroc"] = "auto"
    """figure that is best: auto is the loss, sure with few images too; against an attack accuracy under it"""
    patience: int = Field(0, ge=0, le=10_000)
    """epochs without a new best on the validation images after which training stops; 0 never stops early"""
    track_test: bool = False
    """whether the test images are scored after every epoch too, for a curve; they never choose anything"""
    batch_size: int = Field(32, ge=1, le=65_536)
    """images in a forward pass, over all processes"""
    accumulation: int = Field(1, ge=1, le=65_536)
    """forward passes in an optimiser step; the effective batch is batch_size * accumulation"""
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """sgd has momentum; adamw decouples weight decay"""
    learning_rate: float = Field(2e-3, gt=0, le=1000)
    """peak learning rate, after warm-up"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """momentum of sgd; the other optimisers do not read it"""
    nesterov: bool = False
    """whether sgd looks ahead along its momentum (Nesterov)"""
    weight_decay: float = Field(1e-4, ge=0, le=1000)
    """L2 penalty (sgd, adam) or decoupled decay (adamw)"""
    decayed: Literal["matrices", "all"] = "matrices"
    """what weight_decay is for: all is biases, norms and other vectors too, as usual with sgd"""
    schedule: Literal["constant", "linear", "cosine", "step", "halving"] = "cosine"
    """how the rate falls; step: to a tenth after 1/2 and 3/4 of all steps; halving: as robust accuracy stalls"""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """share of all steps over which the learning rate rises from zero"""
    class_weights: Literal["none", "balanced"] = "none"
    """weights of the classes in the loss: balanced gives rare ones as much as frequent ones, by the training images"""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """shuffled: every image once an epoch; balanced: as many images of each class, rare ones several times"""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """share of the target probability spread over all classes"""
    gradient_clip: float = Field(1.0, ge=0, le=1e6)
    """largest norm of the gradient; 0 does not clip"""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """share of the weight average kept at a step, 0.999 say; the average is what is measured and saved; 0: none"""
    permutation_penalty: float = Field(0.001, ge=0, le=1e6)
    """weight of the penalty that draws a learned matrix over blocks to a permutation (model.adaptnet, matrix_form)"""
    smoothness_penalty: float = Field(0.1, ge=0, le=1e6)
    """weight of the penalty on differences of neighbours behind model.adaptnet ele"""
    adversarial: AdversarialLoss = "none"
    """against adversarial examples: at minimises the loss under attack, trades the clean loss too (LoFT)"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """of forward and backward pass, weights stay fp32; auto: bf16 on GPUs that have it, else fp32; fp16 needs a GPU"""
    gradient_checkpointing: bool = False
    """true keeps fewer activations and computes them again: less memory, a third more time, the same gradients"""
    seed: int = Field(0, ge=0, lt=2**32)
    """decides new weights, order of images, dropout"""

    @property
    def needs_validation(self) -> tuple[str, str] | None:
        """What cannot do without validation images, and the setting that can; None where all can."""
        if self.patience:
            return f"finetune.patience {self.patience}", "finetune.patience=0"
        return ("finetune.schedule halving", "finetune.schedule=cosine") if self.schedule == "halving" else None

    @property
    def keeps_best(self) -> bool:
        """Whether the best epoch is kept: without an attack the last one usually is, its learning rate being zero."""
        asked = self.adversarial != "none" or self.patience > 0 or self.select_by != "auto"
        return self.select == "best" or (self.select == "auto" and asked)
