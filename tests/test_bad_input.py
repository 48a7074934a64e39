"""Hundreds of malformed inputs at the front doors: one line, exit code 2, and nothing written."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from geovq_jax import cli, pipeline, terminal
from geovq_jax.config import default_config, flat, help_text
from geovq_jax.manifest import describe

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT}/configs/digits.py:smoke"

# By the type of a key's default: what no key of that type takes.
_OF_TYPE = {
    int: ("x", "1.5", "nan", "", "0x", "[1]", "1e3.0"),
    float: ("x", "nan", "inf", "-inf", "-1", "", "(1,)"),
    bool: ("maybe", "2", "", "None"),
    str: (),
    tuple: ("x", "(0", "((1,),)", "{}"),
}
_OUT_OF_RANGE = {
    int: ("-1", "-99999999999999999999"),
    float: (),
    bool: (),
    str: ("nothing", "", "SIGMOID", "none "),
    tuple: (),
}
# Keys for which these values mean something.
_TAKES = {
    "name": ("nothing", "SIGMOID", "none "),
    "sample.class_id": ("-1", "-2"),
    "data.name": ("nothing", "SIGMOID", "none "),  # refused where the data are loaded
    "data.image_size": ("{}",),
    "vae.module": ("",),
    "compare.prior": ("{}",),
    "vqvae.levels": ("{}",),
}


pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def config_values() -> Iterator[tuple[str, ...]]:
    """Command lines with one key set to a value that it does not take."""
    for key, default in sorted(flat(default_config()).items()):
        kind = tuple if isinstance(default, list) else type(default)
        for value in _OF_TYPE[kind] + _OUT_OF_RANGE[kind]:
            if value not in _TAKES.get(key, ()) and key != "data.dir":
                yield (CONFIG, f"--config.{key}={value}")
    for key in ("vae.channels", "classifier.channels"):
        for value in ("()", "(0,)", "(-8,)", "(8,'a')", "(8,2.5)"):
            yield (CONFIG, f"--config.{key}={value}")
    for key, values in {
        "vqvae.levels": ("(1,)", "(0,8)", "('a',)", "(2.5,)"),
        "compare.seeds": ("()", "(-1,)", "('a',)", "(0.5,)"),
        "compare.methods": ("()", "(1,)", "('kmeans', 'mahalanobis')", "('kmeans_decoded',)"),
        "compare.prior": ("(1,)", "('kmeans',2)"),
        "seed": (str(2**32), str(2**63), str(10**30)),
        "sample.seed": (str(2**32), str(10**30)),
        "sample.class_id": ("-3",),
        "codebook.num_clusters": ("0",),
        "graph.k": ("-1",),
        "prior.num_heads": ("0", "3", "5"),
        "prior.dropout": ("1.01", "2"),
        "sample.top_p": ("1.5", "0", "0.0"),
        "codes.sweeps": ("0",),
        "codes.searches": ("0",),
        "codebook.method": ("swap", "kmeans_decoded"),
        "graph.rerank": ("7",),
        "vae.output": ("identity",),
        "data.batch_size": ("0",),
        "vae.num_steps": ("0",),
        "data.augment": ("flip",),
        "vae.kind": ("grid", "external"),
        "vae.module": ("own.py",),
        "data.image_size": ("(8,)", "(0, 8)", "(8, 8, 1)"),
        "data.name": ("decoded",),
    }.items():
        for value in values:
            yield (CONFIG, f"--config.{key}={value}")
    yield (CONFIG, "--config.vqvae.method=fsq")
    yield (CONFIG, "--config.vqvae.method=fsq", "--config.vqvae.levels=(8,8)")
    yield (CONFIG, "--config.vae.capacity=10", "--config.vae.cell_bits=7")


def command_lines() -> Iterator[tuple[str, ...]]:
    """Flags that are not, and variants and files that are not there."""
    digits = f"--config={ROOT}/configs/digits.py"
    for variants in ("huge", "smoke,huge", "smoke:vanilla", "Smoke", "smoke vanilla", ",,x", "0", "../smoke"):
        yield (f"{digits}:{variants}",)
    for name in ("digits", "toy_2d", "mnist", "mnist5k", "fashion_mnist", "cifar10"):
        yield (f"--config={ROOT}/configs/{name}.py:nothing",)
    for path in ("nothing.py", "", ".", "/", "/dev/null", f"{ROOT}/README.md", f"{ROOT}/configs", "a b.py", "é.py"):
        yield (f"--config={path}",)
    for arguments in (
        ("surplus",),
        ("--surplus",),
        ("--surplus=1",),
        ("--config.vae",),
        ("--config.vae=1",),
        ("--config.vae.latentdim=3",),
        ("--config.nothing.latent_dim=3",),
        ("--config.vae.latent_dim.more=3",),
        ("--config..vae=3",),
        ("--config.=3",),
        ("--config.vae.latent_dim",),
        ("--config.vae.channels[0]=x",),
        ("--config.vae.channels[9]=3",),
        ("--tracker=paper",),
        ("--tracker",),
        ("--quiet=perhaps",),
    ):
        yield (CONFIG, *arguments)


_EXPERIMENT = "from geovq_jax.config import experiment\ndef get_config(v=''):\n    return experiment('a', %s)\n"
_DICT = "from ml_collections import ConfigDict\ndef get_config(v=''):\n    return ConfigDict(%s)\n"
CONFIG_FILES = {
    "syntax": "def get_config(:\n",
    "leaves": "import sys\nsys.exit(0)\n",
    "leaves_late": "import sys\ndef get_config(v=''):\n    sys.exit()\n",
    "leaves_with_text": "raise SystemExit('no GPU')\n",
    "nothing": "",
    "raises": "def get_config(v=''):\n    raise RuntimeError('broken')\n",
    "exits": "def get_config(v=''):\n    raise KeyError('x')\n",
    "none": "def get_config(v=''):\n    return None\n",
    "number": "def get_config(v=''):\n    return 3\n",
    "plain": "def get_config(v=''):\n    return {'seed': 0}\n",
    "empty": _DICT % "",
    "partial": _DICT % "{'seed': 0}",
    "sections": _DICT % "{'vae': 3, 'data': []}",
    "arguments": "from geovq_jax.config import default_config\ndef get_config(a, b):\n    return default_config()\n",
    "wrong_key": _EXPERIMENT % "{'vae.x': 1}",
    "wrong_type": _EXPERIMENT % "{'vae.latent_dim': 'x'}",
    "wrong_section": _EXPERIMENT % "{'x.y': 1}",
    "section_number": _EXPERIMENT % "{'vae': 1}",
    "import": "import no_such_module\n",
    "bytes": "\x00\x01\x02",
    "divide": "1 / 0\n",
}


def stored_configs() -> Iterator[str]:
    """Texts of a config.json that is none."""
    whole = json.dumps(describe(default_config()))
    yield from (whole[:keep] for keep in range(0, len(whole) - 1, len(whole) // 24))
    yield from ("[]", "3", "null", '"config"', "{}", '{"config": null}', '{"config": []}', '{"config": {"vae": 3}}')
    for section, key, value in (
        ("vae", "latent_dim", "x"),
        ("vae", "latent_dim", None),
        ("vae", "latent_dim", 1.5),
        ("vae", "latent_dim", 0),
        ("vae", "latent_dim", [16]),
        ("vae", "channels", 8),
        ("vae", "channels", ["a"]),
        ("vae", "channels", []),
        ("vae", "channels", None),
        ("vae", "nothing", 1),
        ("vae", "kind", 3),
        ("vae", "learning_rate", "fast"),
        ("vae", "learning_rate", -1.0),
        ("graph", "k", True),
        ("graph", "k", -3),
        ("graph", "metric", ["euclidean"]),
        ("prior", "num_heads", 0),
        ("codebook", "init", {}),
        ("compare", "seeds", 1),
    ):
        record = json.loads(whole)
        record["config"][section][key] = value
        yield json.dumps(record)


def entry(name: str, *arguments: str) -> subprocess.CompletedProcess:
    """An entry point in a process of its own."""
    command = [sys.executable, "-m", f"geovq_jax.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def reached(workdir: Path, config) -> None:
    raise AssertionError(f"a stage ran in {workdir}")


def assert_refused(front_door, workdir: Path, arguments: tuple[str, ...], stage=reached) -> None:
    named = any(argument.startswith("--workdir") for argument in arguments)
    code, message = front_door(stage, *arguments, *(() if named else (f"--workdir={workdir}",)))
    assert code == 2, (arguments, code, message)
    assert message.startswith("error: "), (arguments, message)
    assert message.count("\n") == 1, (arguments, message)
    assert not workdir.exists(), arguments


def test_every_command_line_is_refused(front_door, tmp_path):
    cases = [*config_values(), *command_lines()]
    assert len(cases) >= 600
    for arguments in cases:
        assert_refused(front_door, tmp_path / "w", arguments)


def test_every_configuration_file_is_refused(front_door, tmp_path):
    for name, text in CONFIG_FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
        assert_refused(front_door, tmp_path / "w", (f"--config={tmp_path / name}.py",))


def test_every_stored_configuration_is_refused(front_door, tmp_path):
    for text in stored_configs():
        (tmp_path / "config.json").write_text(text)
        code, message = front_door(reached, f"--workdir={tmp_path}")
        assert (code, message.count("\n")) == (2, 1), (text[-80:], message)
        assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_what_a_configuration_file_raises_is_told_in_its_own_words(front_door, tmp_path):
    _, message = front_door(reached, f"--config={ROOT}/configs/digits.py:huge", f"--workdir={tmp_path / 'w'}")
    assert message.startswith("error: expected variants of digits from")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--confg=x",), "error: unknown flag --confg; did you mean --config? --help lists all flags"),
        (
            (CONFIG, "--trakcer", "none"),
            "error: unknown flag --trakcer; did you mean --tracker? --help lists all flags",
        ),
        ((CONFIG, "--config.vae.latnt_dim=3"), "unknown key vae.latnt_dim; did you mean vae.latent_dim?"),
        ((CONFIG, "-config.latent_dim=3"), "unknown key latent_dim; did you mean vae.latent_dim?"),
        ((CONFIG, "--noconfig.graph.repare"), "unknown key graph.repare; did you mean graph.repair?"),
        ((CONFIG, "--config.vae=3"), "unknown key vae; did you mean vae."),
        (("--config=nothing.py",), "error: expected a configuration file or one of cifar10, compare/cifar10, "),
        (("--config=nothing.py",), "mnist5k, toy_2d, found none to read at 'nothing.py'; e.g. --config=mnist5k"),
        (
            (CONFIG, "--config.vae.output=identity"),
            "got vae.output=identity, vae.loss=bernoulli; set ",
        ),
    ],
)
def test_the_message_names_what_is_wrong(front_door, tmp_path, arguments, expected):
    assert_refused(front_door, tmp_path / "w", arguments)
    _, message = front_door(reached, *arguments, f"--workdir={tmp_path / 'w'}")
    assert expected in message
    assert "\\n" not in message


def test_a_configuration_file_that_exits_is_bad_input_and_sigterm_is_not(front_door, tmp_path):
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    code, message = front_door(reached, f"--config={tmp_path}/leaves.py", f"--workdir={tmp_path / 'w'}")
    assert code == 2
    assert "to define get_config, but it called sys.exit(0)" in message
    (tmp_path / "ends.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    code, message = front_door(reached, f"--config={tmp_path}/ends.py", f"--workdir={tmp_path / 'w'}")
    assert code == 143
    assert message.startswith("ended by SIGTERM")


def test_a_long_message_is_cut(front_door, tmp_path):
    _, message = front_door(reached, CONFIG, f"--config.vae.kind={'x' * 10_000}", f"--workdir={tmp_path / 'w'}")
    assert 400 < len(message) < 600
    assert message.endswith(" ...\n")


@pytest.mark.parametrize("name", ["..", "../../x", "/tmp/x", "a//b", "a/", ".", "a/../../b", "a/ /b"])
def test_a_name_that_leaves_the_folder_of_runs_is_refused(front_door, tmp_path, monkeypatch, name):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, message = front_door(reached, CONFIG, f"--config.name={name}")
    assert (code, message.count("\n")) == (2, 1)
    assert f"expected config.name to be a folder below runs/, got {name!r}" in message
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("name", ["a", "a/b", "..a", "a b", "[a]"])
def test_a_name_is_a_folder_of_runs_unless_a_work_directory_is_given(front_door, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="a stage ran in") as ran:
        front_door(reached, CONFIG, f"--config.name={name}")
    assert str(ran.value) == f"a stage ran in {tmp_path / 'runs' / name}"
    with pytest.raises(AssertionError, match="a stage ran in"):
        front_door(reached, CONFIG, "--config.name=..", f"--workdir={tmp_path / 'w'}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--verify",), True),
        (("-verify",), True),
        (("--verify=true",), True),
        (("--verify=1",), True),
        (("--verify=True",), True),
        (("--noverify",), False),
        (("--verify=false",), False),
        (("--verify", "--noverify"), False),
        ((), False),
        (("--workdir=verify",), False),
        (("--verify=perhaps",), False),  # which the parser refuses
    ],
)
def test_every_spelling_of_a_boolean_flag(arguments, expected):
    assert cli.is_set("verify", ["run", *arguments]) is expected


@pytest.mark.parametrize("spelling", ["--verify=true", "-verify"])
def test_run_verifies(tmp_path, spelling):
    done = entry("run", f"--workdir={tmp_path}", spelling)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: expected {tmp_path}/SHA256SUMS of an earlier run, found none")


def test_explore_names_its_own_flags_only():
    text = entry("explore", "--help").stdout
    named = [line.split(":")[0].strip() for line in text.splitlines() if line.startswith("  --")]
    assert sorted(named) == ["--demo", "--port", "--quiet", "--workdir"]
    refused = entry("explore", "--tracker=none")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: unknown flag --tracker; did you mean --")


@pytest.mark.parametrize("name", ["run", "explore", "generate"])
def test_every_entry_point_lists_the_keys(name):
    done = entry(name, "--help-config")
    assert done.returncode == 0
    assert done.stdout.strip() == help_text().strip()


def test_explore_refuses_a_port_in_use_and_a_missing_extra():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = entry("explore", "--demo", f"--port={port}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: expected a free port, got {port} (Address already in use); give --port=...\n"
    code = """import sys
