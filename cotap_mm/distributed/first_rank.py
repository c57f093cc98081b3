"""Let rank 0 do something once, and tell the other ranks what came of it."""

from __future__ import annotations

from typing import Any, Callable

from mmengine.dist import broadcast_object_list, is_main_process

from cotap_mm.errors import UserError


def on_first_rank(work: Callable[[], Any]) -> Any:
    """Run a function on rank 0 only; all ranks return its result or fail with its error.

    Every rank must call this. Without a process group it just calls the function.

    Args:
        work (callable): Returns something that can be pickled.

    Returns:
        object: What ``work`` returned on rank 0.

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
    told = [result, None if error is None else str(error)]
    broadcast_object_list(told)
    if error is not None:
        raise error
    if told[1] is not None:
        raise UserError(told[1])
    return told[0]
