"""Stage download (owner): the data set of params.yaml as plain shards in data/raw/<name>."""

from ppvit import config, download, paths
from ppvit.errors import one_line_errors


def main() -> None:
    settings = config.load()
    download.run(settings, out=paths.raw(settings))


if __name__ == "__main__":
    with one_line_errors():
        main()
