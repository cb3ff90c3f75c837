"""How each part of a local stack is run: its command, address and log."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from coalmine.arms import Arm
from coalmine.gateway import envoy_command, write_bootstrap
from coalmine.observability import ScrapeTarget, alertmanager_config, prometheus_config
from coalmine.rollout import DeployedModel
from coalmine.spec import ServiceSpec
from coalmine.stack._alibi import ALIBI
from coalmine.stack._child import ChildSpec
from coalmine.stack._ports import Ports, url
from coalmine.stack._services import services_for
from coalmine.stack._state import StateDirectory

__all__ = ["Parts", "find_alerting"]

#: Set to 1 to use the embedded notifier even where Prometheus and Alertmanager are installed.
EMBEDDED_ALERTS = "COALMINE_EMBEDDED_ALERTS"
#: Debian names the program after its package.
_ALERTMANAGERS = ("alertmanager", "prometheus-alertmanager")


def find_alerting(environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """The programs `prometheus` and `alertmanager`; None to use the embedded notifier."""
    if environ.get(EMBEDDED_ALERTS, "") not in ("", "0"):
        return None
    path = environ.get("PATH")
    prometheus = shutil.which("prometheus", path=path)
    alertmanager = next(filter(None, (shutil.which(p, path=path) for p in _ALERTMANAGERS)), None)
    return (prometheus, alertmanager) if prometheus and alertmanager else None


#: Matrices of a window are small: threads that wait for a part of one cost more than they save.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The commands of one stack."""

    service: ServiceSpec
    service_file: Path
    state: StateDirectory
    ports: Ports
    telemetry: Path | None = None
    seed: int = 0
    alerting: tuple[str, str] | None = None
    """Prometheus and Alertmanager; None: the embedded notifier."""

    alibi: str | None = None
    """The interpreter of the monitors of alibi-detect; None: there are none."""

    def gateway(self) -> ChildSpec:
        """Envoy; its bootstrap is written by this."""
        write_bootstrap(
            self.state.envoy.absolute(),
            gateway_port=self.ports.gateway,
            admin_port=self.ports.admin,
            arm_ports=self.ports.arms,
            routing=self.service.routing,
            max_body=self.service.limits.max_body,
        )
        return self._spec(
            "gateway",
            envoy_command(self.state.envoy.absolute()),
            port=self.ports.gateway,
            note="Envoy: HTTP/1.1, HTTP/2 and gRPC",
        )

    def control(self) -> ChildSpec:
        """All the FastAPI apps in one process."""
        options = {
            "--state": self.state.root,
            "--port": self.ports.gateway,
            "--seed": self.seed,
            **({} if self.telemetry is None else {"--telemetry": self.telemetry.absolute()}),
            **({} if self.alerting is None else {"--no-notifier": None}),
        }
        arguments = [str(word) for pair in options.items() for word in pair if word is not None]
        command = (sys.executable, "-m", "coalmine.stack.control", str(self.service_file))
        spec = self._spec("control", (*command, *arguments), port=self.ports.control)
        return replace(spec, env=_ONE_THREAD)

    def monitors(self) -> tuple[ChildSpec, ...]:
        """The monitors that cannot run in the control process: those of alibi-detect."""
        if self.alibi is None:
            return ()
        options = ("--state", str(self.state.root.absolute()), "--port", str(self.ports.alibi))
        command = (self.alibi, "-m", "coalmine_alibi", str(self.service_file), *options)
        return (self._spec(ALIBI, command, port=self.ports.alibi, note="alibi-detect"),)

    def arm(self, arm: Arm, model: DeployedModel) -> ChildSpec:
        """The model server of an arm."""
        limits = self.service.limits
        options = {
            "--name": self.service.name,
            "--port": self.ports.arms[arm],
            "--arm": arm.value,
            "--version": model.version,
            "--records": f"{url(self.ports.control)}/collector",
            "--spool": self.state.spool(arm.value).absolute(),
            "--threads": self.service.model.threads,
            "--providers": ",".join(self.service.model.providers),
            "--max-body": limits.max_body,
            "--max-concurrency": limits.max_concurrency,
            "--max-queue-rows": limits.max_queue_rows,
            "--max-spool": limits.max_spool,
        }
        if self.service.transformer is not None:
            options["--transformer"] = self.service.transformer
        if self.service.routing.sticky_header is not None:
            options["--caller-header"] = self.service.routing.sticky_header
        arguments = [str(word) for pair in options.items() for word in pair]
        if self.service.model.require_gpu:
            arguments.append("--require-gpu")
        return self._spec(
            arm.value,
            (sys.executable, "-m", "coalmine.serving", str(model.path), *arguments),
            port=self.ports.arms[arm],
            note=f"model server, version {model.version}",
        )

    def alerts(self) -> tuple[ChildSpec, ...]:
        """Prometheus and Alertmanager, if they are to be used; their files are written by this."""
        if self.alerting is None:
            return ()
        home = self.state.root.absolute()
        webhook = f"{url(self.ports.control)}/retrainer/v1/alerts"
        address = _address(self.ports.alertmanager)
        files = {
            home / "prometheus.yaml": prometheus_config(self._targets(), alertmanager=address),
            home / "alertmanager.yaml": alertmanager_config(webhook),
        }
        for file, text in files.items():
            file.write_text(text, encoding="utf-8")
        prometheus, alertmanager = self.alerting
        return (
            self._spec(
                "prometheus",
                (
                    prometheus,
                    f"--config.file={home / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={home / 'prometheus'}",
                    "--storage.tsdb.retention.time=2d",
                    f"--web.listen-address={_address(self.ports.prometheus)}",
                    "--log.level=warn",
                ),
                port=self.ports.prometheus,
            ),
            self._spec(
                "alertmanager",
                (
                    alertmanager,
                    f"--config.file={home / 'alertmanager.yaml'}",
                    f"--storage.path={home / 'alertmanager'}",
                    f"--web.listen-address={address}",
                    "--cluster.listen-address=",  # one alone has no peers to gossip with
                    "--log.level=warn",
                ),
                port=self.ports.alertmanager,
            ),
        )

    def _targets(self) -> list[ScrapeTarget]:
        control = _address(self.ports.control)
        services = services_for(self.service, embedded_alerts=False)
        targets = [ScrapeTarget(name, control, f"/{name}/metrics") for name in services]
        targets += [
            ScrapeTarget(arm.value, _address(port)) for arm, port in self.ports.arms.items()
        ]
        if self.alibi is not None:
            targets.append(ScrapeTarget(ALIBI, _address(self.ports.alibi)))
        return [*targets, ScrapeTarget("gateway", _address(self.ports.admin), "/stats/prometheus")]

    def _spec(self, name: str, command: tuple[str, ...], *, port: int, note: str = "") -> ChildSpec:
        return ChildSpec(name, command, url(port), self.state.log_of(name), note=note)


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"
