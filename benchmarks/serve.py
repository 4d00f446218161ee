"""One side of `benchmarks.step_time`, in a process of its own that only works when its turn comes.

Reads one line of JSON per turn from stdin, {"steps": n}, and answers with one line on stdout. Between turns it is
blocked on the pipe, so no thread pool of one side disturbs the other. Knows how to take turns, not what a step is.
"""

import json
import os
import sys
import time

from benchmarks.contestant import Contestant, Side, Size


def build(contestant: Contestant) -> Side:
    """The side that the contestant names."""
    # Only its own side's libraries: the other's would bring threads of their own.
    if contestant.side == "ours":
        from benchmarks.ours import ours

        return ours(contestant)
    from benchmarks.peers import peer

    return peer(contestant)


def serve(contestant: Contestant) -> None:
    """Take turns until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not break the protocol
    began = time.perf_counter()
    side = build(contestant)
    loss, index = side.step(0), 1
    first = {
        "first_step_seconds": time.perf_counter() - began,
        "parameters": side.parameters,
        "loss": loss,
        "device": side.device,
    }
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        start = time.perf_counter()
        for _ in range(steps):
            loss, index = side.step(index), index + 1
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "loss": loss, "peak_mib": side.peak_mib()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    serve(Contestant(**{**fields, "size": Size(**fields["size"])}))
