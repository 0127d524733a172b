"""Questions about a context: made from templates, cut from texts, or read from a data set."""
