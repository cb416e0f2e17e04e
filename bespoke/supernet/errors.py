"""The one error tree.

    BespokeError
    ├── InvalidInput            what came is not what was expected
    │   ├── ArchitectureInvalid     a choice that the space does not have
    │   ├── OpKeyInvalid            a text that is no canonical op key
    │   ├── FileInvalid             a file that is not what it says it is
    │   ├── ConstraintInvalid       a limit that cannot be read
    │   └── MeasurementInvalid      a measured value that cannot be true
    ├── NotFound                a name that nothing here has
    ├── TableIncomplete         a latency table that lacks ops of a space
    ├── BudgetInfeasible        limits that no architecture meets
    ├── StatisticsMissing       BN statistics that a subnet needs and nobody has
    ├── ApiError                an answer of the service that is an error
    ├── Refused                 a request that may not be served as it stands
    │   ├── Unauthorized            no key, or one that does not open anything
    │   ├── Forbidden               a key without the scope
    │   ├── BodyTooLarge            more bytes than are read
    │   └── Conflict                the state of things says no
    │       ├── DeviceNotProfiled       a device without a latency table for a supernet
    │       ├── ReplayDiffers           a search that does not come to its answer again
    │       ├── AgentOffline            a device of which no agent asks for work now
    │       ├── LeaseLost               a lease that ended or was given to somebody else
    │       └── AgentQuarantined        an agent whose results a campaign does not take for now
    ├── TaskFailed              heavy work that did not come to its end
    └── Unavailable             a part that is needed now and is not there

Every error carries its values as attributes, and its message says what came, what was
expected and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class BespokeError(Exception):
    """Base of every error that Bespoke raises on purpose."""


class InvalidInput(BespokeError):
    """What came is not what was expected."""


class ArchitectureInvalid(InvalidInput):
    """A choice that the search space does not have.

    Attributes:
        field: Path of the offending value, e.g. ``kernel[3]``.
        got: The value that came.
        allowed: What is allowed there, as a short text.
    """

    def __init__(self, field: str, got: Any, allowed: str) -> None:
        self.field, self.got, self.allowed = field, got, allowed
        super().__init__(f"architecture field {field!r}: got {got!r}, allowed: {allowed}")


class OpKeyInvalid(InvalidInput):
    """A text that is no canonical op key.

    Attributes:
        text: The text that came.
        reason: What is wrong with it.
    """

    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason
        super().__init__(f"op key {text!r} is not canonical: {reason}")


class FileInvalid(InvalidInput):
    """A file that is not what it says it is.

    Attributes:
        path: The file.
        reason: What is wrong, and what was expected instead.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path, self.reason = str(path), reason
        super().__init__(f"{path}: {reason}")


class ConstraintInvalid(InvalidInput):
    """A limit that cannot be read.

    Attributes:
        field: The metric's name.
        got: What came.
        allowed: What is allowed.
    """

    def __init__(self, field: str, got: Any, allowed: str) -> None:
        self.field, self.got, self.allowed = field, got, allowed
        super().__init__(f"constraint {field!r}: got {got!r}, allowed: {allowed}")


class MeasurementInvalid(InvalidInput):
    """A measured value that cannot be true.

    Attributes:
        entry_id: What was measured.
        round: In which round.
        field: Path of the value, e.g. ``samples_ms[3]``.
        got: The value that came, as text: it may be no number.
        expected: What was expected, in words.
    """

    def __init__(self, entry_id: str, round_: int, field: str, got: object, expected: str) -> None:
        self.entry_id, self.round, self.field = entry_id, round_, field
        self.got, self.expected = str(got), expected
        super().__init__(f"entry {entry_id!r}, round {round_}, {field}: got {got}, expected {expected}")


class NotFound(BespokeError):
    """A name that nothing here has.

    Attributes:
        kind: What was looked for, e.g. ``space``.
        name: The name that came.
        known: The names that exist (may be empty where they are not told).
    """

    def __init__(self, kind: str, name: str, known: Sequence[str] = ()) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        hint = f"; known: {', '.join(known)}" if known else ""
        super().__init__(f"no {kind} named {name!r}{hint}")


class TableIncomplete(BespokeError):
    """A latency table that lacks ops of a space.

    Attributes:
        missing: Canonical texts of the op keys without a latency.
        where: What the table is called.
    """

    def __init__(self, missing: Sequence[str], where: str) -> None:
        self.missing, self.where = tuple(missing), where
        some = ", ".join(self.missing[:3]) + (", ..." if len(self.missing) > 3 else "")
        super().__init__(
            f"latency table {where!r} lacks {len(self.missing)} ops of this space ({some}): "
            "profile the device for this space, or search only the resolutions that the table covers"
        )


