"""Statistics that several packages share."""
