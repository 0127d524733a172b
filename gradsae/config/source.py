"""The config source of this suite: Hydra reads every YAML file through it.

It adds two things to a plain file. A component's fields need not be listed: those that the file
leaves out come from the dataclass (`gradsae.config.fields`). An experiment file holds its own rows
(`gradsae.config.experiments`). A folder given by `--config-dir` is read in the same way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.file_config_source import FileConfigSource as PlainFiles
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import DictConfig, ListConfig, OmegaConf

from gradsae.config import experiments, resolvers
from gradsae.config.fields import TARGET, filled

CONF = Path(__file__).resolve().parent.parent / "conf"
"""The suite's own folder, whose groups also a folder of the user's may choose from."""
ROW, EXPERIMENT = "row", "experiment"


class FileConfigSource(PlainFiles):
    """Hydra keeps the first class of this name for `file://`, so it must be registered early."""

    fills: ClassVar[bool] = True
    """False inside `unfilled`."""

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.removesuffix(".yaml")
        group, _, rest = name.partition("/")
        if group == ROW:
            experiment, _, row = rest.rpartition("/")
            given = experiments.read(self._experiment(experiment))
            return self._made(experiments.row_config(given, row, self._is_group))
        path = self._path(name)
        if not path.is_file():
            raise ConfigLoadError(f"Config not found : {path}")
        if group == EXPERIMENT:
            return self._made(experiments.as_sweep(rest, experiments.read(path), self._is_group))
        config, header = _load(path, path.stat().st_mtime_ns, self.fills)
        return self._result(OmegaConf.create(config), header)

    def is_group(self, config_path: str) -> bool:
        group, _, experiment = config_path.strip("/").partition("/")
        if group == ROW:
            return bool(self._rows(experiment)) if experiment else self._has_experiments()
        return super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        group, _, rest = config_path.removesuffix(".yaml").partition("/")
        if group == ROW:
            experiment, _, row = rest.rpartition("/")
            return row in self._rows(experiment)
        return super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        group, _, experiment = config_path.strip("/").partition("/")
        if group != ROW:
            return super().list(config_path, results_filter)
        if experiment:
            return [] if results_filter == ObjectType.GROUP else sorted(self._rows(experiment))
        names = sorted(path.stem for path in self._path(EXPERIMENT, "").glob("*.yaml"))
        return [] if results_filter == ObjectType.CONFIG else [n for n in names if self._rows(n)]

    def _has_experiments(self) -> bool:
        return self._path(EXPERIMENT, "").is_dir()

    def _experiment(self, name: str) -> Path:
        return self._path(f"{EXPERIMENT}/{name}")

    def _rows(self, experiment: str) -> dict[str, Any]:
        path = self._experiment(experiment)
        return experiments.read(path).get("rows") or {} if path.is_file() else {}

    def _path(self, name: str, suffix: str = ".yaml") -> Path:
        return Path(self.path) / f"{name}{suffix}"

    def _is_group(self, name: str) -> bool:
        return name == ROW or any((folder / name).is_dir() for folder in (Path(self.path), CONF))

    def _made(self, config: dict[str, Any]) -> ConfigResult:
        return self._result(OmegaConf.create(config), {"package": "_global_"})

    def _result(self, config: Any, header: dict[str, str | None]) -> ConfigResult:
        _open(config)
        path = f"{self.scheme()}://{self.path}"
        return ConfigResult(config=config, path=path, provider=self.provider, header=header)


@cache
def _load(path: Path, changed: int, fills: bool) -> tuple[Any, dict[str, str | None]]:
    """Return a file's plain values and its header; `changed` is its time, so that an edit counts.

    A file that builds on another one sets departures from that, not from the dataclass.
    """
    with path.open(encoding="utf-8") as file:
        header = PlainFiles._get_header_dict(file.read(512))
    config = OmegaConf.to_container(OmegaConf.load(path))
    return filled(config) if fills and not _builds_on(config) else config, header


def _builds_on(config: Any) -> bool:
    """Whether the defaults list of a component's file brings fields of the same component."""
    listed = config.get("defaults", []) if isinstance(config, dict) and TARGET in config else []
    names = [next(iter(item)) if isinstance(item, dict) else item for item in listed]
    return any(name != "_self_" and ("@" not in name or name.endswith("@_here_")) for name in names)


def _open(node: Any) -> None:
    """Let a component take any field: `gradsae.config.fields` refuses those that it does not have.

    Hydra would refuse them at once, also those that only some rows of a sweep have.
    """
    if isinstance(node, DictConfig) and not node._is_interpolation() and not node._is_missing():
        if TARGET in node:
            node._set_flag("struct", False)
        for key in node:
            _open(node._get_node(key))
    elif isinstance(node, ListConfig) and not node._is_interpolation() and not node._is_missing():
        for i in range(len(node)):
            _open(node._get_node(i))


@contextmanager
def unfilled() -> Iterator[None]:
    """Read files without the defaults of components, whose modules are then not imported."""
    FileConfigSource.fills = False
    try:
        yield
    finally:
        FileConfigSource.fills = True


def install() -> None:
    """Read files through this source from now on, and know the resolvers of conf/."""
    SourcesRegistry.instance().types["file"] = FileConfigSource
    resolvers.register()
