"""Host functions that numba compiles at their first call: importing `geovq_jax.geometry` does not import numba."""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any


class Kernel:
    """A decorator: the function, compiled by numba when Python or another kernel first calls it.

    Compiled code is cached on disk and releases the interpreter lock. Kernels carry no annotations.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        # Without the wrapper added by the import hook of a run-time type checker.
        self._function = inspect.unwrap(function)
        functools.update_wrapper(self, self._function)

    @functools.cached_property
    def compiled(self) -> Any:
        """numba's dispatcher of the function."""
        return _numba().njit(cache=True, nogil=True)(self._function)

    def __call__(self, *arguments: Any) -> Any:
        return self.compiled(*arguments)


@functools.cache
def _numba() -> ModuleType:
    """numba, told that a kernel called by another has the type of its compiled function."""
    import numba
    from numba.extending import typeof_impl

    typeof_impl.register(Kernel)(lambda kernel, context: numba.typeof(kernel.compiled))
    return numba
