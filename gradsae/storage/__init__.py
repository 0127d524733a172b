"""Files on disk: the cache, downloads, writes that happen whole or not at all."""
