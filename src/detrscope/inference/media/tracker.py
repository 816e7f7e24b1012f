"""Follow objects from frame to frame with ByteTrack (Zhang et al., ECCV 2022, arXiv:2110.06864), of `trackers`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from detrscope.core.errors import UserError
from detrscope.core.types import Detections
from detrscope.inference.image_detections import to_supervision

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

LOWEST_SCORE = 0.1  # of detections that may continue a track (ByteTrack, section 3)
SAME_OBJECT = 0.5  # IoU with a detection from which on a weaker one is taken for the same object


@dataclass
class Track:
    """One object over several frames."""

    id: int
    first: int  # frame
    last: int  # frame
    frames: int = 0  # in which it was detected
    names: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """Return the class that most of its frames have."""
        return self.names.most_common(1)[0][0]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "track_id": self.id,
            "name": self.name,
            "first": self.first,
            "last": self.last,
            "frames": self.frames,
        }


class Tracker:
    """Tracker of the detections of one video or stream.

    Detections below the threshold never begin a track, but continue one that would be lost otherwise.

    Args:
        rate: frames a second.

    Raises:
        UserError: `trackers` is not installed.
    """

    def __init__(self, rate: Fraction) -> None:
        # A detection counts as sure (1) or weak (0) by the detector's threshold, which may differ between classes.
        self._tracker = _byte_track()(
            frame_rate=float(rate), track_activation_threshold=0.5, high_conf_det_threshold=0.5
        )
        self._time = 0.0
        self._open: dict[int, Track] = {}

    def update(self, detections: Detections, weaker: Detections, frame: int, time: Fraction) -> Detections:
        """Return the detections with their tracks, and the weaker ones that continue a track; best first.

        Args:
            detections: detections of the next frame.
            weaker: those below the threshold.
            frame: number of the frame.
            time: seconds since the first frame.
        """
        everything = _joined(detections, _other_objects(weaker, detections))
        given = to_supervision(everything)
        given.confidence = (np.arange(len(everything)) < len(detections)).astype(np.float32)
        given.data["index"] = np.arange(len(everything))
        self._time = max(float(time), self._time + 1e-6)  # forward, even where a camera's clock is not
        found = self._tracker.update(given, timestamp=self._time)
        tracks = torch.full((len(everything),), -1, dtype=torch.int64)
        if len(found):
            tracks[torch.from_numpy(found.data["index"])] = torch.from_numpy(
                np.asarray(found.tracker_id, np.int64)
            )
        for index, track in enumerate(tracks.tolist()):
            if track >= 0:
                entry = self._open.setdefault(track, Track(track, frame, frame))
                entry.last, entry.frames = frame, entry.frames + 1
                entry.names[everything.names[index]] += 1
        keep = [i for i, track in enumerate(tracks.tolist()) if i < len(detections) or track >= 0]
        keep.sort(key=lambda i: -float(everything.scores[i]))
        return replace(everything, track_ids=tracks).select(keep)

    def ended(self) -> Iterator[Track]:
        """Yield the tracks that cannot continue any more, each once."""
        alive = {tracklet.tracker_id for tracklet in self._tracker.tracks}
        for track in [track for track in self._open if track not in alive]:
            yield self._open.pop(track)

    def close(self) -> Iterator[Track]:
        """Yield all other tracks, at the end of the video."""
        while self._open:
            yield self._open.pop(min(self._open))


def check_tracker_installed() -> None:
    """Check that objects can be tracked.

    Raises:
        UserError: `trackers` is not installed.
    """
    _byte_track()


def _byte_track() -> type[ByteTrackTracker]:
    try:
        from trackers import ByteTrackTracker
    except ImportError:
        raise UserError("track: needs trackers, which comes with `pip install 'detrscope[track]'`") from None
    return ByteTrackTracker


def _other_objects(weaker: Detections, detections: Detections) -> Detections:
    """Return the best of each query among weaker detections, without those of objects that are detected anyway.

    Set prediction suppresses nothing: below the threshold, several queries and classes stand for one object.
    """
    overlap: Tensor = box_iou(weaker.boxes_xyxy, detections.boxes_xyxy)  # [m, n]
    seen = set(detections.query_ids.tolist())
    keep = []
    for index, query in enumerate(weaker.query_ids.tolist()):
        if query not in seen and not (overlap[index] > SAME_OBJECT).any():
            keep.append(index)
        seen.add(query)
    return weaker.select(keep)


def _joined(first: Detections, second: Detections) -> Detections:
    parts = [(f.name, getattr(first, f.name), getattr(second, f.name)) for f in fields(first)]
    joined: dict[str, Any] = {
        name: torch.cat([one, other]) for name, one, other in parts if isinstance(one, Tensor)
    }
    return replace(first, **joined, names=first.names + second.names)
