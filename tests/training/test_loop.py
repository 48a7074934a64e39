"""The loop against a plain loop and a closed form; interruption anywhere; early stop; refusals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from geovq_jax.training import checkpoint, loop
from geovq_jax.training.optimizer import make_optimizer
from geovq_jax.training.tracking import JsonlWriter

NUM_STEPS, EVALUATE_EVERY = 24, 5
INPUTS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
TARGETS = (INPUTS @ np.array([1.0, -2.0, 0.5], np.float32) + 0.3).astype(np.float32)
DATA = {"x": INPUTS, "y": TARGETS}
PARAMS = {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}


class Killed(BaseException):
    """An interruption that nothing catches."""


def loss_fn(params, key, step, batch):
    noise = 0.1 * jax.random.normal(key, batch["y"].shape)
    residual = (batch["x"] @ params["kernel"])[:, 0] + params["bias"] - batch["y"] - noise
    loss = jnp.mean(residual**2)
    return loss, {"loss": loss, "step": jnp.asarray(step, jnp.float32)}


def indices_fn(step):
    return np.random.default_rng((1, step)).integers(0, 40, 8).astype(np.int32)


@jax.jit
def evaluate_fn(params):
    residual = (jnp.asarray(INPUTS) @ params["kernel"])[:, 0] + params["bias"] - jnp.asarray(TARGETS)
    return {"objective": jnp.mean(residual**2)}


def run(directory=None, **changes):
    arguments = {
        "key": jax.random.key(3),
        "optimizer": make_optimizer(learning_rate=0.1, num_steps=NUM_STEPS),
        "num_steps": NUM_STEPS,
        "indices_fn": indices_fn,
        "evaluate_fn": evaluate_fn,
        "evaluate_every": EVALUATE_EVERY,
        "directory": directory and directory / "model",
        "metadata": {"rate": 0.1, "sizes": (3, 1)},
        "log": directory and JsonlWriter(directory / "metrics.jsonl", "model"),
    }
    return loop.fit(changes.pop("loss_fn", loss_fn), PARAMS, changes.pop("data", DATA), **(arguments | changes))


def figures(directory):
    """Lines of the metrics file without their times."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def assert_equal_runs(directory, fit, unbroken_directory, unbroken):
    assert bits(fit.params) == bits(unbroken.params)
    assert fit[1:] == unbroken[1:]
    assert figures(directory) == figures(unbroken_directory)
    abstract = loop.init_state(PARAMS, make_optimizer(learning_rate=0.1, num_steps=NUM_STEPS))
    states = [checkpoint.load(path / "model" / "latest", abstract) for path in (directory, unbroken_directory)]
    assert bits(states[0]) == bits(states[1])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    return directory, run(directory)


