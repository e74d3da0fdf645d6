"""Units, nginx site and environment files."""

from __future__ import annotations

import math
from shlex import quote
from typing import TYPE_CHECKING

from autotune.cluster import nginx
from autotune.ollama.env import LIBRARIES

if TYPE_CHECKING:
    from autotune.export.bundle import Bundle
    from autotune.plan import InstancePlan

DROP_IN = "10-autotune.conf"
UNITS = "/etc/systemd/system"
SITES = "/etc/nginx/conf.d"

PRELOAD = """\
#!/bin/bash
{comments}# Has an Ollama load a model, and waits for it: preload HOST PORT MODEL
# Asked again until the server answers; whoever calls it bounds the time. As part of a unit it ends with the server.
host=$1 port=$2 body="{{\\"model\\": \\"$3\\"}}"

ask() {{
  exec 3<>"/dev/tcp/$host/$port" || return
  printf 'POST /api/generate HTTP/1.0\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\n' >&3
  printf 'Content-Length: %s\\r\\n\\r\\n%s' "${{#body}}" "$body" >&3
  cat <&3
}}

while [[ -z $MAINPID ]] || kill -0 "$MAINPID" 2>/dev/null; do
  answer=$(ask 2>/dev/null)
  case $answer in
    "HTTP/1."[01]" 200 "*) exit 0 ;;
    "HTTP/1."[01]" 503 "*) ;;
    "HTTP/1."*) echo "$answer" >&2; exit 1 ;;
  esac
  sleep 0.5
done
echo "the server has ended" >&2
exit 1
"""


def files(bundle: Bundle) -> dict[str, str]:
    """Path → content."""
    unit = f"systemd/{bundle.name}@.service"
    found = {
        "preload": PRELOAD.format(comments=bundle.comments),
        unit: template(bundle),
        f"nginx/{bundle.name}.conf": site(bundle),
    }
    for number, instance in enumerate(bundle.plan.instances):
        found[f"systemd/{bundle.name}@{number}.service.d/{DROP_IN}"] = drop_in(bundle, instance)
        found[f"env/{instance.name}.env"] = environment(bundle, instance)
    return found


def library(bundle: Bundle) -> str:
    """Where the preload script is installed."""
    return f"/usr/local/lib/{bundle.name}"


def template(bundle: Bundle) -> str:
    """The unit of all instances; what differs is in their drop-ins."""
    cluster = bundle.spec.cluster
    program, *told = bundle.provenance.command
    command = " ".join([_program(program), *map(_word, told)])
    return f"""\
{bundle.comments}[Unit]
Description=Ollama instance %i of {_unit_text(bundle.spec.study.name)}
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={command}
User={bundle.user}
Restart=always
RestartSec=3
TimeoutStartSec={math.ceil(cluster.start_timeout_s + cluster.load_timeout_s)}
TimeoutStopSec={math.ceil(cluster.stop_timeout_s)}

[Install]
WantedBy=multi-user.target
"""


def drop_in(bundle: Bundle, instance: InstancePlan) -> str:
    """Devices, port, slots and all else that one instance is told; the model is loaded before it counts as started."""
    told = bundle.environment(instance)
    told |= {LIBRARIES: bundle.provenance.libraries} if bundle.provenance.libraries else {}
    lines = [f'Environment="{name}={_unit_text(value)}"' for name, value in told.items()]
    if instance.cpus:
        lines.append(f"CPUAffinity={' '.join(map(str, instance.cpus))}")
    host, _, port = instance.address.partition(":")
    script = f"/bin/bash {library(bundle)}/preload {host} {port} {_word(bundle.model)}"
    return "\n".join([f"{bundle.comments}[Service]", *lines, f"ExecStartPost={script}", ""])


def site(bundle: Bundle) -> str:
    """The balancer that was measured: upstream and server block, for nginx's http section."""
    plan = bundle.plan
    return (
        f"{bundle.comments}{nginx.upstream(plan.balancer, bundle.name)}\n{nginx.site(plan, bundle.name, bundle.listen)}"
    )


def environment(bundle: Bundle, instance: InstancePlan) -> str:
    """NAME=value lines, as `docker run --env-file` reads them: to the letter, without quotes."""
    return bundle.comments + "".join(f"{name}={value}\n" for name, value in bundle.environment(instance).items())


def _unit_text(text: str) -> str:
    """Inside double quotes in a unit: systemd reads \\\\, \\" and %."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _program(text: str) -> str:
    """The first word of a command line in a unit: systemd looks for no variable in it, and takes each $ as it is."""
    escaped = _unit_text(text)
    return escaped if quote(text) == text else f'"{escaped}"'


def _word(text: str) -> str:
    """A further one, where $ is special too."""
    return _program(text).replace("$", "$$")
