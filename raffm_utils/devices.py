"""Classes of devices and what they have for a model: the devices of the published settings, as editable presets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .budget import Budget
from .errors import FleetError
from .participation import SYSTEM_SETTINGS


@dataclass(frozen=True)
class DeviceClass:
    """Devices of one kind, and what they have for the model.

    `share` is the part of all clients, from 0 to 1. `memory_bytes` holds the weights and the activations of one
    example; the operating system and the application are not to be counted in. `macs_per_second` is what the
    device sustains on such a network, not its peak; `latency_ms` is the most that one example may take.
    """

    name: str
    share: float
    memory_bytes: float
    macs_per_second: float
    latency_ms: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise FleetError(f"{self.name}: share={self.share} of the clients: give more than 0 and at most 1")
        for field in ("memory_bytes", "macs_per_second", "latency_ms"):
            if not 0 < (value := getattr(self, field)) < math.inf:
                raise FleetError(f"{self.name}: {field}={value}: give a positive number")

    @property
    def max_macs(self) -> float:
        """The MACs that one example may take."""
        return self.macs_per_second * self.latency_ms / 1000

    def budget(self, activation_bytes: float, tokens: int | None = None) -> Budget:
        """What fits when `activation_bytes` of the memory are set aside for activations, and the rest for weights."""
        return Budget(
            max_macs=self.max_macs,
            max_weight_bytes=max(0.0, self.memory_bytes - activation_bytes),
            max_peak_activation_bytes=activation_bytes,
            tokens=tokens,
        )


# Assumptions, to be replaced by what is known of the devices at hand: the paper gives the sizes of their memories,
# gigabytes that never bind for small networks. So `memory_bytes` is a quota that an application might leave to its
# model, set such that the classes differ for the bundled checkpoints; 33 ms are 30 examples a second; and a quarter
# of the float32 peak is taken to be sustained. The peaks, in 10^9 MACs per second:
_PEAK_GMACS_PER_SECOND = {
    "Raspberry Pi 4": 24.0,  # 4 Cortex-A72 at 1.5 GHz (Raspberry Pi documentation, BCM2711), 4 MACs a cycle each
    "Raspberry Pi 5": 76.8,  # 4 Cortex-A76 at 2.4 GHz (Raspberry Pi documentation, BCM2712), 8 MACs a cycle each
    "Dell XPS 15": 220.8,  # assumed to be a Core i7-12700H: 6 fast cores at their 2.3 GHz base clock, 16 MACs a cycle
    "Jetson AGX Orin": 2650.0,  # 5.3 TFLOPS (NVIDIA, Jetson AGX Orin technical brief), 2 FLOPs a MAC
    "V100": 7850.0,  # 15.7 TFLOPS (NVIDIA, the SXM2 version), 2 FLOPs a MAC
}
_QUOTA_MB = {"Raspberry Pi 4": 64, "Raspberry Pi 5": 72, "Dell XPS 15": 80, "Jetson AGX Orin": 88, "V100": 96}
SUSTAINED_SHARE = 0.25

PRESETS: Mapping[str, DeviceClass] = {
    name: DeviceClass(name, 1.0, _QUOTA_MB[name] * 1e6, SUSTAINED_SHARE * peak * 1e9, 33.0)
    for name, peak in _PEAK_GMACS_PER_SECOND.items()
}


def make_fleet(shares: Mapping[str, float], classes: Mapping[str, DeviceClass] = PRESETS) -> tuple[DeviceClass, ...]:
    """The classes named in `shares`, each with that share of the clients."""
    if unknown := sorted(set(shares) - set(classes)):
        raise FleetError(f"no device class {', '.join(unknown)}: known are {', '.join(classes)}")
    return tuple(replace(classes[name], share=share) for name, share in shares.items())


# the published system settings (RaFFM, section 4), of the preset classes
FLEETS: Mapping[str, tuple[DeviceClass, ...]] = {
    setting: make_fleet(shares) for setting, shares in SYSTEM_SETTINGS.items()
}
