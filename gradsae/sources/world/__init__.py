"""A realistic world in parts: trees, rates, copula, dictionary, draws, and a folder format."""
