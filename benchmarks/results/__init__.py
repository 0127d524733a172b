"""Records read for tables, figures and the board."""
