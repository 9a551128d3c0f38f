"""The stage verify; see ppvit/pipeline.py."""

from ppvit.pipeline import main

if __name__ == "__main__":
    main(__file__)
