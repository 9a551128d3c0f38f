"""he (owner and trainer, a process each): features encrypted with CKKS -> head trained on ciphertext -> plain head."""

from ppvit import he, paths
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    he.run(config, raw=paths.raw(config), embedded=paths.PRETRAINED, out=paths.HE, result=paths.result("he"))


if __name__ == "__main__":
    with one_line_errors():
        main()
