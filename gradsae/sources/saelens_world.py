"""Worlds in the folder format of sae-lens 6.54 (`sae_lens.synthetic.SyntheticModel.save`).

Two of its properties matter here. Magnitudes are not stored: sae-lens makes them again from the
laws and the seed in the config (spreads from seed + 1, means from seed + 2), and so does `load`.
With correlation, sae-lens samples by the probabilities that follow from the config and not by
those in the weights; `load` takes those in the weights. The two agree in every folder that its
`save` wrote from a model made from a config.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from gradsae.errors import UserError
from gradsae.sae.weights import check_sizes, check_weights
from gradsae.sources.forest import Forest, spread_generator
from gradsae.sources.world.laws import folded_normal
from gradsae.sources.world.parts import Trees, World
from gradsae.storage.files import replacing, write_whole
from gradsae.storage.sealed import read_object
from gradsae.storage.tensors import read_tensors

CONFIG = "synthetic_model_config.json"
WEIGHTS = "synthetic_model.safetensors"
HIERARCHY = "hierarchy.json"
FACTOR = "correlation_factor"
LAYOUT = {
    "feature_vectors": ("n_features", "d_in"),
    "bias": ("d_in",),
    "firing_probabilities": ("n_features",),
    FACTOR: ("n_features", "rank"),
}


def files(folder: Path) -> list[Path]:
    """Return the files of a saved world; raise UserError where one that is needed is missing."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is not a saved world: it has no {name}")
    has_trees = (folder / HIERARCHY).is_file()
    if not has_trees and read_object(folder / CONFIG).get("hierarchy") is not None:
        raise UserError(
            f"{folder} is not a whole saved world: {CONFIG} describes trees of features, but "
            f"{HIERARCHY}, which holds them, is missing"
        )
    return [folder / name for name in (CONFIG, WEIGHTS, *([HIERARCHY] if has_trees else []))]


def load(folder: Path) -> World:
    """Return a saved world.

    Raises UserError: a missing or unreadable file, tensors that do not fit, a forest that is none,
    a law of magnitudes that is unknown or was drawn without a seed.
    """
    has_trees = len(files(folder)) == 3
    config, path = read_object(folder / CONFIG), folder / WEIGHTS
    roots = read_object(folder / HIERARCHY).get("roots") if has_trees else []
    tensors = read_tensors(path)
    layout = LAYOUT if FACTOR in tensors else {k: v for k, v in LAYOUT.items() if k != FACTOR}
    sizes = check_weights(tensors, layout, path)
    stated = {"n_features": config.get("num_features"), "d_in": config.get("hidden_dim")}
    stated = {name: size for name, size in stated.items() if size is not None}
    check_sizes(stated, {name: sizes[name] for name in stated}, folder / CONFIG, path)
    n = sizes["n_features"]
    weights = {name: tensors[name].float() for name in layout}
    vectors = weights["feature_vectors"]
    # Directions have norm 1 here, so a vector's length counts with its magnitude.
    lengths = vectors.norm(dim=1)
    if bool((lengths == 0).any()):
        first = int((lengths == 0).nonzero()[0])
        raise UserError(f"{path}: feature_vectors of feature {first} is 0, which is no direction")
    try:
        return World(
            directions=normalize(vectors, dim=1),
            bias=weights["bias"],
            probabilities=weights["firing_probabilities"].double(),
            factor=weights.get(FACTOR, torch.zeros(n, 0)),
            means=lengths * _magnitudes(config, "mean_firing_magnitudes", n, 1.0, 2),
            spreads=lengths * _magnitudes(config, "std_firing_magnitudes", n, 0.0, 1),
            trees=read_trees(roots, n),
        )
    except KeyError as error:
        raise UserError(f"the saved world in {folder} has no entry {error}") from error
    except (ValueError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"the saved world in {folder} cannot be read: {error}") from error


def read_trees(roots: Any, n_features: int) -> Trees:
    """Return the trees of nested nodes. A node without a feature hands its parent on."""
    parent = torch.full((n_features,), -1)
    group, scaled = parent.clone(), torch.zeros(n_features, dtype=torch.bool)
    seen: set[int] = set()
    n_groups = 0
    stack = [(node, -1, False, -1) for node in roots]
    while stack:
        node, above, scales, its_group = stack.pop()
        feature = node.get("feature_index")
        if feature is not None:
            if type(feature) is not int or not 0 <= feature < n_features:
                raise ValueError(f"feature_index {feature!r} is not one of {n_features} features")
            if feature in seen:
                raise ValueError(f"feature {feature} stands in the trees more than once")
            seen.add(feature)
            parent[feature], scaled[feature] = above, scales and above >= 0
            group[feature], above = its_group, feature
        children = node.get("children", [])
        named = sum(child.get("feature_index") is not None for child in children)
        rivals = bool(node.get("mutually_exclusive_children")) and named > 1
        scales = bool(node.get("scale_children_by_parent"))
        stack += [(child, above, scales, n_groups if rivals else -1) for child in children]
        n_groups += rivals
    return Trees(parent=parent, group=group, scaled=scaled)


