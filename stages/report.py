"""report (owner): all results -> one self-contained page, and a small table on the terminal."""

from ppvit import paths, report
from ppvit.config import load
from ppvit.errors import one_line_errors


def main() -> None:
    config = load()
    summary = report.run(
        config,
        raw=paths.raw(config),
        results=paths.RESULTS,
        live=paths.LIVE,
        plots=paths.PLOTS,
        curves=paths.CURVES,
        pictures=paths.PICTURES,
        ciphers=paths.CIPHER_STUDY,
        out=paths.REPORT,
    )
    print(summary)


if __name__ == "__main__":
    with one_line_errors():
        main()
