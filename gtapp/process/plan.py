"""What is to be done about the workers of one configuration: a pure function of what is so and what happens.

`decide(state, event)` gives the new state and the actions; the unit carries them out. Time is counted in ticks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

TICK_S = 0.5  # between two `Tick` events
START_TICKS = 60  # for a new worker to be ready
HANG_TICKS = 20  # a worker not heard of for so long hangs (they say something every TICK_S)
YOUNG_TICKS = 10  # a worker that ends sooner may well do so again
LONGEST_PAUSE_TICKS = 2  # before the next is started then
RETRY_TICKS = 10  # the same after one that could not start, while others serve
LATE_TICKS = 20  # a worker that has been told to end by some time and has not is killed so much later


class Phase(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"  # it has a successor, and finishes what it has
    STOPPING = "stopping"


@dataclass(frozen=True)
class Worker:
    """`share` is which of the unit's `count` workers it is, from 0."""

    number: int
    generation: int
    share: int
    phase: Phase = Phase.STARTING
    age: int = 0  # ticks in this phase
    silent: int = 0  # ticks since it was heard of
    limit: int = START_TICKS  # ticks that it may be in this phase; 0: any number


@dataclass(frozen=True)
class State:
    """`missing` are the shares without a worker, and after how many ticks each is to get one. While a new generation
    starts, `before` is the one that serves until then, and its `count`."""

    count: int = 1
    drain_ticks: int = 1200
    generation: int = 0
    before: tuple[int, int] | None = None
    next_generation: int = 1
    next_number: int = 1
    stopping: bool = False
    failures: int = 0  # young workers that have ended, in a row
    workers: dict[int, Worker] = field(default_factory=dict)
    missing: dict[int, int] = field(default_factory=dict)


# events


@dataclass(frozen=True)
class Begin:
    """Start `count` workers, or replace those that run by as many."""

    count: int
    drain_ticks: int


@dataclass(frozen=True)
class Ready:
    number: int


@dataclass(frozen=True)
class Heard:
    number: int


@dataclass(frozen=True)
class Ended:
    """The process is gone."""

    number: int
    reason: str


@dataclass(frozen=True)
class Tick:
    pass


@dataclass(frozen=True)
class Stop:
    """All are to end, with `ticks` for what they relay."""

    ticks: int


Event = Begin | Ready | Heard | Ended | Tick | Stop

# actions


@dataclass(frozen=True)
class Spawn:
    worker: Worker


@dataclass(frozen=True)
class Retire:
    number: int


@dataclass(frozen=True)
class End:
    """Tell it to stop, with so many ticks for what it relays."""

    number: int
    ticks: int


@dataclass(frozen=True)
class Kill:
    number: int
    reason: str


@dataclass(frozen=True)
class Begun:
    """What `Begin` asked for is done, or, with a `problem`, nothing has changed."""

    problem: str = ""


@dataclass(frozen=True)
class Over:
    """No worker is left, and none is to come; with a `problem`, that was not asked for."""

    problem: str = ""


Action = Spawn | Retire | End | Kill | Begun | Over


def decide(state: State, event: Event) -> tuple[State, list[Action]]:
    """What comes of `event`."""
    if isinstance(event, Begin):
        return _begin(state, event)
    if isinstance(event, Stop):
        return _stop(state, event)
    if isinstance(event, Tick):
        return _tick(state)
    worker = state.workers.get(event.number)
    if worker is None:
        return state, []
    if isinstance(event, Heard):
        return _with(state, replace(worker, silent=0)), []
    if isinstance(event, Ready):
        return _ready(state, worker)
    return _ended(state, worker, event.reason)


def _begin(state: State, event: Begin) -> tuple[State, list[Action]]:
    state = replace(
        state,
        count=event.count,
        drain_ticks=event.drain_ticks,
        generation=state.next_generation,
        next_generation=state.next_generation + 1,
        before=(state.generation, state.count),
    )
    return _spawn(state, range(event.count))


def _ready(state: State, worker: Worker) -> tuple[State, list[Action]]:
    if worker.phase is not Phase.STARTING:
        return state, []
    state = _with(state, _in_phase(worker, Phase.READY, 0))
    mine = [each for each in state.workers.values() if each.generation == state.generation]
    if state.before is None or any(each.phase is Phase.STARTING for each in mine):
        return state, []
    actions: list[Action] = []
    for each in list(state.workers.values()):
        if each.generation == state.generation:
            continue
        if each.phase is Phase.READY:
            state = _with(state, _in_phase(each, Phase.RETIRING, state.drain_ticks + LATE_TICKS))
            actions.append(Retire(each.number))
        elif each.phase is Phase.STARTING:
            state = _with(state, _in_phase(each, Phase.STOPPING, LATE_TICKS))
            actions.append(End(each.number, 0))
    return replace(state, before=None, missing={}, failures=0), [*actions, Begun()]


