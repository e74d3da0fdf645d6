"""Where a night works: the model store, the ports, the folder of the results."""

from __future__ import annotations

import os
import shutil
from shlex import quote
from typing import TYPE_CHECKING

from autotune import aims, claims
from autotune import ground as grounds
from autotune import plan as plans
from autotune.cluster import host, lock
from autotune.doctor.check import NOT_NEEDED, Check
from autotune.errors import ClusterError, ModelMissing, SpecError, StorageError
from autotune.inventory.cpu import write_list
from autotune.ollama.api import full_name
from autotune.ollama.models import UNREADABLE, manifest, models, stores, unusable
from autotune.simulator.profiles import load_profile
from autotune.spec import Cluster
from autotune.store import LEAST_FREE_BYTES, Store, utterable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from autotune.inventory import Inventory
    from autotune.spec import StudySpec

_MOST_MODELS = 12


def model(spec: StudySpec, folder: Path) -> Check:
    """The study's model, on disk."""
    name = spec.cluster.model
    if spec.cluster.driver == "simulated":
        return _played(spec)
    try:
        store = grounds.store_of(spec, folder / "run")
    except ModelMissing as error:
        mend = f"{quote(spec.cluster.binary)} pull {name}  # or write cluster.models_dir"
        return Check("model", "missing", error.message, mend)
    except SpecError as error:
        return Check("model", "missing", error.message, "correct it, or run as the store's owner or as root")
    if not manifest(store, name).exists():
        return Check("model", "missing", f"no {name} in {store}; it has {_few(store)}", grounds.pull(spec, store))
    if (spec.search.num_batch or spec.baseline.num_batch) and not os.access(store / "manifests", os.W_OK):
        found = f"{name} is in {store}, but num_batch needs a derived model, and this user may not write there"
        return Check("model", "missing", found, "run as the store's owner or as root, or leave num_batch out")
    return Check("model", "ok", f"{name} is in {store}")


def _played(spec: StudySpec) -> Check:
    try:
        there = [model.name for model in load_profile(spec.cluster.profile).models]
    except SpecError:  # the devices are in the same file, and say so
        there = []
    if there and full_name(spec.cluster.model) not in map(full_name, there):
        found = f"the played host has no {spec.cluster.model}; it has {', '.join(there)}"
        return Check("model", "missing", found, "write one of these: cluster.model")
    return Check("model", "ok", NOT_NEEDED)


def model_stores() -> list[Check]:
    """The usual stores, with what is in them."""
    usable = [store for store in stores() if not unusable(store)]
    shut = [store for store in stores() if unusable(store) == UNREADABLE]
    checks = [_store(store) for store in usable]
    checks += [Check("models", "warning", f"{store}: {UNREADABLE}", "sudo autotune doctor") for store in shut]
    looked = ", ".join(map(str, stores()))
    return checks or [Check("models", "missing", f"no model store; looked at {looked}", "ollama pull MODEL")]


def _store(store: Path) -> Check:
    if not models(store):
        return Check("models", "warning", f"{store}: empty", "ollama pull MODEL")
    return Check("models", "ok", f"{store}: {_few(store)}")


def _few(store: Path) -> str:
    names = models(store)
    more = f" and {len(names) - _MOST_MODELS} more" if len(names) > _MOST_MODELS else ""
    return ", ".join(names[:_MOST_MODELS]) + more if names else "none"


def layouts(spec: StudySpec, found: Inventory | None) -> tuple[list[Check], int]:
    """Whether the layouts that are written fit the devices; and the most instances that one has."""
    if found is None:
        return [], 1
    try:
        written = grounds.layouts(spec, found)
    except SpecError as error:
        return [Check("layouts", "missing", error.message, "write layouts with the numbers of the devices above")], 1
    most = max(len(layout.instances) for layout in written)
    if spec.search.layouts != "auto":
        return [], most
    return [], max(most, len(found.devices) * max(spec.search.instances_per_device))


def ports(spec: StudySpec, instances: int) -> list[Check]:
    """Those on which so many instances and nginx would listen."""
    try:
        wanted = plans.ports(spec, instances)
    except SpecError as error:
        return [Check("ports", "missing", error.message, "choose other ports in [cluster]")]
    taken = [check for port in wanted for check in _taken(port)]
    return taken or [Check("ports", "ok", f"{write_list(wanted)} can be listened on")]


def usual_ports(instances: int) -> list[Check]:
    """Those of a study that names none."""
    first, front = (Cluster.model_fields[key].default for key in ("first_port", "balancer_port"))
    wanted = [*range(first, first + instances), front]
    taken = [Check(check.name, "warning", check.found, check.mend) for port in wanted for check in _taken(port)]
    return taken or [Check("ports", "ok", f"{write_list(wanted)} can be listened on")]


def _taken(port: int) -> Iterator[Check]:
    try:
        if not host.port_free(port):
            mend = "end it, or choose another port: cluster.first_port, cluster.balancer_port"
            yield Check(f"port {port}", "missing", f"taken by {host.port_holder(port)}", mend)
    except ClusterError as error:
        yield Check(f"port {port}", "missing", error.message, "choose ports from 1024 on, or run as root")


def nights(spec: StudySpec, found: Inventory | None, folder: Path, instances: int) -> Iterator[Check]:
    """Other nights that hold what this one needs, with so many instances at most."""
    if found is None:
        return
    for name in (*claims.locks(spec, found, folder), *claims.later_locks(spec, instances)):
        if who := lock.holder(name):
            yield Check("another night", "missing", f"it holds {name}: {who}", "wait for its end, or end it by Ctrl-C")
            return


def results(folder: Path, spec: StudySpec | None = None) -> Check:
    """Whether results can be written there, and a study goes on with those that it has."""
    there = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        mend = "put the study file into a folder in which you may write"
        return Check("results", "missing", f"{folder} cannot be written to", mend)
    free_mib = shutil.disk_usage(there).free // 2**20
    if free_mib < LEAST_FREE_BYTES // 2**20:
        found = f"{folder}: {free_mib} MiB are free on this disk, a night needs {LEAST_FREE_BYTES // 2**20}"
        return Check("results", "missing", found, "free some space, or move the study file to another disk")
    try:
        utterable(folder)
    except StorageError as error:
        return Check("results", "missing", error.message, "put the study file into another folder, or rename this one")
    try:
        if spec is not None:
            Store(folder).goes_on(spec)
    except SpecError as error:
        return Check("results", "missing", error.message, "write another study.name")
    except StorageError as error:
        denied = isinstance(error.__cause__, PermissionError)
        mend = f"sudo chown -R {os.getuid()} {quote(str(folder))}" if denied else "write another study.name"
        return Check("results", "missing", error.message, mend)
    return Check("results", "ok", f"{folder}: {free_mib / 1024:.1f} GiB are free")


def windows(spec: StudySpec) -> Iterator[Check]:
    """Whether a study measures what it says, and its windows can ever tell enough."""
    try:
        aims.check(spec)
    except SpecError as error:
        yield Check("workload", "missing", error.message, "correct it in the study file")


def prompts(spec: StudySpec) -> Iterator[Check]:
    """The file of prompts of a study that has one."""
    path = spec.workload.prompts
    if path is not None and not os.access(path, os.R_OK):
        yield Check("prompts", "missing", f"{path} cannot be read", "write workload.prompts")
