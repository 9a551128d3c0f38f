"""ppvit: fine-tune pretrained Vision Transformers on images encrypted with a secret key.

``import ppvit`` alone lets ``peft.PeftModel.from_pretrained`` load adapters of ppvit's own methods, whichever of the
two packages is imported first, and imports neither torch nor peft by itself.
"""

import importlib
import sys

__version__ = "0.1.0"


class _AfterPeft:
    """Finds peft as the other finders do, and enters our methods into its tables once its code has run."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "peft":
            return None
        for finder in sys.meta_path:
            spec = None if finder is _AfterPeft else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def execute_and_register(module, execute=execute):
                    execute(module)
                    _register_methods()

                spec.loader.exec_module = execute_and_register
                return spec
        return None


def _register_methods():
    # each method enters itself when its module is imported (ppvit.tuners.extension.register); where that import is
    # under way already, because it is what imports peft, there is nothing to do
    if "ppvit.tuners" not in sys.modules:
        importlib.import_module("ppvit.tuners")


if "peft" in sys.modules:
    _register_methods()
else:
    sys.meta_path.insert(0, _AfterPeft)
