"""Made-up traces of prefix requests, unlike each other and unlike the recorded one: a policy tuned to one shows on the rest.

Promise: the same shape and seed give the same trace.
Owns the shapes. Does not know policies.
Kind: pure, with a table of shapes. Time is counted in requests.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from typing import Final

from bench.trace import Trace


@dataclass(frozen=True)
class Shape:
    """Sessions begin under one of `prompts` shared prompts, by Zipf's law with exponent `skew`, and go on turn by turn.

    After a turn a session goes on with probability `again`, or `again_later` from its third turn on, after a think time
    that is log-normal with median `think` and sigma `spread`. A share `scans` of all requests is read once, `scan_blocks`
    long. Each `drift` requests the prompts are others (0: never). A turn adds `turn_blocks` on average, a session's first
    `first_blocks`; the last block of each request is not full and comes again in no other.
    """

    prompts: int = 4
    prompt_blocks: int = 2
    skew: float = 1.0
    first_blocks: int = 14
    turn_blocks: int = 4
    again: float = 0.35
    again_later: float = 0.7
    think: float = 400
    spread: float = 0.9
    scans: float = 0.0
    scan_blocks: int = 80
    drift: int = 0
    requests: int = 8000


SHAPES: Final = {
    "chat": Shape(),
    "agents": Shape(prompts=40, prompt_blocks=24, first_blocks=4, turn_blocks=3, again=0.85, again_later=0.9, think=40),
    "documents": Shape(prompts=600, prompt_blocks=48, skew=0.8, first_blocks=2, again=0.3, again_later=0.4, think=150),
    "scans": Shape(prompts=20, prompt_blocks=8, scans=0.25, again=0.55, again_later=0.75, think=200),
    "drifting": Shape(prompts=200, prompt_blocks=16, skew=1.1, drift=1500, again=0.4, think=100, spread=1.5),
    "tools": Shape(
        prompts=12,
        prompt_blocks=10,
        skew=1.2,
        first_blocks=6,
        turn_blocks=3,
        again=0.6,
        again_later=0.75,
        think=120,
        spread=1.2,
    ),
    "quick": Shape(
        prompts=8, prompt_blocks=3, first_blocks=10, turn_blocks=5, again=0.5, again_later=0.6, think=60, spread=0.7
    ),
    "slow": Shape(
        prompts=8, prompt_blocks=3, first_blocks=16, turn_blocks=3, again=0.45, again_later=0.8, think=900, spread=0.8
    ),
    "mixed": Shape(
        prompts=100, prompt_blocks=12, skew=1.1, first_blocks=8, again=0.4, think=250, spread=1.3, scans=0.1
    ),
}


def synthetic(shape: Shape, seed: int) -> Trace:
    """A trace of `shape.requests` requests, one a second."""
    rng = random.Random(seed)
    weights = [1 / (rank + 1) ** shape.skew for rank in range(shape.prompts)]
    waiting: list[tuple[float, int, int, tuple[int, ...]]] = []  # due, tie-break, turn, chain of full blocks
    requests: list[tuple[int, ...]] = []
    made = 0

    def new(mean: float) -> tuple[int, ...]:
        nonlocal made
        first, made = made, made + max(1, round(rng.expovariate(1 / mean)))
        return tuple(range(first, made))

    prompts: list[tuple[int, ...]] = []
    while len(requests) < shape.requests:
        now = len(requests)
        if not prompts or (shape.drift and now % shape.drift == 0):
            prompts = [new(shape.prompt_blocks) for _ in range(shape.prompts)]
        if rng.random() < shape.scans:
            requests.append(new(shape.scan_blocks))
            continue
        if waiting and waiting[0][0] <= now:
            _, _, turn, chain = heapq.heappop(waiting)
            chain = (*chain, *new(shape.turn_blocks))
        else:
            turn, chain = 0, (*rng.choices(prompts, weights)[0], *new(shape.first_blocks))
        requests.append((*chain, *new(0.1)))
        if rng.random() < (shape.again if turn < 2 else shape.again_later):
            due = now + shape.think * rng.lognormvariate(0, shape.spread)
            heapq.heappush(waiting, (due, now, turn + 1, chain))
    return Trace(tuple(requests), tuple(map(float, range(len(requests)))))
