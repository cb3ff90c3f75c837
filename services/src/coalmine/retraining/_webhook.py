"""Alertmanager's webhook, version 4, as the retrainer reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from coalmine.retraining._errors import WebhookInvalid

_MAX_ALERTS = 100_000


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


class Notification(BaseModel):
    """The body of a webhook call; keys that we do not read may be there."""

    model_config = ConfigDict(frozen=True)

    version: Literal["4"]
    alerts: Annotated[tuple[Alert, ...], Field(max_length=_MAX_ALERTS)]


def parse_notification(body: bytes) -> Notification:
    """Read a webhook's body; `WebhookInvalid` says what is wrong with it, by key."""
    try:
        return Notification.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "body"
        raise WebhookInvalid(f"not an Alertmanager webhook: {key}: {first['msg']}") from error
