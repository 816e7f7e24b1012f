"""What is read of videos and streams, and what is made of their frames."""

from __future__ import annotations

from dataclasses import dataclass

from detrscope.core.errors import UserError


@dataclass(frozen=True)
class MediaOptions:
    """How images, videos and streams are read, tracked and drawn.

    Attributes:
        frames: most frames of each video or stream; None is all of them.
        seconds: read frames until this time after the first; None is all of them.
        timeout: seconds without data before a stream is given up.
        reconnects: most connections to a stream in a row that may fail.
        track: follow objects from frame to frame, with an id each.
        attention: names of classes; the cross-attention of their detections is drawn over the image.
    """

    frames: int | None = None
    seconds: float | None = None
    timeout: float = 10.0
    reconnects: int = 5
    track: bool = False
    attention: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("frames", "seconds", "timeout"):
            value = getattr(self, name)
            if value is None and name != "timeout":
                continue
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise UserError(f"{name} {value!r}: expected a number above 0")
        if not isinstance(self.reconnects, int) or self.reconnects < 0:
            raise UserError(f"reconnects {self.reconnects!r}: expected a whole number, 0 or more")
        if isinstance(self.attention, str):
            raise UserError(
                f"attention '{self.attention}': expected several names of classes, such as ('dog',)"
            )

    @property
    def limited(self) -> bool:
        """Return whether they end a stream that has no end of its own."""
        return self.frames is not None or self.seconds is not None


MEDIA_DEFAULTS = MediaOptions()
