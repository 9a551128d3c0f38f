"""Our algorithm of homomorphic training; `packing` explains the tiles."""

from ppvit.he.tiles.algorithm import Tiles

__all__ = ["Tiles"]
