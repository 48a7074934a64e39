"""The processes of one run: initialisation, the main process, barriers.

A run on several machines, or on several groups of devices, is the same program in several processes. Each repeats the
work on the host and does its share of the work on the devices; the main process writes the files, which all of them
read.
"""

import os
import re
import sys
from typing import NoReturn

_SPECIFICATION = re.compile(r"(\d+)/(\d+)@([^/@\s]+:\d+)")
_index, _count = 0, 1


def join(specification: str) -> None:
    """Initialise the processes of this run, before any device is used.

    `specification` is "auto" under SLURM, Open MPI, Kubernetes or on a TPU pod, otherwise "INDEX/COUNT@HOST:PORT" with
    an address of process 0 that all processes can reach. Raises ValueError for anything else, or without a cluster.
    """
    global _index, _count
    import jax

    given = _SPECIFICATION.fullmatch(specification)
    if specification != "auto" and (given is None or not int(given[1]) < int(given[2])):
        raise ValueError(
            f"expected --processes=auto or INDEX/COUNT@HOST:PORT with INDEX < COUNT, got {specification!r}; "
            "e.g. --processes=0/2@localhost:9911"
        )
    # SIGTERM must end the process; the handler that XLA would install only records it.
    jax.config.update("jax_enable_preemption_service", False)
    if given is not None:
        jax.distributed.initialize(given[3], num_processes=int(given[2]), process_id=int(given[1]))
    else:
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"expected a cluster that jax can detect, got {error}; use --processes=INDEX/COUNT@HOST:PORT"
            ) from error
    _index, _count = jax.process_index(), jax.process_count()


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return _index == 0


def is_single() -> bool:
    """Whether this is the only process."""
    return _count == 1


def barrier(place: str) -> None:
    """Wait until every process has reached this point; files written by the main process exist then."""
    if not is_single():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(place)


def exit(code: int) -> NoReturn:
    """Exit this process; immediately if there are others, since an orderly exit would wait for them."""
    if is_single():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
