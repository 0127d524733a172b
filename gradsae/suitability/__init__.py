"""Does this data meet the conditions under which GBA's features are proved to be recoverable?

The first of three stages: check the data, try small, then scale. The conditions are those of Chen
et al. 2025, https://arxiv.org/abs/2506.14002, Definition 5.2 and Theorem 6.1. They are sufficient
and not necessary: a data set that misses some may still give its features away.

To call it in a notebook: `gradsae.suitability(...)`, see `gradsae.api.suitability`.
"""

import sys

from gradsae import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
