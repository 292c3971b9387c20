"""Packets of the picture into frames, and when each is shown."""

from __future__ import annotations

from typing import Any

import av

from flashvsr.video.picture.alpha import DECODERS
from flashvsr.video.read.demux import Demuxer


class PictureDecoder:
    """Frames of the picture of a file, and their times as it states them.

    Args:
        demuxer: The open file.
    """

    def __init__(self, demuxer: Demuxer) -> None:
        self._demuxer = demuxer
        self._alpha = self._alpha_decoder()
        self._started = False
        self._last: av.VideoFrame | None = None
        self._counts = demuxer.container.format.name == "avi"  # packets, and tells no presentation times
        self._keys: list[int] = []  # decoding times of key frames until the first frame is decoded
        self._delay = 0  # ticks between the decoding of a frame and its presentation, where packets are counted

    def decode(self, packet: Any) -> list[av.VideoFrame]:
        """The frames that a packet of the picture completes; of None, those that the decoder still holds.

        Raises:
            av.InvalidDataError: If the packet is damaged, and is neither of a live stream nor before the first frame.
        """
        context = self._demuxer.stream.codec_context
        if packet is None:
            return context.decode(None)
        if packet.size == 0 and packet.dts is not None:  # the frame before is shown again
            if self._last is None or context.name != "theora":
                return []
            self._last.pts = packet.pts
            return [self._last]
        if not self._started and packet.is_keyframe and packet.dts is not None:
            self._keys.append(packet.dts)
        try:
            frames = packet.decode() if self._alpha is None else self._alpha.decode(packet)
        except av.InvalidDataError:
            if self._started and not self._demuxer.live:
                raise
            return []  # a stream that was cut may start between key frames: wait for the first
        self._started = self._started or bool(frames)
        self._last = frames[-1] if frames else self._last
        return frames

    def begin(self, first: av.VideoFrame) -> None:
        """Measure, by the first frame, how long frames of AVI wait between decoding and presentation."""
        if self._counts and first.dts is not None:
            self._delay = first.dts - max((dts for dts in self._keys if dts <= first.dts), default=first.dts)

    def stamp(self, frame: av.VideoFrame) -> int | None:
        """When a frame is shown on the file's clock, in ticks; None when the file does not say.

        AVI counts packets in decoding order: the n-th frame is shown with the n-th. What FFmpeg makes of that for
        frames that were reordered is out of order.
        """
        if self._demuxer.raw:
            return None
        if self._counts:
            return None if frame.dts is None else frame.dts - self._delay
        return frame.pts

    def _alpha_decoder(self) -> Any | None:
        """The decoder that also reads the transparency of WebM, where there is some."""
        stream = self._demuxer.stream
        context, tags = stream.codec_context, {key.lower(): tag for key, tag in stream.metadata.items()}
        if context.name not in DECODERS or tags.get("alpha_mode") != "1":
            return None
        decoder = av.CodecContext.create(DECODERS[context.name], "r")
        decoder.extradata = context.extradata
        return decoder
