"""HDR video (PQ or HLG, BT.2020) to SDR (BT.709), frame by frame."""

from __future__ import annotations

import torch
from torch import Tensor

from flashvsr.video.info import Colors

_PQ, _HLG, _BT2020 = 16, 18, 9
_WHITE = 203.0  # cd/m2 of diffuse white
_PEAK = 1000.0  # cd/m2 of the display that HLG is shown on; what is brighter in PQ is clipped
_KNEE = 0.75  # of SDR white: darker is kept as it is
# rows: BT.709 red, green, blue from BT.2020
_TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))


def tone_map(pixels: Tensor, colors: Colors) -> Tensor:
    """A frame as it would look on an SDR display.

    Light is made linear and display-referred (HLG through its system gamma of 1.2), diffuse white (203 cd/m2) becomes
    SDR white; the brightest of the three channels goes through a curve that is the identity up to 0.75 and rolls
    highlights off to white, and the other two keep their ratio to it, so that hues stay. The result is encoded for
    a display with gamma 2.4.

    Args:
        pixels: `[3, h, w]` float in [0, 1], of a source whose transfer is PQ (16) or HLG (18).
        colors: Of the source, resolved.

    Returns:
        `[3, h, w]` float32 in [0, 1], BT.709.

    Raises:
        ValueError: If the transfer is neither PQ nor HLG: there is nothing to map.

    Reference:
        ITU-R BT.2100 (PQ and HLG transfer functions, table 4 and 5), BT.2408 (reference white), BT.2087 (primaries).
    """
    if colors.transfer not in (_PQ, _HLG):
        raise ValueError(f"transfer {colors.transfer} is not HDR: expected 16 (PQ) or 18 (HLG)")
    light = _pq_light(pixels) if colors.transfer == _PQ else _hlg_light(pixels)
    light = light / _WHITE
    if colors.primaries == _BT2020:
        light = torch.einsum("rc,chw->rhw", torch.tensor(_TO_BT709), light).clamp_min_(0)
    brightest = light.amax(dim=0).clamp_min(1e-6)
    return (light * (_roll_off(brightest) / brightest)).clamp_(0, 1).pow_(1 / 2.4)


def _roll_off(light: Tensor) -> Tensor:
    """Identity up to the knee, then a curve of the same slope that reaches 1 at the peak."""
    room, span = 1 - _KNEE, _PEAK / _WHITE - _KNEE
    above = ((light - _KNEE) / span).clamp(0, 1)
    slope = span / room
    # x -> (1 + a) x / (1 + a x) has slope 1 + a at 0 and value 1 at 1
    rolled = _KNEE + room * slope * above / (1 + (slope - 1) * above)
    return torch.where(light > _KNEE, rolled, light)


def _pq_light(signal: Tensor) -> Tensor:
    """PQ signal to cd/m2."""
    root = signal.float().pow(1 / 78.84375)
    return ((root - 0.8359375).clamp_min_(0) / (18.8515625 - 18.6875 * root)).pow_(1 / 0.1593017578125) * 10000


def _hlg_light(signal: Tensor) -> Tensor:
    """HLG signal to cd/m2 on a display with a peak of 1000."""
    signal = signal.float()
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = torch.where(signal <= 0.5, signal.square() / 3, (torch.exp((signal - c) / a) + b) / 12)
    luminance = torch.einsum("c,chw->hw", torch.tensor((0.2627, 0.6780, 0.0593)), scene)
    return scene * luminance.clamp_min(1e-6).pow(0.2) * _PEAK
