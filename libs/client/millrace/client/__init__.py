"""What product services import: `EventClient` reports what people do, `RankingClient` asks for ranked lists."""

from millrace.client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MillraceError,
    NotAllowed,
    Overloaded,
    ServerFailed,
    Unavailable,
)
from millrace.client.events import (
    Accepted,
    Entity,
    Event,
    EventClient,
    Published,
    Rejected,
    new_event_id,
    now_us,
)
from millrace.client.ranking import Context, Priority, RankedItem, Ranking, RankingClient, Row

__all__ = [
    "Accepted",
    "Context",
    "DeadlineExceeded",
    "Entity",
    "Event",
    "EventClient",
    "InvalidRequest",
    "MillraceError",
    "NotAllowed",
    "Overloaded",
    "Priority",
    "Published",
    "RankedItem",
    "Ranking",
    "RankingClient",
    "Rejected",
    "Row",
    "ServerFailed",
    "Unavailable",
    "new_event_id",
    "now_us",
]
