"""Degradation: sharp clips become low-resolution clips with the faults of real video.

* ``Degradation``: one clip on the CPU, with real JPEG and video encoders; also streams a file of any length
* ``BatchDegradation``: a batch on a GPU, with the codec last
* ``DegradationRound``, ``Blur``, ``Resize``, ``Noise``, ``Jpeg``, ``Codec``: its settings
"""

from flashvsr.data.degrade.batch import BatchDegradation
from flashvsr.data.degrade.clip import Degradation
from flashvsr.data.degrade.settings import Blur, Codec, DegradationRound, Jpeg, Noise, Resize

__all__ = ["BatchDegradation", "Blur", "Codec", "Degradation", "DegradationRound", "Jpeg", "Noise", "Resize"]
