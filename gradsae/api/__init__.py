"""The functions of a notebook: load, influence, steer, train, score, suitability.

`import gradsae` offers them all by name, and imports torch when one of them is first used.
"""
