"""Lines of the JSONL file, its rewind, and what TensorBoard and MLflow read back."""

import json
import struct

import pytest

from geovq_jax.training.tracking import (
    JsonlWriter,
    MlflowWriter,
    TensorBoardWriter,
    Writers,
    open_writer,
    record,
)


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_object_a_line_and_stages_share_the_file(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    JsonlWriter(path, "vae").write(10, {"loss": 0.1, "psnr": 20.0})
    JsonlWriter(path, "prior").write(10, {"loss": 3.0})
    assert _lines(path) == [
        {"stage": "vae", "step": 10, "loss": 0.1, "psnr": 20.0},
        {"stage": "prior", "step": 10, "loss": 3.0},
    ]


def test_rewind_drops_later_lines_of_its_stage_and_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    vae, prior = JsonlWriter(path, "vae"), JsonlWriter(path, "prior")
    for step in (1, 2, 3):
        vae.write(step, {"loss": float(step)})
        prior.write(step, {"loss": -float(step)})
    with path.open("a") as file:
        file.write('{"stage": "prior", "st')
    vae.rewind(1)
    vae.write(2, {"loss": 2.5})
    assert [(line["stage"], line["step"], line["loss"]) for line in _lines(path)] == [
        ("vae", 1, 1.0),
        ("prior", 1, -1.0),
        ("prior", 2, -2.0),
        ("prior", 3, -3.0),
        ("vae", 2, 2.5),
    ]


def test_rewind_of_a_file_that_is_not_there(tmp_path):
    JsonlWriter(tmp_path / "metrics.jsonl", "vae").rewind(5)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_writers_pass_everything_on(tmp_path):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    writers = Writers(*(JsonlWriter(path, "vae") for path in paths))
    for step in (1, 2):
        writers.write(step, {"loss": 1.0})
    writers.rewind(1)
    assert [[line["step"] for line in _lines(path)] for path in paths] == [[1], [1]]


def _tensorboard_values(directory, event_type):
    """Scalars of the event files, a record being length (8 bytes), checksum (4), payload, checksum (4)."""
    values = {}
    for path in sorted(directory.iterdir()):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack("<Q", content[start : start + 8])
            event = event_type.FromString(content[start + 12 : start + 12 + length])
            values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            start += 16 + length
    return values


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    from tensorboardX.proto.event_pb2 import Event

    writer = TensorBoardWriter(tmp_path / "events", "vae")
    writer.write(5, {"train/loss": 0.5})
    writer.write(6, {"train/loss": 0.25})
    writer.close()
    assert _tensorboard_values(tmp_path / "events", Event) == {("vae/train/loss", 5): 0.5, ("vae/train/loss", 6): 0.25}


@pytest.mark.slow
def test_mlflow_reads_what_was_written(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    # A database would first migrate through every schema of MLflow's history.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlflow").as_uri()
    MlflowWriter(uri, "digits", "first", "vae").write(5, {"loss": 0.5})
    MlflowWriter(uri, "digits", "first", "vae").write(6, {"loss": 0.25})
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    history = client.get_metric_history(run.info.run_id, "vae/loss")
    assert [(entry.step, entry.value) for entry in history] == [(5, 0.5), (6, 0.25)]


def test_without_a_tracker_only_the_lines_are_written(tmp_path):
    open_writer(tmp_path, "vae").write(1, {"loss": 2.0})
    record(tmp_path, "vae", "none", parameters={"seed": 0}, figures={"psnr": 1.0}, artefacts=[])
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    with pytest.raises(ValueError, match="expected a tracker among"):
        open_writer(tmp_path, "vae", "wandb")


def test_tensorboard_holds_figures_settings_and_pictures(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    from PIL import Image
    from tensorboardX.proto.event_pb2 import Event

    Image.new("L", (3, 2), 255).save(tmp_path / "samples.png")
    open_writer(tmp_path, "vae", "tensorboard").write(3, {"loss": 0.5})
    record(
        tmp_path,
        "report",
        "tensorboard",
        parameters={"vae.beta": 0.5},
        figures={"PSNR [dB]": 20.0},
        artefacts=[tmp_path / "samples.png"],
    )
    values = _tensorboard_values(tmp_path / "tensorboard", Event)
    assert values["vae/loss", 3] == 0.5
    assert values["report/PSNR_dB", 0] == 20.0
    assert {"settings/text_summary", "report/samples"} <= {tag for tag, _ in values}
    assert _lines(tmp_path / "metrics.jsonl") == [{"stage": "vae", "step": 3, "loss": 0.5}]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the database layer are not ours
def test_mlflow_holds_figures_settings_and_files_of_one_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workdir = tmp_path / "first"
    workdir.mkdir()
    (workdir / "samples.png").write_bytes(b"picture")
    open_writer(workdir, "vae", "mlflow").write(3, {"loss": 0.5})
    for beta in (0.5, 0.7):
        record(
            workdir,
            "report",
            "mlflow",
            parameters={"vae.beta": beta},
            figures={"PSNR [dB]": 20.0},
            artefacts=[workdir / "samples.png"],
        )
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("geovq_jax").experiment_id])
    assert run.data.params == {"vae.beta": "0.5"}
    assert run.data.metrics == {"vae/loss": 0.5, "report/PSNR_dB": 20.0}
    assert [path.read_bytes() for path in tmp_path.glob("mlartifacts/**/samples.png")] == [b"picture"]
