"""A Docker Compose file: the same instances and the same nginx site, in containers on the host's network."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.export.bundle import Bundle
    from autotune.plan import InstancePlan

NGINX = "nginx:1.28"
SOURCE_BUILD = "0.0.0"
AMD = ("/dev/kfd", "/dev/dri")
"""What ROCm's kernel driver shows of all AMD GPUs."""


def files(bundle: Bundle) -> dict[str, str]:
    """Path → content."""
    return {"compose.yaml": bundle.comments + _yaml({"services": services(bundle)})}


def services(bundle: Bundle) -> dict[str, Any]:
    """One service for each instance, and nginx."""
    found: dict[str, Any] = {one.name: _instance(bundle, one) for one in bundle.plan.instances}
    found["nginx"] = {
        "image": NGINX,
        "network_mode": "host",
        "volumes": [f"./nginx/{bundle.name}.conf:/etc/nginx/conf.d/default.conf:ro"],
        "depends_on": [one.name for one in bundle.plan.instances],
        "restart": "always",
    }
    return found


def _instance(bundle: Bundle, instance: InstancePlan) -> dict[str, Any]:
    """Host network: instances keep the addresses that the nginx site has. The model is loaded at every start."""
    models = dict(instance.env)["OLLAMA_MODELS"]
    host, _, port = instance.address.partition(":")
    start = f"bash /preload {host} {port} {bundle.model} & exec /bin/ollama serve"
    service: dict[str, Any] = {
        "image": _image(bundle, instance),
        "network_mode": "host",
        "environment": bundle.environment(instance),
        "volumes": [f"{models}:{models}", "./preload:/preload:ro"],
        "entrypoint": ["/bin/bash", "-c", start],
        "restart": "always",
    }
    if instance.cpus:
        service["cpuset"] = ",".join(map(str, instance.cpus))
    return service | _devices(instance)


def _devices(instance: InstancePlan) -> dict[str, Any]:
    if not instance.on_gpu:
        return {}
    if amd(instance):
        return {"devices": list(AMD)}
    card = {"driver": "nvidia", "device_ids": list(instance.devices), "capabilities": ["gpu"]}
    return {"deploy": {"resources": {"reservations": {"devices": [card]}}}}


def amd(instance: InstancePlan) -> bool:
    """Whether its GPUs are AMD's."""
    return dict(instance.env).get("ROCR_VISIBLE_DEVICES") == ",".join(instance.devices)


def _image(bundle: Bundle, instance: InstancePlan) -> str:
    """Ollama's own image of the version that was measured; a build from source has none."""
    version = bundle.provenance.ollama
    tag = "latest" if version == SOURCE_BUILD else version
    return f"ollama/ollama:{tag}{'-rocm' if amd(instance) else ''}"


def _yaml(value: Any, indent: str = "") -> str:
    """YAML of plain values: every scalar as JSON, which YAML reads, with $ doubled, which Compose would expand."""
    if isinstance(value, dict):
        return "".join(f"{indent}{key}:{_nested(part, indent)}" for key, part in value.items())
    return "".join(f"{indent}- {_item(part, indent)}" for part in value)


def _nested(value: Any, indent: str) -> str:
    return f"\n{_yaml(value, indent + '  ')}" if isinstance(value, dict | list) else f" {_scalar(value)}\n"


def _item(value: Any, indent: str) -> str:
    return _yaml(value, indent + "  ").lstrip() if isinstance(value, dict) else f"{_scalar(value)}\n"


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("$", "$$")
