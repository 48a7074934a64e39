"""The explorer: a local page that shows a latent space, its codebook and its prior.

`space.py` is the model behind it: pure functions of a record `Space`, without a browser. `demo.py` and `runs.py` make
such a record, `layout.py`, `drawing.py` and `callbacks.py` show it.
"""

from geovq_jax.explorer.app import build_app, show

__all__ = ["build_app", "show"]
