"""A language model: load it, read and edit it at a hook site, run its last blocks again."""
