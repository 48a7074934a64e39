"""The processes of one run: how they find each other, which of them writes files, and where they wait.

A run on several machines, or on several groups of devices, is the same program in several processes. Each computes the
same host work and its share of the devices' work; the first writes files, which all of them read.
"""

import os
import re
import sys
from typing import NoReturn

_SPECIFICATION = re.compile(r"(\d+)/(\d+)@([^/@\s]+:\d+)")
_index, _count = 0, 1


def join(specification: str) -> None:
    """Join the processes of this run, before any device is used.

    `specification` is "auto" under SLURM, Open MPI, Kubernetes or on a TPU pod, otherwise "INDEX/COUNT@HOST:PORT" with
    an address of the machine of process 0 that all reach. Raises ValueError for anything else, or without a cluster.
    """
    global _index, _count
    import jax

    given = _SPECIFICATION.fullmatch(specification)
    if specification != "auto" and (given is None or not int(given[1]) < int(given[2])):
        raise ValueError(
            f"expected --processes=auto or INDEX/COUNT@HOST:PORT with INDEX < COUNT, got {specification!r}; "
            "e.g. --processes=0/2@localhost:9911"
        )
    # A process that is told to end ends; the handler that XLA would put in place only takes note.
    jax.config.update("jax_enable_preemption_service", False)
    if given is not None:
        jax.distributed.initialize(given[3], num_processes=int(given[2]), process_id=int(given[1]))
    else:
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"expected a cluster that tells its processes, got {error}; use --processes=INDEX/COUNT@HOST:PORT"
            ) from error
    _index, _count = jax.process_index(), jax.process_count()


def first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return _index == 0


def alone() -> bool:
    """Whether no other process takes part."""
    return _count == 1


def wait(place: str) -> None:
    """Wait until every process has come to this place; what the first has written is there then."""
    if not alone():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(place)


def leave(code: int) -> NoReturn:
    """End this process; with others beside it at once, since an orderly end would wait for them."""
    if alone():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
