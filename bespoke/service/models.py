"""The ONNX files of subnets: asked for when a search is answered, ready when they are fetched."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Protocol

from bespoke.service.children import Child, Stopped
from bespoke.service.engines.protocol import JobEngine
from bespoke.service.orm import ArtifactRow, StoredSubnet
from bespoke.service.settings import Settings
from bespoke.service.store import Store
from bespoke.supernet.errors import TaskFailed, Unavailable
from bespoke.supernet.zoo import MEAN, STD, ZooEntry

__all__ = [
    "MEDIA_TYPE",
    "ModelMaker",
    "QueuedModels",
    "WarmModels",
    "awaited",
    "class_names",
    "input_of",
    "metadata",
]

MEDIA_TYPE = "application/onnx"
POLL_S = 0.05
MOST_AHEAD = 16
"""Models that are made before anybody waits for them; of more, the oldest are made when they are fetched."""
REMEMBERED = 4096
CALM_S = 0.25
"""Without a request for so long, models are made before anybody waits; else requests go first."""
ASKED_S = 1.0
"""So often a job that waits for a model asks whether it is to stop."""

logger = logging.getLogger(__name__)

Wanted = tuple[str, bool]


class ModelMaker(Protocol):
    """Makes the ONNX file of a subnet, once."""

    def ask(self, subnet_id: str, dynamic_batch: bool = False) -> None:
        """Have it made, without waiting."""
        ...

    def wait(self, subnet_id: str, dynamic_batch: bool, timeout_s: float) -> ArtifactRow:
        """Have it made, and wait for it.

        Raises:
            TaskFailed: It cannot be made.
            Unavailable: It was not ready in time; it still may be later.
        """
        ...


class WarmModels:
    """A ``ModelMaker`` with a child process of its own that holds the weights."""

    def __init__(self, settings: Settings, store: Store, supernets: Sequence[str]) -> None:
        """Start the child, and have it load these supernets."""
        self._settings, self._store, self._supernets = settings, store, tuple(supernets)
        self._pending: dict[Wanted, Future[ArtifactRow]] = {}
        self._waited_for: deque[Wanted] = deque()
        self._ahead: deque[Wanted] = deque()
        self._tried: OrderedDict[Wanted, None] = OrderedDict()
        self._changed, self._asked_at = threading.Condition(), 0.0
        self._stopping = threading.Event()
        self._warm = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="warm-models", daemon=True)
        self._thread.start()

    @property
    def warm(self) -> bool:
        """Whether the weights are loaded."""
        return self._warm.is_set()

    def ask(self, subnet_id: str, dynamic_batch: bool = False) -> None:
        """See ``ModelMaker``; of many that are asked for, the newest ones are made before anybody waits."""
        self._want((subnet_id, dynamic_batch), now=False)

    def wait(self, subnet_id: str, dynamic_batch: bool, timeout_s: float) -> ArtifactRow:
        """See ``ModelMaker``."""
        if (made := self._store.model(subnet_id, dynamic_batch)) is not None:
            return made
        try:
            return self._want((subnet_id, dynamic_batch), now=True).result(timeout_s)
        except FutureTimeout:
            raise _late(subnet_id) from None

    def stop(self) -> None:
        """End the child; whoever waits is told."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()

    def _want(self, wanted: Wanted, *, now: bool) -> Future[ArtifactRow]:
        """Have a model made: before those that nobody waits for, or in their midst."""
        with self._changed:
            self._asked_at = time.monotonic()
            if not now and wanted in self._tried:
                return Future()
            future = self._pending.get(wanted)
            if future is None:
                future = self._pending[wanted] = Future()
                (self._waited_for if now else self._ahead).append(wanted)
                while len(self._ahead) > MOST_AHEAD:
                    del self._pending[self._ahead.popleft()]
            elif now and wanted in self._ahead:
                self._ahead.remove(wanted)
                self._waited_for.append(wanted)
            if now or len(self._ahead) == 1:  # of more, the thread looks by itself whether it is calm
                self._changed.notify_all()
            return future

    def _next(self) -> Wanted | None:
        """What to make now; None where the service is shutting down."""
        with self._changed:
            while not self._waited_for and not self._stopping.is_set():
                calm_in_s = self._asked_at + CALM_S - time.monotonic()
                if self._ahead and calm_in_s <= 0:
                    return self._ahead.pop()
                self._changed.wait(calm_in_s if self._ahead else None)
            return None if self._stopping.is_set() else self._waited_for.popleft()

    def _serve(self) -> None:
        # The thread that starts a child must outlive it, so this one does all of it.
        child = Child(self._settings)
        try:
            for name in self._supernets:
                child = child if child.alive else Child(self._settings)
                self._load(child, name)
            self._warm.set()
            while (wanted := self._next()) is not None:
                child = child if child.alive else Child(self._settings)
                self._make(child, wanted)
        except Stopped:
            pass
        finally:
            child.kill()
            for future in self._pending.values():
                future.set_exception(Unavailable("the service is shutting down"))

    def _load(self, child: Child, supernet: str) -> None:
        try:
            child.call("warm-up", {"supernet": supernet}, self._stopping.is_set)
        except TaskFailed:
            logger.exception("supernet %s cannot be loaded", supernet)

    def _make(self, child: Child, wanted: Wanted) -> None:
        subnet_id, dynamic_batch = wanted
        try:
            made = self._store.model(subnet_id, dynamic_batch)
            if made is None:
                arguments = {"subnet_id": subnet_id, "dynamic_batch": dynamic_batch}
                child.call("materialise", arguments, self._stopping.is_set)
                made = self._store.model(subnet_id, dynamic_batch)
                assert made is not None
        except Exception as error:
            logger.exception("the model of %s cannot be made", subnet_id)
            self._take(wanted).set_exception(error)
        else:
            self._take(wanted).set_result(made)

    def _take(self, wanted: Wanted) -> Future[ArtifactRow]:
        with self._changed:
            self._tried[wanted] = None
            while len(self._tried) > REMEMBERED:
                self._tried.popitem(last=False)
            return self._pending.pop(wanted)


