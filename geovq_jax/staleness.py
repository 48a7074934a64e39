"""The stages of a run, what each reads and writes, and whether what it left is still valid.

The manifest records the hashes of each stage's inputs and outputs and its settings. From these:

- a stage is *finished* while its settings, its inputs and its outputs are as recorded;
- its outputs are *stale* if it ran under other settings, or if one of its inputs has been written since.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from geovq_jax import config as configuration
from geovq_jax import manifest as records
from geovq_jax import workdir as files


class Stage(NamedTuple):
    """One stage: the entry point that runs it alone, paths below the work directory that it reads and writes, and the
    sections, or single keys, of the configuration that it depends on.
    """

    entry: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: tuple[str, ...]


_LATENTS = ("latents/train.npz", "latents/valid.npz", "latents/test.npz")
_GRAPH = ("graph.weights", "graph.context", "graph.output_metric")
_MEASURED = (*_GRAPH, "codebook.method", "codebook.distance", "codes.search")  # which latents need their metric
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
_FEATURES = ("metrics", "decoder", "codes")  # stages that read the output metric of the run


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


class State(NamedTuple):
    """The current inputs of a stage, and whether its recorded inputs and outputs still match."""

    record: dict[str, Any]
    same: bool
    finished: bool


def state_of(
    name: str, workdir: Path, config: ConfigDict, earlier: Mapping[str, Any], asked: Mapping[str, Any] | None = None
) -> State:
    """State of a stage whose manifest entry is `earlier`, for a call that asks for `asked` besides the settings."""
    record = {"settings": settings_of(name, config), "inputs": hashes(inputs_of(name, config), workdir)}
    record |= {"call": dict(asked)} if asked else {}
    same = all(earlier.get(part, {}) == record.get(part, {}) for part in ("settings", "inputs", "call"))
    finished = same and "outputs" in earlier and earlier["outputs"] == hashes(STAGES[name].outputs, workdir)
    return State(record, same, finished)


def is_longer(name: str, workdir: Path, record: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Whether nothing changed but that a training may take longer: it continues from its last checkpoint."""
    before = earlier.get("settings", {})
    if name not in ("vae", "prior") or name not in before or earlier.get("inputs") != record["inputs"]:
        return False
    if record["settings"][name].get("joint_steps"):  # which start from the end of the training before them
        return False
    intact = earlier.get("outputs") in (None, hashes(STAGES[name].outputs, workdir))
    old, new = before[name], record["settings"][name]
    keys = [key for key in configuration.LENGTH if old.get(key) != new[key]]
    raised = bool(keys) and all(key in old and new[key] > old[key] for key in keys)
    return intact and raised and record["settings"] == before | {name: old | {key: new[key] for key in keys}}


def check_upstream(names: tuple[str, ...], workdir: Path, config: ConfigDict) -> None:
    """Refuse missing, damaged or stale inputs of the named stages; raises as `check_finished`."""
    needed = [PRODUCERS[path] for name in names for path in inputs_of(name, config)]
    check_finished([name for name in needed if name not in names], workdir, config, ignored=names)


def check_finished(names: Iterable[str], workdir: Path, config: ConfigDict, *, ignored: tuple[str, ...] = ()) -> None:
    """Refuse missing, damaged or stale outputs of the named stages and of all before them, but for those ignored.

    Raises FileNotFoundError if one of them has not finished, ValueError if it is stale or its files changed.
    """
    manifest, needed, seen = records.read_manifest(workdir), list(names), set(ignored)
    while needed:
        name = needed.pop()
        if name in seen:
            continue
        seen.add(name)
        stage, record = STAGES[name], manifest.get(name, {})
        remedy = f"rerun python -m geovq_jax.{stage.entry} --workdir={workdir}"
        if "outputs" not in record:
            raise FileNotFoundError(f"expected the finished stage {name} in {workdir}, found none; {remedy}")
        if record["outputs"] != hashes(stage.outputs, workdir):
            raise ValueError(
                f"expected {', '.join(stage.outputs)} as stage {name} left them, got other bytes; {remedy}"
            )
        inputs = inputs_of(name, config)
        if record["inputs"] != hashes(inputs, workdir):
            raise ValueError(
                f"expected stage {name} to have read the present {', '.join(inputs)}, but they changed; {remedy}"
            )
        if changed := _changed(record["settings"], settings_of(name, config)):
            flags = " ".join(f"--config.{key}={str(value).replace(' ', '')}" for key, value in changed.items())
            raise ValueError(
                f"expected stage {name} to have run under this configuration, but {', '.join(changed)} changed; run "
                f"python -m geovq_jax.run --workdir={workdir} {flags}, or ask for the earlier values"
            )
        needed += [PRODUCERS[path] for path in inputs]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a configuration whose values in a stage's settings differ from the recorded ones, with the new values."""
    old, new = (
        {
            f"{name}.{key}" if key else name: tuple(entry) if isinstance(entry, list) else entry
            for name, value in settings.items()
            for key, entry in (value.items() if isinstance(value, dict) else [("", value)])
        }
        for settings in (before, now)
    )
    return {key: value for key, value in new.items() if key not in old or old[key] != value}


def check_run(workdir: Path) -> None:
    """Refuse a run of which a stage up to the codes, or the prior if it has one, is missing, damaged or stale.

    Raises FileNotFoundError if a stage has not finished, ValueError if it is stale, its files changed, or config.json
    is damaged.
    """
    prior = ["prior"] if records.read_manifest(workdir).get("prior", {}).get("outputs") else []
    check_finished(["codes", *prior], workdir, configuration.read_config(workdir / "config.json"))


def hashes(paths: tuple[str, ...], workdir: Path) -> dict[str, str]:
    """Hash of each path that exists."""
    return records.tree_hashes(paths, files.file_hashes(workdir, paths))
