"""Estimators that do not win, kept for comparison.

The rule is optax's: each stays for as long as its own test passes, is in no default list, and has
no machinery outside this package. `backward_rules` and `norm_readers` are such machinery.
"""
