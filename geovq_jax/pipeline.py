"""Runs the stages in order: skips what is finished, resumes what was interrupted, refuses stale inputs.

A stage is a function of an opened run that writes files and returns one line on its outcome. An interrupted stage whose
settings and inputs are unchanged continues from its own checkpoints. An entry point that meets stale inputs names the
entry point to rerun; `run_all` reruns it instead. See `staleness`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_collections import ConfigDict

from geovq_jax import config as configuration
from geovq_jax import manifest as records
from geovq_jax import processes, staleness
from geovq_jax import workdir as files
from geovq_jax.staleness import STAGES
from geovq_jax.terminal import console, say, show_figures
from geovq_jax.training import tracking

if TYPE_CHECKING:
    from geovq_jax.stages.run import Run
    from geovq_jax.stages.samples import Given


_ALL = tuple(name for name in STAGES if name not in ("geometry", "vqvae"))  # which have entry points of their own
_OF_CODES = ("codes", "prior", "samples")  # all stages for given codes


def _function(name: str) -> Callable[..., str]:
    """Function of a stage; stages are imported only when one runs, so that a finished run is recognised quickly."""
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


def entry(*names: str) -> Callable[[Path, ConfigDict], None]:
    """The function of an entry point: runs the named stages once all earlier ones are found up to date."""

    def run_stages(workdir: Path, config: ConfigDict) -> None:
        features = config.graph.output_metric == "features" and "metrics" in names
        wanted = ("classifier", *names) if features else names
        if configuration.given_codes(config) and names == ("prior",):
            wanted = ("codes", "prior")
        staleness.check_upstream(wanted, workdir, config)
        run = _open(workdir, config)
        if "samples" in wanted:
            _check_class(run, config)
        records.store_config(workdir, config)
        for name in wanted:
            run_stage(name, run)

    return run_stages


def generate(workdir: Path, config: ConfigDict, settings: Mapping[str, Any], given: Given | None = None) -> None:
    """Draw samples under settings of this call alone, which take the place of section `sample`.

    They are recorded in stages.json and samples.npz, not in config.json. `given` are codes to complete.
    """
    called = sampling_config(config, settings)
    staleness.check_upstream(("samples",), workdir, config)
    run = _open(workdir, config)
    _check_class(run, called, completes=given is not None)
    records.store_config(workdir, config)
    asked = dict(settings) | ({} if given is None else {"given": files.hash_arrays(given._asdict())})
    run_stage("samples", run, Call(asked, {"settings": settings, "given": given}))


def sampling_config(config: ConfigDict, settings: Mapping[str, Any]) -> ConfigDict:
    """A configuration with settings of one call in its section `sample`; ValueError for values out of range."""
    called = config.copy_and_resolve_references()
    configuration.update(called, {f"sample.{name}": value for name, value in settings.items()})
    configuration.validate(called)
    return called


def _check_class(run: Run, config: ConfigDict, *, completes: bool = False) -> None:
    from geovq_jax.stages import samples

    samples.check_class(run, config.sample.class_id, completes=completes)


def _open(workdir: Path, config: ConfigDict) -> Run:
    """The run; imports JAX only here, so that bad input is reported without that wait."""
    from geovq_jax.stages.run import Run

    return Run(workdir, config)


def run_all(workdir: Path, config: ConfigDict) -> None:
    """Run every stage that is not finished, in order, then show the figures."""
    run, given = _open(workdir, config), configuration.given_codes(config)
    if not given and not records.read_manifest(workdir).get("vae", {}).get("outputs"):
        from geovq_jax.stages import vae

        vae.check_sizes(run)
    records.store_config(workdir, config)
    names = _OF_CODES if given else _ALL
    say("plan", _plan(names, workdir, config))
    for name in names:
        run_stage(name, run)
    if given:
        return
    metrics = json.loads((workdir / "report" / "metrics.json").read_text())
    from geovq_jax.report import overview, page

    show_figures("test split", {group: page.format_rows(rows) for group, rows in overview.headline(metrics).items()})
    for entry in metrics["next"][:2]:
        say("next", f"{entry['reason']}:\n{'':<10} {entry['command'].replace('=W', f'={workdir}')}")
    say("report", str(workdir / "report" / "index.html"))


class Call(NamedTuple):
    """What one call asks of a stage besides the configuration: JSON values that are recorded, and arguments."""

    asked: dict[str, Any]
    arguments: dict[str, Any]


def _plan(names: Sequence[str], workdir: Path, config: ConfigDict) -> str:
    """The stages that will run and how long they took before, or their training steps if one of them never ran."""
    manifest = records.read_manifest(workdir)
    pending: list[str] = []
    for name in names:
        upstream = any(staleness.PRODUCERS[path] in pending for path in staleness.inputs_of(name, config))
        if upstream or not staleness.state_of(name, workdir, config, manifest.get(name, {})).finished:
            pending.append(name)
    if not pending:
        return "every stage has finished"
    seconds = [manifest.get(name, {}).get("cost", {}).get("seconds") for name in pending]
    if None not in seconds:
        return f"{', '.join(pending)}; {max(1, round(sum(seconds) / 60))} min when they ran before"
    trained = ("classifier", "prior") if config.vae.kind == "external" else ("vae", "classifier", "prior")
    sections = [name for name in trained if name in pending]
    steps = ", ".join(f"{name} {config[name].num_steps + config[name].get('joint_steps', 0):,}" for name in sections)
    return ", ".join(pending) + (f"; training steps at most: {steps}" if steps else "")


def run_stage(name: str, run: Run, call: Call | None = None) -> None:
    """Run, resume or skip one stage, depending on the manifest.

    With several processes, all read before the main process writes, and read its output only after it has finished.
    """
    stage, workdir, config = STAGES[name], run.workdir, run.config
    processes.barrier(f"{name}: before")
    manifest = records.read_manifest(workdir)
    earlier = manifest.get(name, {})
    record, same, finished = staleness.state_of(name, workdir, config, earlier, call.asked if call else None)
    processes.barrier(f"{name}: {'finished' if finished else 'runs'}")
    if finished:
        if "files" not in earlier:  # of a manifest from before there were checksums
            manifest[name]["files"] = files.file_hashes(workdir, stage.outputs)
            records.write_manifest(workdir, manifest)
        records.store_checksums(workdir, manifest)
        say(name, "finished before")
        return
    longer = staleness.is_longer(name, workdir, record, earlier)
    if not longer and (not same or "outputs" in earlier):
        for output in stage.outputs:
            files.remove(workdir / output)
    if longer or (same and "continued" in earlier):
        steps = [earlier["settings"][name]["num_steps"]] if longer else []
        record["continued"] = {"after": earlier.get("continued", {}).get("after", []) + steps}
    if "cost" in earlier:
        record["cost"] = earlier["cost"]
    records.write_manifest(workdir, manifest | {name: record})
    records.store_devices(workdir)
    processes.barrier(f"{name}: starts")
    start = time.monotonic()
    from geovq_jax import mesh

    run.forget()
    with mesh.use_devices(config.mesh.data, shard_parameters=config.mesh.shard_parameters):
        outcome = _function(name)(run, **(call.arguments if call else {}))
    run.forget()
    processes.barrier(f"{name}: done")
    written = files.file_hashes(workdir, stage.outputs)
    seconds = round(time.monotonic() - start, 1)
    record |= {"outputs": records.tree_hashes(stage.outputs, written), "files": written, "cost": {"seconds": seconds}}
    records.write_manifest(workdir, manifest | {name: record})
    records.store_checksums(workdir, manifest | {name: record})
    say(name, f"{outcome} ({seconds:.0f} s)")
    if config.tracker != "none":
        _track(name, workdir, config)


def _track(name: str, workdir: Path, config: ConfigDict) -> None:
    """Pass settings, headline metrics and small files of a finished stage to the tracker."""
    places = [workdir / output for output in STAGES[name].outputs]
    found = [path for place in places for path in ([place] if place.is_file() else sorted(place.glob("*")))]
    figures: dict[str, float] = {}
    if name == "report":
        headline = json.loads((workdir / "report" / "metrics.json").read_text())["headline"]
        figures = {
            key: value for rows in headline.values() for key, value in rows.items() if isinstance(value, int | float)
        }
    tracking.record(
        workdir,
        name,
        config.tracker,
        parameters=configuration.flat(config),
        figures=figures,
        artefacts=[path for path in found if path.suffix in (".json", ".png", ".html")],
    )


def verify(workdir: Path | None) -> None:
    """Recompute the hash of every file of a finished work directory, and report each that differs.

    Raises FileNotFoundError without checksums, ValueError if files are changed, missing or not recorded.
    """
    if workdir is None:
        raise ValueError("expected --workdir=W of an earlier run, got none; give one")
    found = records.differences(workdir, ["shards", *(path for stage in STAGES.values() for path in stage.outputs)])
    if found:
        console.print("\n".join(found))
        raise ValueError(
            f"expected every file of {workdir} as it was written, but {len(found)} differ, first {found[0]}; "
            f"rerun python -m geovq_jax.run --workdir={workdir}"
        )
    console.print(f"every file of {workdir} is as it was written")
