"""From the YAML files in conf/ to what Hydra composes.

`gradsae.config.source.install()` comes before the first composition; the commands have it from
`hydra_plugins/gradsae_config.py`.
"""
