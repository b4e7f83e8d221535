"""The cap on one unit's records, and splits by unit whose test values no training record holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from helpers.data.holders.candidates import Candidate
from helpers.data.holders.pipeline import Split
from helpers.errors import DataError


def split_units(candidates: Sequence[Candidate], split: Split, *, cap: int) -> None:
    """Set the `split` of each candidate, or the `reason` why it is left out.

    Whole groups go to the test, where values are to be new. Validation units are drawn among the others one by one,
    so that they differ from training units in nothing but having been left out: membership inference needs that.

    What becomes of a training unit depends on its own records only, so that adding or removing another unit changes
    that unit's share and nothing else. Test records give way where a value of theirs stands in a training record: the
    test set depends on the training set, never the other way round.

    Args:
        candidates: of all units, in any order.
        split: shares, 0 to 1; they hold on average, because each unit draws for itself.
        cap: records of one unit that are kept at most, those first in its own order.

    Raises:
        DataError: a split that has a share is left with no record.
    """
    units: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if not candidate.reason:
            units[candidate.unit].append(candidate)
    for own in units.values():
        _settle(sorted(own, key=lambda candidate: candidate.order), split, cap)
    train = kept_in("train", candidates)
    seen = {value for candidate in train for value in candidate.values}
    texts = "\n".join(candidate.text for candidate in train).casefold()
    for candidate in kept_in("test", candidates):
        if any(value in seen or value in texts for value in candidate.values):
            candidate.reason = "a value of this test record stands in the training set"
    for name, share in (("train", 1.0), ("validation", split.validation), ("test", split.test)):
        if share and not kept_in(name, candidates):
            raise DataError(
                f"The {name} split has no record left, of {len(units)} units. Join more patients, raise its share, "
                "name a column in split.by whose groups share no values, or choose another seed."
            )


def kept_in(split: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates of a split that are not left out."""
    return [candidate for candidate in candidates if candidate.split == split and not candidate.reason]


def _settle(own: Sequence[Candidate], split: Split, cap: int) -> None:
    """Place one unit whole: its first record decides."""
    first, group = own[0], own[0].group
    name = "validation" if first.own_place < split.validation / (1 - split.test) else "train"
    if first.place < split.test:
        name = "test"
    kept = 0
    for candidate in own:
        candidate.split = name
        if candidate.group != group:
            candidate.reason = f"its {split.by} differs from that of its patient's first record"
        elif kept == cap:
            candidate.reason = f"over the cap of {cap} records of one unit"
        else:
            kept += 1
