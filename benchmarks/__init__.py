"""The commands: thin, and the only place that prints."""
