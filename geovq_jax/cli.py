"""Command line of every entry point: parses flags, makes one call, reports bad input as one line and exit code 2."""

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from geovq_jax import processes, workers
from geovq_jax import workdir as files
from geovq_jax.config import check_known, find_experiment, help_text, nearest, read_config, validate
from geovq_jax.terminal import console, log_to_console

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory, e.g. --workdir=runs/mnist; with --config, runs/<config.name> by default."
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
    "Run in several processes, each started with the same flags: --processes=auto under SLURM, Open MPI, Kubernetes "
    "or on a TPU pod, else INDEX/COUNT@HOST:PORT of process 0, e.g. --processes=0/2@localhost:9911. They split work "
    "by --config.mesh.data=0.",
)
_DASK = flags.DEFINE_string(
    "dask",
    None,
    "Compute shards (latents, metrics, neighbours, edge lengths, codes) by workers of Dask, the extra `dask`: "
    "--dask=local starts one per core, --dask=tcp://HOST:PORT is a scheduler's address.",
)
_CONFIG_HELP = (
    "Experiment by its name or by the path of its file, with variants after a colon, e.g. --config=mnist:spatial "
    "(`geovq configs` lists the names); default: config.json of --workdir. Single keys as --config.vae.latent_dim=32; "
    "--help-config lists them."
)
_ALWAYS = ("workdir", "quiet")  # flags of entry points without a configuration, too
_CACHE_BYTES = 2**30  # of compiled programs; the least recently used are removed first
_LENGTH = 500  # of an error message, in characters

# Bad input and machine faults: a full disk, no memory, a device that fails (RuntimeError of jax).
_FAULTS = (ValueError, OSError, FloatingPointError, ImportError, MemoryError, RuntimeError)
_CONTINUES = "the same command continues from the last checkpoint"


def main(
    stage: Callable[[Path, ConfigDict], None],
    *,
    documentation: str | None,
    argv: Sequence[str] | None = None,
    check: Callable[[ConfigDict], None] | None = None,
) -> None:
    """Run `stage(workdir, config)` for a command line, under the lock of the work directory, and exit.

    Invalid input and machine faults become one line on standard error and exit code 2; SIGTERM ends the process with
    143, Ctrl-C with 130, in a state from which the same command continues. --help prints `documentation` first;
    `check` refuses flags of the entry point, given the configuration; `argv` is sys.argv by default.
    """
    signal.signal(signal.SIGTERM, _terminate)
    logging.set_verbosity(logging.ERROR)
    arguments = list(sys.argv if argv is None else argv)
    _answer_help(arguments, documentation)
    try:
        workdir, config = _resolve(arguments)
        if check is not None:
            check(config)
    except Exception as error:  # errors raised by a configuration file or a flag are bad input
        _refuse(error)
    try:
        if _PROCESSES.value is not None:
            processes.join(_PROCESSES.value)
        console.quiet = _QUIET.value or not processes.is_main()
        _keep_compiled_programs()
        log_to_console()
        with workers.use_workers(_DASK.value), files.locked(workdir):
            stage(workdir, config)
    except _FAULTS as error:
        _refuse(error)
    except KeyboardInterrupt:
        print(f"interrupted; {_CONTINUES}", file=sys.stderr)
        processes.exit(130)
    except SystemExit as ended:
        processes.exit(ended.code if isinstance(ended.code, int) else 1)


def main_without_config(
    work: Callable[..., None],
    *,
    documentation: str | None,
    argv: Sequence[str] | None = None,
    operands: bool = False,
) -> None:
    """As `main`, for an entry point that only reads: without configuration and lock.

    `work` is called with the work directory, None where --workdir is not given. With `operands` it also receives the
    list of arguments that are not flags; otherwise such arguments are an error.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.set_verbosity(logging.ERROR)
    arguments = list(sys.argv if argv is None else argv)
    _answer_help(arguments, documentation, config=False)
    try:
        _check_flags(arguments, config=False)
        leftover = flags.FLAGS(arguments)[1:]
        if not operands:
            _refuse_leftover(leftover, "--workdir=...")
        console.quiet = _QUIET.value
        _keep_compiled_programs()
        work(Path(_WORKDIR.value).absolute() if _WORKDIR.value else None, *([leftover] if operands else []))
    except (*_FAULTS, flags.Error) as error:
        _refuse(error)
    except KeyboardInterrupt:
        sys.exit(130)


def is_set(name: str, argv: Sequence[str] | None = None) -> bool:
    """Value of a boolean flag before the command line is parsed: of the last --name, --name=VALUE or --noname.

    False where VALUE is not a boolean, which parsing reports later.
    """
    value = False
    for argument in (sys.argv if argv is None else argv)[1:]:
        given, _, text = re.sub("^--?", "", argument).partition("=")
        if argument.startswith("-") and given in (name, f"no{name}"):
            value = given == name and text.lower() in ("", "true", "t", "1")
    return value


def _keep_compiled_programs() -> None:
    """Compiled programs in the user's cache folder, so that the next process compiles only what is new.

    JAX_COMPILATION_CACHE_DIR names another folder; an empty value keeps none.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geovq_jax" / "programs"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _answer_help(arguments: Sequence[str], documentation: str | None, *, config: bool = True) -> None:
    """--help: the entry point's docstring and the flags that it reads; --help-config: the keys of a configuration."""
    if "--help-config" in arguments:
        print(help_text())
        sys.exit(0)
    if any(argument in ("--help", "-h") for argument in arguments):
        print((documentation or "").strip())
        print("\nflags:" + (f"\n  --config: {_CONFIG_HELP}" if config else ""))
        for flag in _flags(config=config):
            print(f"  --{flag.name}: {flag.help}")
        sys.exit(0)


