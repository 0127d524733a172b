"""Hydra imports this file when it looks for plugins; the config source is installed then."""

from gradsae.config.source import install

install()
