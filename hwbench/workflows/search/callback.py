"""What is called while a search goes on, to show or to store how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.measuring.callback import MeasuringCallback

if TYPE_CHECKING:
    from hwbench.search.base import Trial
    from hwbench.search.tuning import Progress


class SearchCallback(MeasuringCallback):
    """Called while a search goes on and while it measures; these methods do nothing."""

    def say(self, doing: str, *, timed: bool = False) -> None:
        """A part of the work begins.

        Args:
            doing: What is done, as the beginning of a sentence.
            timed: Whether rounds are timed in it, which nothing should disturb.
        """

    def planned(self, text: str) -> None:
        """It was planned what the time of a search goes to.

        Args:
            text: Says what.
        """

    def tried(self, part: str, trial: Trial, best: Trial | None) -> None:
        """A trial ended.

        Args:
            part: The search or the baseline it belongs to.
            trial: The trial.
            best: The best trial of that part so far.
        """

    def trained(self, progress: Progress) -> None:
        """A step of training the original or the result was taken.

        Args:
            progress: How far the training is.
        """
