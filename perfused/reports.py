"""What a worker tells of its mount: `perfusectl stats`. Never here: counting (`states`, `observe`)."""

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from perfused import observe
from perfused.negotiate import names
from perfused.ring_relay import RingRelay
from perfused.states import NODEID, OPCODE, PID, UID
from wire.control import Endpoint
from wire.opcodes import name_of

if TYPE_CHECKING:
    from perfused.worker import Worker


def stats(worker: "Worker") -> dict[str, Any]:
    """Everything countable of this mount, ready for JSON."""
    engine, counters, terms = worker.engine, worker.engine.counters, worker.engine.terms
    now = time.monotonic()
    timed = worker.latency or worker.ring
    pending = [
        {
            "unique": unique,
            "opcode": name_of(head[OPCODE]),
            "nodeid": head[NODEID],
            "uid": head[UID],
            "pid": head[PID],
            "seen_s": round(now - engine.seen[unique], 3) if unique in engine.seen else 0.0,
            "text": f"{name_of(head[OPCODE])} unique={unique} nodeid={head[NODEID]} pid={head[PID]}",
        }
        for unique, head in sorted(engine.inflight.items(), key=lambda each: engine.seen.get(each[0], now))
    ]
    return {
        "target": worker.where.target,
        "state": engine.state.name if worker.job.endpoint is not Endpoint.DIRECT else "DIRECT",
        "minor": terms.minor if terms else None,
        "flags": names(terms.flags).split(", ") if terms and terms.flags else [],
        "max_write": terms.max_write if terms else None,
        "max_pages": terms.max_pages if terms else None,
        "io_uring": isinstance(worker.relay, RingRelay) and worker.relay.over_io_uring,
        "requests": observe.frequent(counters.requests),
        "errors": observe.frequent(counters.errors),
        "in_flight": len(engine.inflight),
        "oldest": pending[:16],
        "bad_replies": counters.bad_replies,
        "bad_notifications": counters.bad_notifications,
        "late_replies": counters.late,
        "gone": counters.gone,
        "interrupts": counters.interrupts,
        "notifications": counters.notifications,
        "dropped_notifications": worker.relay.dropped_notices,
        "latency": timed.summary() if timed else None,
        "uptime_s": round(time.time() - worker.started, 3),
        "worker": os.getpid(),
        "threads": threading.active_count(),
        "traces": len(worker.streams),
        "backing_files": len(worker.lender.registered),
    }