def test_equals_a_plain_loop():
    """Same figures as the loop one writes first: gather, gradient, update, one step after the other."""
    fit = run()
    optimizer = make_optimizer(learning_rate=0.1, num_steps=NUM_STEPS)
    params, opt_state = PARAMS, optimizer.init(PARAMS)
    objectives, losses = [], []
    gradient_fn = jax.jit(jax.value_and_grad(lambda p, k, s, b: loss_fn(p, k, s, b)[0]))
    for step in range(NUM_STEPS):
        batch = {name: values[indices_fn(step)] for name, values in DATA.items()}
        loss, gradient = gradient_fn(params, jax.random.fold_in(jax.random.key(3), step), step, batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
        if (step + 1) % EVALUATE_EVERY == 0 or step + 1 == NUM_STEPS:
            objectives.append(float(evaluate_fn(params)["objective"]))
    assert [record["step"] for record in fit.history] == [5, 10, 15, 20, 24]
    np.testing.assert_allclose([record["valid/objective"] for record in fit.history], objectives, rtol=1e-4)
    np.testing.assert_allclose(fit.history[0]["train/loss"], np.mean(losses[:5]), rtol=1e-5)
    np.testing.assert_allclose(fit.history[-1]["train/loss"], np.mean(losses[20:]), rtol=1e-4)
    np.testing.assert_allclose(fit.history[1]["train/step"], np.mean(range(5, 10)))
    assert fit.best_value == min(record["valid/objective"] for record in fit.history)
    assert not any(leaf.any() for leaf in jax.tree.leaves(PARAMS))


def test_finds_the_least_squares_solution():
    def noiseless(params, key, step, batch):
        residual = (batch["x"] @ params["kernel"])[:, 0] + params["bias"] - batch["y"]
        return jnp.mean(residual**2), {}

    optimizer = make_optimizer(learning_rate=0.1, num_steps=400, clip_norm=None)
    fit = run(loss_fn=noiseless, optimizer=optimizer, num_steps=400, evaluate_every=400)
    design = np.c_[INPUTS, np.ones(40)]
    solution = np.linalg.lstsq(design, TARGETS, rcond=None)[0]
    np.testing.assert_allclose([*fit.params["kernel"][:, 0], *fit.params["bias"]], solution, atol=1e-3)


def test_parameters_may_follow_by_averages():
    """A running mean of the batches, carried beside a weight that learns by gradients."""

    def averaging(params, key, step, batch):
        mean = 0.75 * params["mean"] + 0.25 * jnp.mean(batch["y"])
        loss = jnp.mean((batch["y"] - params["bias"]) ** 2)
        return loss + 0.0 * params["mean"], ({"loss": loss}, jax.lax.stop_gradient(mean))

    fit = loop.fit(
        averaging,
        {"bias": jnp.zeros(()), "mean": jnp.zeros(())},
        DATA,
        key=jax.random.key(0),
        optimizer=make_optimizer(
            learning_rate=0.1, num_steps=6, weight_decay=0.5, decay_mask={"bias": True, "mean": True}
        ),
        num_steps=6,
        indices_fn=indices_fn,
        evaluate_fn=lambda params: {"objective": 0.0},
        evaluate_every=6,
        update_fn=lambda params, mean: {**params, "mean": mean},
    )
    by_hand = 0.0
    for step in range(6):
        by_hand = 0.75 * by_hand + 0.25 * TARGETS[indices_fn(step)].mean()
    np.testing.assert_allclose(fit.params["mean"], by_hand, rtol=1e-5)
    assert float(fit.params["bias"]) != 0.0


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("step", [6, 17, *slow(1, 5, 24)])
def test_interrupted_in_a_step(tmp_path, unbroken, step):
    def progress(done, total):
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, progress=progress)
    assert_equal_runs(tmp_path, run(tmp_path), *unbroken)


