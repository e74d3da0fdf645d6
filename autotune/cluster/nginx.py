"""nginx in front of the instances: a pure renderer, and a child process that runs what it rendered."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import aiohttp

from autotune.cluster import host
from autotune.cluster.children import program
from autotune.errors import BalancerError, BinaryMissing, PortTaken
from autotune.files import storage
from autotune.plan import LOOPBACK
from autotune.records import UPSTREAM_HEADER

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.cluster.children import Children
    from autotune.plan import BalancerPlan, Plan

PLAN_HEADER = "X-Autotune-Plan"
INSTALL = "sudo apt-get install nginx-light"
_POLICIES = {"round_robin": "", "least_conn": "    least_conn;\n", "random_two": "    random two least_conn;\n"}
EVERYWHERE = "[::]"
"""All addresses of a host, of IPv6 and of IPv4."""
_START_S = 10.0
_STOP_S = 5.0


def upstream(balancer: BalancerPlan, name: str = "ollama") -> str:
    """The upstream block: the policy's counters live in a zone that all workers share.

    `max_fails=0`: a slow instance is never taken out behind our back. nginx wants `keepalive` after the policy.
    """
    weights = [f" weight={weight}" for weight in balancer.weights] or [""] * len(balancer.upstreams)
    each = zip(balancer.upstreams, weights, strict=True)
    servers = "".join(f"    server {address}{weight} max_fails=0;\n" for address, weight in each)
    return f"upstream {name} {{\n    zone {name} 256k;\n{_POLICIES[balancer.policy]}{servers}    keepalive 512;\n}}\n"


def location(name: str = "ollama") -> str:
    """How a request is handed on: streamed, over kept-alive HTTP/1.1, with a Host that Ollama accepts."""
    return f"""\
location / {{
    proxy_pass http://{name};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host localhost;
    proxy_buffering off;
    proxy_request_buffering off;
    proxy_next_upstream off;
    proxy_connect_timeout 10s;
    proxy_read_timeout 3600s;
    proxy_send_timeout 3600s;
    client_max_body_size 0;
}}
"""


def site(plan: Plan, name: str = "ollama", listen: str = LOOPBACK) -> str:
    """The server block, with the headers by which a client knows the plan and the instance."""
    both = " ipv6only=off" if listen == EVERYWHERE else ""  # else it would be deaf to IPv4
    body = (
        f"listen {listen}:{plan.balancer.port}{both};\n"
        f"add_header {PLAN_HEADER} {plan.fingerprint} always;\n"
        f"add_header {UPSTREAM_HEADER} $upstream_addr always;\n"
        "keepalive_requests 1000000;\nkeepalive_timeout 3600s;\n" + location(name)
    )
    return f"server {{\n{_indent(body)}}}\n"


def configuration(plan: Plan, prefix: Path, user: str = "") -> str:
    """A whole nginx configuration that keeps to `prefix`; `user` ("name group") only where nginx is started by root."""
    temporary = "".join(
        f"{kind}_temp_path {_quoted(prefix / kind)};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    http = f"access_log off;\n{temporary}\n{upstream(plan.balancer)}\n{site(plan)}"
    return (
        f"{f'user {user};' if user else ''}\n"
        f"daemon off;\nworker_processes auto;\n"
        f"pid {_quoted(prefix / 'nginx.pid')};\nerror_log {_quoted(prefix / 'error.log')} warn;\n"
        f"events {{\n    worker_connections 8192;\n}}\nhttp {{\n{_indent(http)}}}\n"
    )


def _quoted(path: Path) -> str:
    """A path as one word, whatever is in it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _indent(text: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in text.splitlines(keepends=True))


class Nginx:
    """An nginx of our own: own prefix, pid, logs and configuration; started anew for each plan."""

    def __init__(self, children: Children, prefix: Path, binary: str = "nginx") -> None:
        self._children = children
        self._prefix = prefix
        self._binary = binary
        self._pid: int | None = None
        self._plan: Plan | None = None

    @staticmethod
    def check(binary: str = "nginx") -> str:
        """The path of nginx. Raises `BalancerError` when there is none, saying how to install it."""
        try:
            return program(binary)
        except BinaryMissing as error:
            raise BalancerError(
                f'no nginx on this host; install it with "{INSTALL}", or set cluster.balancer = "direct"'
            ) from error

    async def become(self, plan: Plan) -> None:
        """Run `plan`'s configuration and prove that it is what answers. Raises `BalancerError`, `PortTaken`."""
        if plan == self._plan and self.alive():
            return
        await self.stop()
        self._write(plan)
        if not host.port_free(plan.balancer.port):
            raise PortTaken(f"port {plan.balancer.port} (nginx) is taken by {host.port_holder(plan.balancer.port)}")
        command = [self.check(self._binary), "-p", str(self._prefix), "-c", str(self._prefix / "nginx.conf")]
        command += ["-e", str(self._prefix / "error.log")]
        env = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin")}
        self._pid = self._children.start(command, env, self._prefix / "output.log").pid
        await self._prove(plan)
        self._plan = plan

    def alive(self) -> bool:
        """Whether nginx runs."""
        return self._pid is not None and self._children.alive(self._pid)

    async def stop(self) -> None:
        """End nginx; one that does not run is fine."""
        self._plan = None
        if self._pid is not None:
            await self._children.end(self._pid, _STOP_S)
            self._pid = None

    async def _prove(self, plan: Plan) -> None:
        """What answers on the port must be this very plan."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _START_S
        while True:
            if not self.alive():
                raise BalancerError("nginx ended as soon as it was started", details=self._words())
            answered = await _fingerprint(plan.url)
            if answered == plan.fingerprint:
                return
            if loop.time() > end:
                raise BalancerError(
                    f"port {plan.balancer.port} answers with plan {answered or 'none'}, not {plan.fingerprint}",
                    details=self._words(),
                )
            await asyncio.sleep(0.02)

    def _write(self, plan: Plan) -> None:
        path = self._prefix / "nginx.conf"
        with storage(path):
            self._prefix.mkdir(parents=True, exist_ok=True)
            (self._prefix / "error.log").write_text("", encoding="utf-8")
            path.write_text(configuration(plan, self._prefix, _user()), encoding="utf-8")
        command = [self.check(self._binary), "-t", "-q", "-p", str(self._prefix), "-c", str(path), "-e", "stderr"]
        try:
            tested = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise BalancerError(f"`nginx -t` did not end in {_START_S:g} s") from error
        if tested.returncode != 0:
            raise BalancerError("nginx refuses its configuration", details=tested.stderr.strip())

    def _words(self) -> str:
        words = [self._prefix / name for name in ("output.log", "error.log")]
        return "\n".join(path.read_text(errors="replace")[-2000:].strip() for path in words if path.exists())


def _user() -> str:
    """Started by root, nginx would give its workers to `nobody`, who may not enter the study folder."""
    if os.geteuid() != 0:
        return ""
    import grp  # noqa: PLC0415 - Windows, where `bench` runs, has no such modules
    import pwd  # noqa: PLC0415

    return f"{pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name}"


async def _fingerprint(url: str) -> str | None:
    timeout = aiohttp.ClientTimeout(total=2)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/api/version") as response:
            return response.headers.get(PLAN_HEADER, "")
    except (aiohttp.ClientError, TimeoutError):
        return None
