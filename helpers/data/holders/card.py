"""The card of a join: every row of every holder is used or left out with a reason, and the sums are checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.data.card import counted
from helpers.data.example import SPLITS
from helpers.data.holders.candidates import Candidate, kept_in


def make_join_card(
    fates: Mapping[str, Sequence[str]], candidates: Sequence[Candidate], quality: Mapping[str, Any]
) -> dict[str, Any]:
    """Count rows and records, kept and left out, after the split.

    `fates`: for each holder, for each of its rows, why it came into no candidate, or nothing. `quality`: what the
    de-identification masked and how well.
    """
    kept = [candidate for name in SPLITS for candidate in kept_in(name, candidates)]
    holders = {}
    for name, reasons in fates.items():
        why = [*reasons]
        for candidate in candidates:
            if name in candidate.rows:
                why[candidate.rows[name]] = why[candidate.rows[name]] or candidate.reason
        used = {candidate.rows[name] for candidate in kept if name in candidate.rows}
        left_out = Counter(reason for row, reason in enumerate(why) if reason and row not in used)
        holders[name] = counted(f"rows of {name}", len(reasons), len(used), left_out)
    left_out = Counter(candidate.reason for candidate in candidates if candidate.reason)
    return {
        "holders": holders,
        "joined": counted("rows of the join", len(candidates), len(kept), left_out),
        "units": len({candidate.unit for candidate in kept}),
        "splits": {name: _describe(kept_in(name, candidates)) for name in SPLITS},
        "deidentify": dict(quality),
    }


def _describe(kept: Sequence[Candidate]) -> dict[str, Any]:
    of_unit = Counter(candidate.unit for candidate in kept)
    return {
        "records": len(kept),
        "units": len(of_unit),
        "values": len({value for candidate in kept for value in candidate.values}),
        "records_of_a_unit": {str(size): times for size, times in sorted(Counter(of_unit.values()).items())},
    }
