"""Drawing code sequences from the prior: one compiled scan with a key-value cache."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from geovq_jax.models import gpt
from geovq_jax.models.gpt import Architecture, Params

BATCH = 64  # sequences drawn at once by `draw`
EVERY_CLASS, NO_CLASS = -1, -2  # values of sample.class_id besides the classes


class Samples(NamedTuple):
    """Sampled sequences.

    Attributes:
        codes: in [0, num_codes).
        log_probabilities: log p(c_i | c_<i, label) in nats under the prior itself, not tempered, truncated or guided;
            also at positions of the prompt.
    """

    codes: Int[Array, "b t"]
    log_probabilities: Float[Array, "b t"]


def truncate(
    logits: Float[Array, " k"],
    *,
    top_k: int | None = None,
    top_p: float | Float[Array, ""] | None = None,
    min_p: float | Float[Array, ""] | None = None,
) -> Float[Array, " k"]:
    """Set the logits of unlikely codes to -inf; the filters act in the order top-k, top-p, min-p.

    Args:
        logits: of one draw, already divided by the temperature; the largest one is always kept.
        top_k: keep the k largest, and all equal to the k-th.
        top_p: keep the smallest set of largest probabilities whose sum is at least p.
        min_p: keep probabilities of at least p times the largest.

    Reference: Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p); Nguyen et al. 2024 (min-p).

    Example:
        >>> truncate(jnp.log(jnp.array([0.5, 0.3, 0.2])), top_p=0.6) > -jnp.inf
        Array([ True,  True, False], dtype=bool)
    """
    if top_k is not None or top_p is not None:
        ordered = jax.lax.top_k(logits, logits.shape[0] if top_k is None else min(top_k, logits.shape[0]))[0]
        threshold = ordered[-1]
        if top_p is not None:
            probabilities = jax.nn.softmax(ordered)
            before = jnp.cumsum(probabilities) - probabilities
            threshold = jnp.min(ordered, initial=jnp.inf, where=(before < top_p).at[0].set(True))
        logits = jnp.where(logits >= threshold, logits, -jnp.inf)
    if min_p is not None:
        logits = jnp.where(logits >= logits.max() + jnp.log(min_p), logits, -jnp.inf)
    return logits


def sample(
    key: Key[Array, "..."],
    params: Params,
    arch: Architecture,
    labels: Integer[Array, " b"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    guidance: float | None = None,
    prompt: Integer[Array, "b t"] | None = None,
    kept: Bool[np.ndarray, " t"] | None = None,
) -> Samples:
    """Draw one sequence of codes per label.

    Position i of sample j is drawn with fold_in(key_j, i) alone, so samples do not depend on their batch.

    Args:
        key: one key, from which key_j = fold_in(key, j); or one key per sample.
        labels: classes, or `arch.no_class`.
        temperature: divides the logits; 0 takes the most likely code (greedy).
        top_k, top_p, min_p: see `truncate`.
        guidance: scale g of classifier-free guidance, logits = free + g (conditional - free) with free those of
            `arch.no_class`; None or 1 for none. Needs a prior trained with label dropout (Ho & Salimans 2022).
        prompt: codes to complete, with `kept`.
        kept: which places keep their code of the prompt. A drawn code depends on kept ones before it alone, see
            `complete`.

    ValueError if a label, a code of the prompt or a setting is out of range, or prompt and kept do not fit.
    """
    if temperature < 0:
        raise ValueError(f"expected temperature >= 0, got {temperature}; 0 is greedy")
    if top_k is not None and top_k < 1:
        raise ValueError(f"expected top_k >= 1, got {top_k}; None keeps all codes")
    for name, share in (("top_p", top_p), ("min_p", min_p)):
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"expected {name} in (0, 1], got {share}; None keeps all codes")
    if guidance is not None and guidance != 1 and arch.num_classes == 0:
        raise ValueError("expected a class-conditional prior for guidance, got num_classes = 0; set guidance = None")
    _check_inputs(key, arch, np.asarray(labels), None if prompt is None else np.asarray(prompt), kept)
    batch_size = labels.shape[0]
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch_size)) if key.ndim == 0 else key
    if prompt is None:
        prompt, kept = jnp.zeros((batch_size, arch.length), jnp.int32), np.zeros(arch.length, bool)
    return _sample(
        keys,
        params,
        labels.astype(jnp.int32),
        prompt.astype(jnp.int32),
        jnp.asarray(kept),
        temperature,
        1.0 if guidance is None else guidance,
        top_p,
        min_p,
        arch=arch,
        top_k=top_k,
        greedy=temperature == 0,
        guided=guidance is not None and guidance != 1,
    )


@partial(jax.jit, static_argnames=("arch", "top_k", "greedy", "guided"))
def _sample(keys, params, labels, prompt, kept, temperature, guidance, top_p, min_p, *, arch, top_k, greedy, guided):
    batch_size = labels.shape[0]
    copies = 2 if guided else 1
    if guided:
        labels = jnp.concatenate([labels, jnp.full_like(labels, arch.no_class)])

    def draw(key, logits):
        if greedy:
            return logits.argmax().astype(jnp.int32)
        likely = truncate(logits / temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        return jax.random.categorical(key, likely).astype(jnp.int32)

    def step(carry, position):
        tokens, caches = carry
        logits, caches = gpt.cached_logits(params, arch, jnp.tile(tokens, copies), labels, caches, position)
        log_p = jax.nn.log_softmax(logits[:batch_size])
        mixed = log_p
        if guided:
            free = jax.nn.log_softmax(logits[batch_size:])
            mixed = free + guidance * (log_p - free)
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
        drawn = jax.vmap(draw)(step_keys, mixed)
        codes = jnp.where(kept[position], prompt[:, position], drawn)
        return (codes, caches), (codes, jnp.take_along_axis(log_p, codes[:, None], axis=-1)[:, 0])

    start = jnp.full((batch_size,), arch.bos, jnp.int32)
    caches = gpt.empty_cache(params, arch, copies * batch_size)
    _, (codes, log_p) = jax.lax.scan(step, (start, caches), jnp.arange(arch.length))
    return Samples(codes.T, log_p.T)


def _check_inputs(
    key: Key[Array, "..."], arch: Architecture, labels: np.ndarray, prompt: np.ndarray | None, kept: np.ndarray | None
) -> None:
    if labels.size == 0 or labels.min() < 0 or labels.max() > arch.no_class:
        raise ValueError(
            f"expected one label per sample in [0, {arch.no_class}], got {labels}; {arch.no_class} is no class"
        )
    if key.ndim == 1 and key.shape != labels.shape:
        raise ValueError(f"expected one key or {labels.shape[0]} keys, one per sample, got {key.shape[0]}")
    if (prompt is None) != (kept is None):
        raise ValueError(
            f"expected prompt and kept together, got {'kept' if prompt is None else 'prompt'} alone; pass both"
        )
    if prompt is None or kept is None:
        return
    if prompt.shape != (labels.shape[0], arch.length) or kept.shape != (arch.length,):
        raise ValueError(
            f"expected prompt of shape {(labels.shape[0], arch.length)} and one kept per place, got {prompt.shape} and "
            f"{kept.shape}; fill the prompt up with any code"
        )
    codes = prompt[:, kept]
    if codes.size and (codes.min() < 0 or codes.max() >= arch.num_codes):
        raise ValueError(f"expected prompt codes in [0, {arch.num_codes}), got {codes.min()} to {codes.max()}")


def draw(
    key: Key[Array, ""],
    params: Any,
    arch: gpt.Architecture,
    labels: Integer[np.ndarray, " n"],
    settings: Mapping[str, Any],
    *,
    guidance: float | None = None,
    prompt: Integer[np.ndarray, "n ..."] | None = None,
    kept: Bool[np.ndarray, "..."] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Int[np.ndarray, "n t"], Float[np.ndarray, "n t"]]:
    """Draw one code sequence per label, in batches of one size; see `sample`. Returns codes and log-probabilities.

    The key of a sample depends on its position among the labels alone, so the batch size does not matter.

    Args:
        settings: temperature, top_k (0 for all), top_p (1 for all), min_p (0 for all) and guidance (1 for none).
        guidance: replaces that of the settings.
        prompt: codes to complete, [n, t] or grids of them.
        kept: places that keep their code of the prompt, [t] or a grid.
        progress: called with (samples drawn, n).
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(labels)))
    rows_of_prompt = None if prompt is None else jnp.asarray(prompt).reshape(len(prompt), -1)
    parts = []
    for start in range(0, len(labels), BATCH):
        # The last batch is padded with copies of its last row, so that any number of samples shares one compilation.
        rows = np.minimum(np.arange(start, start + BATCH), len(labels) - 1)
        drawn = sample(
            keys[rows],
            params,
            arch,
            jnp.asarray(labels[rows]),
            temperature=settings["temperature"],
            top_k=settings["top_k"] or None,
            top_p=settings["top_p"] if settings["top_p"] < 1.0 else None,
            min_p=settings["min_p"] or None,
            guidance=settings["guidance"] if guidance is None else guidance,
            prompt=None if rows_of_prompt is None else rows_of_prompt[rows],
            kept=None if kept is None else kept.ravel(),
        )
        parts.append([np.asarray(array) for array in drawn])
        if progress is not None:
            progress(min(start + BATCH, len(labels)), len(labels))
    codes, log_p = (np.concatenate(arrays)[: len(labels)] for arrays in zip(*parts, strict=True))
    return codes, log_p


