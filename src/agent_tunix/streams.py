"""Programs that run at the same time, each in a thread, on one device.

On a CPU a program of a small model is many small operations: single ones, which have only one core, and products whose
halves wait for each other. Two programs side by side fill the cores. Settings of JAX that a context manager makes do
not reach the threads.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

Item = TypeVar("Item")
Result = TypeVar("Result")

_calling = threading.Lock()


def called(program: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Calls a compiled program; its execution goes on behind the call.

    One thread at a time, because two that call a new program would both compile it.
    """
    with _calling:
        return program(*arguments, **settings)


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Results of a function for all items, each computed in a thread of its own; the only one in this thread.

    Args:
      function: Returns a pytree. A thread waits for its arrays, or JAX would compute them one after the other.
      items: One for each thread.

    Raises:
      Exception: Whatever the function raised first, by the order of the items.
    """
    if len(items) == 1:
        return [function(items[0])]
    with ThreadPoolExecutor(len(items), thread_name_prefix="stream") as pool:
        return list(pool.map(lambda item: jax.block_until_ready(function(item)), items))
