"""Shards computed by Dask workers are those of one process, also after a worker has died; bad addresses are refused."""

import os
import signal
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geovq_jax import config, processes, workers
from geovq_jax import workdir as files
from geovq_jax.shards import run_shards
from geovq_jax.stages import codebook, codes, graph, records
from geovq_jax.stages.records import Autoencoder
from geovq_jax.stages.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

TABLE = np.random.default_rng(0).normal(size=(50_000, 3))  # large enough to be mapped
WEIGHTS = jnp.asarray(np.random.default_rng(2).normal(size=(3, 7)), jnp.float32)


@pytest.fixture(scope="module")
def two_workers():
    """A function whose result is a context of two workers; they are started once."""
    pytest.importorskip("distributed")
    cores = workers._cores()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_cores", lambda: (2 * cores)[:2])
        with workers.use_workers("local"):
            client = workers._client.get()
            token = workers._client.set(None)

            def use(patch):
                patch.setattr(workers, "_client", workers.ContextVar("client", default=client))

            yield use
            workers._client.reset(token)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def squares(folder, compute):
    return run_shards(folder, {"a": 1}, len(TABLE), compute, shard_rows=9_000)["squares"]


def computation():
    """Squares of rows, defined where only pickling by value finds it."""
    return partial(lambda table, rows: {"squares": table[rows] ** 2}, TABLE)


def test_shards_of_two_workers_are_those_of_one_process(tmp_path, monkeypatch, two_workers):
    alone = squares(tmp_path / "alone", computation())
    two_workers(monkeypatch)
    assert workers.are_used()
    together = squares(tmp_path / "together", computation())
    assert alone.tobytes() == together.tobytes() == (TABLE**2).tobytes()
    assert tree(tmp_path / "alone") == tree(tmp_path / "together")


def test_local_workers_keep_the_memory_of_large_arrays(monkeypatch, two_workers):
    """Dask's default threshold would make glibc return it to the system after every product."""
    two_workers(monkeypatch)
    settings = workers._client.get().run(os.environ.get, "MALLOC_TRIM_THRESHOLD_")
    assert set(settings.values()) == {os.environ.get("MALLOC_TRIM_THRESHOLD_")}


def test_a_killed_worker_changes_nothing(tmp_path, monkeypatch, two_workers):
    alone = squares(tmp_path / "alone", computation())

    def die_once(marker, table, rows):
        if rows.start == 27_000 and not marker.exists():
            marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return {"squares": table[rows] ** 2}

    two_workers(monkeypatch)
    together = squares(tmp_path / "together", partial(die_once, tmp_path / "died", TABLE))
    died = int((tmp_path / "died").read_text())
    assert died != os.getpid()
    assert alone.tobytes() == together.tobytes()
    assert tree(tmp_path / "alone") == tree(tmp_path / "together")


def test_what_is_left_of_a_run_is_finished_by_workers(tmp_path, monkeypatch, two_workers):
    whole = squares(tmp_path / "s", computation())
    kept = tree(tmp_path / "s")
    (tmp_path / "s" / "000002.npz").unlink()

    def only_the_third(table, rows):
        assert rows == slice(18_000, 27_000)
        return {"squares": table[rows] ** 2}

    two_workers(monkeypatch)
    assert squares(tmp_path / "s", partial(only_the_third, TABLE)).tobytes() == whole.tobytes()
    assert tree(tmp_path / "s") == kept


def test_an_error_on_a_worker_is_that_of_the_function(tmp_path, monkeypatch, two_workers):
    def refuse(rows):
        raise ValueError("expected finite metrics, got NaN")

    two_workers(monkeypatch)
    with pytest.raises(ValueError, match="expected finite metrics, got NaN"):
        squares(tmp_path / "s", refuse)
    assert tree(tmp_path / "s") == {}


@pytest.mark.slow
def test_a_task_at_which_every_worker_dies_ends_the_run(tmp_path, monkeypatch, two_workers):
    two_workers(monkeypatch)
    # On a busy machine a nanny may give up before the scheduler does.
    message = "expected workers that finish a task of s, but several died at it|expected workers, but none is left"
    with pytest.raises(RuntimeError, match=message):
        squares(tmp_path / "s", lambda rows: os.kill(os.getpid(), signal.SIGKILL))


def test_a_run_whose_workers_are_all_gone_ends(tmp_path, monkeypatch, two_workers):
    two_workers(monkeypatch)
    monkeypatch.setattr(workers, "WAIT", 2)
    cluster = workers._client.get().cluster
    cluster.scale(0)
    try:
        with pytest.raises(RuntimeError, match="expected workers, but none is left"):
            squares(tmp_path / "s", computation())
    finally:
        cluster.scale(2)
    monkeypatch.setattr(workers, "WAIT", 60)
    assert squares(tmp_path / "s", computation()).tobytes() == (TABLE**2).tobytes()


