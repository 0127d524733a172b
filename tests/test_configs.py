"""Every YAML in conf/ composes and builds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from gradsae.bench.cell import build
from gradsae.config.experiments import read
from gradsae.errors import UserError
from gradsae.influence.estimator import Estimator
from gradsae.interfaces import Metric, Source, Task

CONF = Path(__file__).parent.parent / "conf"
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
OWN = ("source", "model", "corpus", "trainer", "metric", "fit")
"""Groups that shape a cell."""


def options(group: str) -> list[str]:
    folder = CONF / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


@pytest.mark.parametrize("trainer", options("trainer"))
def test_every_trainer_builds(trainer):
    asked = ["trainer.folder=here"] if trainer == "pretrained" else []  # it has no default
    cfg = composed(f"trainer={trainer}", *asked)
    assert instantiate(cfg.trainer, _convert_="object").d_sae == cfg.d_sae


@pytest.mark.parametrize("source", options("source"))
def test_every_source_builds(source):
    asked = ["source.folder=here"] if source == "saved_world" else []  # it has no default
    built = instantiate(composed(f"source={source}", *asked).source, _convert_="object")
    assert isinstance(built, Source) and built.name  # its width would need its data


@pytest.mark.parametrize("task", options("task"))
def test_every_task_builds_under_the_name_that_chooses_it(task):
    built = instantiate(composed(f"task={task}").task, _convert_="object")
    assert isinstance(built, Task)
    assert built.name == task.partition("/")[0]


@pytest.mark.parametrize(("group", "kind"), [("metric", Metric), ("estimators", Estimator)])
def test_every_metric_and_estimator_builds(group, kind):
    for option in options(group):
        for part in composed(f"{group}=[{option}]")[group].values():
            assert isinstance(instantiate(part, _convert_="object"), kind)


@pytest.mark.parametrize("group", ["model", "corpus"])
def test_every_model_and_corpus_builds(group):
    for option in options(group):
        built = instantiate(composed(f"{group}={option}")[group], _convert_="object")
        assert built.name


ROWS = [f"{path.stem}/{row}" for path in EXPERIMENTS for row in read(path).get("rows") or {}]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_composes_to_a_cell(row):
    asked = ["source.folder=here"] if row.endswith("/independent") else []  # it has no default
    cell = build(composed(f"row={row}", "tracking=none", *asked))
    assert cell.task.name in options("task")


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_names_rows_and_trainers_that_exist(experiment):
    values = swept(experiment)
    assert set(values.get("row", [])) <= set(ROWS)
    assert set(values.get("trainer", [])) <= set(options("trainer"))


def swept(experiment: str) -> dict[str, list[str]]:
    """The values that an experiment sweeps over, by field."""
    params = composed(f"experiment={experiment}").hydra.sweeper.params
    return {name: [value.strip() for value in str(params[name]).split(",")] for name in params}


@pytest.mark.parametrize(
    "experiment", [name for name in options("experiment") if "k" in swept(name)]
)
def test_every_trainer_of_an_experiment_knows_its_values_of_k(experiment):
    values = swept(experiment)
    for trainer in values["trainer"]:
        row = [f"row={values['row'][0]}"]
        cfg = composed(f"experiment={experiment}", f"trainer={trainer}", *row)
        for k in values["k"]:
            cfg.k = int(k)
            assert instantiate(cfg.trainer, _convert_="object").d_sae == cfg.d_sae


@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("gradsae_released")])
def test_released_settings_refuse_another_layer_before_anything_is_fetched(row):
    with pytest.raises(UserError, match=r"trained at site resid_post\.\d+, but the source reads"):
        build(composed(f"row={row}", "tracking=none", "source.layer=3"))


CALIBRATED = ["jumprelu", "jumprelu_tanh", "l1", "gated", "panneal", "gba", "ba"]


@pytest.mark.parametrize("place", ["smollm2", "gemma3_270m"])
@pytest.mark.parametrize("method", CALIBRATED)
def test_a_place_of_language_models_opens_more_latents_for_a_larger_k(place, method):
    """A larger target opens more, a larger penalty fewer."""
    table = composed(f"calibration={place}").calibration[method]
    field = next(name for name in ("htf", "l1", "coefficient") if name in table)
    values = list(table[field].items())
    assert [k for k, _ in values] == [8, 16, 32, 64, 128]
    assert values == sorted(values, key=lambda value: value[1], reverse=field != "htf")


def test_the_layers_of_qwen_differ_in_the_layer_alone():
    configs = [composed(f"row=qwen_layers/layer_{layer}") for layer in (2, 13, 26)]
    assert [config.source.layer for config in configs] == [2, 13, 26]
    assert {config.d_sae for config in configs} == {65536}
    plain = []
    for config in configs:
        config.source.layer = 0
        plain.append({name: OmegaConf.to_container(config[name]) for name in OWN})
    assert plain[0] == plain[1] == plain[2]


def merged(node: yaml.MappingNode) -> list[yaml.Node]:
    """Return the mappings that a mapping takes over with `<<`."""
    return [value for key, value in node.value if key.tag == "tag:yaml.org,2002:merge"]


def mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        node = yaml.SequenceNode("", [child for pair in node.value for child in pair])
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from mappings(child)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_mapping_takes_over_one_that_takes_over_another(path: Path):
    """PyYAML 6.0.4 lets the first of them win over what the second says itself."""
    for mapping in mappings(yaml.compose(path.read_text())):
        for taken in merged(mapping):
            assert isinstance(taken, yaml.MappingNode) and not merged(taken), taken.start_mark
