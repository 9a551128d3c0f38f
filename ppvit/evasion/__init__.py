"""Evasion: adversarial images, changed so little that people see no difference, which a model classifies wrongly.

What images and models give away of plain images and keys, privacy, is in :mod:`ppvit.audit`.
"""
