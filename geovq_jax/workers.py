"""Workers of a Dask cluster that compute the shards of `run_shards`, on one machine or many.

Workers share the file system of the work directory: they read the function of a shard from a file, with what it binds,
such as a decoder with its parameters, map large arrays, write shards themselves and return hashes. A shard whose worker
dies is computed by another one.
"""

import contextlib
import functools
import hashlib
import io
import os
import pickle
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from geovq_jax import processes

MAPPED = 2**20  # bytes from which on workers map an array from a file; smaller ones lie beside the function
WAIT = 60  # seconds for the scheduler, for a first worker, and for another where all have died
_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d+")
_client: ContextVar[Any] = ContextVar("client", default=None)


@contextlib.contextmanager
def use_workers(specification: str | None) -> Iterator[None]:
    """Context in which workers compute shards: "local" starts one per core, an address is that of a scheduler.

    A local worker stays on one core. Without a specification this process computes. Raises ValueError for anything
    else, together with several processes, or without workers; ImportError without the extra `dask`.
    """
    if specification is None:
        yield
        return
    if specification != "local" and not _ADDRESS.fullmatch(specification):
        raise ValueError(
            f"expected --dask=local or the address of a scheduler, got {specification!r}; e.g. --dask=tcp://host:8786"
        )
    if not processes.is_single():
        raise ValueError("expected --dask or --processes, got both; leave one out")
    with _connect(specification) as client:
        token = _client.set(client)
        try:
            yield
        finally:
            _client.reset(token)


def are_used() -> bool:
    """Whether workers compute shards."""
    return _client.get() is not None


@contextlib.contextmanager
def _connect(specification: str) -> Iterator[Any]:
    """A client of the scheduler, or of one started here with a worker per core, which end with the context."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError("--dask needs Dask: pip install 'geovq-jax[dask]'") from error
    import logging

    with contextlib.ExitStack() as stack:
        address: Any = specification
        if specification == "local":
            logging.getLogger("distributed").setLevel(logging.ERROR)
            # Dask's threshold makes glibc return every large array to the system, and metrics take twice the time.
            trim = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"
            stack.enter_context(dask.config.set({trim: None}))
            address = stack.enter_context(
                LocalCluster(
                    n_workers=len(_cores()),
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs=logging.ERROR,
                    memory_limit=None,
                    env={"DASK_LOGGING__DISTRIBUTED": "critical"} | _programs(),
                )
            )
        client = stack.enter_context(Client(address, timeout=WAIT))
        try:
            client.wait_for_workers(1, timeout=WAIT)
        except TimeoutError as error:
            raise ValueError(
                f"expected workers at {specification}, found none; start dask worker {specification} --nthreads=1"
            ) from error
        yield client


def _programs() -> dict[str, str]:
    """Environment in which a worker uses the compiled programs that this process keeps."""
    import jax

    names = (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    )
    values = {name.upper(): jax.config.values[name] for name in names}
    return {name: str(value) for name, value in values.items() if value is not None}


def _cores() -> list[int]:
    """Cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def map_tasks(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], folder: Path
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields each task with `function(*task)`, as they end: in order in this process, in any order over workers.

    For workers, the function lies in `folder` until the end. Raises what the function raises; RuntimeError if
    workers die again and again at the same task.
    """
    client = _client.get()
    if client is None or not tasks:
        for task in tasks:
            yield task, function(*task)
        return
    from distributed import KilledWorker
    from distributed.deploy import LocalCluster

    folder.mkdir(parents=True, exist_ok=True)
    cores = _cores() if isinstance(client.cluster, LocalCluster) else []
    sent: list[Any] = []
    try:
        sent = client.map(_work, tasks, cores=cores, packed=_pack(function, folder), pure=False)
        task_of = dict(zip(sent, tasks, strict=True))
        for future, result in _as_completed(client, sent):
            yield task_of[future], result
    except KilledWorker as error:
        raise RuntimeError(
            f"expected workers that finish a task of {folder.name}, but several died at it; give them more memory"
        ) from error
    except CancelledError as error:
        raise RuntimeError(f"expected a scheduler until {folder.name} is done, lost it; start it again") from error
    finally:
        client.cancel(sent)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


def _as_completed(client: Any, futures: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Each future with its result, as they end; RuntimeError once there has been no worker for a while."""
    from distributed import wait

    pending, last = set(futures), time.monotonic()
    while pending:
        ended, found = set(), False
        with contextlib.suppress(TimeoutError):
            ended, pending = wait(pending, timeout=WAIT / 4, return_when="FIRST_COMPLETED")
        for future in ended:
            try:
                result = future.result(timeout=WAIT / 4)
            except TimeoutError:
                if future.status == "error":
                    raise
                pending.add(future)  # its worker died with the result, so that it is computed again
                continue
            found = True
            yield future, result
        if found or client.nthreads():
            last = time.monotonic()
        elif time.monotonic() - last > WAIT:
            raise RuntimeError("expected workers, but none is left; start the command again to continue")


def _work(task: tuple[Any, ...], *, cores: Sequence[int], packed: tuple[str, str]) -> Any:
    """One task on a worker; local workers, which are numbered, stay on a core each."""
    if cores and hasattr(os, "sched_setaffinity"):
        from distributed import get_worker

        os.sched_setaffinity(0, {cores[int(get_worker().name) % len(cores)]})
    return _unpack(*packed)(*task)


@functools.lru_cache(maxsize=1)
def _unpack(path: str, digest: str) -> Callable[..., Any]:
    """The function that tasks call; kept between them, with the programs and indexes that it has built."""
    try:
        pickled = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"expected {path} on a worker, found none; let workers share this folder") from error
    if hashlib.sha256(pickled).hexdigest() != digest:
        raise ValueError(f"expected {path} as it was written, got other bytes; start the run again")
    return pickle.loads(pickled)


def _pack(function: Callable[..., Any], folder: Path) -> tuple[str, str]:
    """Path and hash of the pickled function, in which files stand for large arrays: their own, or new ones."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            if type(value) is np.ndarray and value.nbytes >= MAPPED and not value.dtype.hasobject:
                return _map, (_file_of(value) or _write(value, folder))
            return super().reducer_override(value)

    buffer = io.BytesIO()
    Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(function)
    path = _new_path(folder)
    path.write_bytes(buffer.getbuffer())
    return str(path), hashlib.sha256(buffer.getbuffer()).hexdigest()


def _new_path(folder: Path) -> Path:
    """A name of the kind that `workdir.locked` removes, should this process be killed."""
    return folder.absolute() / f".shared.{secrets.token_hex(4)}.tmp"


def _file_of(array: np.ndarray) -> tuple[str, str, int, tuple[int, ...]] | None:
    """File, type, offset and shape of a mapped array; None of another."""
    base = array.base
    if not isinstance(base, np.memmap) or base.filename is None or not array.flags.c_contiguous or base.mode != "r":
        return None
    offset = base.offset + array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return str(base.filename), array.dtype.str, offset, array.shape


def _write(array: np.ndarray, folder: Path) -> tuple[str, str, int, tuple[int, ...]]:
    path = _new_path(folder)
    np.ascontiguousarray(array).tofile(path)
    return str(path), array.dtype.str, 0, array.shape


def _map(path: str, dtype: str, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.memmap(path, np.dtype(dtype), "r", offset, shape).view(np.ndarray)