def _flags(*, config: bool) -> list[Any]:
    """The flags of the entry point and the common ones that it reads."""
    defined = flags.FLAGS.flags_by_module_dict()
    common = [flag for flag in defined[__name__] if config or flag.name in _ALWAYS]
    return [*defined.get(sys.argv[0], []), *common]


def _check_flags(arguments: Sequence[str], *, config: bool) -> None:
    """Report unknown flags and keys, with the most similar name, before absl or a configuration file reads them."""
    common = {flag.name for flag in flags.FLAGS.flags_by_module_dict()[__name__]}
    read = {flag.name for flag in _flags(config=config)} | ({"config"} if config else set())
    known = set(flags.FLAGS) - common | read
    for argument in arguments[1:]:
        name = re.sub("^--?", "", argument).partition("=")[0]
        if not argument.startswith("-") or re.fullmatch(r"-?[\d.].*|", name):  # a value, such as -1
            continue
        section, _, key = name.partition(".")
        if config and section in ("config", "noconfig") and key:
            check_known(key)
        elif section == "config" and not config:
            raise ValueError(f"expected --workdir=W of a finished run, got --{name}, which is not read here; give that")
        elif name not in known and not (name.startswith("no") and name[2:] in known):
            raise ValueError(f"unknown flag --{name}; did you mean --{nearest(name, read)}? --help lists all flags")


def _refuse_leftover(leftover: Sequence[str], instead: str) -> None:
    if leftover:
        raise ValueError(f"expected only --flags, got {leftover[0]!r}; write {instead}")


class _Terminated(SystemExit):
    """Exit by SIGTERM, as opposed to a call of sys.exit in a configuration file."""


def _terminate(*_: object) -> NoReturn:
    print(f"ended by SIGTERM; {_CONTINUES}", file=sys.stderr)
    raise _Terminated(143)


def _refuse(error: Exception) -> NoReturn:
    """One line on standard error, exit code 2."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:  # a configuration file raised ValueError or TypeError
        text = text.splitlines()[-1].removeprefix("ValueError: ")
    text = " ".join(text.split())
    if not text or not isinstance(error, (*_FAULTS, flags.Error)):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    print(f"error: {text[:_LENGTH]}{' ...' if len(text) > _LENGTH else ''}", file=sys.stderr)
    processes.exit(2)


def _resolve(arguments: list[str]) -> tuple[Path, ConfigDict]:
    """Work directory and validated configuration of a command line."""
    _check_flags(arguments, config=True)
    place, path = _value_of("config", arguments)
    if path is not None:
        name, colon, variants = path.partition(":")
        arguments[place] = arguments[place].removesuffix(path) + f"{find_experiment(name)}{colon}{variants}"
        holder = config_flags.DEFINE_config_file("config", None, _CONFIG_HELP)
    else:
        _, stored = _value_of("workdir", arguments)
        if stored is None:
            raise ValueError(
                "expected --config=NAME or --workdir=W of an earlier run, got neither; give one of them, e.g. "
                "--config=mnist5k"
            )
        holder = config_flags.DEFINE_config_dict("config", read_config(Path(stored) / "config.json"), _CONFIG_HELP)
    try:
        leftover = flags.FLAGS(arguments)[1:]
    except _Terminated:
        raise
    except SystemExit as ended:
        raise ValueError(f"expected {path} to define get_config, but it called sys.exit({ended.code!r})") from ended
    _refuse_leftover(leftover, "--config=... and --workdir=...")
    config = holder.value
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"expected {path} to define a get_config that returns geovq_jax.config.experiment(...), "
            f"got {type(config).__name__}"
        )
    if _TRACKER.value is not None:
        config.tracker = _TRACKER.value
    validate(config)
    return Path(_WORKDIR.value or _default_workdir(config.name)).absolute(), config


def _default_workdir(name: str) -> str:
    """runs/NAME; ValueError where the name leaves that folder."""
    if any(part.strip() in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"expected config.name to be a folder below runs/, got {name!r}; give --workdir=...")
    return f"runs/{name}"


def _value_of(name: str, arguments: Sequence[str]) -> tuple[int, str | None]:
    """Index and value of a flag before the command line is parsed, as --name=VALUE or --name VALUE."""
    for place, (argument, following) in enumerate(zip(arguments, [*arguments[1:], ""], strict=True)):
        given, equals, value = argument.partition("=")
        if given in (f"--{name}", f"-{name}"):
            return (place, value) if equals else (place + 1, following)
    return -1, None
