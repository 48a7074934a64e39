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
# # Reading a comparison
#
# `python -m geovq_jax.compare --config=configs/compare/fashion_mnist.py` fits codebooks of equal bits per image to the
# same latents, fine-tunes the decoder for each, trains a joint VQ-VAE of the same networks, over several seeds, and
# leaves `results/<data set>.json`. This notebook reads that file.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from geovq_jax import figures

plt.switch_backend(plt.get_backend())  # a notebook shows figures from here on

# %%
folders = [Path(os.environ.get("GEOVQ_RESULTS", "results")), Path("../results")]
files = [path for folder in folders for path in sorted(folder.glob("*.json"))]
if not files:
    raise FileNotFoundError("expected results/<data set>.json, found none; run python -m geovq_jax.compare")
result = json.loads(files[0].read_text())
print(f"{result['name']}: {result['bits_per_image']:.0f} bits per image, seeds {result['seeds']}")

# %% [markdown]
# ## Quality of every codebook
#
# The *trained part* (key `rung`) is what was trained after the codebook was fitted: nothing (`frozen`), the decoder,
# more, or all at once (`joint`). The value is the mean over seeds, the line their range. A difference smaller than the
# range says nothing.

# %%
rows = result["rows"]
names = [f"{row['title']}, {row['rung']}" for row in rows]
for name, row in sorted(zip(names, rows, strict=True), key=lambda pair: -pair[1]["psnr"]):
    print(f"{row['psnr']:6.2f} dB  perplexity {row['perplexity']:6.1f}  {name}")
spread = {name: (min(row["psnr_seeds"]), max(row["psnr_seeds"])) for name, row in zip(names, rows, strict=True)}
figures.comparison({name: row["psnr"] for name, row in zip(names, rows, strict=True)}, "PSNR [dB]", intervals=spread)

# %% [markdown]
# ## Differences, paired by image
#
# All codebooks are evaluated on the same test images, so differences are paired by image. An interval that contains
# zero is inconclusive; the values of the seeds show whether they agree.

# %%
for entry in result["differences"]:
    decided = "open" if entry["low"] <= 0.0 <= entry["high"] else "decided"
    seeds = ", ".join(f"{value:+.2f}" for value in entry["psnr_seeds"])
    print(f"{entry['psnr']:+.2f} [{entry['low']:+.2f}, {entry['high']:+.2f}] dB {decided:8} seeds {seeds}")
    print(f"    {entry['first']}  against  {entry['second']}")

# %% [markdown]
# ## The unit decides
#
# Root mean square error of each codebook with the decoder as it is: a codebook is best in the unit that it minimises.

# %%
measured = {row["title"]: row["units"] for row in rows if "units" in row}
for unit in next(iter(measured.values())):
    best = min(measured, key=lambda title: measured[title][unit])
    errors = ", ".join(f"{title} {units[unit]:.3g}" for title, units in measured.items())
    print(f"{unit}: best {best}\n    {errors}")

# %% [markdown]
# ## Entropy against quality
#
# At equal bits per image, evenly used codes carry more information: bits per image under the frequencies of the codes,
# against PSNR after fine-tuning of the decoder.

# %%
tuned = {row["title"]: row for row in rows if row["rung"] in ("decoder", "joint")}
figures.rate_distortion(
    {
        title: (np.array([row["cells"] * np.log2(row["perplexity"])]), np.array([row["psnr"]]))
        for title, row in tuned.items()
    },
    rate_label="entropy of the codes [bits per image]",
)
