"""The published algorithm of homomorphic training from weights of zero, in few ciphertexts; see `layout`."""

from ppvit.he.diagonals.algorithm import Diagonals

__all__ = ["Diagonals"]