sys.modules["dash"] = None
from geovq_jax import cli, explore
cli.main_without_config(explore.explore, documentation="", argv=["explore", "--demo"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install geovq-jax[explore]" in done.stderr


def test_brackets_and_colons_of_a_path_are_printed_as_they_are(capsys):
    text = "/runs/[red]x[/red]/[link=a]:smile:/[/]"
    terminal.log_to_console()
    terminal.say("graph", text)
    terminal.console.print(f"report: {text}")
    terminal.show_figures(text, {"[b]": [(text, "[i]1", "[i]0 to 2")]})
    printed = capsys.readouterr().out
    assert f"graph      {text}\nreport: {text}\n" in printed
    assert printed.count(text) == 4
    assert "[b]" in printed
    assert "[i]1" in printed


def test_the_default_configuration_reaches_the_stage(front_door, tmp_path):
    with pytest.raises(AssertionError, match="a stage ran"):
        front_door(reached, CONFIG, f"--workdir={tmp_path / 'w'}", "--config.seed=1")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("codebook.num_clusters", "5000", "expected codebook.num_clusters at most the number of nodes 800, got 5000"),
        ("graph.k", "800", "expected graph.k below the number of nodes 800, got 800"),
        ("data.name", "imagenet", "expected a data set among"),
        ("data.name", "folder:/no/such/folder", "no/such/folder"),
        ("sample.class_id", "10", "expected sample.class_id below 10, got 10"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_anything_is_trained(
    front_door, tmp_path, monkeypatch, key, value, expected
):
    from geovq_jax.training import loop

    monkeypatch.setattr(loop, "fit", reached)
    code, message = front_door(pipeline.run_all, CONFIG, f"--config.{key}={value}", f"--workdir={tmp_path / 'w'}")
    assert code == 2
    assert expected in message
    assert message.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]
