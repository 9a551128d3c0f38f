"""The stage audit; see ppvit/pipeline."""

from ppvit.cli.script import main

if __name__ == "__main__":
    main(__file__)
