"""The published algorithm of homomorphic training (Chiang, arXiv 2304.03807), for comparison with ours."""

from ppvit.he.volley_revolver.algorithm import VolleyRevolver

__all__ = ["VolleyRevolver"]
