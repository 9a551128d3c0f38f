"""pretrain (owner, no key): rendered letters and digits -> the embedded micro ViT; 10 to 15 minutes on two cores."""

from ppvit import paths, pretrain
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    measured = pretrain.run(load().pretrain, paths.PRETRAINED)
    print(f"pretrain: {measured['train_accuracy_percent']} % of the last glyphs named, see {paths.PRETRAINED}")


if __name__ == "__main__":
    with one_line_errors():
        main()
