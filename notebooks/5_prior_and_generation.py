# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Prior and generation
#
# A small GPT models the codes of the training images in raster order, given the class; new codes are drawn from it and
# decoded. This notebook opens the run of "From images to codes".

# %%
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import geovq_jax
from geovq_jax import figures, pipeline
from geovq_jax.evaluation import likelihood
from geovq_jax.models.sampling import sample
from geovq_jax.stages.prior import log_probabilities
from geovq_jax.terminal import log_to_console

plt.switch_backend(plt.get_backend())  # a notebook shows figures from here on

# %%
name = "tour-smoke" if "GEOVQ_SMOKE" in os.environ else "tour"
given = os.environ.get("GEOVQ_WORKDIR")  # of a finished run of your own
workdir = Path(given or Path(os.environ.get("GEOVQ_RUNS", "runs")) / name).absolute()
run = geovq_jax.load_run(workdir)
log_to_console()
pipeline.entry("prior")(workdir, run.config)

# %% [markdown]
# ## What the prior has learnt
#
# Bits per code of the test split: without a model (log2 K), with the frequencies of the codes, with the frequencies of
# pairs, with the prior. Lower is better.

# %%
(params, arch), train, test = run.prior, run.codes("train"), run.codes("test")
models = {
    "uniform": likelihood.uniform_log_probabilities(test.codes, arch.num_codes),
    "unigram": likelihood.unigram_log_probabilities(train.codes, test.codes, arch.num_codes),
    "bigram": likelihood.bigram_log_probabilities(train.codes, test.codes, arch.num_codes),
    "prior": log_probabilities(params, arch, test.codes, test.label),
}
for name, log_p in models.items():
    print(f"{name:8} {-np.mean(log_p) / np.log(2):.3f} bits per code")

# %% [markdown]
# ## Samples
#
# One row per class. Temperature divides the logits: below one, likely codes are preferred.


# %%
def draw(labels, **settings):
    drawn = sample(jax.random.key(0), params, arch, jnp.asarray(labels), **settings)
    codes = np.asarray(drawn.codes).reshape(len(labels), *train.codes.shape[1:])
    return run.decode(codes)


classes = np.repeat(np.arange(5, dtype=np.int32), 10)
figures.image_grid(draw(classes, temperature=0.8).reshape(5, 10, 28, 28, 1), [f"class {c}" for c in range(5)])

# %%
threes = np.full(10, 3, np.int32)
rows = {
    "temperature 0.5": {"temperature": 0.5},
    "temperature 1": {},
    "top-p 0.8": {"top_p": 0.8},
    "guidance 2": {"guidance": 2.0},
}
figures.image_grid(np.stack([draw(threes, **settings) for settings in rows.values()]), [*rows])

# %% [markdown]
# ## Completions
#
# The first half of the codes is given by a test image (left), the rest is drawn.

# %%
row = 3
given = np.repeat(test.codes[row : row + 1].reshape(1, -1), 9, axis=0)
label = np.repeat(test.label[row : row + 1], 9)
completed = draw(label, prompt=jnp.asarray(given), kept=np.arange(arch.length) < arch.length // 2)
own = run.decode(test.codes[row : row + 1])
figures.image_grid(np.concatenate([own, completed])[None], ["given, drawn"])

# %% [markdown]
# ## The whole run
#
# The remaining stages draw samples, score them and write the report. A run on the last line of a cell shows its
# headline and its samples; `report/index.html` begins with conclusions.

# %%
pipeline.entry("samples", "classifier", "scores", "report")(workdir, run.config)
geovq_jax.load_run(workdir)
