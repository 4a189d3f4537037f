"""What product services import: `EventClient` reports what people do, `RankingClient` asks for ranked lists."""

from millrace.client.access import Access, Tls
from millrace.client.budgets import Hedging
from millrace.client.errors import (
    DeadlineExceeded,
    HandshakeFailed,
    InvalidRequest,
    MillraceError,
    NotAllowed,
    NotFound,
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
from millrace.client.ranking import (
    Context,
    ExplainedItem,
    Explanation,
    Feature,
    Priority,
    RankedItem,
    Ranking,
    RankingClient,
    Row,
)

__all__ = [
    "Accepted",
    "Access",
    "Context",
    "DeadlineExceeded",
    "Entity",
    "Event",
    "EventClient",
    "ExplainedItem",
    "Explanation",
    "Feature",
    "HandshakeFailed",
    "Hedging",
    "InvalidRequest",
    "MillraceError",
    "NotAllowed",
    "NotFound",
    "Overloaded",
    "Priority",
    "Published",
    "RankedItem",
    "Ranking",
    "RankingClient",
    "Rejected",
    "Row",
    "ServerFailed",
    "Tls",
    "Unavailable",
    "new_event_id",
    "now_us",
]
