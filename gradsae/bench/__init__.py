"""From a composed config to a record."""