class BudgetInfeasible(BespokeError):
    """Limits that no architecture meets.

    Attributes:
        limits: The limits that were asked for, by metric; ``top1`` is a least value, all others are
            greatest ones.
        feasible: For each limited metric, the smallest and largest value in the space; of ``top1``,
            those that were found within the limits.
        nearest: The architecture that violates the limits least, as JSON, and its metrics.
        relax: The smallest change of limits that would do: the new value of each one that changes.
        conflicts: Sets of limits that exclude each other, though any fewer of them do not.
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        feasible: Mapping[str, tuple[float, float]],
        nearest: Mapping[str, Any],
        relax: Mapping[str, float],
        conflicts: Sequence[Sequence[str]] = (),
    ) -> None:
        self.limits, self.feasible = dict(limits), dict(feasible)
        self.nearest, self.relax = dict(nearest), dict(relax)
        self.conflicts = [list(names) for names in conflicts]
        asked = ", ".join(
            f"{name} {'>=' if name == 'top1' else '<='} {value:g}" for name, value in limits.items()
        )
        ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in feasible.items())
        advice = ", ".join(f"{name} to {value:g}" for name, value in relax.items())
        several = [" and ".join(names) for names in self.conflicts if len(names) > 1]
        against = "".join(f"{names} exclude each other; " for names in several)
        super().__init__(f"no architecture meets {asked}; feasible: {ranges}; {against}relax {advice}")


class StatisticsMissing(BespokeError):
    """BN statistics that a subnet needs and nobody has."""


class Unavailable(BespokeError):
    """A part that is needed now and is not there (a runtime, a weights wing, a server)."""


class ApiError(BespokeError):
    """An answer of the service that is an error.

    Attributes:
        status: The HTTP status.
        problem: The problem document (RFC 9457); ``{"detail": text}`` where the answer was none.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status, self.problem = status, dict(problem)
        title = self.problem.get("title") or self.slug or "error"
        detail = self.problem.get("detail")
        super().__init__(f"{status} {title}" + (f": {detail}" if detail else ""))

    @property
    def slug(self) -> str:
        """Last part of the problem's type, e.g. ``budget-infeasible``; empty where there is none."""
        return str(self.problem.get("type") or "").rpartition("/")[2].replace("about:blank", "")


class Refused(BespokeError):
    """A request that may not be served as it stands."""


class Unauthorized(Refused):
    """No key came, or one that does not open anything."""


class Forbidden(Refused):
    """A key came, and lacks the scope.

    Attributes:
        needed: Scopes of which one is needed.
        scopes: Scopes of the key.
    """

    def __init__(self, needed: Sequence[str], scopes: Sequence[str]) -> None:
        self.needed, self.scopes = tuple(needed), tuple(scopes)
        has = ", ".join(scopes) or "none"
        super().__init__(
            f"this key has the scopes {has}; needed is {' or '.join(needed)}: make a key that has it"
        )


class BodyTooLarge(Refused):
    """More bytes than are read.

    Attributes:
        limit_bytes: What is read at most.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"the body is larger than {limit_bytes} bytes: send it in parts")


class Conflict(Refused):
    """The state of things says no."""


class DeviceNotProfiled(Conflict):
    """A device without a latency table for a supernet.

    Attributes:
        device_id: The device.
        supernet: The supernet.
    """

    def __init__(self, device_id: str, supernet: str) -> None:
        self.device_id, self.supernet = device_id, supernet
        super().__init__(
            f"device {device_id!r} has no latency table for {supernet!r}: "
            f"start a campaign with POST /v1/devices/{device_id}/campaigns and let an agent measure it"
        )


class ReplayDiffers(Conflict):
    """A search that does not come to its answer again.

    Attributes:
        search_id: The search.
        changed: What is another thing now: ``{"what": ..., "was": ..., "now": ...}`` each, where ``now``
            is None for what is gone.
    """

    def __init__(self, search_id: str, changed: Sequence[Mapping[str, Any]]) -> None:
        self.search_id, self.changed = search_id, [dict(one) for one in changed]
        what = ", ".join(str(one["what"]) for one in self.changed)
        super().__init__(
            f"search {search_id!r} cannot be replayed as it was: changed since then: {what}; ask again with "
            "POST /v1/searches and the search's own request"
        )


class AgentOffline(Conflict):
    """A device of which no agent asks for work now.

    Attributes:
        device_id: The device.
        seen_at: When one did, in ISO 8601; None where none ever did.
    """

    def __init__(self, device_id: str, seen_at: str | None) -> None:
        self.device_id, self.seen_at = device_id, seen_at
        last = f"the last one at {seen_at}" if seen_at else "none ever did"
        super().__init__(
            f"no agent of device {device_id!r} asks for work now ({last}): start `bespoke agent` there, and "
            "ask again; or ask without `verify`"
        )


class LeaseLost(Conflict):
    """A lease that ended or was given to somebody else.

    Attributes:
        lease_id: The lease.
    """

    def __init__(self, lease_id: str) -> None:
        self.lease_id = lease_id
        super().__init__(f"lease {lease_id!r} is over: report what was measured, and lease again")


class AgentQuarantined(Conflict):
    """An agent whose results a campaign does not take for now.

    Attributes:
        agent: Its name.
        reason: Why.
        until: When it may lease again, in ISO 8601.
    """

    def __init__(self, agent: str, reason: str, until: str) -> None:
        self.agent, self.reason, self.until = agent, reason, until
        super().__init__(
            f"agent {agent!r} is quarantined until {until}: {reason}; its results do not count meanwhile, "
            "so look what disturbs that device"
        )


class TaskFailed(BespokeError):
    """Heavy work that did not come to its end.

    Attributes:
        task: Its name.
        reason: What went wrong.
    """

    def __init__(self, task: str, reason: str) -> None:
        self.task, self.reason = task, reason
        super().__init__(f"task {task!r} failed: {reason}")
