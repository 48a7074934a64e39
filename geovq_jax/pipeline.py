"""How stages run: which is finished, stale or to be continued.

A stage is a function of an opened run that leaves files and returns one line on its outcome. The manifest records, for
each of `stage_table`, the hashes of what it read and wrote and the settings it ran under. From that:

- a stage is *finished* while its settings, its inputs and its outputs are as recorded: it is skipped;
- an interrupted stage whose settings and inputs are still the same continues from its own checkpoints, and so does a
  training whose length alone was raised;
- a stage refuses inputs that are *stale* (their own stage read something else since, or ran under other settings) and
  names the entry point to rerun; `run_all` reruns it instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_collections import ConfigDict

from geovq_jax import config as configuration
from geovq_jax import manifest as records
from geovq_jax import processes
from geovq_jax import workdir as files
from geovq_jax.stage_table import ALL, OF_CODES, PRODUCERS, STAGES, function_of, inputs_of, settings_of
from geovq_jax.terminal import console, say, show_figures
from geovq_jax.training import tracking

if TYPE_CHECKING:
    from geovq_jax.stages.run import Run
    from geovq_jax.stages.samples import Given


def entry(*names: str) -> Callable[[Path, ConfigDict], None]:
    """What an entry point runs: the named stages, after a check that everything before them is there and fresh."""

    def run_stages(workdir: Path, config: ConfigDict) -> None:
        features = config.graph.output_metric == "features" and "metrics" in names
        wanted = ("classifier", *names) if features else names
        if configuration.given_codes(config) and names == ("prior",):
            wanted = ("codes", "prior")
        _check_upstream(wanted, workdir, config)
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
    _check_upstream(("samples",), workdir, config)
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
    """The run; imports JAX, which a refused command line never waits for."""
    from geovq_jax.stages.run import Run

    return Run(workdir, config)


def run_all(workdir: Path, config: ConfigDict) -> None:
    """Run every stage that is not finished, in order, then show the figures."""
    run, given = _open(workdir, config), configuration.given_codes(config)
    if not given and not records.read_manifest(workdir).get("vae", {}).get("outputs"):
        from geovq_jax.stages import vae

        vae.check_sizes(run)
    records.store_config(workdir, config)
    names = OF_CODES if given else ALL
    say("plan", _plan(names, workdir, config))
    for name in names:
        run_stage(name, run)
    if given:
        return
    metrics = json.loads((workdir / "report" / "metrics.json").read_text())
    show_figures("test split", metrics["headline"])
    for entry in metrics["next"][:2]:
        say("next", f"{entry['reason']}:\n{'':<10} {entry['command'].replace('=W', f'={workdir}')}")
    say("report", str(workdir / "report" / "index.html"))


class _State(NamedTuple):
    """What a stage would read now, and whether it ran on that before and left what is there."""

    record: dict[str, Any]
    same: bool
    finished: bool


class Call(NamedTuple):
    """What one call asks of a stage besides the configuration: JSON values that are recorded, and arguments."""

    asked: dict[str, Any]
    arguments: dict[str, Any]


def _state(
    name: str, workdir: Path, config: ConfigDict, earlier: Mapping[str, Any], asked: Mapping[str, Any] | None = None
) -> _State:
    record = {"settings": settings_of(name, config), "inputs": _hashes(inputs_of(name, config), workdir)}
    record |= {"call": dict(asked)} if asked else {}
    same = all(earlier.get(part, {}) == record.get(part, {}) for part in ("settings", "inputs", "call"))
    finished = same and "outputs" in earlier and earlier["outputs"] == _hashes(STAGES[name].outputs, workdir)
    return _State(record, same, finished)


def _is_longer(name: str, workdir: Path, record: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Whether nothing changed but that a training may take longer: it continues from its last checkpoint."""
    before = earlier.get("settings", {})
    if name not in ("vae", "prior") or name not in before or earlier.get("inputs") != record["inputs"]:
        return False
    intact = earlier.get("outputs") in (None, _hashes(STAGES[name].outputs, workdir))
    old, new = before[name], record["settings"][name]
    keys = [key for key in configuration.LENGTH if old.get(key) != new[key]]
    raised = bool(keys) and all(key in old and new[key] > old[key] for key in keys)
    return intact and raised and record["settings"] == before | {name: old | {key: new[key] for key in keys}}