def complete(
    key: Key[Array, ""],
    params: Any,
    arch: gpt.Architecture,
    labels: Integer[np.ndarray, " n"],
    settings: Mapping[str, Any],
    *,
    prompt: Integer[np.ndarray, "n ..."],
    kept: Bool[np.ndarray, "..."],
    candidates: int = 16,
) -> tuple[Int[np.ndarray, "n t"], Float[np.ndarray, "n t"]]:
    """Draw the codes of a prompt that are not kept, given all that are, before and after them; see `draw`.

    Codes are drawn in raster order, each given those before it. Where a kept code follows a drawn one, several
    candidates are drawn, and one is chosen with probability proportional to prod p(c_i | c_<i) over the kept places i:
    sampling-importance resampling (Rubin 1987), exact as the number of candidates grows.

    Args:
        candidates: per prompt.
    """
    places = kept.ravel()
    first = int(np.argmin(places))
    if places.all() or not places[first:].any():
        return draw(key, params, arch, labels, settings, prompt=prompt, kept=kept)
    draw_key, choice_key = jax.random.split(key)
    codes, log_p = draw(
        draw_key,
        params,
        arch,
        np.repeat(labels, candidates),
        settings,
        prompt=np.repeat(prompt, candidates, axis=0),
        kept=kept,
    )
    weights = jnp.asarray(log_p[:, places].sum(axis=1).reshape(-1, candidates))
    chosen = np.asarray(jax.random.categorical(choice_key, weights)) + candidates * np.arange(len(labels))
    return codes[chosen], log_p[chosen]


def balanced_labels(num_samples: int, class_id: int, num_classes: int) -> Int[np.ndarray, " n"]:
    """Sorted labels: one class, EVERY_CLASS as equally often as the number allows, or NO_CLASS."""
    classes = {EVERY_CLASS: range(num_classes), NO_CLASS: [num_classes]}.get(class_id, [class_id])
    return np.sort(np.resize(np.asarray(classes, np.int32), num_samples))