@pytest.mark.parametrize("save", [1, *slow(0, 2, 5)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_around_a_save(tmp_path, unbroken, monkeypatch, save, when):
    saves, original = [], checkpoint.save

    def interrupted(*arguments):
        saves.append(arguments)
        if len(saves) > save and when == "before":
            raise Killed
        original(*arguments)
        if len(saves) > save:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", interrupted)
    with pytest.raises(Killed):
        run(tmp_path)
    monkeypatch.undo()
    assert_equal_runs(tmp_path, run(tmp_path), *unbroken)


def test_kill_9(tmp_path, unbroken):
    """A process that dies without a word in the middle of training continues in another."""
    script = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_loop\n"
        "kill = lambda done, total: done == 13 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "test_loop.run(Path(sys.argv[2]), progress=kill)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    assert subprocess.run(command, env=os.environ, check=False).returncode == -signal.SIGKILL
    assert figures(tmp_path)[-1]["step"] == 10
    assert_equal_runs(tmp_path, run(tmp_path), *unbroken)


@pytest.mark.parametrize("step", [13, *slow(3, 15)])
def test_sigterm_saves_the_step_it_came_in(tmp_path, unbroken, step):
    def terminate(done, _):
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with pytest.raises(SystemExit) as ended:
            run(tmp_path, progress=terminate)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    steps = []
    fit = run(tmp_path, progress=lambda done, _: steps.append(done))
    assert steps == list(range(step + 1, NUM_STEPS + 1))
    assert_equal_runs(tmp_path, fit, *unbroken)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["best", "latest"]


def test_a_finished_run_takes_no_step(unbroken):
    directory, first = unbroken
    steps = []
    again = run(directory, progress=lambda done, total: steps.append(done))
    assert not steps
    assert again[1:] == first[1:]
    assert bits(again.params) == bits(first.params)


def test_a_longer_training_continues_as_if_it_had_been_asked_for(tmp_path):
    constant = make_optimizer(learning_rate=0.1, num_steps=2 * NUM_STEPS, schedule="constant")
    run(tmp_path / "parts", optimizer=constant, num_steps=NUM_STEPS)
    # The last step of the first part is evaluated too, so the whole is compared by its last state.
    run(tmp_path / "parts", optimizer=constant, num_steps=2 * NUM_STEPS)
    run(tmp_path / "whole", optimizer=constant, num_steps=2 * NUM_STEPS)
    state = loop.init_state(PARAMS, constant)
    first, second = (checkpoint.load(tmp_path / name / "model" / "latest", state) for name in ("parts", "whole"))
    assert int(first.step) == 2 * NUM_STEPS
    assert bits(first) == bits(second)


def scripted(values):
    """An evaluation that reads out given objectives, and the parameters it saw."""
    seen = []

    def evaluate(params):
        seen.append(jax.tree.map(np.asarray, params))
        return {"objective": values[len(seen) - 1]}

    return evaluate, seen


def test_early_stop_keeps_the_best(tmp_path):
    values = [3.0, 2.0, 2.5, 2.0, 1.0]
    evaluate, seen = scripted(values)
    fit = run(tmp_path, evaluate_fn=evaluate, patience=2)
    assert (fit.best_step, fit.best_value, fit.last_step) == (10, 2.0, 20)
    assert bits(fit.params) == bits(seen[1])
    assert bits(checkpoint.load(tmp_path / "model" / "best", PARAMS)) == bits(seen[1])


def test_early_stop_counts_across_an_interruption(tmp_path):
    values = [3.0, 2.0, 2.5, 2.0, 1.0]

    def progress(done, total):
        if done == 17:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, evaluate_fn=scripted(values)[0], patience=2, progress=progress)
    fit = run(tmp_path, evaluate_fn=scripted(values[3:])[0], patience=2)
    assert (fit.best_step, fit.best_value, fit.last_step) == (10, 2.0, 20)


def test_without_patience_all_steps_are_taken():
    fit = run(evaluate_fn=scripted([1.0, 2.0, 3.0, 4.0, 5.0])[0])
    assert (fit.best_step, fit.last_step) == (5, NUM_STEPS)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_training_that_is_not_finite_stops(tmp_path, where):
    def failing(params, key, step, batch):
        loss, metrics = loss_fn(params, key, step, batch)
        # The square root of zero has a finite value and an infinite slope.
        bad = jnp.sqrt(0.0 * params["bias"][0]) if where == "gradient" else jnp.float32(jnp.nan)
        return loss + jnp.where(step == 12, bad, 0.0), metrics

    message = (
        r"expected a finite loss and gradient, got otherwise at step 13; last good checkpoint: step 10 in .*latest"
    )
    with pytest.raises(FloatingPointError, match=message):
        run(tmp_path, loss_fn=failing if where == "loss" else _gradient_failing)
    assert figures(tmp_path)[-1]["step"] == 10


def _gradient_failing(params, key, step, batch):
    loss, metrics = loss_fn(params, key, step, batch)
    bias = jnp.where(step == 12, 0.0 * params["bias"][0], 1.0)
    return loss + 0.0 * jnp.sqrt(bias), metrics


def test_an_objective_that_is_not_finite_stops():
    message = "expected a finite objective, got nan at step 10; last good checkpoint: step 5"
    with pytest.raises(FloatingPointError, match=message):
        run(evaluate_fn=scripted([1.0, float("nan")])[0])


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r'expected evaluate_fn to return "objective", got \[\'loss\'\]'):
        run(evaluate_fn=lambda params: {"loss": 1.0})
    with pytest.raises(ValueError, match="num_steps and evaluate_every of at least 1, got 0 and 5"):
        run(num_steps=0)
    run(tmp_path, num_steps=5)
    with pytest.raises(ValueError, match="expected the settings of the run in .*model, got others"):
        run(tmp_path, metadata={"rate": 0.2})
    with pytest.raises(ValueError, match="in checkpoint .*latest"):
        run(tmp_path, optimizer=optax.sgd(0.1))
