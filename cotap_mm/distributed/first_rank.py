"""Run work on rank 0 only, and share its result or error with all ranks."""

from __future__ import annotations

from typing import Any, Callable

from mmengine.dist import broadcast_object_list, is_main_process

from cotap_mm.errors import UserError


def on_first_rank(work: Callable[[], Any]) -> Any:
    """Run a function on rank 0 only; all ranks return its result or raise its error.

    Every rank must call this. Without a process group it just calls the function.

    Args:
        work (callable): Function whose result can be pickled.

    Returns:
        object: Result of ``work`` on rank 0.

    Raises:
        OSError, ValueError, ImportError, UserError: On rank 0, as raised by ``work``.
        UserError: On the other ranks, with the same message.
    """
    result, error = None, None
    if is_main_process():
        try:
            result = work()
        except (OSError, ValueError, ImportError, UserError) as failed:
            error = failed
    shared = [result, None if error is None else str(error)]
    broadcast_object_list(shared)
    if error is not None:
        raise error
    if shared[1] is not None:
        raise UserError(shared[1])
    return shared[0]
