"""Stage one: does this data meet the conditions under which GBA is proved to recover features?

python -m benchmarks.suitability source=superposition
python -m benchmarks.suitability source=lm_layer source.layer=8 d_sae=2048 k=32

Takes the words of `benchmarks.run`. Where the true features are known they are used; elsewhere two
reference families are: a TopK autoencoder (d_sae, k, lr, fit) and ICA. Nothing is recorded.
A synthetic world takes seconds; 20,000 rows of a layer of SmolLM2 10 core-minutes, mostly ICA.
"""

import re
import shlex
import sys
import textwrap
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarks.launch.command import command
from benchmarks.places import CONF
from gradsae.errors import UserError
from gradsae.tables.printing import console_table

if TYPE_CHECKING:
    from gradsae.bench.cell import Cell
    from gradsae.suitability.conditions import Row
    from gradsae.suitability.evidence import Evidence
    from gradsae.suitability.proposal import Setting
    from gradsae.suitability.quantities import Raw

MEANT = ("trainer", "d_sae")
"""Words that the proposal replaces."""
OF_REFERENCES = ("k", "lr", "fit")
"""Words that shaped the reference families, where there are some."""

TRUTH = """The worst of the conditions that count. They are sufficient, not necessary:
data that misses some may still be recovered."""
REFERENCES = f"""{TRUTH}
Seen through references: latents that split or mix features fire together and at other
rates, so even a verdict on which both agree may be theirs and not the data's."""

failed: list[str] = []


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(cfg: DictConfig) -> None:
    from gradsae.bench.cell import build

    try:
        OmegaConf.resolve(cfg)
        print(report(build(cfg), cfg, list(HydraConfig.get().overrides.task)), flush=True)
    except (UserError, ValueError, OmegaConfBaseException) as error:
        failed.append(str(error))
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)


def report(cell: "Cell", cfg: DictConfig, words: list[str]) -> str:
    """Return the text that the command prints: the data, the table and the proposal."""
    from gradsae.suitability import references
    from gradsae.suitability.study import study

    trainer = references.trainer_of(cfg.d_sae, cfg.k, cfg.lr)
    answer = study(cell.source, trainer, cell.fit, cell.seeds, cell.device, log=_tell)
    return "\n\n".join(
        [
            _heading(cell, answer.families, answer.raw),
            _table(answer.rows),
            _limits(),
            f"overall: {answer.overall}. {REFERENCES if len(answer.families) > 1 else TRUTH}",
            _proposed(answer.settings, words),
        ]
    )


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _heading(cell: "Cell", families: "dict[str, Evidence]", raw: "Raw") -> str:
    from gradsae.interfaces import ModelSource

    lines = [f"suitability of {cell.source.name} for GBA, {raw.n_rows} held-out rows"]
    if isinstance(cell.source, ModelSource):
        lines.append("  tokens of one text are alike, so 95 % intervals over tokens are too narrow")
    for name, evidence in families.items():
        if evidence.rates is not None:
            lines.append(
                f"  {name}: directions and rates from the source's law; the rest counted on the "
                "rows, with 95 % intervals"
            )
        else:
            lines.append(f"  {name}, {evidence.n} features found. {evidence.caveat}")
    return "\n".join(lines)


def _table(rows: "list[Row]") -> str:
    table = [[row.name, row.verdict, row.estimate, row.wants] for row in rows]
    whys = "\n".join(
        textwrap.fill(f"  {row.name}: {row.why}", 100, subsequent_indent="    ") for row in rows
    )
    head = ["condition", "verdict", "estimate", "the theorem wants"]
    return f"{console_table(head, table)}\n\nwhy:\n{whys}"


def _limits() -> str:
    """Return the limits of the verdicts, so that a reader can judge a near miss."""
    from gradsae.suitability.theorem import CONSTANT, MUCH_LESS

    return (
        f"<<: met where the ratio is below {MUCH_LESS:g}, not met above 1; constant: met up to "
        f"{CONSTANT:.3g}, not met above {CONSTANT**2:.3g};\n"
        "doubtful between, where an interval crosses a limit, or where families disagree. These "
        "limits are ours: the paper gives none."
    )


def _proposed(settings: "dict[str, list[Setting]]", words: list[str]) -> str:
    """Return the first family's settings, with reasons and as one command; others' differences."""
    (family, first), *families = settings.items()
    replaced = (*MEANT, *OF_REFERENCES) if families else MEANT
    staying = [word for word in words if re.split("[=.@]", word.lstrip("+~"))[0] not in replaced]
    command = shlex.join(["python", "-m", "benchmarks.run", *staying, *(s.override for s in first)])
    width = max(len(setting.override) for setting in first)
    lines = [f"  {setting.override.ljust(width)}  {setting.why}" for setting in first]
    for name, other in families:
        differing = [
            setting.override
            for setting in other
            if setting.override not in {s.override for s in first}
        ]
        lines.append(f"  by {name}: {' '.join(differing) or 'the same'}")
    return "\n".join([f"proposal (from {family}):", *lines, "", f"  {command}"])


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):  # Hydra's is that of `benchmarks.run`
        print(f"{__doc__}\nThe words: python -m benchmarks.run --help")
        return
    if {"-m", "--multirun"} & set(sys.argv):
        raise UserError("suitability looks at one source at a time, without -m")
    _job()
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(command(main))
