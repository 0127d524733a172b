"""SAEs of other libraries: read from their files, one format a module; sae-lens also written."""
