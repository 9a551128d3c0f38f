"""threats (owner): the model under attackers who know the key, the weights, something like them, or nothing."""

from ppvit import paths, threats
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    threats.run(
        config,
        raw=paths.raw(config),
        embedded=paths.PRETRAINED,
        adapted=paths.ADAPTED,
        finetuned=paths.FINETUNED,
        result=paths.result("threats"),
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
