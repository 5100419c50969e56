"""How far results lie from an original's: asserted one by one, printed together."""

import numpy as np


class ParityTable:
    """The largest distance of each quantity so far, beside its tolerance."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[float, float]] = {}

    def compare(self, quantity: str, ours, theirs, tolerance: float, relative: bool = False) -> None:
        """Asserts that the largest difference, or the difference's norm over the norm, is within the tolerance."""
        difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
        distance = np.abs(difference).max()
        if relative:
            distance = np.linalg.norm(difference) / np.linalg.norm(theirs)
        self._rows[quantity] = (tolerance, max(distance, self._rows.get(quantity, (0.0, 0.0))[1]))
        assert distance <= tolerance, quantity

    def print(self) -> None:
        """As Markdown, for the README; `pytest -s` shows it."""
        print(f"\n| {'quantity':42} | tolerance | measured |")
        for quantity, (tolerance, distance) in self._rows.items():
            print(f"| {quantity:42} | {tolerance:9.0e} | {distance:8.1e} |")
