"""The explorer: a local page that shows a latent space, its codebook and its prior.

`space.py` is the model: pure functions of a record `Space`, independent of the browser. `demo.py` and `runs.py` build
such a record; `layout.py`, `drawing.py` and `callbacks.py` display it.
"""

from geovq_jax.explorer.app import build_app, show

__all__ = ["build_app", "show"]
