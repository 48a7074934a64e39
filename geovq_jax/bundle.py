"""What a finished run exports to other programs: arrays as safetensors, the decoder as StableHLO, a description."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from geovq_jax import manifest, staleness
from geovq_jax.stages.records import SPLITS, decoder_of
from geovq_jax.stages.run import Run, load_run
from geovq_jax.terminal import say
from geovq_jax.workdir import write_atomically, write_json

PLATFORMS = ("cpu", "cuda", "tpu")


def export(workdir: Path | None, out: Path) -> None:
    """Write the codebook, the codes, the parameters of decoder and prior, and the decoder itself into a folder.

    Raises:
        FileNotFoundError: a stage of the run has not finished.
        ValueError: the run is damaged or stale, or its decoder is not a pure JAX function.
        ImportError: without the extra `export`.
    """
    if workdir is None:
        raise ValueError("expected --workdir=W of a finished run, got none; give one")
    try:
        import flatbuffers  # noqa: F401  # jax.export serialises by it
        from safetensors.numpy import save
    except ImportError as error:
        raise ImportError(f"expected the extra export, got {error}; run pip install geovq-jax[export]") from error
    staleness.check_run(workdir)
    run = load_run(workdir)
    program, tables = decoder_program(run), arrays_of(run)
    files = {name: save(table) for name, table in tables.items()} | {"decoder.stablehlo": program}
    for name, content in files.items():
        write_atomically(out / name, partial(_write, content))
    write_json(out / "description.json", describe(run) | {"arrays": {name: _forms(tables[name]) for name in tables}})
    say("export", f"{', '.join(['description.json', *files])} in {out}")


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _forms(table: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: f"{array.dtype}{list(array.shape)}" for name, array in table.items()}


def arrays_of(run: Run) -> dict[str, dict[str, np.ndarray]]:
    """File -> named arrays: code vectors, codes and classes of every split, parameters by their path."""
    book, codes = {"vectors": run.codebook.vectors}, dict[str, np.ndarray]()
    if run.quantizer.transform is not None:
        book["transform"] = run.quantizer.transform
    for split in SPLITS:
        found = run.codes(split)
        codes |= {split: found.codes, f"{split}.label": found.label, f"{split}.index": found.index}
    tables = {"codebook": book, "codes": codes, "decoder": named_leaves(_decoder_params(run))}
    if run.has_prior:
        tables["prior"] = named_leaves(run.prior.params)
    return {
        f"{name}.safetensors": {key: np.ascontiguousarray(value) for key, value in table.items()}
        for name, table in tables.items()
        if table
    }


def _decoder_params(run: Run) -> Any:
    params = run.tuned.params
    return params.get("decoder", params.get("own", {}))


def named_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Leaves of a pytree by their path, its keys joined with dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def decoder_program(run: Run) -> bytes:
    """The fine-tuned decoder of any number of latents, with its parameters, serialised by `jax.export`."""
    from jax import export as programs

    shape, decode_fn = run.latents("train").mean.shape[1:], decoder_of(run.tuned)

    def decode(latents: jax.Array) -> jax.Array:
        return jnp.clip(jax.vmap(decode_fn)(latents), 0.0, 1.0)

    (size,) = programs.symbolic_shape("n")
    latents = jax.ShapeDtypeStruct((size, *shape), jnp.float32)
    try:
        return bytes(programs.export(jax.jit(decode), platforms=PLATFORMS)(latents).serialize())
    except Exception as error:  # a user's decoder may raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"expected a decoder that is a program of JAX alone, got {reason}; export one in PyTorch by torch.export"
        ) from error


def describe(run: Run) -> dict[str, Any]:
    """The content of description.json: the content of the files and the run that they come from."""
    latent, code = run.latents("train").mean.shape[1:], run.codes("train").codes.shape[1:]
    return {
        "format": "geovq_jax export, version 1",
        "usage": "images = jax.export.deserialize(decoder.stablehlo).call(vectors[codes])",
        "codes": {"shape": ["n", *code], "num_codes": len(run.codebook.vectors)},
        "latents": {"shape": ["n", *latent], "dtype": "float32"},
        "images": {"shape": ["n", *run.image_shape], "dtype": "float32", "range": [0, 1]},
        "method": run.method,
        "assignment": run.quantizer.assignment,
        "prior": run.prior.arch._asdict() if run.has_prior else None,
        "autoencoder": run.tuned.arch._asdict() if isinstance(run.tuned.arch, tuple) else str(run.tuned.arch),
        "run": manifest.read_record(run.workdir),
    }
