"""Hundreds of malformed inputs at the front doors: one line, exit code 2, and nothing written."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from geovq_jax import pipeline
from geovq_jax.config import default_config, flat
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
    "sample.class_id": ("-1",),
    "data.name": ("nothing", "SIGMOID", "none "),  # refused where the data are loaded
    "compare.methods": ("x", "(0", "{}"),
    "compare.prior": ("x", "(0", "{}"),
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
        "compare.methods": ("()", "(1,)"),
        "compare.prior": ("(1,)", "('kmeans',2)"),
        "seed": (str(2**32), str(2**63), str(10**30)),
        "sample.seed": (str(2**32), str(10**30)),
        "sample.class_id": ("-2",),
        "codebook.num_clusters": ("0",),
        "graph.k": ("0",),
        "prior.num_heads": ("0", "3", "5"),
        "prior.dropout": ("1.01", "2"),
        "sample.top_p": ("1.5",),
        "data.batch_size": ("0",),
        "vae.num_steps": ("0",),
        "data.augment": ("flip",),
        "vae.kind": ("grid",),
    }.items():
        for value in values:
            yield (CONFIG, f"--config.{key}={value}")
    yield (CONFIG, "--config.vqvae.method=fsq")


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
    assert message.startswith("error: ValueError: expected variants of digits from")


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