def _plan(names: Sequence[str], workdir: Path, config: ConfigDict) -> str:
    """The stages that will run, and how long they took before; training steps where one of them never ran."""
    manifest = records.read_manifest(workdir)
    pending: list[str] = []
    for name in names:
        upstream = any(PRODUCERS[path] in pending for path in inputs_of(name, config))
        if upstream or not _state(name, workdir, config, manifest.get(name, {})).finished:
            pending.append(name)
    if not pending:
        return "every stage has finished"
    seconds = [manifest.get(name, {}).get("cost", {}).get("seconds") for name in pending]
    if None not in seconds:
        return f"{', '.join(pending)}; {max(1, round(sum(seconds) / 60))} min when they ran before"
    trained = ("classifier", "prior") if config.vae.kind == "external" else ("vae", "classifier", "prior")
    sections = [name for name in trained if name in pending]
    steps = ", ".join(f"{name} {config[name].num_steps:,}" for name in sections)
    return ", ".join(pending) + (f"; training steps at most: {steps}" if steps else "")


def run_stage(name: str, run: Run, call: Call | None = None) -> None:
    """Run one stage, continue it, or skip it, as the manifest says.

    Several processes read before the first of them writes, and read what it wrote only after it has finished.
    """
    stage, workdir, config = STAGES[name], run.workdir, run.config
    processes.wait(f"{name}: before")
    manifest = records.read_manifest(workdir)
    earlier = manifest.get(name, {})
    record, same, finished = _state(name, workdir, config, earlier, call.asked if call else None)
    processes.wait(f"{name}: {'finished' if finished else 'runs'}")
    if finished:
        if "files" not in earlier:  # of a manifest from before there were checksums
            manifest[name]["files"] = files.file_hashes(workdir, stage.outputs)
            records.write_manifest(workdir, manifest)
        records.store_checksums(workdir, manifest)
        say(name, "finished before")
        return
    longer = _is_longer(name, workdir, record, earlier)
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
    processes.wait(f"{name}: starts")
    start = time.monotonic()
    from geovq_jax import mesh

    run.forget()
    with mesh.over(config.mesh.data, shard_parameters=config.mesh.shard_parameters):
        outcome = function_of(name)(run, **(call.arguments if call else {}))
    run.forget()
    processes.wait(f"{name}: done")
    written = files.file_hashes(workdir, stage.outputs)
    seconds = round(time.monotonic() - start, 1)
    record |= {"outputs": records.tree_hashes(stage.outputs, written), "files": written, "cost": {"seconds": seconds}}
    records.write_manifest(workdir, manifest | {name: record})
    records.store_checksums(workdir, manifest | {name: record})
    say(name, f"{outcome} ({seconds:.0f} s)")
    if config.tracker != "none":
        _track(name, workdir, config)


def _check_upstream(names: tuple[str, ...], workdir: Path, config: ConfigDict) -> None:
    """Refuse missing, damaged or stale inputs of the named stages; raises as `_check_finished`."""
    needed = [PRODUCERS[path] for name in names for path in inputs_of(name, config)]
    _check_finished([name for name in needed if name not in names], workdir, config, ignored=names)


def _check_finished(names: Iterable[str], workdir: Path, config: ConfigDict, *, ignored: tuple[str, ...] = ()) -> None:
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
        if record["outputs"] != _hashes(stage.outputs, workdir):
            raise ValueError(
                f"expected {', '.join(stage.outputs)} as stage {name} left them, got other bytes; {remedy}"
            )
        inputs = inputs_of(name, config)
        if record["inputs"] != _hashes(inputs, workdir):
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
    _check_finished(["codes", *prior], workdir, configuration.read_config(workdir / "config.json"))


def _hashes(paths: tuple[str, ...], workdir: Path) -> dict[str, str]:
    """Hash of each path that exists."""
    return records.tree_hashes(paths, files.file_hashes(workdir, paths))


def _track(name: str, workdir: Path, config: ConfigDict) -> None:
    """Hand settings, headline figures and small files of a finished stage to the tracker."""
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
    """Recompute the hash of every file of a finished work directory, and print each that differs.

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
