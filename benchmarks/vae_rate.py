"""Which rate of the VAE suits codes of a given size: quantized quality on validation images against beta.

    python benchmarks/vae_rate.py [--config configs/compare/fashion_mnist.py] [--betas 0.5,0.2,0.1] [--cell-bits 6,8]

Each VAE is trained as in the comparison, on fewer images; its latents are quantized by K-means, Euclidean and in the
metric at each latent (vanilla latents: in decoded space), the latter also in context, and the decoder is fine-tuned on
the codes. Printed are decibels of the mean squared error on the validation split: of the unquantized latents, and of
the codes before and after the fine-tuning. `--cell-bits` adds VAEs that are steered to so many bits at every cell of
the grid, instead of to a total.
"""

import argparse
import importlib.util
import tempfile
from functools import partial
from pathlib import Path

import numpy as np


def decibels(error: float) -> float:
    return float(-10.0 * np.log10(error))


def measure(config, directory: Path) -> None:
    import jax

    from geovq_jax import data, pipeline
    from geovq_jax.comparison import trials
    from geovq_jax.geometry.batching import map_chunks
    from geovq_jax.models import vae
    from geovq_jax.quantization import methods
    from geovq_jax.stages.finetune import finetune
    from geovq_jax.training import checkpoint

    for stage in ("vae", "latents", "graph"):
        pipeline.run_stage(stage, directory, config)
    inputs = methods.inputs_of(directory, config)
    decode = jax.jit(jax.vmap(partial(vae.decode, inputs.params, inputs.arch)))
    truth = np.asarray(data.to_float(inputs.dataset.valid.images))
    continuous = np.asarray(map_chunks(decode, (inputs.latents["valid"],), batch_size=250))
    rate = checkpoint.load_metadata(directory / "vae" / "best")["valid/kl"]
    line = f"rate {rate:6.1f} nats, continuous {decibels(np.mean((continuous - truth) ** 2)):.2f} dB"
    own = "kmeans_decoded" if config.vae.kind == "vanilla" else "local_metrics"
    fitted = {name: methods.METHODS[name].fit(inputs) for name in ("kmeans", own)}
    titles = {name: methods.METHODS[name].title for name in fitted} | {"in context": "in context"}
    fitted["in context"] = trials.search(inputs, inputs.params, fitted[own])
    for name, found in fitted.items():
        tuned = finetune(
            None,
            inputs.dataset,
            found.codes,
            inputs.params,
            inputs.arch,
            found.vectors,
            rung="decoder",
            num_steps=config.codebook.finetune_steps,
            learning_rate=config.codebook.finetune_learning_rate,
            batch_size=config.data.batch_size,
            seed=config.seed,
        )
        line += f"; {titles[name]} {decibels(tuned.frozen):.2f} -> {decibels(tuned.error):.2f} dB"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/compare/fashion_mnist.py")
    parser.add_argument("--data", default="", help="folder of the data set's files")
    parser.add_argument("--betas", default="0.5,0.2,0.1,0.05")
    parser.add_argument("--cell-bits", default="", help="bits a cell, by commas")
    parser.add_argument("--images", type=int, default=5_000)
    arguments = parser.parse_args()
    path, _, variants = arguments.config.partition(":")
    specification = importlib.util.spec_from_file_location("config", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    objectives = [{"vae.beta": float(beta)} for beta in filter(None, arguments.betas.split(","))]
    for bits in filter(None, arguments.cell_bits.split(",")):
        objectives.append({"vae.beta": 1.0, "vae.cell_bits": float(bits)})
    common = {
        "data.dir": arguments.data,
        "data.max_train": arguments.images,
        "data.max_valid": 1_000,
        "data.max_test": 100,
    }
    for objective in objectives:
        config = module.get_config(variants)
        config.update_from_flattened_dict(common | objective)
        config.graph.num_images = arguments.images if config.vae.kind == "vanilla" else 1_000
        print(objective, flush=True)
        with tempfile.TemporaryDirectory() as directory:
            measure(config, Path(directory))


if __name__ == "__main__":
    main()
