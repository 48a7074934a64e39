"""Where training reports its figures: a JSONL file always, TensorBoard and MLflow where asked."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Writer(Protocol):
    """A destination of figures."""

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Record the figures of a step."""

    def rewind(self, step: int) -> None:
        """Forget what was recorded after a step: training continues from there."""


class JsonlWriter:
    """One JSON object a line: {"stage": ..., "step": ..., figures}. Stages may share a file."""

    def __init__(self, path: str | Path, stage: str):
        self._path = Path(path)
        self._stage = stage
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Append a line in one write."""
        with self._path.open("a") as file:
            file.write(json.dumps({"stage": self._stage, "step": step, **values}) + "\n")

    def rewind(self, step: int) -> None:
        """Drop this stage's lines after `step`, and a last line that an interrupted write left unfinished."""
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_text().splitlines() if self._keeps(line, step)]
        temporary = self._path.with_name(self._path.name + ".tmp")
        temporary.write_text("".join(line + "\n" for line in kept))
        os.replace(temporary, self._path)

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
        self._directory = str(directory)
        self._stage = stage
        self._open = SummaryWriter
        self._writer = None

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Add the figures; they reach the disk in the background."""
        writer = self._writer = self._writer or self._open(self._directory)
        for name, value in values.items():
            writer.add_scalar(f"{self._stage}/{name}", value, step)

    def close(self) -> None:
        """Wait until all is on disk."""
        if self._writer is not None:
            self._writer.close()

    def rewind(self, step: int) -> None:
        """Start an event file that hides what earlier ones hold after `step`."""
        if step:
            self._writer = self._open(self._directory, purge_step=step + 1)


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
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        runs = self._client.search_runs([experiment_id], f"attributes.run_name = '{run_name}'", max_results=1)
        run = runs[0] if runs else self._client.create_run(experiment_id, run_name=run_name)
        self._run_id = run.info.run_id

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Log the figures."""
        for name, value in values.items():
            self._client.log_metric(self._run_id, f"{self._stage}/{name}", value, step=step)

    def rewind(self, step: int) -> None:
        """Nothing to do: MLflow keeps every value, and repeated steps hold equal figures."""


class Writers:
    """Several writers as one."""

    def __init__(self, *writers: Writer):
        self._writers = writers

    def write(self, step: int, values: Mapping[str, int | float]) -> None:
        """Write to each."""
        for writer in self._writers:
            writer.write(step, values)

    def rewind(self, step: int) -> None:
        """Rewind each."""
        for writer in self._writers:
            writer.rewind(step)