def test_results_that_died_with_the_last_worker_end_the_run(monkeypatch):
    distributed = pytest.importorskip("distributed")

    class Future:
        status = "finished"  # as the scheduler last said

        def result(self, timeout):
            raise TimeoutError

    class Client:
        def nthreads(self):
            return {}

    monkeypatch.setattr(workers, "WAIT", 0.1)
    monkeypatch.setattr(distributed, "wait", lambda futures, **_: (set(futures), set()))
    with pytest.raises(RuntimeError, match="expected workers, but none is left"):
        list(workers._as_completed(Client(), [Future()]))


def test_stages_with_two_workers_write_the_files_of_one_process(tmp_path, monkeypatch, two_workers):
    """Metrics, neighbours re-ranked by length, edge lengths, codes: bit for bit, in several shards each."""
    for module, name, rows in (
        (graph, "METRIC_SHARD", 40),
        (graph, "NEIGHBOUR_SHARD", 60),
        (graph, "EDGE_SHARD", 250),
        (codes, "ASSIGN_SHARD", 50),
    ):
        monkeypatch.setattr(module, name, rows)
    monkeypatch.setattr(Run, "_load_autoencoder", lambda *_: Autoencoder({"weights": WEIGHTS}, "small"))
    decoder = lambda model: jax.tree_util.Partial(lambda p, z: jnp.tanh(z @ p["weights"]), model.params)  # noqa: E731
    monkeypatch.setattr(records, "decoder_of", decoder)
    settings = config.experiment("small", {})
    with settings.unlocked():
        settings.vae.kind, settings.data.name = "vanilla", "toy_2d"
        settings.graph.k, settings.graph.rerank, settings.graph.num_images = 8, 12, 100
        settings.codebook.num_clusters, settings.codebook.method, settings.codebook.distance = 9, "geodesic", "graph"
    latents = np.random.default_rng(1).normal(size=(170, 3)).astype(np.float32)
    found = {}
    for name in ("alone", "together"):
        run = Run(tmp_path / name, settings)
        rows = np.arange(170)
        for split in ("train", "valid", "test"):
            arrays = dict.fromkeys(("mean", "log_variance"), latents) | dict.fromkeys(("label", "index"), rows)
            files.save_npz(run.workdir / "latents" / f"{split}.npz", **arrays, image_shape=np.array([7, 1, 1]))
        if name == "together":
            two_workers(monkeypatch)
        graph.measure_metrics(run)
        graph.build_graph(run)
        codebook.build_codebook(run)
        found[name] = codes.assigned(run, run.quantizer, "valid")
    assert found["alone"].codes.tobytes() == found["together"].codes.tobytes()
    assert found["alone"].distances.tobytes() == found["together"].distances.tobytes()
    alone = tree(tmp_path / "alone")
    assert alone == tree(tmp_path / "together")
    shards = [name for name in alone if name.startswith("shards/") and name.endswith(".npz")]
    assert {name.split("/")[1] for name in shards} >= {"metrics_train", "neighbours", "edges", "codes_valid"}
    assert sum(name.startswith("shards/codes_valid/") for name in shards) == 4


@pytest.mark.parametrize("address", ["", "remote", "local:2", "tcp://", "tcp://host", "http://host:8786", "host:8786"])
def test_an_address_that_cannot_be_is_refused(front_door, tmp_path, address):
    code, error = front_door(
        lambda *_: None, "--config=configs/toy_2d.py", f"--workdir={tmp_path}/w", f"--dask={address}"
    )
    assert code == 2
    assert not (tmp_path / "w").exists()
    assert error == (
        f"error: expected --dask=local or the address of a scheduler, got {address!r}; e.g. --dask=tcp://host:8786\n"
    )


def test_a_missing_package_is_named(front_door, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    code, error = front_door(lambda *_: None, "--config=configs/toy_2d.py", f"--workdir={tmp_path}/w", "--dask=local")
    assert (code, error) == (2, "error: --dask needs Dask: pip install 'geovq-jax[dask]'\n")


def test_workers_and_several_processes_together_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "_count", 2)
    with pytest.raises(ValueError, match="expected --dask or --processes, got both"), workers.use_workers("local"):
        pass


def test_an_address_without_a_scheduler_is_one_line(front_door, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "WAIT", 1)
    arguments = ("--config=configs/toy_2d.py", f"--workdir={tmp_path}/w", "--dask=tcp://127.0.0.1:1")
    code, error = front_door(lambda *_: None, *arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert "tcp://127.0.0.1:1" in error
    assert error.count("\n") == 1
