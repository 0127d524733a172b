"""Influence: of the latents that are active on a prompt, which ones move the model's output?

To call it in a notebook: `gradsae.influence(...)`, see `gradsae.api.influence`.
"""

import sys

from gradsae import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
