"""Interleaved timing: A B A B ..., the ratio pair by pair; process CPU time of one thread, or another clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def cpu_seconds(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def ratio(
    first: Callable[[], Any],
    second: Callable[[], Any],
    pairs: int = 20,
    seconds: Callable[[Callable[[], Any]], float] = cpu_seconds,
) -> dict[str, float]:
    """Median of second / first over the pairs, with its 95 % interval (order statistics 6 and 15 of 20).

    Of fewer than ten pairs the interval is the smallest and the largest.
    """
    for call in (first, second):  # warm up
        call()
    times = [(seconds(first), seconds(second)) for _ in range(pairs)]
    ratios = sorted(b / a for a, b in times)
    low, high = (round(0.25 * pairs), round(0.75 * pairs) - 1) if pairs >= 10 else (0, pairs - 1)
    return {
        "median": round(statistics.median(ratios), 3),
        "low": round(ratios[low], 3),
        "high": round(ratios[high], 3),
        "first_seconds": round(statistics.median(a for a, _ in times), 4),
        "second_seconds": round(statistics.median(b for _, b in times), 4),
        "pairs": pairs,
    }
