"""The order of the stages, what each reads and writes, and when one is finished, stale or to be continued.

A stage is a function of a work directory and a configuration that leaves files. The manifest records, for each, the
hashes of what it read and wrote and the settings it ran under. From that:

- a stage is *finished* while its settings, its inputs and its outputs are as recorded: it is skipped;
- an interrupted stage whose settings and inputs are still the same continues from its own checkpoints;
- a stage refuses inputs that are *stale* (their own stage read something else since, or ran under other settings) and
  names the entry point to rerun; `run_all` reruns it instead.
"""

import importlib
import json
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from geovq_jax import config as configuration
from geovq_jax import manifest as records
from geovq_jax import processes
from geovq_jax import workdir as files
from geovq_jax.terminal import console, say, show_figures
from geovq_jax.training import tracking

_LATENTS = ("latents/train.npz", "latents/valid.npz", "latents/test.npz")


class Stage(NamedTuple):
    """One stage.

    Attributes:
        function: "module.function" of `geovq_jax.stages` that does the work and returns one line on its outcome;
            imported only when it runs, so that a finished run is recognised in a second.
        entry: entry point that runs it alone.
        inputs: paths below the work directory that it reads.
        outputs: paths that it writes.
        sections: parts of the configuration that it depends on.
    """

    function: str
    entry: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sections: tuple[str, ...]


STAGES: dict[str, Stage] = {
    "vae": Stage("vae.train", "train_vae", (), ("vae",), ("seed", "data", "vae")),
    "latents": Stage("vae.extract_latents", "train_vae", ("vae",), _LATENTS, ("seed", "data", "vae")),
    "graph": Stage(
        "codes.build_graph", "build_codebook", ("vae", _LATENTS[0]), ("graph.npz",), ("seed", "vae", "graph")
    ),
    "codebook": Stage(
        "codes.build_codebook", "build_codebook", ("vae", "graph.npz"), ("codebook.npz",), ("seed", "codebook")
    ),
    "codes": Stage(
        "codes.encode_splits",
        "build_codebook",
        ("vae", *_LATENTS, "graph.npz", "codebook.npz"),
        ("codes",),
        ("vae", "graph", "codebook"),
    ),
    "decoder": Stage(
        "codes.finetune_decoder",
        "build_codebook",
        ("vae", "codebook.npz", "codes"),
        ("decoder",),
        ("seed", "data", "vae", "codebook"),
    ),
    "prior": Stage("prior.train", "train_prior", ("codes",), ("prior",), ("seed", "codebook", "prior")),
    "samples": Stage(
        "samples.generate",
        "generate",
        ("decoder", "codebook.npz", "codes", "prior"),
        ("samples.npz", "samples.png", "completions.png"),
        ("vae", "codebook", "prior", "sample"),
    ),
    "classifier": Stage("classifier.train", "evaluate", (), ("classifier",), ("seed", "data", "classifier")),
    "scores": Stage(
        "scores.score",
        "evaluate",
        ("vae", _LATENTS[2], "codebook.npz", "codes", "decoder", "prior", "classifier"),
        ("scores.json",),
        ("seed", "data", "vae", "codebook", "prior", "sample", "classifier", "scores"),
    ),
    "report": Stage(
        "report.evaluate",
        "evaluate",
        ("vae", *_LATENTS, "graph.npz", "codebook.npz", "codes", "decoder", "prior", "samples.npz", "scores.json"),
        ("report",),
        ("seed", "data", "vae", "graph", "codebook", "prior", "evaluate"),
    ),
    "vqvae": Stage("vqvae.train", "train_vqvae", (), ("vqvae",), ("seed", "data", "vae", "codebook", "vqvae")),
}
_APART = ("vqvae",)  # only compared with: no part of `run_all`


def entry(*names: str) -> Callable[[Path, ConfigDict], None]:
    """What an entry point runs: the named stages, after a check that everything before them is there and fresh."""

    def run(workdir: Path, config: ConfigDict) -> None:
        _check_upstream(names, workdir, config)
        records.store_config(workdir, config)
        for name in names:
            run_stage(name, workdir, config)

    return run


def run_all(workdir: Path, config: ConfigDict) -> None:
    """Run every stage that is not finished, in order, then show the figures."""
    if not records.read_manifest(workdir).get("vae", {}).get("outputs"):
        importlib.import_module("geovq_jax.stages.vae").check_sizes(config)
    records.store_config(workdir, config)
    for name in STAGES:
        if name not in _APART:
            run_stage(name, workdir, config)
    figures = json.loads((workdir / "report" / "metrics.json").read_text())["headline"]
    show_figures("test split", dict(figures))
    console.print(f"report: {workdir / 'report' / 'index.html'}")


def compare(workdir: Path, config: ConfigDict, output: Path) -> None:
    """Run every cell of a comparison that is not finished, one method and seed after the other, and gather the results.

    Args:
        workdir: holds a work directory `seed<k>` for each seed.
        config: of the comparison.
        output: folder that the results go to.

    Raises:
        ValueError: several processes share the run, or methods that are not known.
    """
    if not processes.alone():
        raise ValueError("expected one process for a comparison, got several; give each seeds of its own instead")
    comparison, report, methods = (
        importlib.import_module(f"geovq_jax.stages.{name}") for name in ("comparison", "comparison_report", "methods")
    )
    known = (*methods.METHODS, *comparison.JOINT)
    unknown = [name for name in (*config.compare.methods, *config.compare.prior) if name not in known]
    if unknown:
        raise ValueError(f"expected compare.methods among {', '.join(known)}, got {', '.join(unknown)}")
    for seed in config.compare.seeds:
        own, directory = config.copy_and_resolve_references(), workdir / f"seed{seed}"
        own.seed = seed
        for stage in ("vae", "latents", "graph", "codebook", *(["classifier"] if config.compare.prior else [])):
            run_stage(stage, directory, own)
        shared = cache(partial(methods.inputs_of, directory, own))
        for method in config.compare.methods:
            comparison.run_cell(method, directory, own, shared)
    say("compare", report.write_results(workdir, config, output))


