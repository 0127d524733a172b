"""The sparse autoencoder: weights, codes, kernels, file formats."""
