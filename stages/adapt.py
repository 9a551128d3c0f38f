"""adapt (owner): pretrained weights + key -> weights that see encrypted images as the plain model sees plain ones."""

from ppvit import adapt, paths
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    adapt.run(config, embedded=paths.PRETRAINED, out=paths.ADAPTED, result=paths.result("adapt"))


if __name__ == "__main__":
    with one_line_errors():
        main()