def run_stage(name: str, workdir: Path, config: ConfigDict) -> None:
    """Run one stage, continue it, or skip it, as the manifest says.

    Several processes read before the first of them writes, and read what it wrote only after it came to the end.
    """
    stage = STAGES[name]
    processes.wait(f"{name}: before")
    record = {"settings": configuration.settings(config, *stage.sections), "inputs": _hashes(stage.inputs, workdir)}
    manifest = records.read_manifest(workdir)
    earlier = manifest.get(name, {})
    same = all(earlier.get(part) == record[part] for part in record)
    finished = same and earlier.get("outputs") and earlier["outputs"] == _hashes(stage.outputs, workdir)
    processes.wait(f"{name}: {'finished' if finished else 'runs'}")
    if finished:
        if "files" not in earlier:  # of a manifest from before there were checksums
            manifest[name]["files"] = files.file_hashes(workdir, stage.outputs)
            records.write_manifest(workdir, manifest)
        records.store_checksums(workdir, manifest)
        say(name, "finished before")
        return
    if not same or earlier.get("outputs"):
        for output in stage.outputs:
            files.remove(workdir / output)
    records.write_manifest(workdir, manifest | {name: record})
    records.store_devices(workdir)
    processes.wait(f"{name}: starts")
    start = time.monotonic()
    module, function = stage.function.split(".")
    mesh = importlib.import_module("geovq_jax.mesh")
    with mesh.over(config.mesh.data, shard_parameters=config.mesh.shard_parameters):
        outcome = getattr(importlib.import_module(f"geovq_jax.stages.{module}"), function)(workdir, config)
    processes.wait(f"{name}: done")
    record |= {"outputs": _hashes(stage.outputs, workdir), "files": files.file_hashes(workdir, stage.outputs)}
    records.write_manifest(workdir, manifest | {name: record})
    records.store_checksums(workdir, manifest | {name: record})
    say(name, f"{outcome} ({time.monotonic() - start:.0f} s)")
    if config.tracker != "none":
        _track(name, workdir, config)


def _check_upstream(names: tuple[str, ...], workdir: Path, config: ConfigDict) -> None:
    """Refuse missing, damaged or stale inputs of the named stages.

    Raises:
        FileNotFoundError: a stage before them has not finished.
        ValueError: its files are not as it left them, or it is stale.
    """
    manifest = records.read_manifest(workdir)
    producers = {path: name for name, stage in STAGES.items() for path in stage.outputs}
    needed = [producers[path] for name in names for path in STAGES[name].inputs]
    seen: set[str] = set(names)
    while needed:
        name = needed.pop()
        if name in seen:
            continue
        seen.add(name)
        stage, record = STAGES[name], manifest.get(name, {})
        mend = f"rerun python -m geovq_jax.{stage.entry} --workdir={workdir}"
        if not record.get("outputs"):
            raise FileNotFoundError(f"expected the finished stage {name} in {workdir}, found none; {mend}")
        if record["outputs"] != _hashes(stage.outputs, workdir):
            raise ValueError(f"expected {', '.join(stage.outputs)} as stage {name} left them, got other bytes; {mend}")
        if record["inputs"] != _hashes(stage.inputs, workdir):
            raise ValueError(
                f"expected stage {name} to have read the present {', '.join(stage.inputs)}, but they changed; {mend}"
            )
        if record["settings"] != configuration.settings(config, *stage.sections):
            raise ValueError(f"expected stage {name} to have run under this configuration, but it changed; {mend}")
        needed += [producers[path] for path in stage.inputs]


def _track(name: str, workdir: Path, config: ConfigDict) -> None:
    """Hand settings, headline figures and small files of a finished stage to the tracker."""
    places = [workdir / output for output in STAGES[name].outputs]
    found = [path for place in places for path in ([place] if place.is_file() else sorted(place.glob("*")))]
    figures: dict[str, float] = {}
    if name == "report":
        headline = dict(json.loads((workdir / "report" / "metrics.json").read_text())["headline"])
        figures = {key: value for key, value in headline.items() if isinstance(value, int | float)}
    tracking.record(
        workdir,
        name,
        config.tracker,
        parameters=configuration.flat(config),
        figures=figures,
        artefacts=[path for path in found if path.suffix in (".json", ".png", ".html")],
    )


def _hashes(paths: tuple[str, ...], workdir: Path) -> dict[str, str]:
    """Hash of each path that exists."""
    return {path: digest for path, digest in records.tree_hashes(paths, files.file_hashes(workdir, paths)).items()}


def verify(workdir: Path | None) -> None:
    """Recompute the hash of every file of a finished work directory.

    Raises:
        FileNotFoundError: the work directory holds no checksums.
        ValueError: files are changed, missing or not recorded; each is printed on a line.
    """
    if workdir is None:
        raise ValueError("expected --workdir=W of an earlier run, got none; give one")
    found = records.differences(workdir, ["shards", *(path for stage in STAGES.values() for path in stage.outputs)])
    if found:
        console.print("\n".join(found), markup=False)
        raise ValueError(
            f"expected every file of {workdir} as it was written, but {len(found)} differ, first {found[0]}; "
            f"rerun python -m geovq_jax.run --workdir={workdir}"
        )
    console.print(f"every file of {workdir} is as it was written")