def _ended(state: State, worker: Worker, reason: str) -> tuple[State, list[Action]]:
    workers = {number: each for number, each in state.workers.items() if number != worker.number}
    state = replace(state, workers=workers)
    if state.stopping:
        return state, [] if workers else [Over()]
    if worker.phase in (Phase.RETIRING, Phase.STOPPING):
        return state, []
    if state.before is not None and worker.generation == state.generation:
        return _give_up(state, reason)
    if state.before is not None:  # should the new ones fail, it will be missed
        return replace(state, missing={**state.missing, worker.share: 0}), []
    if worker.phase is Phase.READY:
        failures = state.failures + 1 if worker.age < YOUNG_TICKS else 0
        pause = min(failures, LONGEST_PAUSE_TICKS)
        state = replace(state, failures=failures, missing={**state.missing, worker.share: pause})
        return _fill(state)
    if any(each.phase is Phase.READY for each in workers.values()):
        return replace(state, missing={**state.missing, worker.share: RETRY_TICKS}), []
    return replace(state, stopping=True), [Over(reason)]


def _give_up(state: State, reason: str) -> tuple[State, list[Action]]:
    """The new generation can't be had: the one before goes on."""
    actions: list[Action] = []
    for each in list(state.workers.values()):
        if each.generation == state.generation:
            state = _with(state, _in_phase(each, Phase.STOPPING, LATE_TICKS))
            actions.append(End(each.number, 0))
    assert state.before is not None
    generation, count = state.before
    state = replace(state, generation=generation, count=count, before=None)
    if not generation:
        return replace(state, stopping=True), [*actions, Begun(reason), Over(reason)]
    state, more = _fill(state)
    return state, [*actions, Begun(reason), *more]


def _tick(state: State) -> tuple[State, list[Action]]:
    actions: list[Action] = []
    for each in list(state.workers.values()):
        worker = replace(each, age=each.age + 1, silent=each.silent + 1)
        state = _with(state, worker)
        if worker.limit and worker.age > worker.limit:
            seconds = worker.limit * TICK_S
            actions.append(Kill(worker.number, f"was {worker.phase.value} for more than {seconds:.0f} s"))
            state = _with(state, replace(worker, age=0))
        elif worker.phase is not Phase.STARTING and worker.silent > HANG_TICKS:
            actions.append(Kill(worker.number, f"has not been heard of for {HANG_TICKS * TICK_S:.0f} s"))
            state = _with(state, replace(worker, silent=0))
    state = replace(state, missing={share: max(0, left - 1) for share, left in state.missing.items()})
    if state.before is None and not state.stopping:
        state, more = _fill(state)
        actions += more
    return state, actions


def _stop(state: State, event: Stop) -> tuple[State, list[Action]]:
    actions: list[Action] = [End(number, event.ticks) for number in state.workers]
    for each in list(state.workers.values()):
        state = _with(state, _in_phase(each, Phase.STOPPING, event.ticks + LATE_TICKS))
    if not actions:
        actions.append(Over())
    if state.before is not None:
        actions.append(Begun("it is to stop"))
    return replace(state, stopping=True, before=None, missing={}), actions


def _fill(state: State) -> tuple[State, list[Action]]:
    """Start those that are missing and due."""
    due = sorted(share for share, left in state.missing.items() if not left and share < state.count)
    state = replace(state, missing={share: left for share, left in state.missing.items() if left})
    return _spawn(state, due)


def _spawn(state: State, shares: Iterable[int]) -> tuple[State, list[Action]]:
    actions: list[Action] = []
    for share in shares:
        worker = Worker(state.next_number, state.generation, share)
        state = replace(_with(state, worker), next_number=state.next_number + 1)
        actions.append(Spawn(worker))
    return state, actions


def _with(state: State, worker: Worker) -> State:
    return replace(state, workers={**state.workers, worker.number: worker})


def _in_phase(worker: Worker, phase: Phase, limit: int) -> Worker:
    return replace(worker, phase=phase, age=0, silent=0, limit=limit)
