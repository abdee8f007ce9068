"""Device classes: what each kind can hold and compute, and the system settings that mix them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import FleetError
from .budget import Budget

# How much of the full network's parameters (`Recipe.sized_by`) a device trains at most. The caps are our assumption,
# since the paper gives memory sizes only. The first two devices are not in it: small enough that somebody needs the
# small networks. Training takes four times the weights (gradients, Adam), 17 MB for 5% of a ViT-S of 86 MB.
DEVICE_CAPS = {
    "Camera": 0.05,
    "Phone of 2015": 0.1,
    "Raspberry Pi 4": 0.4,
    "Raspberry Pi 5": 0.55,
    "Dell XPS 15": 0.7,
    "Jetson AGX Orin": 0.85,
    "V100": 1.0,
}
# The shares of devices.
PUBLISHED_SETTINGS: Mapping[str, Mapping[str, float]] = {
    "xsmall": {"Raspberry Pi 4": 0.8, "Raspberry Pi 5": 0.2},
    "small": {"Raspberry Pi 4": 0.4, "Raspberry Pi 5": 0.4, "Dell XPS 15": 0.2},
    "medium": {"Raspberry Pi 5": 0.3, "Dell XPS 15": 0.4, "Jetson AGX Orin": 0.3},
    "large": {"Dell XPS 15": 0.2, "Jetson AGX Orin": 0.4, "V100": 0.4},
    "xlarge": {"Jetson AGX Orin": 0.1, "V100": 0.9},
}
# and one of ours, in which small devices take part too
SYSTEM_SETTINGS: Mapping[str, Mapping[str, float]] = {
    **PUBLISHED_SETTINGS,
    "large-and-small": {"Camera": 0.25, "Phone of 2015": 0.25, "Raspberry Pi 4": 0.25, "V100": 0.25},
}


@dataclass(frozen=True)
class DeviceClass:
    """Devices of one kind, and the resources they leave to the model.

    `share` is the fraction of all clients, from 0 to 1. `memory_bytes` is for the weights and the activations of
    one example, without the operating system and the application. `macs_per_second` is what the
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
        """The most MACs that one example may need."""
        return self.macs_per_second * self.latency_ms / 1000

    def budget(self, activation_bytes: float) -> Budget:
        """The budget when `activation_bytes` of the memory are reserved for activations and the rest is for weights."""
        return Budget(
            max_macs=self.max_macs,
            max_weight_bytes=max(0.0, self.memory_bytes - activation_bytes),
            max_peak_activation_bytes=activation_bytes,
        )


# What is known of the devices, and what is assumed. Memory is all of it, of the largest version; 10^9 MACs per second
# are the float32 peak, of which `SUSTAINED_SHARE` is taken to be kept up. The paper gives sizes of memory only.
# NVIDIA's figures are from pages that quote its documents.
_RAM_GB_AND_PEAK_GMACS: Mapping[str, tuple[float, float]] = {
    # assumed: a Cortex-M7 at 480 MHz, 1 MAC a cycle, with 32 MB of external memory (as the OpenMV H7 Plus has it)
    "Camera": (0.032, 0.48),
    # assumed: 4 Cortex-A53 at 1.2 GHz, 2 MACs a cycle and core, with 1 GB (a phone of the lower class of its year)
    "Phone of 2015": (1, 9.6),
    # Raspberry Pi documentation, BCM2711: 4 Cortex-A72 at 1.5 GHz, up to 8 GB; 4 MACs a cycle and core
    "Raspberry Pi 4": (8, 24.0),
    # Raspberry Pi documentation, BCM2712: 4 Cortex-A76 at 2.4 GHz; 8 MACs a cycle and core; 8 GB is assumed
    "Raspberry Pi 5": (8, 76.8),
    # assumed to be a Core i7-12700H with 16 GB: 6 fast cores at their base clock of 2.3 GHz, 16 MACs a cycle and core
    "Dell XPS 15": (16, 220.8),
    # Jetson AGX Orin technical brief, the module of 64 GB: 5.3 TFLOPS, at two FLOPs a MAC
    "Jetson AGX Orin": (64, 2650.0),
    # NVIDIA V100 data sheet, the SXM2 version of 32 GB: 15.7 TFLOPS, at two FLOPs a MAC
    "V100": (32, 7850.0),
}
SUSTAINED_SHARE = 0.25  # an assumption: measure, and put in what your devices do
LATENCY_MS = 33.0  # an assumption: 30 examples a second
PRESETS: Mapping[str, DeviceClass] = {
    name: DeviceClass(name, 1.0, ram * 1e9, SUSTAINED_SHARE * peak * 1e9, LATENCY_MS)
    for name, (ram, peak) in _RAM_GB_AND_PEAK_GMACS.items()
}
# the published system settings, of the presets
FLEETS: Mapping[str, tuple[DeviceClass, ...]] = {
    setting: tuple(replace(PRESETS[name], share=share) for name, share in shares.items())
    for setting, shares in PUBLISHED_SETTINGS.items()
}
