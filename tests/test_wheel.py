"""The wheel of the library: it installs and works from an empty folder, without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("gradsae", "conf", "pyproject.toml", "README.md", "LICENSE")
SCRIPT = """
import sys
from pathlib import Path

# An editable install of the checkout would answer for what the wheel lacks.
sys.meta_path = [one for one in sys.meta_path if "editable" not in repr(one)]
sys.path = [one for one in sys.path if "editable" not in one]
target, checkout = sys.argv[1:]
sys.path.insert(0, target)
assert not any(Path(one).resolve().is_relative_to(checkout) for one in sys.path[:1])

import gradsae
import torch

assert Path(gradsae.__file__).is_relative_to(target), gradsae.__file__
model = gradsae.load_model("tiny_random")
acts = torch.randn(300, model.d_model, generator=torch.Generator().manual_seed(0))
sae = gradsae.train("gba", acts, d_sae=64, steps=3)
assert sae.d_sae == 64
table = gradsae.influence(
    model, gradsae.load_sae(gradsae.train("topk", acts, d_sae=64, k=4, steps=3)),
    "The capital of France", site="resid_post.1", estimators=["grad_times_act"],
)
assert "<table>" in table._repr_html_()
assert "reconstruction/fvu" in gradsae.score(sae, acts)["score"]
for name in ("benchmarks", "hydra_plugins"):
    try:
        __import__(name + ".run")
    except ModuleNotFoundError:
        continue
    raise AssertionError(name)
print("works")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since building leaves files beside pyproject.toml."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy / name)
    options = ["--no-deps", "--no-build-isolation", "-q", "-w", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(copy)], check=True)
    (built,) = out.glob("gradsae-*.whl")
    return built


def test_the_wheel_holds_the_library_with_its_settings_and_templates_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gradsae"}
    inside = {name for name in names if name.startswith("gradsae/conf/")}
    wanted = {f"gradsae/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert inside == wanted
    templates = (ROOT / "gradsae").rglob("*.j2")
    assert {str(path.relative_to(ROOT)) for path in templates} <= set(names)


def test_the_wheel_works_from_an_empty_folder(wheel: Path, tmp_path: Path):
    target, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    options = ["--no-deps", "-q", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(target), str(ROOT)],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "works"
    assert list(empty.iterdir()) == []
