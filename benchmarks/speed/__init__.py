"""How fast this package is, as ratios to other libraries and to the hardware, in one run."""
