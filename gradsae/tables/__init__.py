"""Tables as text. Commands, pages and notebooks print them with the same functions."""
