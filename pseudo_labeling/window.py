"""One intensity window a volume, to 8 bit, and what in a volume must not move it.

A window from percentiles holds as long as air is the darkest thing in a scan and nothing is far from all the rest.
Where that is not so (fill values, wild voxels, burnt-in marks, junk slices, z-scored scans with air in the middle), the
voxels at fault count as air: in the estimate, and in the slices. A scan without such a fault is not touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pseudo_labeling.settings import WindowSettings

BINS = 256
FILL_SHARE = 0.05  # of the voxels have one value, far from all others: a fill value and not some single voxels
FILL_GAP = 0.15  # of the range of the others, empty beside a fill value; air beside a head has no such gap
MARK = 20  # voxels of one value above all others are text that was burnt in
WILD_GAP = 2.0  # likewise beside few voxels, which a percentile forgives unless they are very far away
BODY = 0.25  # of the slices at each end may be junk; those between tell how bright a head is
AIR_WIDTH = 0.25  # of the range of the scan: the frame of the slices is air only where it is more alike than that
DARKER = 1 / 3  # of what is not air is darker than air: then air is not the darkest thing


@dataclass(frozen=True)
class Faults:
    """Voxels that count as air.

    Attributes:
        lowest, highest: values outside are no signal.
        junk: `(z,)` bool, slices that are no image of this head.
        air: lowest and highest value of the background where that is not the darkest, else None.
        said: each fault in words.
    """

    lowest: float
    highest: float
    junk: np.ndarray
    air: tuple[float, float] | None
    said: tuple[str, ...]

    def of_slice(self, z: int, values: np.ndarray) -> np.ndarray:
        """Which pixels of axial slice `z`, `(y, x)`, count as air; `(y, x)` bool."""
        if self.junk[z]:
            return np.ones(values.shape, dtype=bool)
        found: np.ndarray = (values < self.lowest) | (values > self.highest)
        if self.air is not None:
            alike, _ = ndimage.label(((values >= self.air[0]) & (values <= self.air[1])) | found)
            edge = _frame(alike)
            found |= np.isin(alike, edge[edge > 0])  # what the head encloses may have the value of air
        return found


def window_slices(volume: np.ndarray, settings: WindowSettings) -> tuple[np.ndarray, tuple[str, ...]]:
    """Map a volume's percentile window to 0-255, after setting faults aside.

    Args:
        volume: `(z, y, x)` float, finite and not constant, in any unit.
        settings: percentiles.

    Returns:
        `(z, y, x)` uint8, and what was ignored, in words.
    """
    faults = find_faults(volume)
    if faults is not None:
        volume = _with_air(volume, faults, settings.lower_percentile)
    low = float(np.percentile(volume, settings.lower_percentile))
    mean = volume.mean()
    if not np.isfinite(mean):  # the sum of a float32 volume can overflow
        mean = volume.mean(dtype=np.float64)
    head = volume[volume > mean]
    high = float(np.percentile(head, settings.upper_percentile, overwrite_input=True)) if head.size else low
    del head
    windowed = np.empty(volume.shape, dtype=np.uint8)
    for z, each in enumerate(volume):  # a slice at a time: float copies of the volume would not fit in memory
        windowed[z] = np.clip(np.rint((each - low) * (255.0 / max(high - low, 1e-6))), 0, 255)
    return windowed, () if faults is None else faults.said


def find_faults(volume: np.ndarray) -> Faults | None:
    """What in a volume `(z, y, x)` is no signal of a head; None where nothing is wrong, which is the rule."""
    junk = np.zeros(len(volume), dtype=bool)
    lowest, highest = float(volume.min()), float(volume.max())
    said: list[str] = []
    while highest > lowest:  # each turn looks closer: beside a voxel of 1e9, all others seem to have one value
        counts = _histograms(volume, junk, lowest, highest, not said)
        beyond = _beyond_a_gap(volume, junk, counts.sum(axis=0), lowest, highest)
        if beyond is not None:
            lowest, highest, words = beyond
            said.append(words)
            continue
        ends = _junk_ends(counts) & ~junk
        if not ends.any():
            break
        junk |= ends
        said.append(f"{int(ends.sum())} end slice(s) brighter than the head")
        kept = volume[~junk]
        inside = kept[(kept >= lowest) & (kept <= highest)]
        lowest, highest = float(inside.min()), float(inside.max())
    air = _misplaced_air(volume[~junk] if junk.any() else volume, lowest, highest)
    if air is not None:
        said.append(f"a background of {_span(*air)}, which is not the darkest")
    return Faults(lowest, highest, junk, air, tuple(said)) if said else None


def _with_air(volume: np.ndarray, faults: Faults, percentile: float) -> np.ndarray:
    """A copy in which all that is at fault is as dark as the darkest of the rest."""
    at_fault = np.empty(volume.shape, dtype=bool)
    for z, each in enumerate(volume):
        at_fault[z] = faults.of_slice(z, each)
    dark = np.percentile(volume[~at_fault], percentile, overwrite_input=True)  # before the copy, for memory
    volume = volume.copy()
    volume[at_fault] = dark
    return volume


def _histograms(volume: np.ndarray, junk: np.ndarray, lowest: float, highest: float, whole: bool) -> np.ndarray:
    """Voxels of each slice between two values in `BINS` equal bins, `(z, BINS)`; none of junk slices.

    With `whole`, no voxel lies outside: nothing need be left out, which saves time.
    """
    counts = np.zeros((len(volume), BINS), dtype=np.int64)
    scale = (BINS - 1) / (highest - lowest)
    exact = np.float64 if highest - lowest > 1e30 else np.float32  # float32 is faster and ends at 3e38
    for z in np.flatnonzero(~junk):
        values = volume[z]
        if not whole:
            values = values[(values >= lowest) & (values <= highest)]
        place = (np.subtract(values, lowest, dtype=exact) * scale).astype(np.uint8)
        counts[z] = np.bincount(place.ravel(), minlength=BINS)
    return counts


def _beyond_a_gap(
    volume: np.ndarray, junk: np.ndarray, counts: np.ndarray, lowest: float, highest: float
) -> tuple[float, float, str] | None:
    """The range without what lies beyond the widest empty stretch of values, and that in words; None without any."""
    occupied = np.flatnonzero(counts)
    widest = int(np.argmax(np.diff(occupied)))
    below, above = int(occupied[widest]), int(occupied[widest + 1])
    gap = above - below - 1
    if gap < FILL_GAP * min(below + 1, BINS - above):
        return None
    between = lowest + (below + above) / 2 * (highest - lowest) / (BINS - 1)
    kept = volume[~junk] if junk.any() else volume
    sides = {
        "below": (lowest, float(kept[kept < between].max()), int(counts[: below + 1].sum())),
        "above": (float(kept[kept > between].min()), highest, int(counts[above:].sum())),
    }
    if sides["below"][0] == sides["below"][1] and sides["above"][0] == sides["above"][1]:
        return None  # two values: what is what, nothing tells
    total = sides["below"][2] + sides["above"][2]
    widths = {"below": BINS - above, "above": below + 1}  # in bins, of what would be left
    for side in sorted(sides, key=lambda name: (sides[name][0] != sides[name][1], sides[name][2])):
        first, last, number = sides[side]
        fill = first == last and number >= (MARK if side == "above" else FILL_SHARE * total)
        if not fill and number >= FILL_SHARE * total:
            continue
        if side == "below" and first == last == 0:
            continue  # nothing is negative: 0 is the air of a scan without its skull
        if gap >= (FILL_GAP if fill else WILD_GAP) * widths[side]:
            other = sides["above" if side == "below" else "below"]
            what = f"the one value {_span(first, last)}" if fill else f"values of {_span(first, last)}"
            return other[0], other[1], f"{number} voxel(s) ({100 * number / volume.size:.2g} %) with {what}"
    return None


def _junk_ends(counts: np.ndarray) -> np.ndarray:
    """Slices at an end whose middle value is above nearly all of every slice of the body; `(z,)` bool."""
    n = len(counts)
    margin = int(n * BODY)
    body = counts[margin : n - margin]
    share = np.cumsum(counts, axis=1) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    brightest = max(int(np.argmax(each >= 0.995)) for each in share[margin : n - margin]) if body.any() else BINS
    bright = np.argmax(share >= 0.5, axis=1) > brightest
    ends = np.zeros(n, dtype=bool)
    for order in (range(margin), range(n - 1, n - 1 - margin, -1)):
        for z in order:
            if not bright[z]:
                break
            ends[z] = True
    return ends


def _misplaced_air(volume: np.ndarray, lowest: float, highest: float) -> tuple[float, float] | None:
    """The range of the background where much of the head is darker, else None.

    The frame of the slices is taken for background where its values are alike.
    """
    frame = np.concatenate([_frame(each) for each in volume])
    frame = frame[(frame >= lowest) & (frame <= highest)]
    if frame.size == 0:
        return None
    first, last = (float(v) for v in np.percentile(frame, (5, 95)))
    if first <= lowest or last - first > AIR_WIDTH * (highest - lowest):
        return None
    darker = sum(int(((each < first) & (each >= lowest)).sum()) for each in volume)
    brighter = sum(int(((each > last) & (each <= highest)).sum()) for each in volume)
    if darker < DARKER * (darker + brighter):
        return None
    return 2 * first - last, 2 * last - first


def _frame(image: np.ndarray) -> np.ndarray:
    """The outermost pixels of a slice."""
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])


def _span(first: float, last: float) -> str:
    return f"{first:g}" if first == last else f"{first:g} to {last:g}"
