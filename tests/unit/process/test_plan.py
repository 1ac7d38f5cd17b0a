"""What is done about workers: every story is a row of events, and the actions that come of them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from gtapp.process.plan import (
    HANG_TICKS,
    LATE_TICKS,
    RETRY_TICKS,
    START_TICKS,
    YOUNG_TICKS,
    Action,
    Begin,
    Begun,
    End,
    Ended,
    Event,
    Heard,
    Kill,
    Over,
    Phase,
    Ready,
    Retire,
    Spawn,
    State,
    Stop,
    Tick,
    decide,
)

DRAIN_TICKS = 50


class Story:
    """A unit's state, told by events. `does` gives what each makes it do, with spawned workers by number."""

    def __init__(self, count: int = 1) -> None:
        self.state = State()
        self.spawned: list[int] = []
        assert self.does(Begin(count, DRAIN_TICKS)) == [("spawn", n) for n in range(1, count + 1)]

    def does(self, *events: Event) -> list[object]:
        done: list[object] = []
        for event in events:
            self.state, actions = decide(self.state, event)
            done += [self._seen(each) for each in actions]
        return done

    def _seen(self, action: Action) -> object:
        if isinstance(action, Spawn):
            self.spawned.append(action.worker.number)
            return ("spawn", action.worker.number)
        return action

    def ticks(self, count: int) -> list[object]:
        """Time passes, and all workers are heard of."""
        done: list[object] = []
        for _ in range(count):
            done += self.does(Tick(), *(Heard(number) for number in self.state.workers))
        return done

    def phases(self) -> dict[int, Phase]:
        return {number: each.phase for number, each in self.state.workers.items()}


@pytest.fixture
def one() -> Story:
    story = Story()
    assert story.does(Ready(1)) == [Begun()]
    return story


@pytest.fixture
def two() -> Story:
    story = Story(2)
    assert story.does(Ready(2)) == []
    assert story.does(Ready(1)) == [Begun()]
    return story


def test_the_first_that_cannot_start_is_the_end_and_says_why() -> None:
    story = Story()
    assert story.does(Ended(1, "no such file")) == [Begun("no such file"), Over("no such file")]
    assert story.ticks(3 * RETRY_TICKS) == []


def test_one_of_two_that_cannot_start_ends_the_other() -> None:
    story = Story(2)
    story.does(Ready(1))
    assert story.does(Ended(2, "why")) == [End(1, 0), Begun("why"), Over("why")]


def test_one_that_never_gets_ready_is_killed() -> None:
    story = Story()
    assert story.ticks(START_TICKS) == []
    assert story.ticks(1) == [Kill(1, "was starting for more than 30 s")]
    assert story.does(Ended(1, "ended by SIGKILL"))[-1] == Over("ended by SIGKILL")


def test_one_that_dies_is_replaced_at_once(one: Story) -> None:
    one.ticks(YOUNG_TICKS)
    assert one.does(Ended(1, "ended by SIGSEGV")) == [("spawn", 2)]
    assert one.does(Ready(2)) == []
    assert one.state.workers[2].share == 0


def test_the_share_of_one_that_dies_goes_to_its_successor(two: Story) -> None:
    two.ticks(YOUNG_TICKS)
    assert two.does(Ended(2, "")) == [("spawn", 3)]
    assert two.state.workers[3].share == 1


def test_those_that_die_young_are_replaced_within_a_second_and_not_in_a_tight_loop(two: Story) -> None:
    for number in range(3, 13):
        assert two.does(Ended(number - 1, "")) == []
        waited = 0
        while not (spawned := two.ticks(1)):
            waited += 1
        assert waited <= 2
        assert spawned == [("spawn", number)]
        two.does(Ready(number))


def test_a_replacement_that_cannot_start_stops_the_loop() -> None:
    story = Story()
    story.does(Ready(1))
    story.ticks(YOUNG_TICKS)
    assert story.does(Ended(1, "killed")) == [("spawn", 2)]
    assert story.does(Ended(2, "disk full")) == [Over("disk full")]


def test_while_others_serve_it_is_tried_again_later(two: Story) -> None:
    two.ticks(YOUNG_TICKS)
    assert two.does(Ended(1, "killed")) == [("spawn", 3)]
    assert two.does(Ended(3, "disk full")) == []
    assert two.ticks(RETRY_TICKS - 1) == []
    assert two.ticks(1) == [("spawn", 4)]


def test_one_that_hangs_is_killed(two: Story) -> None:
    for _ in range(HANG_TICKS):
        assert two.does(Tick(), Heard(1)) == []
    assert two.does(Tick(), Heard(1)) == [Kill(2, "has not been heard of for 10 s")]
    assert two.does(Ended(2, "ended by SIGKILL")) == [("spawn", 3)]


def test_a_restart_retires_the_old_when_all_new_ones_are_ready(two: Story) -> None:
    assert two.does(Begin(2, DRAIN_TICKS)) == [("spawn", 3), ("spawn", 4)]
    assert two.does(Ready(4)) == []
    assert two.does(Ready(3)) == [Retire(1), Retire(2), Begun()]
    assert two.does(Ended(1, "")) == two.does(Ended(2, "")) == []
    assert two.ticks(5) == []
    assert set(two.phases().values()) == {Phase.READY}


