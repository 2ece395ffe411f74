import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(
    condition: Callable[[], Result], what: str, *, seconds: float = 20, every: float = 0.02
) -> Result:
    """Returns the first true answer of `condition`; fails, naming `what`, after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(
                f"timed out after {seconds:g} s waiting for {what}; last answer: {answer}"
            )
        time.sleep(every)
