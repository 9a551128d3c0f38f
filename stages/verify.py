"""verify (owner): the model that came back, on images encrypted here, on plain images, and with wrong keys."""

from ppvit import paths, verify
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    verify.run(
        config,
        raw=paths.raw(config),
        adapted=paths.ADAPTED,
        finetuned=paths.FINETUNED,
        result=paths.result("verify"),
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
