"""Homomorphic training of a classifier head: the trainer computes on CKKS ciphertexts of features and labels."""
