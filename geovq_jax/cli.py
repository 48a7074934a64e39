"""The front door of every entry point: flags in, one call, bad input as one line and exit code 2."""

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from geovq_jax import processes
from geovq_jax import workdir as files
from geovq_jax.config import read_config, validate
from geovq_jax.terminal import console

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory, e.g. --workdir=runs/mnist; default runs/<config.name>."
)
_QUIET = flags.DEFINE_bool("quiet", False, "Print errors only, e.g. --quiet.")
_TRACKER = flags.DEFINE_enum(
    "tracker",
    None,
    ["none", "tensorboard", "mlflow"],
    "Where figures go besides metrics.jsonl, e.g. --tracker=mlflow; default: the configuration's, none. TensorBoard "
    "writes to W/tensorboard, MLflow to $MLFLOW_TRACKING_URI or mlflow.db beside W; each is an extra of its name.",
)
_PROCESSES = flags.DEFINE_string(
    "processes",
    None,
    "Several processes do one run, each called with the same flags: --processes=auto under SLURM, Open MPI, Kubernetes "
    "or on a TPU pod, else INDEX/COUNT@HOST:PORT of process 0, e.g. --processes=0/2@localhost:9911. They split work "
    "by --config.mesh.data=0.",
)
_CONFIG_HELP = (
    "Experiment with variants after a colon, e.g. --config=configs/mnist.py:spatial; default: config.json of "
    "--workdir. Single keys as --config.vae.latent_dim=32."
)


# Bad input, and what a machine does to a program: no disk, no memory, a device that fails (RuntimeError of jax).
_FAULTS = (ValueError, OSError, FloatingPointError, ImportError, MemoryError, RuntimeError)
_CONTINUES = "the same command continues from the last checkpoint"


def main(
    stage: Callable[[Path, ConfigDict], None],
    *,
    documentation: str | None,
    argv: Sequence[str] | None = None,
    adjust: Callable[[ConfigDict], None] | None = None,
) -> None:
    """Parse the command line, check the configuration, run one stage under the work directory's lock, exit.

    Bad input and faults of the machine become one line on standard error and exit code 2; SIGTERM ends the process with
    143 and Ctrl-C with 130, at a place from which the same command continues.

    Args:
        stage: called with the work directory and the locked configuration.
        documentation: what --help shows first: the entry point's docstring.
        argv: the command line; sys.argv by default.
        adjust: lets an entry point put flags of its own into the unlocked configuration.
    """
    signal.signal(signal.SIGTERM, _terminate)
    logging.set_verbosity(logging.ERROR)
    arguments = list(sys.argv if argv is None else argv)
    if any(argument in ("--help", "-h") for argument in arguments):
        _help(documentation)
    try:
        workdir, config = _resolve(arguments, adjust)
    except Exception as error:  # whatever a configuration file or a flag can raise, the mend is on the command line
        _refuse(error)
    try:
        if _PROCESSES.value is not None:
            processes.join(_PROCESSES.value)
        console.quiet = _QUIET.value or not processes.first()
        with files.locked(workdir):
            stage(workdir, config)
    except _FAULTS as error:
        _refuse(error)
    except KeyboardInterrupt:
        print(f"interrupted; {_CONTINUES}", file=sys.stderr)
        processes.leave(130)
    except SystemExit as ended:
        processes.leave(ended.code if isinstance(ended.code, int) else 1)


def main_without_config(
    work: Callable[[Path | None], None], *, documentation: str | None, argv: Sequence[str] | None = None
) -> None:
    """As `main` for an entry point that only reads: no configuration is resolved and no lock is taken.

    Args:
        work: called with the work directory, None where --workdir is not given.
        documentation: what --help shows first.
        argv: the command line; sys.argv by default.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.set_verbosity(logging.ERROR)
    arguments = list(sys.argv if argv is None else argv)
    if any(argument in ("--help", "-h") for argument in arguments):
        _help(documentation, config=False)
    try:
        _refuse_leftover(flags.FLAGS(arguments)[1:], "--workdir=...")
        console.quiet = _QUIET.value
        work(Path(_WORKDIR.value).absolute() if _WORKDIR.value else None)
    except (*_FAULTS, flags.Error) as error:
        _refuse(error)


def _refuse_leftover(leftover: Sequence[str], mend: str) -> None:
    if leftover:
        raise ValueError(f"expected only --flags, got {leftover[0]!r}; write {mend}")


def _help(documentation: str | None, *, config: bool = True) -> NoReturn:
    """The entry point's docstring, its own flags, then those of all entry points."""
    print((documentation or "").strip())
    print("\nflags:" + (f"\n  --config: {_CONFIG_HELP}" if config else ""))
    own = flags.FLAGS.flags_by_module_dict()
    for module in (sys.argv[0], __name__):
        for flag in own.get(module, []):
            print(f"  --{flag.name}: {flag.help}")
    sys.exit(0)


def _terminate(*_: object) -> NoReturn:
    print(f"ended by SIGTERM; {_CONTINUES}", file=sys.stderr)
    sys.exit(143)


def _refuse(error: Exception) -> NoReturn:
    """One line on standard error, exit code 2."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:  # what a configuration file raised, as the flag reports it
        text = text.splitlines()[-1]
    print(f"error: {' '.join(text.split()) or type(error).__name__}", file=sys.stderr)
    processes.leave(2)


def _resolve(arguments: list[str], adjust: Callable[[ConfigDict], None] | None) -> tuple[Path, ConfigDict]:
    """Work directory and validated configuration of a command line."""
    if any(argument == "--config" or argument.startswith("--config=") for argument in arguments):
        holder = config_flags.DEFINE_config_file("config", None, _CONFIG_HELP)
    else:
        holder = config_flags.DEFINE_config_dict("config", read_config(_stored_config(arguments)), _CONFIG_HELP)
    _refuse_leftover(flags.FLAGS(arguments)[1:], "--config=... and --workdir=...")
    config = holder.value
    if _TRACKER.value is not None:
        config.tracker = _TRACKER.value
    if adjust is not None:
        with config.unlocked():
            adjust(config)
    validate(config)
    return Path(_WORKDIR.value or f"runs/{config.name}").absolute(), config


def _stored_config(arguments: list[str]) -> Path:
    """config.json of the work directory that a command line names."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("--workdir"):
            return Path(argument.partition("=")[2] or following) / "config.json"
    raise ValueError("expected --config=configs/X.py or --workdir=W of an earlier run, got neither; give one")
