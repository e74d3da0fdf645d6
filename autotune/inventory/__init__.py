"""The devices of a host: what there is, who uses it, and how an Ollama server is shown its share of it."""

from autotune.inventory.device import Device, Inventory, Make, visible_devices
from autotune.inventory.discover import DeviceEntry, discover, remembered
from autotune.inventory.holders import Holder, holders

__all__ = [
    "Device",
    "DeviceEntry",
    "Holder",
    "Inventory",
    "Make",
    "discover",
    "holders",
    "remembered",
    "visible_devices",
]
