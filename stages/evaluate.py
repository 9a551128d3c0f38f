"""evaluate (trainer, key-free): encrypted test shards + fine-tuned model -> accuracy, confusion, calibration."""

from ppvit import evaluate, paths
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    evaluate.run(
        config.evaluate,
        encrypted=paths.encrypted(config),
        adapted=paths.ADAPTED,
        finetuned=paths.FINETUNED,
        plots=paths.PLOTS,
        result=paths.result("evaluate"),
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
