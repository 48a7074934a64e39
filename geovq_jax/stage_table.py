"""The stages in their order: what each reads and writes, the settings that it depends on, and its function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from geovq_jax import config as configuration


class Stage(NamedTuple):
    """One stage: the entry point that runs it alone, paths below the work directory that it reads and writes, and the
    sections, or single keys, of the configuration that it depends on.
    """

    entry: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: tuple[str, ...]


_LATENTS = ("latents/train.npz", "latents/valid.npz", "latents/test.npz")
_MEASURED = ("graph.weights", "graph.context", "graph.output_metric", "codebook.method", "codes.search")
_ENCODING = ("vae", *_LATENTS, "metrics", "graph.npz", "codebook.npz")

STAGES: dict[str, Stage] = {
    "vae": Stage("train_vae", (), ("vae",), ("seed", "data", "vae")),
    "latents": Stage("train_vae", ("vae",), _LATENTS, ("seed", "data", "vae")),
    "classifier": Stage("evaluate", (), ("classifier",), ("seed", "data", "classifier")),
    "metrics": Stage("build_codebook", ("vae", *_LATENTS), ("metrics",), ("vae", *_MEASURED)),
    "graph": Stage("build_codebook", ("vae", _LATENTS[0], "metrics"), ("graph.npz",), ("seed", "vae", "graph")),
    "codebook": Stage(
        "build_codebook", ("vae", _LATENTS[0], "metrics", "graph.npz"), ("codebook.npz",), ("seed", "codebook")
    ),
    "decoder": Stage("build_codebook", _ENCODING, ("decoder",), ("seed", "data", "vae", "codebook", "codes")),
    "codes": Stage("build_codebook", (*_ENCODING, "decoder"), ("codes",), ("vae", "graph", "codebook", "codes")),
    "prior": Stage("train_prior", ("codes",), ("prior",), ("seed", "codebook", "prior")),
    "samples": Stage(
        "generate",
        ("decoder", "codebook.npz", "codes", "prior"),
        ("samples.npz", "samples.png", "completions.png"),
        ("vae", "codebook", "prior", "sample"),
    ),
    "scores": Stage(
        "evaluate",
        ("vae", _LATENTS[2], "codebook.npz", "codes", "decoder", "prior", "classifier"),
        ("scores.json",),
        ("seed", "data", "vae", "codebook", "prior", "sample", "classifier", "scores"),
    ),
    "report": Stage(
        "evaluate",
        (*_ENCODING, "codes", "decoder", "prior", "samples.npz", "scores.json", "classifier"),
        ("report",),
        ("seed", "data", "vae", "graph", "codebook", "codes", "prior", "evaluate"),
    ),
    "geometry": Stage(
        "geometry_report",
        ("vae", _LATENTS[0], "metrics", "graph.npz"),
        ("geometry",),
        ("seed", "vae", "graph", "evaluate"),
    ),
    "vqvae": Stage("train_vqvae", (), ("vqvae",), ("seed", "data", "vae", "codebook", "vqvae")),
}
PRODUCERS = {path: name for name, stage in STAGES.items() for path in stage.outputs}
ALL = tuple(name for name in STAGES if name not in ("geometry", "vqvae"))  # which have entry points of their own
OF_CODES = ("codes", "prior", "samples")  # all that there is to do for given codes
_FEATURES = ("metrics", "decoder", "codes")  # stages that read the output metric of the run


def function_of(name: str) -> Callable[..., str]:
    """Function of a stage; imports the stages only when one runs, so that a finished run is recognised in a second."""
    from geovq_jax.report import build
    from geovq_jax.stages import classifier, codebook, codes, finetune, graph, prior, samples, scores, vae, vqvae

    return {
        "vae": vae.train,
        "latents": vae.extract_latents,
        "classifier": classifier.train,
        "metrics": graph.measure_metrics,
        "graph": graph.build_graph,
        "codebook": codebook.build_codebook,
        "decoder": finetune.finetune_decoder,
        "codes": codes.encode_splits,
        "prior": prior.train,
        "samples": samples.generate,
        "scores": scores.score,
        "report": build.write,
        "geometry": build.write_geometry,
        "vqvae": vqvae.train,
    }[name]


def inputs_of(name: str, config: ConfigDict) -> tuple[str, ...]:
    """Paths that a stage reads under a configuration."""
    if configuration.given_codes(config):
        return {"codes": (), "samples": ("codes", "prior")}.get(name, STAGES[name].inputs)
    features = config.graph.output_metric == "features" and name in _FEATURES
    return (*STAGES[name].inputs, *(("classifier",) if features else ()))


def settings_of(name: str, config: ConfigDict) -> dict[str, Any]:
    """Settings that a stage depends on under a configuration."""
    more: tuple[str, ...] = ()
    if name == "codes" and config.codes.rate == "prior":
        more = ("prior",)
    elif name == "codes" and configuration.given_codes(config):
        more = ("seed", "data")
    return configuration.settings(config, *STAGES[name].settings, *more)
