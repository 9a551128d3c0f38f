"""robustness (trainer, key-free): encrypted test shards + fine-tuned model -> accuracy under attack, and its curve."""

from ppvit import paths, robustness
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    robustness.run(
        config.robustness,
        encrypted=paths.encrypted(config),
        adapted=paths.ADAPTED,
        finetuned=paths.FINETUNED,
        plots=paths.CURVES,
        result=paths.result("robustness"),
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
