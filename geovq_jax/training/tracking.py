"""Where a run records its metrics: always a JSONL file, optionally TensorBoard or MLflow.

Training stages write through `open_writer`; the pipeline passes settings, final metrics and files of a finished stage
to `record`.
"""

import json
import os
import re
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from geovq_jax import processes

TRACKERS = ("none", "tensorboard", "mlflow")


@runtime_checkable
class Writer(Protocol):
    """A destination of metrics."""

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Record the metrics of a step."""

    def rewind(self, step: int) -> None:
        """Remove what was recorded after a step, from which training continues."""


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of a full disk carry the file's descriptor, not its name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


class JsonlWriter:
    """One JSON object per line: {"stage": ..., "step": ..., metrics}. Stages may share a file."""

    def __init__(self, path: str | Path, stage: str):
        self._path = Path(path)
        self._stage = stage
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        with _named(self._path), self._path.open("a") as file:
            file.write(json.dumps({"stage": self._stage, "step": step, **values}) + "\n")

    def rewind(self, step: int) -> None:
        """Drop this stage's lines after `step`, and a last line that an interrupted write left unfinished."""
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_text().splitlines() if self._keeps(line, step)]
        temporary = self._path.with_name(self._path.name + ".tmp")
        try:
            with _named(self._path):
                temporary.write_text("".join(line + "\n" for line in kept))
            os.replace(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def _keeps(self, line: str, step: int) -> bool:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            return False
        return record.get("stage") != self._stage or record["step"] <= step


class TensorBoardWriter:
    """Scalars for TensorBoard, tagged stage/name; needs the extra `tensorboard`."""

    def __init__(self, directory: str | Path, stage: str):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("TensorBoard needs tensorboardX: pip install 'geovq-jax[tensorboard]'") from error
        self._stage = stage
        # File names contain whole seconds: without a suffix, two writers created within one second would share a file.
        self._new = partial(SummaryWriter, str(directory), filename_suffix=f".{stage}.{time.time_ns()}")
        self._writer: Any = None

    def _open(self, **settings: Any) -> Any:
        """The event file; closed with this object or at the end of the process."""
        if self._writer is None:
            self._writer = self._new(**settings)
            self._close = weakref.finalize(self, self._writer.close)
        return self._writer

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Add the metrics; they are written in the background."""
        for name, value in values.items():
            self._open().add_scalar(_plain_name(f"{self._stage}/{name}"), value, step)

    def record(self, parameters: Mapping[str, Any], artefacts: Sequence[Path]) -> None:
        """Add the settings as text and pictures as images."""
        from PIL import Image

        rows = "".join(f"| {name} | {value} |\n" for name, value in sorted(parameters.items()))
        self._open().add_text("settings", f"| key | value |\n|---|---|\n{rows}")
        for path in artefacts:
            if path.suffix == ".png":
                picture = np.asarray(Image.open(path).convert("RGB"))
                self._open().add_image(f"{self._stage}/{path.stem}", picture, dataformats="HWC")

    def close(self) -> None:
        """Wait until everything is on disk."""
        if self._writer is not None:
            self._close()

    def rewind(self, step: int) -> None:
        """Start an event file that hides the later steps of earlier ones."""
        if step:
            self._open(purge_step=step + 1)


class MlflowWriter:
    """Metrics of one MLflow run, named stage/name; needs the extra `mlflow`."""

    def __init__(self, tracking_uri: str, experiment: str, run_name: str, stage: str):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ImportError("MLflow needs mlflow-skinny: pip install 'geovq-jax[mlflow]'") from error
        self._client = MlflowClient(tracking_uri)
        self._stage = stage
        # Artifacts are stored beside the database, not in the current folder.
        database = tracking_uri.removeprefix("sqlite:///")
        place = Path(database).with_name("mlartifacts").as_uri() if database != tracking_uri else None
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment, place)
        runs = self._client.search_runs([experiment_id], f"attributes.run_name = '{run_name}'", max_results=1)
        run = runs[0] if runs else self._client.create_run(experiment_id, run_name=run_name)
        self._run_id = run.info.run_id

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run_id, _plain_name(f"{self._stage}/{name}"), value, step=step)

    def record(self, parameters: Mapping[str, Any], artefacts: Sequence[Path]) -> None:
        """Add settings that the run does not have yet (MLflow keeps the first value), and files."""
        known = self._client.get_run(self._run_id).data.params
        for name, value in parameters.items():
            if name not in known:
                self._client.log_param(self._run_id, name, value)
        for path in artefacts:
            self._client.log_artifact(self._run_id, str(path), self._stage)

    def rewind(self, step: int) -> None:
        """Nothing to do: MLflow keeps every value, and repeated steps have equal metrics."""


def _plain_name(name: str) -> str:
    """A name without characters that trackers reject, such as brackets around units."""
    return re.sub(r"[^\w\-. /:]", "", name).strip().replace(" ", "_")


class Writers:
    """Several writers as one."""

    def __init__(self, *writers: Writer):
        self._writers = writers

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        for writer in self._writers:
            writer.write(step, values)

    def rewind(self, step: int) -> None:
        for writer in self._writers:
            writer.rewind(step)


def open_writer(workdir: Path, stage: str, tracker: str = "none") -> Writer:
    """The writer of one stage: `metrics.jsonl` of the work directory, and the tracker's store beside it.

    TensorBoard writes to `workdir/tensorboard`; MLflow to $MLFLOW_TRACKING_URI, else to `mlflow.db` beside the work
    directory, whose name is the run's. Of several processes only the first writes. ValueError for an unknown tracker,
    ImportError if its extra is not installed.
    """
    if not processes.is_main():
        return Writers()
    store = _store(workdir, stage, tracker)
    return Writers(JsonlWriter(workdir / "metrics.jsonl", stage), *([] if store is None else [store]))


def record(
    workdir: Path,
    stage: str,
    tracker: str,
    *,
    parameters: Mapping[str, Any],
    figures: Mapping[str, float],
    artefacts: Sequence[Path],
) -> None:
    """Send the settings (dotted key -> value), final metrics and files of a finished stage to the tracker, if any.

    TensorBoard keeps pictures only. Raises as `open_writer`.
    """
    store = _store(workdir, stage, tracker) if processes.is_main() else None
    if store is not None:
        store.write(0, figures)
        store.record(parameters, artefacts)


def _store(workdir: Path, stage: str, tracker: str) -> TensorBoardWriter | MlflowWriter | None:
    if tracker not in TRACKERS:
        raise ValueError(f"expected a tracker among {', '.join(TRACKERS)}, got {tracker!r}; set --tracker=...")
    if tracker == "tensorboard":
        return TensorBoardWriter(workdir / "tensorboard", stage)
    if tracker == "mlflow":
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workdir.parent / 'mlflow.db'}"
        return MlflowWriter(uri, "geovq_jax", workdir.name, stage)
    return None
