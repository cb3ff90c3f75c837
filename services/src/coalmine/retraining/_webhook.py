"""Alertmanager's webhook, version 4, as the retrainer reads it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from coalmine.retraining._errors import WebhookInvalid
from coalmine.retraining._types import Ask

#: Alertmanager's `max_alerts` bounds what it sends at once.
_MAX_ALERTS = 20_000


class Alert(BaseModel):
    """One alert of a notification. Labels that we read: `alertname`, `model_name`, `revision`."""

    model_config = ConfigDict(frozen=True)

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str] = Field(default_factory=dict)
    startsAt: AwareDatetime
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.labels.get("alertname", "")

    @property
    def starts_at(self) -> float:
        """Seconds since the epoch."""
        return self.startsAt.timestamp()

    @property
    def identity(self) -> str:
        """The same for every repetition of one alert."""
        labels = self.fingerprint or ",".join(f"{k}={v}" for k, v in sorted(self.labels.items()))
        if len(labels) > 100:
            labels = hashlib.sha256(labels.encode()).hexdigest()
        return f"{labels}@{self.starts_at:.3f}"

    @property
    def onset(self) -> float:
        """Since when the world is different: the annotation `onset`, else the alert's start.

        The annotation is seconds since the epoch or RFC 3339; a monitor dates the onset before it
        could be sure of it. One that cannot be read, or is later than the alert, is not used.
        """
        text = self.annotations.get("onset", "")
        try:
            onset = float(text)
        except ValueError:
            try:
                parsed = datetime.fromisoformat(text)
            except ValueError:
                return self.starts_at
            onset = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        return onset if 0 < onset <= self.starts_at else self.starts_at

    def ask(self) -> Ask:
        """What the alert asks for."""
        summary = self.annotations.get("summary", "")[:_LONGEST_SUMMARY]
        name = self.name[:_LONGEST_SUMMARY]
        return Ask(
            source="alert",
            name=self.name,
            identity=self.identity,
            reason=f"{name}: {summary}" if summary else name,
            actor="alertmanager",
            resolved=self.status == "resolved",
            model_name=self.labels.get("model_name"),
            model_version=self.labels.get("revision"),
            starts_at=self.starts_at,
            onset=self.onset,
        )


_LONGEST_SUMMARY = 500


class Notification(BaseModel):
    """The body of a webhook call; keys that we do not read may be there."""

    model_config = ConfigDict(frozen=True)

    version: Literal["4"]
    alerts: Annotated[tuple[Alert, ...], Field(max_length=_MAX_ALERTS)]
    truncatedAlerts: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Alerts that Alertmanager left out, because of its `max_alerts`."""

    def asks(self) -> list[Ask]:
        """What the alerts ask for; those that were left out are counted, and ask for nothing."""
        asks = [alert.ask() for alert in self.alerts]
        if self.truncatedAlerts:
            name = "(left out by Alertmanager's max_alerts)"
            count = self.truncatedAlerts
            asks.append(
                Ask("alert", name, "left out", reason=name, actor="alertmanager", count=count)
            )
        return asks


def parse_notification(body: bytes) -> Notification:
    """Read a webhook's body; `WebhookInvalid` says what is wrong with it, by key."""
    try:
        return Notification.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])[:_LONGEST_SUMMARY] or "body"
        raise WebhookInvalid(f"not an Alertmanager webhook: {key}: {first['msg']}") from error
