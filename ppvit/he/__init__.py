"""Homomorphic training of a classifier head: the trainer computes on CKKS ciphertexts of features and labels.

The parties are separate processes with files between them: ``ppvit he keys | encrypt | train | refresh | decrypt``.
"""
