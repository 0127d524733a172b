"""How a sweep is launched and what it reports at its end."""
