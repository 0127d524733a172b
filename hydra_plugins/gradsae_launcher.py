"""Where Hydra looks for launchers. (A folder of Hydra's; it must not have an `__init__.py`.)"""

from typing import final

from benchmarks.launch.launcher import CellsLauncher


@final
class SharedLauncher(CellsLauncher):
    """`hydra/launcher=shared`: see benchmarks/launch/launcher.py."""
