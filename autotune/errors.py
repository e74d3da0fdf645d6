"""Everything that can go wrong, as one tree.

AutotuneError                      exit code
├── UsageError                     2    a bad file or a bad command line
│   └── SpecError                  2    a study file that says something impossible
├── NothingFeasible                1    the search ended and no configuration met the limits
├── ClusterError                   3    this machine cannot run the cluster: not the configuration's fault
│   ├── PortTaken                  3    somebody else listens on a port of the plan
│   ├── DeviceBusy                 3    another process holds memory of a device, or another night runs on it
│   ├── DeviceLost                 3    a device that was there is there no more, or answers no more
│   ├── BalancerError              3    nginx is missing, refuses its configuration, or died
│   ├── Killed                     3    somebody else, or the kernel, has ended an Ollama of ours
│   ├── Slept                      3    the host, or autotune, was asleep while something was measured
│   ├── TooManyFaults              3    faults in so many of the last trials that going on is no use
│   ├── BinaryMissing              3    no such Ollama binary
│   ├── ModelMissing               3    the server does not have the model, or it cannot generate text
│   └── ClientSaturated            3    our own client was too slow: what it measured is no figure of the server
├── BaselineFailed                 3    what runs today does not start: there is nothing to compare with
├── StorageError                   4    the study folder cannot be read or written (newer version, damaged, …)
│   └── DiskFull                   4    there is no room, or no more of it for this user
├── TrialFailure                   3    the configuration's own fault; inside a study it becomes a typed result
│   ├── StartFailed                3    an Ollama that dies at its start
│   ├── NeverReady                 3    an Ollama that does not answer in time
│   │   └── LoadTimeout            3    it answers, but the model is not loaded in time
│   ├── LoadFailed                 3    the model does not load
│   │   ├── OutOfMemory            3    a device has not the memory that it asks for, at its load or under load
│   │   └── OutOfHostMemory        3    the host has not
│   ├── Offloaded                  3    fewer layers on the device than the model has there when it is alone
│   │   └── OnCpu                  3    none of them: the CPU serves the model although a GPU was asked for
│   ├── ParallelIgnored            3    the server serves another number of slots than asked for
│   ├── ContextChanged             3    the server serves another context length than asked for
│   ├── InstanceDied               3    an Ollama, or the process that serves its model, that died under load
│   └── NoAnswer                   3    nothing but failures came back from a load
└── Interrupted                    130  Ctrl-C, SIGTERM or SIGHUP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class AutotuneError(Exception):
    """Root of all errors that are meant to be read by a person: one clear line, perhaps details below it."""

    exit_code = 3

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def _render_traceback_(self) -> list[str]:
        """IPython asks for this: in a notebook, too, it is one clear line."""
        return [f"autotune: {self.message}", *self.details.splitlines()]


class UsageError(AutotuneError):
    """A bad command line or a bad file."""

    exit_code = 2


class SpecError(UsageError):
    """A study file that cannot be used; the message names the file, the key, the value and what is allowed."""


class NothingFeasible(AutotuneError):
    """No configuration met the limits."""

    exit_code = 1


class ClusterError(AutotuneError):
    """A fault of the machine: never held against a configuration."""

    def __init__(self, message: str, *, details: str = "", device: str = "") -> None:
        super().__init__(message, details=details)
        self.device = device
        """Id of the device whose fault it is; empty where it is no single device's."""


class PortTaken(ClusterError):
    """Another process listens on a port of the plan."""


class DeviceBusy(ClusterError):
    """Another process, or another night, uses a device."""


class DeviceLost(ClusterError):
    """A device has gone away, or answers no more."""


class BalancerError(ClusterError):
    """nginx is missing, refuses its configuration, or died."""


class Killed(ClusterError):
    """Somebody else, or the kernel, has ended a process of ours."""


class Slept(ClusterError):
    """The host, or autotune itself, was asleep while something was measured."""


class TooManyFaults(ClusterError):
    """The machine failed in so many of the last trials that going on is no use."""


class BinaryMissing(ClusterError):
    """There is no such program."""


class ModelMissing(ClusterError):
    """The server does not have the model, or the model cannot generate text."""


class ClientSaturated(ClusterError):
    """Our own client was too slow, in as many processes as there are cores."""


class BaselineFailed(AutotuneError):
    """What runs today does not start: there is nothing to compare with."""


class StorageError(AutotuneError):
    """The study folder cannot be read or written."""

    exit_code = 4


class DiskFull(StorageError):
    """There is no room on the disk, or no more of it for this user."""


class TrialFailure(AutotuneError):
    """A fault of the configuration: the trial is infeasible, for this reason."""

    reason = "failed"


class StartFailed(TrialFailure):
    """An Ollama that dies at its start."""

    reason = "start_failed"


class NeverReady(TrialFailure):
    """An Ollama that does not answer in time."""

    reason = "never_ready"


class LoadTimeout(NeverReady):
    """It answers, but the model is not loaded in time."""

    reason = "load_timeout"


class LoadFailed(TrialFailure):
    """The model does not load."""

    reason = "load_failed"


class OutOfMemory(LoadFailed):
    """A device does not have the memory that the model asks for."""

    reason = "out_of_memory"


class OutOfHostMemory(LoadFailed):
    """The host does not have the memory that the model asks for."""

    reason = "out_of_host_memory"


class Offloaded(TrialFailure):
    """Fewer of the model's layers are on the device than the model has there when it is alone."""

    reason = "offloaded"


class OnCpu(Offloaded):
    """The CPU serves the model although a GPU was asked for."""

    reason = "on_cpu"


class ParallelIgnored(TrialFailure):
    """The server has another number of slots than it was asked for."""

    reason = "parallel_ignored"


class ContextChanged(TrialFailure):
    """The server has another context length than it was asked for."""

    reason = "context_changed"


class InstanceDied(TrialFailure):
    """An Ollama, or the process that serves its model, that died under load."""

    reason = "died_under_load"


class NoAnswer(TrialFailure):
    """Nothing but failures came back from a load."""

    reason = "no_answer"


class Interrupted(AutotuneError):
    """The user, or the system, asked us to stop."""

    exit_code = 130


def complaint(error: ValidationError, whole: str = "") -> str:
    """The first thing that is wrong with what was read: its key (`whole`: of all of it), its value, what is allowed."""
    first = error.errors(include_url=False)[0]
    key, value = ".".join(map(str, first["loc"])) or whole, first["input"]
    shown = "" if isinstance(value, dict | list | tuple | bytes) or not key else f" = {value!r:.60}"
    said = first["msg"].removeprefix("Value error, ")
    return f"{key}{shown}: {said}" if key else said
