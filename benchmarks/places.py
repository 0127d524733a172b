"""Where this checkout keeps its things. The library knows none of these: it is handed them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
"""What the commands compose."""
LOCAL = Path("results/local/records")
"""Records of this machine, below the folder where a command is started, as all that is written."""
PUBLISHED = ROOT / "results" / "records"
"""Records in git: the project's own, and one folder per collaborator."""
