"""Five steps of Metaflow."""

from metaflow import FlowSpec, step


class FiveFlow(FlowSpec):
    """A number that each step raises by one."""

    @step
    def start(self) -> None:
        """One."""
        self.n = 1
        self.next(self.second)

    @step
    def second(self) -> None:
        """One more."""
        self.n += 1
        self.next(self.third)

    @step
    def third(self) -> None:
        """One more."""
        self.n += 1
        self.next(self.fourth)

    @step
    def fourth(self) -> None:
        """One more."""
        self.n += 1
        self.next(self.end)

    @step
    def end(self) -> None:
        """One more."""
        self.n += 1


if __name__ == "__main__":
    FiveFlow()
