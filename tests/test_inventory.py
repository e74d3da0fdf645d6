"""The devices of a host: NVIDIA's through a stand-in for NVML, CPU cores in made-up trees of /sys and /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import AutotuneError, ClusterError, DeviceLost, SpecError
from autotune.inventory import Device, DeviceEntry, Inventory, cpu, discover, holders, remembered, visible_devices
from tests.nvml import stub as nvml

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.nvml.stub import Stub

stub_folder, stub = nvml.stub_folder_fixture, nvml.stub_fixture

GIB = 2**30
UUIDS = [f"GPU-2080000{i}-0000-4000-8000-00000000000{i}" for i in range(4)]


@dataclass(frozen=True)
class Tree:
    """A made-up /sys and /proc."""

    root: Path

    @property
    def sysfs(self) -> Path:
        return self.root / "sys"

    @property
    def procfs(self) -> Path:
        return self.root / "proc"

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def discover(self, devices: str | list[DeviceEntry], affinity: Iterable[int]) -> Inventory:
        return discover(devices, sysfs=self.sysfs, procfs=self.procfs, affinity=set(affinity))


def grow(root: Path, cores: list[str], nodes: list[str]) -> Tree:
    """A host with these cores (each the CPU ids of its siblings) and NUMA nodes."""
    tree = Tree(root)
    for siblings in cores:
        for number in cpu.read_list(siblings):
            tree.write(f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", f"{siblings}\n")
    for node, cpus in enumerate(nodes):
        tree.write(f"sys/devices/system/node/node{node}/cpulist", f"{cpus}\n")
    tree.write("proc/meminfo", "MemTotal:       65536000 kB\nMemFree:  1 kB\n")
    tree.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 7313\n")
    return tree


@pytest.fixture
def four_cores(tmp_path: Path) -> Tree:
    """Four cores with two siblings each, as Linux counts them: 0 and 4 are one core."""
    return grow(tmp_path, [f"{core},{core + 4}" for core in range(4)], ["0-7"])


@pytest.fixture
def two_nodes(tmp_path: Path) -> Tree:
    return grow(tmp_path, [str(core) for core in range(8)], ["0-3", "4-7"])


def ids(inventory: Inventory) -> list[str]:
    return [device.id for device in inventory.devices]


def refusal(tree: Tree, devices: str | list[DeviceEntry], affinity: Iterable[int] = range(8)) -> str:
    with pytest.raises(AutotuneError) as caught:
        tree.discover(devices, affinity)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# CPU cores


@given(st.sets(st.integers(0, 300), min_size=1))
def test_lists_of_cpus_are_read_as_they_are_written(cpus: set[int]) -> None:
    assert cpu.read_list(cpu.write_list(cpus)) == tuple(sorted(cpus))


def test_lists_of_cpus_are_written_as_the_kernel_does() -> None:
    assert cpu.write_list([8, 0, 1, 2, 10, 11]) == "0-2,8,10-11"


def test_each_of_few_cores_is_a_device_with_its_siblings(four_cores: Tree) -> None:
    first, *rest = four_cores.discover("cpu", range(8)).devices
    assert first == Device(
        index=0,
        id="cpu:0,4",
        make="cpu",
        name="AMD EPYC 7313, 1 core",
        memory_bytes=65536000 * 1024,
        kind="AMD EPYC 7313, 1 core, 2 CPUs",
        cpus=(0, 4),
        threads=1,
        numa_node=0,
    )
    assert [device.index for device in rest] == [1, 2, 3]
    assert {device.kind for device in rest} == {first.kind}


def test_a_quota_of_cpu_time_bounds_the_cores(two_nodes: Tree) -> None:
    two_nodes.write("sys/fs/cgroup/cpu.max", "300000 100000\n")
    assert ids(two_nodes.discover("cores:1", range(8))) == ["cpu:0", "cpu:1", "cpu:2"]
    two_nodes.write("sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert ids(two_nodes.discover("cores:1", range(8))) == ["cpu:0"]
    two_nodes.write("sys/fs/cgroup/cpu.max", "max 100000\n")
    assert len(ids(two_nodes.discover("cores:1", range(8)))) == 8


def test_only_cpus_that_this_process_may_use_count(four_cores: Tree) -> None:
    inventory = four_cores.discover("cpu", {0, 1, 5})
    assert ids(inventory) == ["cpu:0", "cpu:1,5"]
    assert [device.threads for device in inventory.devices] == [1, 1]
    assert inventory.devices[0].kind != inventory.devices[1].kind


@given(st.integers(1, 200))
def test_many_cores_become_a_few_equal_devices_and_at_most_one_is_left_out(many: int) -> None:
    shares = cpu.groups("cpu", [cpu.Core((number,)) for number in range(many)])
    assert 1 <= len(shares) <= 4
    assert len({len(share) for share in shares}) == 1
    assert many - sum(map(len, shares)) <= (1 if many > 4 else 0)


def test_nodes_are_devices_and_interchangeable(two_nodes: Tree) -> None:
    for choice in ("cpu", "numa"):
        inventory = two_nodes.discover(choice, range(8))
        assert ids(inventory) == ["cpu:0-3", "cpu:4-7"]
        assert [device.numa_node for device in inventory.devices] == [0, 1]
        assert len({device.kind for device in inventory.devices}) == 1


def test_parts_of_nodes_are_interchangeable_within_their_node(two_nodes: Tree) -> None:
    inventory = two_nodes.discover("cores:2", range(8))
    assert ids(inventory) == ["cpu:0-1", "cpu:2-3", "cpu:4-5", "cpu:6-7"]
    kinds = [device.kind for device in inventory.devices]
    assert kinds[0] == kinds[1] != kinds[2] == kinds[3]


def test_groups_of_cores_do_not_cross_nodes(two_nodes: Tree) -> None:
    assert ids(two_nodes.discover("cores:3", range(8))) == ["cpu:0-2", "cpu:4-6"]


def test_a_number_of_equal_groups(four_cores: Tree) -> None:
    assert len(ids(four_cores.discover("groups:2", range(8)))) == 2
    assert "1 to 4" in refusal(four_cores, "groups:5")


def test_one_node_is_one_device(four_cores: Tree) -> None:
    assert ids(four_cores.discover("numa", range(8))) == ["cpu:0-7"]
    assert four_cores.discover("numa", range(8)).devices[0].threads == 4


def test_a_container_has_the_memory_that_it_is_given(four_cores: Tree) -> None:
    four_cores.write("sys/fs/cgroup/memory.max", f"{4 * GIB}\n")
    assert four_cores.discover("cpu", range(8)).devices[0].memory_bytes == 4 * GIB
    four_cores.write("sys/fs/cgroup/memory.max", "max\n")
    assert four_cores.discover("cpu", range(8)).devices[0].memory_bytes == 65536000 * 1024


def test_a_hidden_topology_makes_each_cpu_a_core(tmp_path: Path) -> None:
    tree = grow(tmp_path, [], [])
    assert ids(tree.discover("cpu", {2, 3})) == ["cpu:2", "cpu:3"]
    assert tree.discover("cpu", {2, 3}).devices[0].numa_node is None


def test_this_very_host_has_devices() -> None:
    inventory = discover("cpu")
    assert inventory.devices
    assert inventory.host
    assert {number for device in inventory.devices for number in device.cpus} <= os.sched_getaffinity(0)


def test_groups_of_cores_that_cannot_be_made_are_refused(two_nodes: Tree) -> None:
    assert "1 to 4" in refusal(two_nodes, "cores:5")
    assert "1 to 4" in refusal(two_nodes, "cores:0")
    assert "1 to 4" in refusal(two_nodes, "cores:many")
    assert '"auto"' in refusal(two_nodes, "tpu")
    assert "no CPU" in refusal(two_nodes, "cpu", ())


# entries one by one


def test_entries_name_groups_of_cores(four_cores: Tree) -> None:
    inventory = four_cores.discover([DeviceEntry(cores="0-1,4-5"), DeviceEntry(cores="2")], range(8))
    assert ids(inventory) == ["cpu:0-1,4-5", "cpu:2"]
    assert [device.threads for device in inventory.devices] == [2, 1]
    assert [device.index for device in inventory.devices] == [0, 1]


def test_amd_gpus_are_as_written(four_cores: Tree) -> None:
    entries = [DeviceEntry(id=f"GPU-{i}", make="amd", name="MI210", memory_gib=64) for i in range(2)]
    first, second = four_cores.discover(entries, ()).devices
    assert (first.make, first.name, first.memory_bytes) == ("amd", "MI210", 64 * GIB)
    assert first.kind == second.kind


def test_entries_that_contradict_are_refused(four_cores: Tree) -> None:
    def entry(cores: str) -> DeviceEntry:
        return DeviceEntry(cores=cores)

    assert "share the core of CPU 1,5" in refusal(four_cores, [entry("0-1"), entry("5")])
    assert "twice" in refusal(four_cores, [entry("0,4"), entry("4,0")])
    assert "names 9; there are 0-7" in refusal(four_cores, [entry("0,9")])
    assert "names none" in refusal(four_cores, [entry("")])
    assert "is not a list" in refusal(four_cores, [entry("a-b")])
    assert 'such as "0-3,8", below 8192' in refusal(four_cores, [entry("0-999999999")])
    assert "either an id" in refusal(four_cores, [DeviceEntry()])
    assert "either an id" in refusal(four_cores, [DeviceEntry(id="0", cores="0")])
    assert "does not go with" in refusal(four_cores, [DeviceEntry(cores="0", make="amd")])
    assert "does not go with" in refusal(four_cores, [DeviceEntry(id="0", make="cpu")])
    assert "needs memory_gib" in refusal(four_cores, [DeviceEntry(id="0", make="amd")])
    for told in (DeviceEntry(cores="0", name="my CPU"), DeviceEntry(id="0", memory_gib=24.0)):
        assert 'not allowed here, as the host itself says it; it belongs to make = "amd"' in refusal(four_cores, [told])
    assert "names no device" in refusal(four_cores, [])


# NVIDIA GPUs


def test_the_gpus_of_the_reference_deployment_are_found(stub: Stub) -> None:
    inventory = stub.call(discover, "auto")
    assert ids(inventory) == UUIDS
    assert [device.index for device in inventory.devices] == [0, 1, 2, 3]
    assert {device.kind for device in inventory.devices} == {"NVIDIA GeForce RTX 2080 Ti, 22528 MiB, PCIe 3 x16"}
    assert {device.memory_bytes for device in inventory.devices} == {22 * GIB}
    assert inventory.driver == "550.90.07"
    assert not inventory.simulated


def test_what_differs_makes_another_kind(stub: Stub, four_cores: Tree) -> None:
    four_cores.write("sys/bus/pci/devices/0000:1a:00.0/numa_node", "1\n")
    four_cores.write("sys/bus/pci/devices/0000:1b:00.0/numa_node", "-1\n")
    stub.tell("card uuid=a\ncard uuid=b\ncard uuid=c width=4\ncard uuid=d mib=11264 name=Other Card")
    devices = stub.call(discover, "gpu", sysfs=four_cores.sysfs).devices
    assert [device.numa_node for device in devices] == [1, None, None, None]
    assert len({device.kind for device in devices}) == 4
    assert devices[3].name == "Other Card"


def test_gpus_are_named_by_uuid_or_by_index(stub: Stub) -> None:
    inventory = stub.call(discover, [DeviceEntry(id=UUIDS[2]), DeviceEntry(id="0")])
    assert ids(inventory) == [UUIDS[2], UUIDS[0]]
    assert [device.index for device in inventory.devices] == [0, 1]


def test_an_unknown_gpu_is_refused_with_those_there_are(stub: Stub) -> None:
    with pytest.raises(SpecError, match=f"no GPU GPU-7; NVML shows 0 = {UUIDS[0]}, 1 = "):
        stub.call(discover, [DeviceEntry(id="GPU-7")])


def test_a_gpu_under_two_names_is_refused(stub: Stub) -> None:
    with pytest.raises(SpecError, match="listed twice"):
        stub.call(discover, [DeviceEntry(id="1"), DeviceEntry(id=UUIDS[1])])


@pytest.mark.parametrize("code", [9, 12])
def test_without_a_driver_auto_uses_the_cpu_and_gpu_says_what_to_install(stub: Stub, code: int) -> None:
    stub.tell(f"init {code}")
    assert {device.make for device in stub.call(discover, "auto").devices} == {"cpu"}
    with pytest.raises(ClusterError, match=r"NVML says .*; install the NVIDIA driver"):
        stub.call(discover, "gpu")


def test_a_driver_without_cards_means_the_cpu(stub: Stub) -> None:
    stub.tell("driver 550.90.07")
    assert {device.make for device in stub.call(discover, "auto").devices} == {"cpu"}
    with pytest.raises(ClusterError, match="shows no GPU"):
        stub.call(discover, "gpu")


def test_a_broken_driver_is_not_taken_for_none(stub: Stub) -> None:
    stub.tell("init 18")
    with pytest.raises(ClusterError, match="version mismatch"):
        stub.call(discover, "auto")


@pytest.mark.parametrize("second", ["card uuid=b\n", "card uuid=b lost\n", "card uuid=b fails=999\n", ""])
def test_what_a_study_has_lost_keeps_its_place(stub: Stub, second: str) -> None:
    stub.tell("driver 1\ncard uuid=a\ncard uuid=b\ncard uuid=c")
    before = stub.call(discover, [DeviceEntry("2"), DeviceEntry("b")])
    stub.tell(f"driver 2\ncard uuid=a\n{second}card uuid=c")
    assert stub.call(remembered, before, ["b"]) == replace(before, driver="2")


def test_nvml_is_not_asked_for_what_is_left_of_another_make(stub: Stub) -> None:
    stub.tell("init 12")
    entries = [DeviceEntry(id=name, make="amd", name="MI210", memory_gib=64) for name in "01"]
    before = stub.call(discover, entries)
    assert stub.call(remembered, before, ["1"]) == before


def test_another_that_is_gone_beside_it_is_named(stub: Stub) -> None:
    stub.tell("card uuid=a\ncard uuid=b\ncard uuid=c")
    before = stub.call(discover, "gpu")
    stub.tell("card uuid=a lost\ncard uuid=c")
    with pytest.raises(DeviceLost, match=r"device 0 \(.*, a\) is gone"):
        stub.call(remembered, before, ["b"])


def test_a_card_that_fell_off_the_bus_is_lost(stub: Stub) -> None:
    stub.tell("card uuid=a\ncard uuid=b lost")
    with pytest.raises(DeviceLost, match="GPU 1 "):
        stub.call(discover, "auto")


# who else is there


@pytest.fixture
def processes(tmp_path: Path) -> Tree:
    """A /proc with three processes of different homes."""
    tree = Tree(tmp_path / "processes")
    homes = {
        11: "0::/system.slice/ollama@2.service",
        12: "4:memory:/\n0::/user.slice/user-1000.slice/user@1000.service/app.slice/llm.service",
        13: f"0::/system.slice/docker-{'4f' * 32}.scope",
        14: "0::/user.slice/user-1000.slice/session-3.scope",
        15: "0::/user.slice/user-1000.slice/user@1000.service/init.scope",
    }
    for pid, home in homes.items():
        tree.write(f"proc/{pid}/cgroup", home + "\n")
        tree.write(f"proc/{pid}/cmdline", f"/usr/bin/serve\0--card\0{pid}\0")
    return tree


def test_holders_say_who_they_are_and_what_frees_the_card(stub: Stub, processes: Tree) -> None:
    stub.tell("card uuid=a pid=11:8000 pid=12\ncard uuid=b pid=13:1 pid=14:1 pid=15:1 pid=99:1")
    inventory = stub.call(discover, "gpu")
    found = {holder.pid: holder for holder in stub.call(holders, inventory, procfs=processes.procfs)}
    assert {pid: holder.free_with for pid, holder in found.items()} == {
        11: "sudo systemctl stop ollama@2",
        12: "systemctl --user stop llm",
        13: "sudo docker stop 4f4f4f4f4f4f",
        14: "kill 14",
        15: "kill 15",
        99: "",
    }
    assert found[11].unit == "ollama@2.service"
    assert found[11].command == "/usr/bin/serve --card 11"
    assert (found[11].memory_bytes, found[12].memory_bytes) == (8000 * 2**20, None)
    assert found[11].user
    assert [found[pid].device.id for pid in (12, 13)] == ["a", "b"]
    assert "not visible" in found[99].command


def test_our_own_processes_are_ignored(stub: Stub, processes: Tree) -> None:
    stub.tell("card uuid=a pid=11:8000")
    inventory = stub.call(discover, "gpu")
    assert stub.call(holders, inventory, ignore={11}, procfs=processes.procfs) == []


@pytest.mark.parametrize("old", ["", "old\n"])
def test_memory_that_nobody_holds_is_somebodys(stub: Stub, old: str) -> None:
    stub.tell(f"{old}card uuid=a used=9000\ncard uuid=b used=100\ncard uuid=c draws=11:900")
    inventory = stub.call(discover, "gpu")
    (holder,) = stub.call(holders, inventory)
    assert (holder.device.id, holder.pid, holder.free_with) == ("a", 0, "")
    assert holder.memory_bytes is not None
    assert holder.memory_bytes >= 9000 * 2**20


def test_a_card_that_vanishes_is_lost(stub: Stub) -> None:
    inventory = stub.call(discover, "gpu")
    stub.tell("card uuid=another")
    with pytest.raises(DeviceLost, match=f"device 0 .*{UUIDS[0]}"):
        stub.call(holders, inventory)


def test_only_real_nvidia_gpus_are_asked(four_cores: Tree) -> None:
    assert holders(four_cores.discover("cpu", range(8))) == []
    gpu = Device(0, "GPU-1", "nvidia", "made up", 22 * GIB, "made up")
    assert holders(Inventory("rehearsal", (gpu,), simulated=True)) == []


# what an instance sees


def test_an_instance_sees_its_devices_and_no_others(four_cores: Tree) -> None:
    nvidia = [Device(i, UUIDS[i], "nvidia", "", 0, "") for i in range(2)]
    amd = Device(0, "GPU-amd", "amd", "", 0, "")
    assert visible_devices(nvidia) == {
        "CUDA_VISIBLE_DEVICES": f"{UUIDS[0]},{UUIDS[1]}",
        "ROCR_VISIBLE_DEVICES": "-1",
        "OLLAMA_VULKAN": "0",
    }
    assert visible_devices([amd])["CUDA_VISIBLE_DEVICES"] == "-1"
    assert visible_devices([amd])["ROCR_VISIBLE_DEVICES"] == "GPU-amd"
    cores = visible_devices(four_cores.discover("cpu", range(8)).devices)
    assert cores == {"CUDA_VISIBLE_DEVICES": "-1", "ROCR_VISIBLE_DEVICES": "-1", "OLLAMA_VULKAN": "0"}


def test_a_device_is_found_by_its_index_where_others_are_lost() -> None:
    devices = tuple(Device(index, f"GPU-{index}", "nvidia", "card", 1, "card") for index in range(4))
    whole, fewer = Inventory("host", devices), Inventory("host", (devices[0], devices[2], devices[3]))
    assert [whole.at(index).index for index in range(4)] == [0, 1, 2, 3]
    assert [fewer.at(index).index for index in (0, 2, 3)] == [0, 2, 3]
