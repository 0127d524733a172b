"""From the YAML files in conf/ to what Hydra composes."""