class QueuedModels:
    """A ``ModelMaker`` that has a worker make them, through the job engine."""

    def __init__(self, store: Store, engine: JobEngine) -> None:
        """Submit to ``engine``, and watch the store."""
        self._store, self._engine = store, engine

    def ask(self, subnet_id: str, dynamic_batch: bool = False) -> None:
        """See ``ModelMaker``."""
        few = len(self._store.unfinished_jobs("materialise")) < MOST_AHEAD
        if few and self._store.model(subnet_id, dynamic_batch) is None:
            self._job(subnet_id, dynamic_batch)

    def wait(self, subnet_id: str, dynamic_batch: bool, timeout_s: float) -> ArtifactRow:
        """See ``ModelMaker``."""
        if (made := self._store.model(subnet_id, dynamic_batch)) is not None:
            return made
        job_id, until = self._job(subnet_id, dynamic_batch), time.monotonic() + timeout_s
        while time.monotonic() < until:
            job = self._store.job(job_id)
            if job.state == "failed":
                raise TaskFailed("materialise", (job.error or {}).get("detail", "unknown"))
            if (made := self._store.model(subnet_id, dynamic_batch)) is not None:
                return made
            time.sleep(POLL_S)
        raise _late(subnet_id)

    def _job(self, subnet_id: str, dynamic_batch: bool) -> str:
        arguments = {"subnet_id": subnet_id, "dynamic_batch": dynamic_batch}
        for job in self._store.unfinished_jobs("materialise"):
            if job.arguments == arguments:
                return job.id
        job = self._store.add_job("materialise", arguments)
        self._engine.submit(job)
        return job.id


def awaited(
    models: ModelMaker, subnet_id: str, dynamic_batch: bool, stopped: Callable[[], bool]
) -> ArtifactRow:
    """The ONNX file of a subnet, waited for as a job does: as long as it takes.

    Raises:
        TaskFailed: It cannot be made.
        Stopped: ``stopped`` said yes.
    """
    while not stopped():
        try:
            return models.wait(subnet_id, dynamic_batch, ASKED_S)
        except Unavailable:
            continue  # a model that takes long has not failed: who asked for it is told to ask again
    raise Stopped


def class_names(entry: ZooEntry) -> list[str] | None:
    """What the classes are called, in the order of the logits, where the model card tells."""
    names = entry.card.get("classes")
    return [str(name) for name in names] if isinstance(names, list) else None


def input_of(resolution: int) -> dict[str, Any]:
    """What a subnet expects as its input: name, shape, layout, and how images are normalised."""
    return {
        "name": "image",
        "layout": "NCHW",
        "color": "RGB, scaled to [0, 1], then (x - mean) / std",
        "shape": [1, 3, resolution, resolution],
        "mean": list(MEAN),
        "std": list(STD),
    }


def metadata(subnet: StoredSubnet) -> dict[str, str]:
    """What a subnet's ONNX file says beside what it is (``zoo.describe``): what was promised, and by whom."""
    return {
        "predicted": json.dumps(subnet.predicted, separators=(",", ":")),
        "latency_table_revision": subnet.table_revision or "",
        "predictor_revision": subnet.predictor_revision,
    }


def _late(subnet_id: str) -> Unavailable:
    return Unavailable(f"the model of subnet {subnet_id!r} is being made: ask again in a second")
