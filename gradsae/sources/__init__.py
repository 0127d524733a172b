"""Where activations come from: one synthetic world or activation source per file."""
