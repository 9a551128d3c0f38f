"""encrypt (owner): plain images + key -> keyed WebDataset shards."""

from ppvit import encrypt, paths
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    encrypt.run(config, raw=paths.raw(config), out=paths.encrypted(config))


if __name__ == "__main__":
    with one_line_errors():
        main()
