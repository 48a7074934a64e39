"""Stage `decoder`: fine-tuning on the codes of the decoder, or of the decoder and the code vectors.

Minimises the squared error of images reconstructed from code vectors; with search, the codes are searched again under
the current decoder before each part of the training. (A joint VQ-VAE that starts from the autoencoder and the codebook
trains the encoder too, see `stages/vqvae.py`.)
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer

from geovq_jax import data
from geovq_jax.config import settings
from geovq_jax.geometry.batching import map_chunks
from geovq_jax.models import vae
from geovq_jax.stages.codes import assigned, searched
from geovq_jax.stages.external import External
from geovq_jax.stages.records import BATCH, SEEN, Autoencoder, decode
from geovq_jax.stages.run import Run
from geovq_jax.terminal import progress_bar
from geovq_jax.training import checkpoint, loop, optimizer, tracking
from geovq_jax.workdir import remove, save_npz

Trained = Literal["decoder", "codes"]


class Tuned(NamedTuple):
    """Parameters with the trained decoder, code vectors, and validation error per pixel before and after."""

    params: Any
    vectors: Float[np.ndarray, "K d"]
    frozen: float
    error: float


class Parts(NamedTuple):
    """Outcome of a fine-tuning in parts.

    `codes` are those under which its last part was trained; `seen` the training codes before each search, and last
    those of `codes`.
    """

    tuned: Tuned
    codes: dict[str, Integer[np.ndarray, "n ..."]]
    seen: list[Integer[np.ndarray, "n ..."]]


def finetune_decoder(run: Run) -> str:
    """Train the decoder to reconstruct images from codes, into `decoder/`; if that is off, store the VAE's weights."""
    section, directory = run.config.codebook, run.workdir / "decoder"
    metadata = settings(run.config, "seed", "data", "vae", "codebook", "codes")
    if not run.autoencoder.params:
        return f"not fine-tuned: {run.config.vae.module} offers no params"
    if not section.finetune_decoder:
        checkpoint.save(directory / "best", run.autoencoder.params, {"settings": metadata})
        return "not fine-tuned"
    codes = {split: assigned(run, run.quantizer, split).codes for split in ("train", "valid")}
    found, codes, seen = finetune_in_parts(
        run,
        codes,
        run.codebook.vectors,
        search=run.config.codes.search == "context",
        directory=directory,
        metadata=metadata,
    )
    save_npz(directory / SEEN, codes=np.stack(seen))
    before, after = (-10 * np.log10(error) for error in (found.frozen, found.error))
    return f"validation PSNR of the mean squared error {before:.2f} dB frozen, {after:.2f} dB fine-tuned"


def finetune_in_parts(
    run: Run,
    codes: Mapping[str, Integer[np.ndarray, "n ..."]],
    vectors: Float[np.ndarray, "K d"],
    *,
    search: bool,
    trained: Trained = "decoder",
    autoencoder: Autoencoder | None = None,
    directory: Path | None = None,
    metadata: dict[str, Any] | None = None,
) -> Parts:
    """Fine-tune in codes.searches equal parts with a search of all codes before each; in one part without search.

    `codes` are those without search; those of "train" are used for training, those of "valid" for model selection.
    `trained` is "decoder", or "codes" for the code vectors too. `autoencoder` is by default the run's. `directory` is
    the folder of checkpoints, from which an interrupted training resumes, None for none; `metadata` are settings saved
    with them. The decoder after every part is kept there, since the codes of other images are searched under all of
    them in turn. `tuned.frozen` of the result is the error before the first part.
    """
    config, codes, model = run.config, dict(codes), autoencoder or run.autoencoder
    count, seen = config.codes.searches if search else 1, []
    errors: list[float] = []
    for part in range(count):
        name = "decoder" if count == 1 else f"decoder part {part}"
        if search:
            seen.append(codes["train"])
            codes = searched(run, model, vectors, codes, f"part{part}")
        with progress_bar("fine-tuning the decoder") as progress:
            tuned = finetune(
                directory if directory is None or count == 1 else directory / f"part{part}",
                run.dataset,
                codes,
                model.params,
                model.arch,
                vectors,
                trained=trained,
                num_steps=config.codebook.finetune_steps // count,
                learning_rate=config.codebook.finetune_learning_rate,
                batch_size=config.data.batch_size,
                seed=config.seed + part,
                metadata=metadata,
                log=None if directory is None else tracking.open_writer(run.workdir, name, config.tracker),
                progress=progress,
            )
        errors.append(tuned.frozen)
        model, vectors = Autoencoder(tuned.params, model.arch), tuned.vectors
    if directory is not None and count > 1:
        checkpoint.save(directory / "best", tuned.params, {"settings": metadata})
        for part in range(count - 1):
            remove(directory / f"part{part}" / "latest")
        remove(directory / f"part{count - 1}")
    return Parts(tuned._replace(frozen=errors[0]), codes, [*seen, codes["train"]])


def finetune(
    directory: Path | None,
    dataset: data.Dataset,
    codes: Mapping[str, Integer[np.ndarray, "n ..."]],
    params: Any,
    arch: vae.Architecture | External,
    vectors: Float[np.ndarray, "K d"],
    *,
    trained: Trained,
    num_steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    **options: Any,
) -> Tuned:
    """Train on fixed `codes` of the splits "train" and "valid"; selected by the validation error.

    `trained` is "decoder", or "codes" for the code vectors too; `options` go to `training.loop.fit`.
    """
    fixed = jnp.asarray(vectors)
    start = params if trained == "decoder" else params | {"vectors": fixed}

    def squared_errors(learnt, codes, images):
        read = learnt.get("vectors", fixed)
        pixels = jax.vmap(partial(decode, arch, learnt))(read[codes])
        return jnp.mean(jnp.square(pixels - data.to_float(images)), axis=(1, 2, 3))

    def loss_fn(learnt, key, step, batch):
        error = jnp.mean(squared_errors(learnt, batch["codes"], batch["images"]))
        # The mean over pixels would be so small that Adam's epsilon matters.
        return error * dataset.train.images[0].size, {"mse": error}

    valid_errors = jax.jit(squared_errors)

    def evaluate_fn(learnt):
        size = min(BATCH, len(codes["valid"]))
        errors = map_chunks(partial(valid_errors, learnt), (codes["valid"], dataset.valid.images), batch_size=size)
        return {"objective": float(np.mean(errors))}

    frozen = evaluate_fn(start)["objective"]
    fit = loop.fit(
        loss_fn,
        start,
        {"images": dataset.train.images, "codes": codes["train"]},
        key=jax.random.key(seed),
        optimizer=optimizer.make_optimizer(learning_rate=learning_rate, num_steps=num_steps),
        num_steps=num_steps,
        indices_fn=partial(data.batch_indices, seed, num_examples=len(dataset.train.images), batch_size=batch_size),
        evaluate_fn=evaluate_fn,
        evaluate_every=max(1, num_steps // 4),
        directory=directory,
        **options,
    )
    learnt = dict(fit.params)
    tuned = np.asarray(learnt.pop("vectors", fixed))
    return Tuned(learnt, tuned, frozen, fit.best_value)