def _magnitudes(
    config: Mapping[str, Any], name: str, n: int, default: float, seed_offset: int
) -> Float[Tensor, " n_features"]:
    law = config.get(name, default)
    if not isinstance(law, dict):
        return torch.full((n,), float(law))
    match law.get("generator_name"):
        case "constant":
            return torch.full((n,), float(law["value"]))
        case "linear":
            return torch.linspace(law["start"], law["end"], n)
        case "exponential":
            ratio = law["end"] / law["start"]
            return law["start"] * ratio ** torch.linspace(0, 1, n)
        case "folded_normal":
            if config.get("seed") is None:
                raise ValueError(
                    f"{name} was drawn without a seed and is not stored, so sae-lens gives other "
                    "magnitudes at each load; save the world with a seed"
                )
            generator = torch.Generator().manual_seed(config["seed"] + seed_offset)
            drawn = folded_normal(n, law["mean"], law["std"], generator)
            return (
                drawn.clamp(law.get("min_value"), law.get("max_value")) if _bounded(law) else drawn
            )
        case other:
            raise ValueError(f"{name} follows an unknown law, {other!r}")


def _bounded(law: Mapping[str, Any]) -> bool:
    return law.get("min_value") is not None or law.get("max_value") is not None


def save(source: Forest, folder: Path) -> None:
    """Write a world so that sae-lens loads the same one (`SyntheticModel.load_from_disk`).

    The seed in the config is the one from which sae-lens draws the same spreads; it is not the
    seed of the world.
    """
    world = source.world()
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        "feature_vectors": world.directions.contiguous(),
        "bias": world.bias,
        "firing_probabilities": world.probabilities.float(),
    }
    if source.correlation_rank:
        weights["correlation_factor"] = world.factor
        weights["correlation_diag"] = 1 - world.factor.square().sum(1)
    with replacing(folder / WEIGHTS) as fresh:
        save_file(weights, fresh)
    if source.n_roots:
        write_whole(folder / HIERARCHY, json.dumps({"roots": _nodes(world.trees)}) + "\n")
    write_whole(folder / CONFIG, json.dumps(law_of(source), indent=2) + "\n")


def law_of(source: Forest) -> dict[str, Any]:
    """Return the config of a world in their words: its laws and the seed of its spreads."""
    trees = {
        "total_root_nodes": source.n_roots,
        "branching_factor": source.branching,
        "max_depth": source.depth,
        "mutually_exclusive_portion": source.exclusive,
        "compensate_probabilities": source.compensate,
        "scale_children_by_parent": source.scale_children,
    }
    steps = {"num_steps": source.orthogonal_steps, "lr": source.orthogonal_lr}
    correlation = {
        "rank": source.correlation_rank,
        "correlation_scale": source.correlation_scale,
    }
    spread: Any = float(source.spread_mean)
    if source.spread_std > 0:
        law = {"mean": source.spread_mean, "std": source.spread_std}
        spread = {**law, "generator_name": "folded_normal"}
    return {
        "num_features": source.n_features,
        "hidden_dim": source.width,
        "firing_probability": {
            "exponent": source.rate_exponent,
            "max_prob": source.highest_rate,
            "min_prob": source.lowest_rate,
            "generator_name": "zipfian",
        },
        "hierarchy": trees if source.n_roots else None,
        "orthogonalization": steps if source.orthogonal_steps else None,
        "correlation": correlation if source.correlation_rank else None,
        "std_firing_magnitudes": spread,
        "mean_firing_magnitudes": {
            "start": source.first_mean,
            "end": source.last_mean,
            "generator_name": "linear",
        },
        "bias": float(source.bias),
        "dtype": "float32",
        "seed": spread_generator(source).initial_seed() - 1,
    }


def _nodes(trees: Trees) -> list[dict[str, Any]]:
    """Return the roots that have children, as nested nodes."""
    nodes = [
        {
            "feature_index": i,
            "mutually_exclusive_children": False,
            "scale_children_by_parent": False,
            "feature_id": None,
            "children": [],
        }
        for i in range(len(trees.parent))
    ]
    rows = zip(trees.parent.tolist(), trees.group.tolist(), trees.scaled.tolist(), strict=True)
    for i, (above, group, scaled) in enumerate(rows):
        if above >= 0:
            nodes[above]["children"].append(nodes[i])
            nodes[above]["mutually_exclusive_children"] |= group >= 0
            nodes[above]["scale_children_by_parent"] |= scaled
    return [
        nodes[i] for i in torch.nonzero(trees.parent < 0)[:, 0].tolist() if nodes[i]["children"]
    ]
