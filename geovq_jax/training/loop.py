"""The training loop: one jitted step, evaluation, best and latest checkpoints, early stop, exact resume."""

import contextlib
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from geovq_jax import mesh, processes
from geovq_jax.training import checkpoint
from geovq_jax.training.tracking import Writer

Record = dict[str, int | float]
_INTERRUPTED = "interrupted"
LossFn = Callable[..., tuple[Float[Array, ""], Any]]


class TrainState(NamedTuple):
    """State of the training; `step` counts the steps taken."""

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]


class Totals(NamedTuple):
    """Sums of the metrics over the steps since the last evaluation, kept on the device.

    `failed_step` is the first step whose loss or gradient was not finite; -1 for none.
    """

    metrics: dict[str, Float[Array, ""]]
    steps: Int[Array, ""]
    failed_step: Int[Array, ""]


class Fit(NamedTuple):
    """Result of `fit`.

    Attributes:
        params: of the best evaluation, at `best_step` with objective `best_value`.
        last_step: steps taken, less than asked for after an early stop.
        history: one record per evaluation: "step", mean training metrics as "train/NAME", evaluation as "valid/NAME".
    """

    params: PyTree
    best_step: int
    best_value: float
    last_step: int
    history: list[Record]


def init_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step; the parameters are copied, since steps donate their buffers."""
    params = jax.tree.map(jnp.copy, params)
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def gather(data: PyTree, indices: Int[Array, " b"]) -> PyTree:
    """Rows of every array of a pytree."""
    return jax.tree.map(lambda array: jnp.take(array, indices, axis=0), data)


def make_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    update_fn: Callable[[PyTree, PyTree], PyTree] | None = None,
) -> Callable[..., tuple[TrainState, Totals]]:
    """The jitted training step, (state, totals, key, indices[b], data) -> (state, totals); arguments as for `fit`.

    The batch is gathered from `data` inside, the step's key is fold_in(key, step), and the buffers of state and totals
    are reused.
    """

    def step(
        state: TrainState, totals: Totals, key: Key[Array, ""], indices: Int[Array, " b"], data: PyTree
    ) -> tuple[TrainState, Totals]:
        batch = gather(data, indices)
        gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, aux), gradient = gradient_fn(state.params, jax.random.fold_in(key, state.step), state.step, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = aux
        if update_fn is not None:
            metrics, carried = aux
            params = update_fn(params, carried)
        norm = optax.tree.norm(gradient)
        failed = (totals.failed_step < 0) & ~(jnp.isfinite(loss) & jnp.isfinite(norm))
        totals = Totals(
            {name: totals.metrics[name] + value for name, value in {**metrics, "gradient_norm": norm}.items()},
            totals.steps + 1,
            jnp.where(failed, state.step + 1, totals.failed_step),
        )
        return mesh.shard_state((TrainState(params, opt_state, state.step + 1), totals))

    return jax.jit(step, donate_argnums=(0, 1))


def zero_totals(
    loss_fn: LossFn,
    params: PyTree,
    key: Key[Array, ""],
    indices: Int[np.ndarray, " b"],
    data: PyTree,
    update_fn: Callable[[PyTree, PyTree], PyTree] | None = None,
) -> Totals:
    """Totals before the first step; names and shapes of the metrics come from tracing the loss without running it."""

    def summed(params: PyTree, indices: Int[Array, " b"], data: PyTree) -> dict[str, Float[Array, ""]]:
        aux = loss_fn(params, key, jnp.zeros((), jnp.int32), gather(data, indices))[1]
        metrics = aux if update_fn is None else aux[0]
        return {**metrics, "gradient_norm": optax.tree.norm(params)}

    metrics = jax.tree.map(jnp.zeros_like, jax.eval_shape(summed, params, indices, data))
    return Totals(metrics, jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))


def _best(history: list[Record]) -> Record:
    return min(history, key=lambda record: record["valid/objective"])


def _stopped(history: list[Record], patience: int | None) -> bool:
    """Whether the last `patience` evaluations did not improve on the best."""
    if patience is None or not history:
        return False
    best = _best(history)
    return sum(record["step"] > best["step"] for record in history) >= patience


def _resume(
    directory: Path, state: TrainState, totals: Totals, metadata: Any
) -> tuple[TrainState, Totals, list[Record], PyTree]:
    """State, totals, history and best parameters restored from the checkpoints of an earlier call, if any."""
    history: list[Record] = []
    best_params = None

    def stored(name: str) -> dict[str, Any]:
        found = checkpoint.load_metadata(directory / name) or {}
        if found.get("settings") != metadata:
            raise ValueError(
                f"expected the settings of the run in {directory}, got others; give the same settings or remove it"
            )
        return found

    if checkpoint.exists(directory / "latest"):
        history = stored("latest")["history"]
        state = checkpoint.load(directory / "latest", state)
        best_params = checkpoint.load(directory / "best", state.params)
    if checkpoint.exists(directory / _INTERRUPTED) and stored(_INTERRUPTED)["history"] == history:
        state, totals = checkpoint.load(directory / _INTERRUPTED, (state, totals))
    return state, totals, history, best_params


@contextlib.contextmanager
def _sigterm_deferred() -> Iterator[Callable[[], bool]]:
    """Defers SIGTERM to a flag, which the yielded function returns; on exit the signal goes to the previous handler.

    Not deferred with several processes: they would receive it at different steps and could not save one state.
    """
    before = signal.getsignal(signal.SIGTERM)
    alone = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
    if before in (None, signal.SIG_IGN) or not alone:
        yield lambda: False
        return
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
        if asked:
            signal.raise_signal(signal.SIGTERM)


def fit(
    loss_fn: LossFn,
    params: PyTree,
    data: PyTree,
    *,
    key: Key[Array, ""],
    optimizer: optax.GradientTransformation,
    num_steps: int,
    indices_fn: Callable[[int], Int[np.ndarray, " b"]],
    evaluate_fn: Callable[[PyTree], dict[str, Any]],
    evaluate_every: int,
    patience: int | None = None,
    directory: str | Path | None = None,
    metadata: dict[str, Any] | None = None,
    log: Writer | None = None,
    progress: Callable[[int, int], None] | None = None,
    update_fn: Callable[[PyTree, PyTree], PyTree] | None = None,
) -> Fit:
    """Minimise a loss, keep the parameters that evaluate best, and continue where an interrupted call stopped.

    A step depends on (state, key, indices_fn(step)) alone and the state is saved at every evaluation, so an interrupted
    and resumed call computes the same as an uninterrupted one. SIGTERM is handled at the end of a step: state and
    totals are saved as checkpoint `interrupted`, and the signal is passed to the previous handler. Within
    `mesh.use_devices(n)` the examples of a batch are split over n devices, which sum their gradients; every device
    holds the whole state, or its part.

    Args:
        loss_fn: (params, key, step, batch) -> (loss, metrics), traced once.
        data: pytree of arrays with one leading axis over examples.
        key: random key of the training.
        indices_fn: step -> indices of its batch, on the host.
        evaluate_fn: params -> metrics; the smallest "objective" wins.
        evaluate_every: steps between evaluations; the last step is evaluated too.
        patience: stop after this many evaluations without a better one; None never stops.
        directory: where to keep checkpoints `best` (params) and `latest` (TrainState), and where to resume from.
        metadata: JSON settings kept with the checkpoints; a run resumes only under equal ones.
        log: receives each evaluation's record.
        progress: called with (steps done, num_steps).
        update_fn: for parameters learnt without gradients, such as moving averages: the loss then returns
            (loss, (metrics, carried)), and the parameters after the optimiser's update are update_fn(params, carried).

    Raises:
        ValueError: if the directory holds a run of other settings or shapes, or evaluate_fn gives no "objective".
        FloatingPointError: if loss, gradient or objective is not finite; names the step and the last good checkpoint.
    """
    if num_steps < 1 or evaluate_every < 1:
        raise ValueError(
            f"expected num_steps and evaluate_every of at least 1, got {num_steps} and {evaluate_every}; raise them"
        )
    if len(indices_fn(0)) % mesh.size():
        raise ValueError(
            f"expected a batch that {mesh.size()} devices can share, got {len(indices_fn(0))} examples; change the "
            "batch size or --config.mesh.data"
        )
    state, data = mesh.shard_state(init_state(params, optimizer)), mesh.replicate(jax.device_put(data))
    key = mesh.replicate(key)
    metadata = json.loads(json.dumps(metadata))
    history: list[Record] = []
    best_params = None
    root = None if directory is None else Path(directory)

    def save(name: str, tree: PyTree, extra: dict[str, Any]) -> None:
        if root is not None:
            checkpoint.save(root / name, tree, {"settings": metadata, **extra})

    totals = mesh.replicate(zero_totals(loss_fn, state.params, key, indices_fn(0), data, update_fn))
    if root is not None:
        state, totals, history, best_params = _resume(root, state, totals, metadata)
    first = int(state.step)
    if log is not None:
        log.rewind(first)
    train_step = make_step(loss_fn, optimizer, update_fn)
    started = time.monotonic()
    with _sigterm_deferred() as asked_to_end:
        for done in range(first + 1, num_steps + 1):
            if _stopped(history, patience):
                break
            state, totals = train_step(state, totals, key, mesh.shard_rows(indices_fn(done - 1)), data)
            if progress is not None:
                progress(done, num_steps)
            if done % evaluate_every and done != num_steps:
                if asked_to_end():
                    save(_INTERRUPTED, (state, totals), {"history": history})
                    break
                continue
            record = _evaluate(done, totals, evaluate_fn, state.params, history, root)
            totals = jax.tree.map(jnp.zeros_like, totals)._replace(failed_step=totals.failed_step)
            history = [*history, record]
            # The state is saved last: whatever an interruption left incomplete before it is repeated identically after
            # the resume.
            if log is not None:
                figures = {name: value for name, value in record.items() if name != "step"}
                log.write(done, {**figures, "seconds": time.monotonic() - started})
            if _best(history) is record:
                best_params = jax.tree.map(jnp.copy, state.params)
                save("best", best_params, record)
            save("latest", state, {"history": history})
            if root is not None and processes.is_main():
                shutil.rmtree(root / _INTERRUPTED, ignore_errors=True)
            if asked_to_end():
                break
    best = _best(history)
    return Fit(mesh.unshard(best_params), int(best["step"]), best["valid/objective"], int(history[-1]["step"]), history)


def why_stopped(fit: Fit, num_steps: int) -> str:
    """Words to add to an outcome where training stopped before its last step."""
    if fit.last_step >= num_steps:
        return ""
    return f"; stopped at step {fit.last_step} of {num_steps} by patience"


def _evaluate(
    step: int,
    totals: Totals,
    evaluate_fn: Callable[[PyTree], dict[str, Any]],
    params: PyTree,
    history: list[Record],
    root: Path | None,
) -> Record:
    """Record of one evaluation; raises for values that are not finite."""
    sums = jax.device_get(totals)
    good = f"step {history[-1]['step']}" + (f" in {root / 'latest'}" if root else "") if history else "none"
    advice = f"last good checkpoint: {good}; lower the learning rate"
    if sums.failed_step >= 0:
        raise FloatingPointError(
            f"expected a finite loss and gradient, got otherwise at step {sums.failed_step}; {advice}"
        )
    values = {name: float(value) for name, value in jax.device_get(evaluate_fn(params)).items()}
    if "objective" not in values:
        raise ValueError(f'expected evaluate_fn to return "objective", got {sorted(values)}')
    if not math.isfinite(values["objective"]):
        raise FloatingPointError(f"expected a finite objective, got {values['objective']} at step {step}; {advice}")
    return {
        "step": step,
        **{f"train/{name}": float(value / sums.steps) for name, value in sums.metrics.items()},
        **{f"valid/{name}": value for name, value in values.items()},
    }
