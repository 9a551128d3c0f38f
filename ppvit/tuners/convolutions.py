"""Which convolutions an adapter attaches to, in networks without linear layers.

peft puts two convolutions beside one of k x k kernels: A of the same geometry from its inputs to r channels, and B of
1 x 1 kernels from these to its outputs, r (k^2 in + out) parameters a layer. Seen as matrices over the values of a
kernel they are the factors of Hu et al., arXiv 2106.09685, and merge in the same way.
"""

from __future__ import annotations

import re

from torch import nn

from ppvit.config.endings import ends_in, those_there
from ppvit.core.errors import UsageError
from ppvit.models.stems import patch_projection


def convolution_names(model: nn.Module, endings: list[str]) -> str:
    """A regular expression that matches the convolutions whose names end in one of ``endings``; all if there are none.

    Left out are grouped convolutions, which peft cannot merge, dilated ones, whose dilation it ignores, and a patch
    projection, which holds the key after adaptation.

    Raises:
        UsageError: an ending matches nothing.
    """
    projection = patch_projection(model)
    found = [name for name, module in model.named_modules() if module is not projection and _takes_lora(module)]
    for ending in endings:
        if not any(ends_in(name, ending) for name in found):
            raise UsageError(
                f"finetune.target_modules: no ungrouped convolution ends in '{ending}'{those_there(ending, found)}"
            )
    chosen = [name for name in found if not endings or any(ends_in(name, ending) for ending in endings)]
    return "|".join(re.escape(name) for name in chosen)


def _takes_lora(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == 1 and module.dilation == (1, 1)
