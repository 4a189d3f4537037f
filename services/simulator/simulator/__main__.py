"""The simulator's process: users without end, until a signal or the present."""

import sys

from definitions.errors import UseCaseError
from definitions.usecase import find_usecase
from servicekit.kit import Kit, start
from servicekit.settings import load_settings

from simulator.errors import BadWorld, StackAway
from simulator.live import Plan
from simulator.metrics import Metrics
from simulator.settings import Settings
from simulator.wiring import drive, folder_of, profile_for, spec_for

EXIT_BAD_INPUT = 2
EXIT_ENVIRONMENT = 3
ENDLESS = 2**62  # requests: until a signal


def main() -> int:
    """0: stopped, or the world has reached the present; 2: bad profile or use case; 3: no gateway or collector."""
    settings = load_settings(Settings)
    with start("simulator", settings) as kit:
        try:
            simulate(kit, settings)
            return 0
        except (UseCaseError, BadWorld) as exc:
            kit.log.error("cannot start", error=str(exc))
            return EXIT_BAD_INPUT
        except (StackAway, OSError) as exc:
            kit.log.error("cannot run", error=str(exc))
            return EXIT_ENVIRONMENT


def simulate(kit: Kit, settings: Settings) -> None:
    """Wire and run; what is under way when the signal comes is saved, and the next start goes on from there."""
    usecase = find_usecase(settings.usecases[0], settings.usecase_dir)
    folder = folder_of(settings.worlds, usecase, settings.seed)
    profile = profile_for(usecase, settings.profile)
    spec = spec_for(
        folder, profile, seed=settings.seed, users=settings.users, items=settings.items, days=settings.days, fresh=False
    )
    plan = Plan(folder, ENDLESS, rate=settings.rate, call=settings.call)
    kit.ready.set("world", holds=True)
    outcome = drive(
        spec, usecase, settings.gateway, settings.collector, plan,
        progress=lambda _: None, stop=kit.stop.is_set, metrics=Metrics(kit.registry),
    )  # fmt: skip
    kit.log.info("stopped", requests=outcome.requests, events=outcome.events, reached_now=outcome.reached_now)


if __name__ == "__main__":
    sys.exit(main())