def test_a_restart_with_another_number_of_workers(two: Story) -> None:
    assert two.does(Begin(1, DRAIN_TICKS)) == [("spawn", 3)]
    assert two.does(Ready(3)) == [Retire(1), Retire(2), Begun()]
    two.ticks(YOUNG_TICKS)
    assert two.does(Ended(3, "")) == [("spawn", 4)]


def test_one_that_retires_for_too_long_is_killed(one: Story) -> None:
    one.does(Begin(1, DRAIN_TICKS), Ready(2))
    assert one.ticks(DRAIN_TICKS + LATE_TICKS) == []
    assert one.ticks(1) == [Kill(1, "was retiring for more than 35 s")]


def test_a_restart_that_fails_changes_nothing(two: Story) -> None:
    two.does(Begin(3, DRAIN_TICKS), Ready(3))
    assert two.does(Ended(4, "bad certificate")) == [End(3, 0), End(5, 0), Begun("bad certificate")]
    assert two.does(Ended(3, ""), Ended(5, "")) == []
    two.ticks(YOUNG_TICKS)
    assert two.phases() == {1: Phase.READY, 2: Phase.READY}
    assert two.does(Ended(2, "")) == [("spawn", 6)], "the old generation is kept up"
    assert two.does(Ready(6)) == []
    assert two.does(Begin(2, DRAIN_TICKS)) == [("spawn", 7), ("spawn", 8)]
    assert two.does(Ready(7), Ready(8)) == [Retire(1), Retire(6), Begun()]


def test_one_that_dies_during_a_restart_that_fails_is_replaced_then(two: Story) -> None:
    two.ticks(YOUNG_TICKS)
    two.does(Begin(2, DRAIN_TICKS))
    assert two.does(Ended(1, "killed")) == []
    assert two.ticks(3) == []
    assert two.does(Ended(3, "bad")) == [End(4, 0), Begun("bad"), ("spawn", 5)]
    assert two.state.workers[5].share == 0


def test_one_that_starts_during_a_restart_is_not_needed_any_more(two: Story) -> None:
    two.ticks(YOUNG_TICKS)
    two.does(Ended(1, "killed"))
    two.does(Begin(2, DRAIN_TICKS))
    assert two.does(Ready(4), Ready(5)) == [Retire(2), End(3, 0), Begun()]


def test_the_end(two: Story) -> None:
    assert two.does(Stop(20)) == [End(1, 20), End(2, 20)]
    assert two.does(Ended(1, "")) == []
    assert two.ticks(20 + LATE_TICKS) == []
    assert two.ticks(1) == [Kill(2, "was stopping for more than 20 s")]
    assert two.does(Ended(2, "")) == [Over()]


def test_the_end_in_the_middle_of_a_restart(one: Story) -> None:
    one.does(Begin(1, DRAIN_TICKS))
    assert one.does(Stop(20)) == [End(1, 20), End(2, 20), Begun("it is to stop")]
    assert one.does(Ready(2)) == []
    assert one.does(Ended(2, ""), Ended(1, "")) == [Over()]


def test_a_faster_end_after_a_slow_one(one: Story) -> None:
    one.does(Stop(20))
    assert one.does(Stop(0)) == [End(1, 0)]


def test_the_end_when_there_is_nobody(one: Story) -> None:
    one.state = replace(one.state, workers={})
    assert one.does(Stop(20)) == [Over()]


def test_what_an_unknown_worker_does_means_nothing(one: Story) -> None:
    assert one.does(Ready(9), Heard(9), Ended(9, "")) == []


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_all_shares_get_a_worker_in_the_end(seed: int) -> None:
    """Workers live, die, hang and refuse to start at random; then all is well again: each share has one worker."""
    luck = random.Random(seed)
    story = Story(3)
    story.does(Ready(1), Ready(2), Ready(3))
    for _ in range(300):
        numbers = list(story.state.workers)
        event: Event = Tick()
        if numbers and luck.random() < 0.5:
            number = luck.choice(numbers)
            settled = story.state.before[0] if story.state.before else story.state.generation
            others = [
                each
                for each in story.state.workers.values()
                if each.phase is Phase.READY and each.generation == settled and each.number != number
            ]
            event = luck.choice(
                [Ready(number), Heard(number), Ended(number, "x") if others else Heard(number)]
            )
        elif luck.random() < 0.03 and story.state.before is None:
            event = Begin(luck.randint(1, 4), DRAIN_TICKS)
        for action in story.does(event):
            if isinstance(action, Kill | End):
                story.does(Ended(action.number, "x"))
    assert not story.state.stopping
    for _ in range(RETRY_TICKS + START_TICKS + DRAIN_TICKS + LATE_TICKS + 10):
        for action in story.ticks(1):
            if isinstance(action, Kill | End):
                story.does(Ended(action.number, "x"))
        for number, phase in story.phases().items():
            if phase is Phase.STARTING:
                story.does(Ready(number))
    assert set(story.phases().values()) == {Phase.READY}
    assert sorted(each.share for each in story.state.workers.values()) == list(range(story.state.count))
