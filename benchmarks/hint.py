"""A word that Hydra refuses because only the parts that an experiment sweeps over have it."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf


def hint(conf: Path, words: Sequence[str]) -> str | None:
    """Return what to write instead of the first such word, or None.

    Hydra composes an experiment once without what it sweeps over, and a field of a part is not
    there yet; with two pluses it is made, and the part's own value gives way to it.
    """
    experiment = next((word for word in words if word.startswith("experiment=")), None)
    file = conf / "experiment" / f"{(experiment or '').partition('=')[2]}.yaml"
    if experiment is None or not file.is_file() or any(w.startswith("part=") for w in words):
        return None
    parts = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params.part")
    if parts is None:
        return None
    part = f"part={str(parts).partition(',')[0]}"
    for word in words:
        key = word.partition("=")[0]
        if (
            "." in key
            and not _composes(conf, [experiment, word])
            and _composes(conf, [experiment, part, word])
        ):
            name = experiment.partition("=")[2]
            return f"{key} is a field of the parts that {name} sweeps over; write ++{word}"
    return None


def _composes(conf: Path, words: Sequence[str]) -> bool:
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            compose("config", overrides=list(words))
    except HydraException:
        return False
    return True
