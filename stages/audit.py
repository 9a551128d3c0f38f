"""audit (owner): what could the trainer recover? Attacks on shards and models, scored with what only the owner has."""

from ppvit import audit, paths
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    audit.run(
        config,
        raw=paths.raw(config),
        encrypted=paths.encrypted(config),
        embedded=paths.PRETRAINED,
        adapted=paths.ADAPTED,
        finetuned=paths.FINETUNED,
        pictures=paths.PICTURES,
        result=paths.result("audit"),
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
