"""A stopwatch that runs the step and says what it was told to."""

from collections.abc import Callable


class FakeStopwatch:
    clocks = ("cpu", "wall")

    def __init__(self, seconds: Callable[[int], float] = lambda call: 0.5):
        self.seconds, self.calls = seconds, 0

    def time(self, step) -> dict[str, float]:
        step()
        self.calls += 1
        return {clock: self.seconds(self.calls) for clock in self.clocks}
