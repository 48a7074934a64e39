"""What a run reports goes through `logging`; the command line shows it."""

import logging

import pytest

from geovq_jax import terminal


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch):
    """The logger as an importing program finds it, put back afterwards."""
    logger = logging.getLogger("geovq_jax")
    for name, value in (("handlers", []), ("level", logging.NOTSET), ("propagate", True)):
        monkeypatch.setattr(logger, name, value)
    yield
    logging.Logger.manager._clear_cache()


def test_an_importing_program_decides_what_is_shown(caplog, capsys):
    terminal.say("graph", "800 nodes")
    assert caplog.records == []
    with caplog.at_level(logging.INFO, "geovq_jax"):
        terminal.say("graph", "800 nodes")
    assert [record.getMessage() for record in caplog.records] == ["graph      800 nodes"]
    assert capsys.readouterr().out == ""


def test_the_command_line_shows_every_message_once(caplog, capsys):
    terminal.log_to_console()
    terminal.log_to_console()
    terminal.say("graph", "800 nodes")
    assert capsys.readouterr().out == "graph      800 nodes\n"
    assert caplog.records == []


@pytest.mark.parametrize(
    ("seconds_per_step", "expected"),
    [
        (1.0, [f"training: {done} of 100 ({done} %)" for done in range(10, 101, 10)]),
        (0.25, [f"training: {done} of 100 ({done} %)" for done in range(20, 101, 20)]),
        (0.01, []),
    ],
)
def test_progress_off_a_terminal_is_a_line_per_tenth(monkeypatch, caplog, capsys, seconds_per_step, expected):
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO, "geovq_jax"), terminal.progress_bar("training") as progress:
        for done in range(1, 101):
            clock[0] += seconds_per_step
            progress(done, 100)
    assert [record.getMessage() for record in caplog.records] == expected
    assert capsys.readouterr().out == ""
